"""A job service in this process, without a cluster, and a raw client of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from deploy.service.ballast import Ballast
from deploy.service.demand import Limits
from deploy.service.folder import JobFolder
from deploy.service.ray_jobs import ClusterAway, NodeFacts
from deploy.service.server import SERVICE, JobServer
from deploy.service.servicer import JobsServicer
from deploy.service.states import State
from deploy.service.store import Store
from deploy.service.submission import Intake, Submission
from deploy.wire import jobs_pb2 as pb
from ps.transport.tls import Tls

TOKEN = "correct-horse-battery"
JOB = """\
name = "tiny"
task = "points.py:Points"
strategy = "easgd"
local_rule = { name = "sgd", lr = 0.1 }
[cluster]
replica_cpus = 1.0
shard_cpus = 0.5
[workers]
count = 3
[shards]
count = 2
"""
Files = dict[str, str | bytes] | bytes | None  # of an archive, or the archive itself
TASK = "raise SystemExit('the service must not run this')\n"


class FakeCluster:
    """Nodes, or none that answer."""

    def __init__(self):
        self.away, self.asked = "", 0
        self.found = [
            NodeFacts("ab" * 28, "10.0.0.4", True, 0.0, 0.0, 0),
            NodeFacts("cd" * 28, "10.0.0.5", False, 8.0, 1.0, 1 << 34),
        ]

    def nodes(self) -> list[NodeFacts]:
        self.asked += 1
        if self.away:
            raise ClusterAway(self.away)
        return self.found


class Serving:
    """A service in a folder; close it, or use it as a context.

    Attributes:
      jobs: folder of the jobs. store, cluster, intake, server: its parts.
    """

    def __init__(
        self,
        folder: Path,
        token: str | None = TOKEN,
        tls: Tls | None = None,
        limits: Limits | None = None,
        ballast_bytes: int = 0,
    ):
        self.jobs = folder / "jobs"
        self.jobs.mkdir(exist_ok=True)
        ballast = Ballast([self.jobs] if ballast_bytes else [], ballast_bytes)
        ballast.ease()
        self.store, self.cluster, self.token = Store(folder / "jobs.sqlite", ballast), FakeCluster(), token
        self.intake = Intake(self.store, self.jobs, limits or Limits())
        self.intake.sweep()
        ballast.hold()
        self.servicer = JobsServicer(self.store, self.jobs, self.cluster, self.intake)
        self.server = JobServer(self.servicer, token=token, tls=tls)
        self.port = self.server.start()
        self._channels: list[grpc.Channel] = []

    def channel(self, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = f"127.0.0.1:{self.port}"
        if credentials is None:
            made = grpc.insecure_channel(address, options=options)
        else:
            made = grpc.secure_channel(f"localhost:{self.port}", credentials, options=options)
        self._channels.append(made)
        return made

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self.server.stop()
        self.store.close()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """Calls by name: ``client.get(id="x-1")``, ``list(client.watch(id="x-1", follow=True))``."""

    def __init__(self, channel: grpc.Channel, token: str | None = TOKEN, timeout_s: float = 60):
        self._channel, self._timeout_s = channel, timeout_s
        self._metadata = [] if token is None else [("authorization", f"Bearer {token}")]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = SERVICE.methods_by_name[name.capitalize()]
        request, reply = (getattr(pb, kind.name) for kind in (method.input_type, method.output_type))
        make = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call = make(
            f"/{SERVICE.full_name}/{method.name}", lambda message: message.SerializeToString(), reply.FromString
        )
        return lambda **fields: call(request(**fields), **self._call)

    def submit(self, job: str = JOB, files: Files = None, piece: int = 1 << 20, **more: Any) -> pb.Job:
        """Hand in a job with these files, by default those of JOB; ``more`` are fields of the submission."""
        return self.send(_messages(job, files, piece, more))

    def submit_later(self, job: str = JOB, files: Files = None, **more: Any) -> grpc.Future:
        """The same, without waiting for the answer."""
        return self._submitting().future(_messages(job, files, 1 << 20, more), **self._call)

    def send(self, messages: Iterable[pb.SubmitRequest]) -> pb.Job:
        """``Submit`` with these messages."""
        return self._submitting()(iter(messages), **self._call)

    def _submitting(self) -> grpc.StreamUnaryMultiCallable:
        make = self._channel.stream_unary
        return make(f"/{SERVICE.full_name}/Submit", lambda message: message.SerializeToString(), pb.Job.FromString)

    @property
    def _call(self) -> dict[str, Any]:
        return {"metadata": self._metadata, "timeout": self._timeout_s}


def _messages(job: str, files: Files, piece: int, more: dict[str, Any]) -> Iterator[pb.SubmitRequest]:
    submission, archive = submission_of(files, job=job, **more)
    given = {name: value for name, value in vars(submission).items() if value is not None}
    yield pb.SubmitRequest(submission=pb.Submission(**given))
    for at in range(0, len(archive), piece):
        yield pb.SubmitRequest(archive=archive[at : at + piece])


def submission_of(files: Files = None, job: str = JOB, **more: Any) -> tuple[Submission, bytes]:
    """A submission, and the archive of these files that goes with it."""
    archive = files if isinstance(files, bytes) else zipped({"points.py": TASK} if files is None else files)
    facts = {"archive_bytes": len(archive), "archive_sha256": hashlib.sha256(archive).digest() if archive else b""}
    return Submission(**{"job": job, **facts, **more}), archive


def zipped(files: dict[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive of these files, as `hogshead submit` makes it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(entry(name, compression), content)
    return stream.getvalue() if files else b""


def entry(name: str, compression: int = zipfile.ZIP_DEFLATED, mode: int = stat.S_IFREG | 0o600) -> zipfile.ZipInfo:
    """The facts of a file in an archive."""
    made = zipfile.ZipInfo(name)
    made.create_system, made.compress_type, made.external_attr = 3, compression, mode << 16
    return made


def tree(folder: Path) -> set[str]:
    """All that is below a folder, which may be changing."""
    found = ((Path(parent), name) for parent, folders, files in os.walk(folder) for name in (*folders, *files))
    return {str((parent / name).relative_to(folder)) for parent, name in found}


def refused(code: grpc.StatusCode, reason: str, call: Callable, *args: Any, **fields: Any) -> None:
    """The call ends with this status and, in one short line, this reason."""
    with pytest.raises(grpc.RpcError) as raised:
        answer = call(*args, **fields)
        list(answer) if hasattr(answer, "__next__") else None
    details = raised.value.details()
    assert raised.value.code() == code and reason in details, details
    assert "\n" not in details and "Traceback" not in details and len(details) <= 1000


def folder(service: Serving, job: str) -> JobFolder:
    """Of a job."""
    return JobFolder(service.jobs, job)


def records(service: Serving, job: str, *lines: dict) -> None:
    """Append to a job's metrics.jsonl."""
    run = folder(service, job).run
    run.mkdir(exist_ok=True)
    with open(run / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def progress(step: int) -> dict:
    """A record."""
    return {"kind": "progress", "seconds": 0.5 * step, "loss": 1.0 / step}


def end(service: Serving, job: str, state: State = State.SUCCEEDED) -> None:
    """Let a job have ended."""
    service.store.change(job, set(State), state=state, ended_at=2.0)


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        threading.Event().wait(0.005)
