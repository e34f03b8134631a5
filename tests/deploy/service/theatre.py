"""A supervisor with a clock that the test turns, a cluster that it breaks and drivers that it plays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.service.folder import JobFolder
from deploy.service.leftovers import submission_of
from deploy.service.ray_jobs import ClusterAway, Held, NodeFacts
from deploy.service.store import Store
from deploy.service.supervisor import Supervisor


class StageCluster:
    """Four CPUs, and a Ray that does what the test says.

    Attributes:
      commands, states: of each submission. away: it does not answer. asked: how often it was asked something.
    """

    def __init__(self):
        self.away, self.asked = False, 0
        self.commands: dict[str, list[str]] = {}
        self.states: dict[str, str] = {}

    def nodes(self) -> list[NodeFacts]:
        self._answer()
        return [NodeFacts("ab" * 28, "10.0.0.4", True, 4.0, 0.0, 0)]

    def held(self) -> list[Held]:
        self._answer()
        return []

    def submit(self, submission: str, command: Sequence[str]) -> None:
        self._answer()
        self.commands[submission] = list(command)
        self.states[submission] = "PENDING"

    def status(self, submission: str) -> str | None:
        self._answer()
        return self.states.get(submission)

    def forget(self, submission: str) -> None:
        self._answer()
        self.states[submission] = "STOPPED"

    def _answer(self) -> None:
        self.asked += 1
        if self.away:
            raise ClusterAway("Ray does not answer")


class Theatre:
    """Args:
    folder: for the store and the jobs' folders.
    """

    def __init__(self, folder: Path):
        self.jobs = folder / "jobs"
        self.jobs.mkdir()
        self.store, self.cluster, self.now = Store(folder / "jobs.sqlite"), StageCluster(), 0.0
        self.supervisor = self.another_supervisor()

    def another_supervisor(self) -> Supervisor:
        """As after a restart of the service."""
        return Supervisor(self.store, self.cluster, self.jobs, python="python3", clock=lambda: self.now)

    def submit(self, cpus: float = 2.0, **more: Any) -> str:
        """A job that waits; returns its id."""
        facts = dict(
            priority=0, gpus=0.0, memory_bytes=0, on_loss="resume", most_attempts=5, strategy="easgd", task="mlp"
        )

        def place(job: str) -> bool:
            self.folder(job).files.mkdir(parents=True)
            return True

        return self.store.add(place=place, **{**facts, "name": "play", "job": "", "cpus": cpus, **more})[0].id

    def look(self, seconds: int = 1) -> None:
        """Let time pass, with a look of the supervisor each second."""
        for _ in range(seconds):
            self.now += 1.0
            self.supervisor.look()

    def state(self, job: str) -> str:
        """Of a job."""
        return str(self.store.get(job).state)

    def folder(self, job: str) -> JobFolder:
        """Of a job."""
        return JobFolder(self.jobs, job)

    def drive(self, job: str, progress: bool = True) -> None:
        """The driver begins what it was ordered, and trains a little."""
        folder = self.folder(job)
        self.cluster.states[self.submission(job)] = "RUNNING"
        self.beat(job)
        if folder.generation <= folder.order["above"]:
            folder.begin()
        if progress:
            folder.run.mkdir(exist_ok=True)
            with open(folder.run / "metrics.jsonl", "a") as file:
                file.write('{"kind": "progress"}\n')

    def beat(self, job: str) -> None:
        """The driver gives a sign of life."""
        folder = self.folder(job)
        folder.beat = {"attempt": self.store.get(job).attempt, "count": folder.beat.get("count", 0) + 1}

    def die(self, job: str, status: str = "FAILED") -> None:
        """Ray says that the driver has ended."""
        self.cluster.states[self.submission(job)] = status

    def submission(self, job: str) -> str:
        """Ray's name of a job's newest driver."""
        return submission_of(self.store.get(job))
