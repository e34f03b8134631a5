"""Shards behind gRPC servers, ports to them, and the same servers asked with raw bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count as counting
from typing import Any

import grpc
import numpy as np

from ps.rules import Add
from ps.shard import Shard, Stamp
from ps.transport.remote import RemoteOptions, RemoteShard
from ps.transport.requests import Refused
from ps.transport.retry import Retry
from ps.transport.server import ShardServer
from ps.transport.service import ServiceOptions

from ..building import private_state

TOKEN = "a token of the tests"
ONCE = Retry(deadline_s=60.0, patience_s=0.0)
ONES = np.ones(8, np.float32)
QUICK = Retry(deadline_s=60.0, patience_s=90.0, first_s=0.001, longest_s=0.02)


class Serving:
    """Shards of ``parameters``, each behind a server; ports to them, all closed with it.

    Args:
      parameters, rule, count, options: as of ``private_state``.
      service: options of the service.
      server: further arguments of ``ShardServer``.
    """

    def __init__(
        self,
        parameters: Any,
        rule: Any = None,
        count: int = 1,
        *,
        service: ServiceOptions | None = None,
        server: dict[str, Any] | None = None,
        **options: Any,
    ):
        self.state = private_state(parameters, rule or Add(), count, **options)
        self.closed = ExitStack()
        self._service, self._server = service or ServiceOptions(shards=count), server or {}
        self.servers = [self.serve(shard) for shard in self.state.shards]

    @property
    def shard(self) -> Shard:
        """The first shard."""
        return self.state.shards[0]

    def serve(self, shard: Shard) -> ShardServer:
        """One more server for a shard."""
        settings = {"token": TOKEN, "bind": "127.0.0.1", "options": self._service, **self._server}
        server = ShardServer(shard, **settings)
        self.closed.callback(server.stop)
        server.start()
        return server

    def port(
        self,
        index: int = 0,
        *,
        where: Callable[[], str] | None = None,
        token: str | None = TOKEN,
        tls: Any = None,
        **options: Any,
    ):
        """A port to a shard; ``options`` are those of ``RemoteOptions``."""
        shard = self.state.shards[index]
        address = where or (lambda: self.servers[index].address)
        options.setdefault("retry", QUICK)
        port = RemoteShard(
            index, shard.range, self.state.layout, address, token=token, tls=tls, options=RemoteOptions(**options)
        )
        self.closed.callback(port.close)
        return port

    def channel(self, index: int = 0) -> grpc.Channel:
        """A channel of whoever wants to send anything at all."""
        channel = grpc.insecure_channel(self.servers[index].address)
        self.closed.callback(channel.close)
        return channel

    def close(self) -> None:
        self.closed.close()


def call(
    channel: grpc.Channel,
    method: str,
    *messages: bytes,
    token: str | None = TOKEN,
    service: str = "hogshead.v1.Parameters",
) -> list[bytes]:
    """Send messages to a method, end, and return all answers; raises ``grpc.RpcError``."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    stream = channel.stream_stream(f"/{service}/{method}")
    return list(stream(iter(messages), metadata=metadata, timeout=90))


def refusing(server: ShardServer, name: str, times: int, *, before: bool) -> None:
    """Let the server's next ``times`` calls of its method break off: ``before`` the change is made, or after it."""
    inner = getattr(server.service, name)
    left = [times]

    def broken(*args: Any) -> Any:
        if left[0] > 0 and before:
            left[0] -= 1
            raise Refused("UNAVAILABLE", "cut off by the test")
        answer = inner(*args)
        if isinstance(answer, Iterator):
            answer = iter(list(answer))
        if left[0] > 0:
            left[0] -= 1
            raise Refused("UNAVAILABLE", "cut off by the test")
        return answer

    setattr(server.service, name, broken)


def fingerprint(shard: Shard) -> tuple:
    """All that a change of a shard changes."""
    rounds = () if shard.round is None else (shard.round.rows.tobytes(), shard.round.laid.tobytes())
    arrays = (shard.center, *shard.slots.values(), *shard.row_steps.values(), shard.watermarks, shard.header)
    return (*(array.tobytes() for array in arrays), *rounds)


def zeros(size: int, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Parameters of one vector."""
    return {"w": np.zeros(size, dtype)}


def stamps(replica: int = 0, incarnation: int = 1) -> Iterator[Stamp]:
    """The stamps of one replica, one after another."""
    return (Stamp(replica, incarnation, sequence) for sequence in counting(1))
