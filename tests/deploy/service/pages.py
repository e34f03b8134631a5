"""A web page over a store and folders that a test fills, without a cluster."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from pathlib import Path
from typing import Any

from deploy.run_directory import to_json
from deploy.service.ray_jobs import NodeFacts
from deploy.service.states import ENDED, State
from deploy.service.store import JobRecord, Store
from deploy.service.web import Web
from tests.ports import reserved

TOKEN = "correct-horse-battery"


class Answer:
    """Attributes: status, headers (names in lower case), body (bytes)."""

    def __init__(self, response: http.client.HTTPResponse):
        self.status, self.body = response.status, response.read()
        self.headers = {name.lower(): value for name, value in response.getheaders()}

    def json(self) -> Any:
        return json.loads(self.body)


class Cluster:
    """Nodes; or an error, once it is given one; or no answer until it is let go."""

    def __init__(self):
        self.error: Exception | None = None
        self.hold: Any = None

    def nodes(self) -> list[NodeFacts]:
        if self.hold is not None:
            self.hold.wait(60)
        if self.error is not None:
            raise self.error
        return [
            NodeFacts("ab" * 28, "10.0.0.4", True, 0.0, 0.0, 0),
            NodeFacts("cd" * 28, "10.0.0.5", False, 8.0, 1.0, 1 << 34),
        ]


class Served:
    """A page that is served; close it, or use it as a context.

    Args:
      options: of ``Web``.
    """

    def __init__(self, folder: Path, **options: Any):
        self.jobs = folder / "jobs"
        self.jobs.mkdir()
        self.store, self.cluster = Store(folder / "jobs.sqlite"), Cluster()
        self.web = Web(self.store, self.jobs, self.cluster, **{"token": TOKEN, **options})
        self.port = self.web.start()
        self.address = f"http://127.0.0.1:{self.port}/"

    def add(self, name: str = "digits", state: State = State.RUNNING, *, ago_s: float = 60.0, **more: Any) -> JobRecord:
        """A job with a folder; ``more`` are fields of its record."""
        record, _ = self.store.add(
            **{"name": name, "priority": 0, "cpus": 4.0, "gpus": 0.0, "memory_bytes": 0, "on_loss": "resume",
               "most_attempts": 5, "strategy": "easgd", "task": "mlp", "job": 'task = "mlp"\n', "client_token": f"secret {name}",
               "submitted_at": time.time() - ago_s, **more}
        )  # fmt: skip
        (self.jobs / record.id / "run").mkdir(parents=True)
        if state is not State.QUEUED:
            ended = time.time() if state in ENDED else None
            changed = {"state": state, "attempt": 1, "started_at": record.submitted_at + 1, "ended_at": ended}
            record = self.store.change(record.id, [State.QUEUED], **changed)
        return record

    def run(self, job: str) -> Path:
        """The run directory of a job."""
        return self.jobs / job / "run"

    def write(self, job: str, *records: dict[str, Any]) -> None:
        """Append records to a run."""
        with open(self.run(job) / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.writelines(to_json(record) + "\n" for record in records)

    def get(
        self,
        path: str,
        *,
        token: str | None = TOKEN,
        method: str = "GET",
        tls: ssl.SSLContext | None = None,
        **headers: str,
    ) -> Answer:
        """Ask for a path, as it stands; header names with "_" for "-"."""
        if tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        else:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=60, context=tls)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given.setdefault("Authorization", f"Bearer {token}")
        try:
            connection.request(method, path, headers=given)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def cluster_told(self) -> dict[str, Any]:
        """What is told of the cluster, once its answer is there: it is waited for no longer than a moment."""
        while (told := self.get("/api/jobs").json()["cluster"])["reachable"] is None:
            time.sleep(0.01)
        return told

    def away(self) -> None:
        """Nobody serves the page; its port is kept."""
        self.web.stop()
        self._held = reserved(self.port)

    def again(self) -> None:
        """Serve the page anew, at the same port."""
        self.web = Web(self.store, self.jobs, self.cluster, token=TOKEN, port=self.port)
        self.web.start()
        self._held.close()

    def close(self) -> None:
        self.web.stop()
        self.store.close()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress(seconds: float, examples: int, *, workers: int = 2, shards: int = 1, **more: Any) -> dict[str, Any]:
    """A progress record as a run on a cluster writes it."""
    return {
        "kind": "progress",
        "seconds": seconds,
        "epoch": examples / 1000,
        "examples": examples,
        "steps": examples // 10,
        "loss": 2.0 / (1 + seconds),
        "examples_per_second": 500.0,
        "workers_alive": workers,
        "staleness": 1.5,
        "workers": [{"worker": w, "examples": examples // workers, "staleness": 1.0} for w in range(workers)],
        "nodes": [{"worker": w, "node": f"node{w}", "links": ["gRPC"] * shards} for w in range(workers)],
        "shards": [{"shard": s, "node": "node0", "address": "10.0.0.5:1", "version": examples // 10, "pulls": examples // 20,
                    "pushes": examples // 20, "exchanges": 0, "bytes_in": examples * 8, "bytes_out": examples * 8}
                   for s in range(shards)],
        **more,
    }  # fmt: skip
