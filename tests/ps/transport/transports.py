"""The ways for two replicas to reach the same shards; each must keep the contract of ``ps.transport.link.Link``."""

from __future__ import annotations

from contextlib import ExitStack
from multiprocessing.connection import Connection
from types import SimpleNamespace

import numpy as np

from ps.host import ShardHost
from ps.transport.direct import DirectLink
from ps.transport.link import Link
from ps.transport.mapped import MappedShard
from ps.transport.remote import RemoteOptions, RemoteShard
from ps.transport.server import ShardServer
from ps.transport.sharded import ShardedLink

from ..building import Forked, SharedHost, private_state, shard_plans


class InProcess:
    """Shards in this process's own memory."""

    def __init__(self, parameters, rule=None, count=1, **options):
        self.state = private_state(parameters, rule, count, **options)

    def link(self, replica: int = 0, incarnation: int = 1, **options) -> Link:
        return DirectLink(self.state, replica, incarnation, **options)

    def close(self) -> None:
        pass


class SharedMemory:
    """Shards in shared memory; every link maps the segment anew."""

    def __init__(self, parameters, rule=None, count=1, **options):
        self._host = SharedHost(parameters, rule, count, **options)
        self.state = self._host.state

    def link(self, replica: int = 0, incarnation: int = 1, **options) -> Link:
        return DirectLink(self._host.attach(), replica, incarnation, **options)

    def close(self) -> None:
        self._host.close()


class OtherProcesses(SharedMemory):
    """Shards in shared memory; every link works in a forked process of its own."""

    def __init__(self, parameters, rule=None, count=1, **options):
        super().__init__(parameters, rule, count, **options)
        self._links: list[ForkedLink] = []

    def link(self, replica: int = 0, incarnation: int = 1, **options) -> Link:
        self._links.append(ForkedLink(DirectLink(self.state, replica, incarnation, **options)))
        return self._links[-1]

    def close(self) -> None:
        for link in self._links:
            link.end()
        super().close()


class ForkedLink:
    """Carries out each call on a link in a forked process, and brings back what it changed."""

    def __init__(self, link: DirectLink | ShardedLink):
        self.layout, self.center = link.layout, link.center
        self._process = Forked(lambda connection: _serve(link, connection))

    def _call(self, method: str, *args, **options):
        connection = self._process.connection
        connection.send((method, args, options))
        answer, changed = connection.recv()
        if isinstance(answer, Exception):
            raise answer
        for ours, theirs in zip(args, changed):
            if isinstance(ours, np.ndarray) and ours.flags.writeable:
                ours[...] = theirs
        return answer

    def pull(self, out):
        return self._call("pull", out)

    def push(self, payload, versions, **options):
        return self._call("push", payload, versions, **options)

    def push_together(self, payload, versions, **options):
        return self._call("push_together", payload, versions, **options)

    def exchange(self, x, alpha, versions):
        return self._call("exchange", x, alpha, versions)

    def versions(self):
        return self._call("versions")

    def note_updates(self, count):
        return self._call("note_updates", count)

    def end(self) -> None:
        self._process.kill()


def _serve(link: DirectLink | ShardedLink, connection: Connection) -> None:
    while True:
        method, args, options = connection.recv()
        try:
            answer = getattr(link, method)(*args, **options)
        except Exception as error:
            answer = error
        connection.send((answer, args))


class Mapped:
    """Each shard with a segment and a lock file of its own; every link maps them, in a forked process of its own."""

    def __init__(self, parameters, rule=None, count=1, **options):
        self.plans = shard_plans(parameters, rule, count, **options)
        self.hosts = [ShardHost(plan) for plan in self.plans]
        flat = self.plans[0].layout.flatten(parameters)
        for host in self.hosts:
            host.begin(host.shard.range.of(flat))
        self.state = SimpleNamespace(shards=[host.shard for host in self.hosts])
        self._ports: list[MappedShard] = []
        self._links: list[ForkedLink] = []

    def link(self, replica: int = 0, incarnation: int = 1, **options) -> Link:
        ports = [MappedShard(plan, host.place()) for plan, host in zip(self.plans, self.hosts)]
        self._ports.extend(ports)
        link = ShardedLink(self.plans[0].layout, ports, replica, incarnation, **options)
        self._links.append(ForkedLink(link))
        return self._links[-1]

    def close(self) -> None:
        for link in self._links:
            link.end()
        for port in (*self._ports, *self.hosts):
            port.close()


class Grpc(InProcess):
    """Shards behind a gRPC server each; every link has connections of its own."""

    def __init__(self, parameters, rule=None, count=1, **options):
        super().__init__(parameters, rule, count, **options)
        self._closed = ExitStack()
        self.servers = [ShardServer(shard, token="contract", bind="127.0.0.1") for shard in self.state.shards]
        for server in self.servers:
            server.start()
            self._closed.callback(server.stop)

    def link(self, replica: int = 0, incarnation: int = 1, **options) -> Link:
        ports = [self.port(index, replica) for index in range(len(self.servers))]
        return ShardedLink(self.state.layout, ports, replica, incarnation, **options)

    def port(self, index: int, replica: int = 0) -> RemoteShard:
        server, shard = self.servers[index], self.state.shards[index]
        options = RemoteOptions(replica=replica)
        port = RemoteShard(
            index, shard.range, self.state.layout, lambda: server.address, token="contract", options=options
        )
        self._closed.callback(port.close)
        return port

    def close(self) -> None:
        self._closed.close()


TRANSPORTS = {
    "in process": InProcess,
    "shared memory": SharedMemory,
    "other processes": OtherProcesses,
    "mapped": Mapped,
    "grpc": Grpc,
}
