"""A small job service for the client's tests: it keeps jobs in memory, and fails where a test says so."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deploy.wire import jobs_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Jobs"]
TOKEN = "secret-of-the-tests"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@dataclass
class Fake:
    """What the service holds, and what was asked of it.

    Attributes:
      jobs: by id. calls: (method, request) in order; of Submit the submission and the archive.
      failures: method -> (status, details) of its next calls; None lets one through.
      cuts: method -> after how many replies its next calls break off; None: not.
      watched: replies of Watch by position "1", "2", …. log, files: what Logs and Fetch give.
    """

    jobs: dict[str, pb.Job] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    failures: dict[str, list] = field(default_factory=lambda: defaultdict(list))
    cuts: dict[str, list] = field(default_factory=lambda: defaultdict(list))
    watched: list[pb.WatchReply] = field(default_factory=list)
    log: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    fetched: list[pb.FetchReply] | None = None  # instead of the files
    by_token: dict[str, str] = field(default_factory=dict)

    def add(self, id: str, state: int = pb.RUNNING, **fields: Any) -> pb.Job:
        """A job there is."""
        name = id.rpartition("-")[0]
        self.jobs[id] = pb.Job(id=id, name=name, state=state, submitted_at=1e9 + len(self.jobs), **fields)
        return self.jobs[id]

    def asked(self, method: str) -> list[Any]:
        """The requests of a method."""
        return [request for name, request in self.calls if name == method]

    def submit(self, requests, context):
        submission, archive = None, b""
        for request in requests:
            if request.HasField("submission"):
                submission = request.submission
            archive += request.archive
        assert submission is not None and len(archive) == submission.archive_bytes
        assert submission.archive_sha256 == (hashlib.sha256(archive).digest() if archive else b"")
        self.calls.append(("Submit", (submission, archive)))
        kept = self.by_token.setdefault(submission.client_token, f"{submission.name}-{len(self.by_token) + 1}")
        if kept not in self.jobs:
            self.add(kept, pb.QUEUED, priority=submission.priority, demand=pb.Demand(cpus=2.1))
        self._fail("Submit", context)  # after it was kept: the worst case
        return self.jobs[kept]

    def get(self, request, context):
        return self._job(request.id, context)

    def list(self, request, context):
        found = [job for job in reversed(self.jobs.values()) if not request.states or job.state in request.states]
        start = int(request.before or 0)
        stop = start + (request.limit or 100)
        return pb.ListReply(jobs=found[start:stop], next=str(stop) if stop < len(found) else "")

    def watch(self, request, context):
        start = int(request.position or 0)
        yield from self._cut("Watch", context, self.watched[start:])

    def logs(self, request, context):
        data = self.log[request.offset :]
        if request.tail_lines:
            data = b"".join(data.splitlines(keepends=True)[-request.tail_lines :])
        offset = len(self.log) - len(data)
        pieces = [data[at : at + 7] for at in range(0, len(data), 7)]
        replies = []
        for piece in pieces:
            offset += len(piece)
            replies.append(pb.LogsReply(data=piece, offset=offset))
        yield from self._cut("Logs", context, replies)

    def stop(self, request, context):
        job = self._job(request.id, context)
        job.state = pb.STOPPING if job.state == pb.RUNNING else pb.STOPPED if job.state == pb.QUEUED else job.state
        return job

    def resume(self, request, context):
        job = self._job(request.id, context)
        job.state = pb.QUEUED
        return job

    def fetch(self, request, context):
        replies = self.fetched
        if replies is None:
            replies = []
            chosen = {
                name: data
                for name, data in self.files.items()
                if not request.patterns or any(fnmatchcase(name, pattern) for pattern in request.patterns)
            }
            known = {(part.path, part.mark): part.size for part in request.known}
            for name, data in chosen.items():
                mark = hashlib.sha256(data).hexdigest()
                offset = known.get((name, mark), 0)
                file = pb.FetchReply.File(path=name, size=len(data), mark=mark, offset=offset)
                replies.append(pb.FetchReply(file=file))
                replies += [pb.FetchReply(data=data[at : at + 5]) for at in range(offset, len(data), 5)]
            size = sum(map(len, chosen.values()))
            replies.append(pb.FetchReply(done=pb.FetchReply.Done(files=len(chosen), bytes=size)))
        yield from self._cut("Fetch", context, replies)

    def delete(self, request, context):
        job = self._job(request.id, context)
        if job.state not in (pb.SUCCEEDED, pb.FAILED, pb.STOPPED):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{job.id} is running; stop it first")
        del self.jobs[request.id]
        return pb.DeleteReply()

    def cluster(self, request, context):
        node = pb.Node(id="ab" * 28, address="10.0.0.4", head=True, total=pb.Demand(cpus=4, memory_bytes=8 << 30))
        total, taken = pb.Demand(cpus=4, memory_bytes=8 << 30), pb.Demand(cpus=1.1)
        return pb.ClusterReply(reachable=True, nodes=[node], total=total, taken=taken, version="0.1.0")

    def _job(self, id, context):
        if id not in self.jobs:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no job {id!r}")
        return self.jobs[id]

    def _fail(self, method, context):
        failure = self.failures[method].pop(0) if self.failures[method] else None
        if failure is not None:
            context.abort(*failure)

    def _cut(self, method, context, replies):
        after = self.cuts[method].pop(0) if self.cuts[method] else None
        for index, reply in enumerate(replies):
            if index == after:
                context.abort(UNAVAILABLE, "the service is stopping")
            yield reply
        if after is not None and after >= len(replies):
            context.abort(UNAVAILABLE, "the service is stopping")


class Server:
    """Serves a ``Fake`` on a port of its own.

    Args:
      fake: what it holds. token: that it wants; None: none. credentials: for TLS. port: 0 for any.
    """

    def __init__(self, fake: Fake, token: str | None = TOKEN, credentials: Any = None, port: int = 0):
        self.fake = fake
        doorkeepers = () if token is None else (_Doorkeeper(token),)
        options = [("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 1000)]
        self._threads = ThreadPoolExecutor(8)
        self._server = grpc.server(
            self._threads, handlers=(_handlers(fake),), interceptors=doorkeepers, options=options
        )
        state = health.HealthServicer()
        state.set(SERVICE.full_name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(state, self._server)
        where = f"127.0.0.1:{port}"
        secure = credentials is not None
        bound = self._server.add_secure_port(where, credentials) if secure else self._server.add_insecure_port(where)
        self.port = bound
        self.address = f"127.0.0.1:{bound}"
        self._server.start()

    def stop(self) -> None:
        """End, at once."""
        self._server.stop(0).wait()
        self._threads.shutdown(wait=True)


class _Doorkeeper(grpc.ServerInterceptor):
    def __init__(self, token: str):
        self._expected = ("authorization", f"Bearer {token}")

    def intercept_service(self, continuation, details):
        if self._expected in [tuple(entry) for entry in details.invocation_metadata]:
            return continuation(details)

        def refuse(_requests, context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "a wrong token")
            yield b""

        return grpc.stream_stream_rpc_method_handler(refuse)


def _handlers(fake: Fake) -> grpc.GenericRpcHandler:
    table = {}
    for method in SERVICE.methods:
        takes = "stream" if method.client_streaming else "unary"
        gives = "stream" if method.server_streaming else "unary"
        make = getattr(grpc, f"{takes}_{gives}_rpc_method_handler")
        table[method.name] = make(
            _recorded(fake, method.name, method.server_streaming),
            request_deserializer=getattr(pb, method.input_type.name).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
    return grpc.method_handlers_generic_handler(SERVICE.full_name, table)


def _recorded(fake: Fake, name: str, streams: bool):
    def act(request, context):
        return getattr(fake, name.lower())(request, context)

    def note(request, context):
        if name != "Submit":
            fake.calls.append((name, request))
            fake._fail(name, context)

    def once(request, context):
        note(request, context)
        return act(request, context)

    def stream(request, context):
        note(request, context)
        yield from act(request, context)

    return stream if streams else once
