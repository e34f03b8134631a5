"""The counters of replicas that are far away, as rows of arrays: what earlier incarnations counted plus what this one reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from worker.statistics import BUCKETS, COUNTERS, statistics_specs

_NAMES = ("statistics.counters", "statistics.sums", "statistics.staleness")
_MAXIMA = [COUNTERS.index("staleness_max")]


class Tally:
    """Args:
      replicas: highest number.

    Attributes:
      arrays: of ``statistics_specs``; for ``deploy.monitor``.
    """

    def __init__(self, replicas: int):
        self.arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in statistics_specs(replicas).items()}
        self._base = {name: array.copy() for name, array in self.arrays.items()}

    def report(self, replica: int, report: Mapping[str, Any]) -> None:
        """Take what a replica has counted since it began, as ``ClusterWorker.counters`` gives it."""
        counters, sums = np.array(report["counters"], np.int64), np.array(report["sums"])
        base = {name: array[replica] for name, array in self._base.items()}
        row = base["statistics.counters"] + counters
        row[_MAXIMA] = np.maximum(base["statistics.counters"], counters)[_MAXIMA]
        self.arrays["statistics.counters"][replica] = row
        self.arrays["statistics.sums"][replica] = base["statistics.sums"] + sums
        buckets, counts = (np.array(part, np.int64) for part in report["staleness"])
        staleness = base["statistics.staleness"].copy()
        staleness[buckets] += counts
        self.arrays["statistics.staleness"][replica] = staleness

    def retire(self, replica: int) -> None:
        """The replica is gone: another begins to count from zero."""
        for name in _NAMES:
            self._base[name][replica] = self.arrays[name][replica]

    def settle(self) -> None:
        """Count on from what stands in the arrays now."""
        for name in _NAMES:
            np.copyto(self._base[name], self.arrays[name])

    def state(self) -> dict[str, Any]:
        """What all incarnations have counted, and the earlier ones alone, as plain values."""
        return {"all": _rows(self.arrays), "earlier": _rows(self._base)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; a replica that lives reports once more what it counted itself, one that does not is retired."""
        # A coordinator of an earlier version, before an upgrade, has written only what the earlier incarnations had.
        for replica, row in state.get("earlier", state).items():
            self.report(int(replica), row)
        self.settle()
        for replica, row in state.get("all", {}).items():
            for name, values in _arrays(row).items():
                self.arrays[name][int(replica)] = values


def _rows(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    rows = {}
    for replica in np.flatnonzero(arrays["statistics.counters"].any(axis=1)).tolist():
        staleness = arrays["statistics.staleness"][replica]
        used = np.flatnonzero(staleness)
        rows[str(replica)] = {
            "counters": arrays["statistics.counters"][replica].tolist(),
            "sums": arrays["statistics.sums"][replica].tolist(),
            "staleness": [used.tolist(), staleness[used].tolist()],
        }
    return rows


def _arrays(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A row of ``_rows`` as it stands in each array."""
    staleness = np.zeros(BUCKETS, np.int64)
    buckets, counts = row["staleness"]
    staleness[np.array(buckets, np.int64)] = counts
    return dict(zip(_NAMES, (np.array(row["counters"], np.int64), np.array(row["sums"]), staleness)))
