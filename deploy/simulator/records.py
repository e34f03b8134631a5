"""What a simulated run says of itself as it goes: events, progress and evaluations, with virtual and real time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from deploy.evaluations import require_finite
from deploy.evaluator import evaluate
from deploy.monitor import Monitor
from deploy.progress import Observer
from deploy.run_directory import RunDirectory
from deploy.setup import Setup
from deploy.simulator.clock import Clock
from deploy.simulator.milestones import Milestones
from worker.coordinator import Coordinator

PROGRESS_S = 0.25  # of real time


class Records:
    """Tells the observer, and writes to the run directory if there is one.

    Args:
      setup, coordinator: of the run.
      monitor: counts.
      clock: virtual time.
      observer: sees each record.
      directory: keeps it, or None.

    Attributes:
      evaluations: the records of all so far.
      budget: virtual seconds, examples and updates when the first worker found nothing more to do; None before. What comes after
        is the tail of those who had something in hand, and tells nothing about the rate of the run.
    """

    def __init__(
        self,
        setup: Setup,
        coordinator: Coordinator,
        monitor: Monitor,
        clock: Clock,
        observer: Observer,
        directory: RunDirectory | None,
    ):
        self._setup, self._coordinator, self._monitor, self._clock = setup, coordinator, monitor, clock
        self._observer, self._directory = observer, directory
        self.evaluations: list[dict[str, Any]] = []
        self.budget: tuple[float, int, int] | None = None
        self._evaluated_at: tuple[int, ...] | None = None
        self._examples_before = 0  # in the epochs that have ended
        self._started = time.perf_counter()
        self._next_progress = PROGRESS_S
        self._milestones = Milestones(setup.job.stop, setup.order.size(0))

    @property
    def wall(self) -> float:
        """Real seconds since the start."""
        return time.perf_counter() - self._started

    @property
    def is_evaluated(self) -> bool:
        """Nothing has changed since the last evaluation."""
        return self._evaluated_at == self._versions()

    def event(self, event: str, message: str, **fields: Any) -> None:
        """Something has happened; ``fields`` say to whom."""
        self._observer.event(
            self._keep({"kind": "event", **self._times(), "event": event, "message": message, **fields})
        )

    def work_ran_out(self) -> None:
        """A worker has nothing more to do, now or earlier."""
        if self.budget is None:
            self.budget = (self._clock.now, self._monitor.counts()["examples"], self._monitor.updates)

    def rates(self) -> dict[str, float]:
        """Examples and updates per virtual second, and the seconds over which they were taken."""
        counted = (self._clock.now, self._monitor.counts()["examples"], self._monitor.updates)
        seconds, examples, updates = self.budget if self.budget is not None and self.budget[0] > 0 else counted
        rates = {"examples_per_second": examples, "updates_per_second": updates}
        return {name: count / seconds if seconds > 0 else 0.0 for name, count in rates.items()} | {
            "rate_seconds": seconds
        }

    def epoch_ended(self, epoch: int) -> None:
        """Its examples are done."""
        self._monitor.end_epoch()
        self._examples_before += self._setup.order.size(epoch)

    def progress(self, living: int, last: bool = False) -> None:
        """Say how far it is, if that is due.

        Args:
          living: replicas. last: it is over, so it is due.
        """
        handed, steps, ended = self._coordinator.handed, self._coordinator.steps, self._coordinator.ended
        passed = self._milestones.passed(handed, steps, self._clock.now)
        if not (passed or last or self.wall >= self._next_progress):
            return
        self._next_progress = self.wall + PROGRESS_S
        record = self._monitor.progress(self._clock.now, living, ended, self.epochs - ended)
        self._observer.progress(self._keep(record | self._times()))

    @property
    def epochs(self) -> float:
        """Epochs done, with the part of the one at work."""
        ended = self._coordinator.ended
        done = self._monitor.counts()["examples"] - self._examples_before
        return ended + min(max(done / self._setup.order.size(ended), 0.0), 1.0)

    def evaluate(self, epochs: float) -> dict[str, float]:
        """Evaluate the result as it is now; returns the metrics.

        Args:
          epochs: done so far, for the record.

        Raises:
          NonFiniteError: it has diverged. TaskError: the task's own code failed.
        """
        setup, monitor = self._setup, self._monitor
        vector = setup.result_vector()
        require_finite(vector, setup.dataset)
        if hasattr(setup.task, "rng"):
            setup.task.rng = np.random.default_rng([setup.job.seed, 3])
        metrics = evaluate(setup, vector)
        self._evaluated_at = self._versions()
        record = {
            "kind": "evaluation",
            "epoch": epochs,
            **self._times(),
            **monitor.counts(),
            "updates": monitor.updates,
            "train_loss": monitor.train_loss,
            "evaluation": metrics,
        }
        self.evaluations.append(self._keep(record))
        self._observer.evaluation(record)
        return metrics

    def _times(self) -> dict[str, float]:
        return {"seconds": self.wall, "virtual_seconds": self._clock.now}

    def _versions(self) -> tuple[int, ...]:
        return tuple(shard.version for shard in self._setup.state.shards)

    def _keep(self, record: dict[str, Any]) -> dict[str, Any]:
        if self._directory is not None:
            self._directory.record(record)
        return record
