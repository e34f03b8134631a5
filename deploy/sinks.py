"""Where a run's records go besides ``metrics.jsonl``: TensorBoard, Prometheus, and a mirror of its checkpoints.

A run directory has them (``RunDirectory.sinks``), so every launcher does. What goes wrong in one is an event of the run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ps.checkpoint import checkpoints

if TYPE_CHECKING:
    from deploy.job import Job
    from deploy.mirror import Mirror

Record = Mapping[str, Any]
Events = Iterable[dict[str, Any]]  # records of events without kind and time


class Sink(Protocol):
    """Sees what is recorded; each method returns events to be recorded, and may raise OSError, which is its end."""

    name: str

    def record(self, record: Record) -> Events:
        """A record was written to ``metrics.jsonl``."""

    def forget_after(self, examples: int) -> Events:
        """A resumed run repeats what lies beyond ``examples``."""

    def finish(self, summary: Record) -> Events:
        """The run has ended, and ``summary.json`` was written."""

    def close(self) -> Events:
        """Nothing more comes."""


class MirrorSink:
    """Gives each new checkpoint to the mirror.

    Args:
      folder: of the run's checkpoints.
    """

    name = "mirror"

    def __init__(self, mirror: Mirror, folder: Path):
        self._mirror, self._folder = mirror, folder
        self._last = _newest(folder)

    def record(self, record: Record) -> Events:
        if record.get("event") == "checkpoint":
            self._save_newest()
        return self._mirror.poll()

    def forget_after(self, examples: int) -> Events:
        return ()

    def finish(self, summary: Record) -> Events:
        self._save_newest()  # of a launcher that saves at the end only, and says nothing
        events = self._mirror.poll()
        if self._mirror.busy:  # the command does not end before that
            events.append(
                {"event": "mirroring", "message": f"the last checkpoint is being uploaded to {self._mirror.shown}"}
            )
        return events

    def close(self) -> Events:
        return self._mirror.close()

    def _save_newest(self) -> None:
        newest = _newest(self._folder)
        if newest is not None and newest != self._last:
            self._last = newest
            self._mirror.saved(newest)


def check_sinks(job: Job) -> None:
    """Refuse a job whose sinks cannot work, before anything is made.

    Raises:
      UsageError: a wrong URL. CheckpointError: a new run's mirror is another run's, or cannot be reached.
    """
    if job.checkpoint.url is None:
        return
    from deploy.mirror import check_url, require_unused

    check_url(job.checkpoint.url) if job.resume else require_unused(job.checkpoint.url)


def open_sinks(job: Job, path: Path) -> list[Sink]:
    """The sinks that a job asks for.

    Args:
      path: the run directory.
    """
    sinks: list[Sink] = []
    if job.tensorboard:
        from deploy.tensorboard import FOLDER, TensorBoardSink

        sinks.append(TensorBoardSink(path / FOLDER))
    if job.checkpoint.url is not None:
        from deploy.mirror import Mirror, sweep

        sweep(path / "checkpoint")
        sinks.append(MirrorSink(Mirror(job.checkpoint.url, job.checkpoint.keep), path / "checkpoint"))
    if job.backend == "ray" and _is_on_ray():
        from deploy.cluster.prometheus import PrometheusSink

        sinks.append(PrometheusSink(_run_name(path)))
    return sinks


def _run_name(path: Path) -> str:
    """What metrics call a run: its directory, which the job service calls ``JOB/run``."""
    return path.parent.name if path.name == "run" else path.name


def _is_on_ray() -> bool:
    """This process is connected to a cluster, so that its metrics are served."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _newest(folder: Path) -> Path | None:
    found = checkpoints(folder)
    return found[-1] if found else None
