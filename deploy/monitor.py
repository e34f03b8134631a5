"""What a run has done so far, read from the workers' counters: the records of ``metrics.jsonl`` and the summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from worker.statistics import Statistics, columns, summarise_staleness

MOST_LISTED = 256  # workers of which each has its own entry in records

_TOTALS = (
    "steps",
    "examples",
    "updates",
    "skipped",
    "dropped",
    "staleness_sum",
    "staleness_count",
    "loss_sum",
    "loss_count",
)
_RATES = ("examples", "staleness_sum", "staleness_count")
_PER_WORKER = ("steps", "examples", "busy_seconds", "wait_seconds")


class Monitor:
    """Reads the counters of all workers; keeps what earlier parts of a resumed run had counted.

    Args:
      arrays: with the arrays of ``statistics_specs``.
      workers: number of workers.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], workers: int):
        self._first = Statistics.of(arrays, 0)
        self._columns, self._histograms = columns(arrays), arrays["statistics.staleness"]
        self._listed = range(workers if workers <= MOST_LISTED else 0)
        self._last = self._totals()
        self._last_seconds = 0.0
        self._last_per_worker = [self._of_worker(worker) for worker in self._listed]
        self._loss_mark = (0.0, 0.0)
        self.train_loss: float | None = None

    def restore(self, counters: Mapping[str, Any]) -> None:
        """Count on from a checkpoint (of any number of workers): what others had counted is put on the first."""
        first = self._first
        for name in _TOTALS:
            setattr(first, name, getattr(first, name) + counters.get(name, 0))  # an older run lacks some
        first.staleness_max = max(counters["staleness_max"], first.staleness_max)
        np.add(first.histogram, np.array(counters["histogram"], dtype=np.int64), out=first.histogram)
        self._last = self._totals()
        self._loss_mark = (self._last["loss_sum"], self._last["loss_count"])

    def counters(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        totals = self._totals()
        return {**totals, "staleness_max": self._staleness_max(), "histogram": self._histogram().tolist()}

    def progress(self, seconds: float, alive: int, epochs_ended: int, epoch_fraction: float) -> dict[str, Any]:
        """A progress record over the time since the last one; rates are None where no time has passed, as virtual time may."""
        now, last = self._totals(), self._last
        elapsed = seconds - self._last_seconds
        per_worker = []
        for index in self._listed:
            current, before = self._of_worker(index), self._last_per_worker[index]
            per_worker.append(
                {
                    "worker": index,
                    "examples": current["examples"],
                    "examples_per_second": _rate(current, before, elapsed),
                    "staleness": _ratio(current, before, "staleness_sum", "staleness_count"),
                }
            )
            self._last_per_worker[index] = current
        self._last, self._last_seconds = now, seconds
        return {
            "kind": "progress",
            "seconds": seconds,
            "epoch": epochs_ended + epoch_fraction,
            "examples": now["examples"],
            "steps": now["steps"],
            "loss": _ratio(now, last, "loss_sum", "loss_count"),
            "examples_per_second": _rate(now, last, elapsed),
            "workers_alive": alive,
            "staleness": _ratio(now, last, "staleness_sum", "staleness_count"),
            "workers": per_worker,
        }

    def end_epoch(self) -> None:
        """Take the mean training loss since the last epoch's end."""
        totals = self._totals()
        count = totals["loss_count"] - self._loss_mark[1]
        if count > 0:
            self.train_loss = (totals["loss_sum"] - self._loss_mark[0]) / count
        self._loss_mark = (totals["loss_sum"], totals["loss_count"])

    def counts(self) -> dict[str, int]:
        """Steps and examples so far."""
        totals = self._totals()
        return {"examples": totals["examples"], "steps": totals["steps"]}

    def heartbeat(self, worker: int) -> int:
        """A number that rises as long as a worker does anything."""
        return self._columns["heartbeat"].item(worker)

    @property
    def updates(self) -> int:
        """Changes made to the center."""
        return self._columns["updates"].sum().item()

    def summary(self, seconds: float) -> dict[str, Any]:
        """The counted part of ``summary.json``."""
        totals = self._totals()
        return {
            "steps": totals["steps"],
            "examples": totals["examples"],
            "updates": totals["updates"],
            "wall_seconds": seconds,
            "updates_per_second": totals["updates"] / seconds if seconds > 0 else 0.0,
            "examples_per_second": totals["examples"] / seconds if seconds > 0 else 0.0,
            "skipped_nonfinite": totals["skipped"],
            "dropped": totals["dropped"],
            "staleness": summarise_staleness(self._histogram(), totals["staleness_sum"], self._staleness_max()),
            "per_worker": [{"worker": index, **self._of_worker(index, _PER_WORKER)} for index in self._listed],
        }

    def _totals(self) -> dict[str, Any]:
        return {name: self._columns[name].sum().item() for name in _TOTALS}

    def _of_worker(self, worker: int, names: tuple[str, ...] = _RATES) -> dict[str, Any]:
        return {name: self._columns[name].item(worker) for name in names}

    def _histogram(self) -> np.ndarray:
        return self._histograms.sum(axis=0)

    def _staleness_max(self) -> int:
        return self._columns["staleness_max"].max().item()


def _rate(now: Mapping[str, Any], before: Mapping[str, Any], seconds: float) -> float | None:
    """Examples per second, or None if no time has passed."""
    return (now["examples"] - before["examples"]) / seconds if seconds > 0 else None


def _ratio(now: Mapping[str, Any], before: Mapping[str, Any], total: str, count: str) -> float | None:
    """Mean over what was counted in between, or None."""
    counted = now[count] - before[count]
    return (now[total] - before[total]) / counted if counted > 0 else None
