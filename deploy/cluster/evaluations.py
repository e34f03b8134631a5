"""Snapshots of the center on their way through the evaluator's actor."""

from __future__ import annotations

from collections import deque
from typing import Any

import ray

from deploy.cluster.crew import ClusterCrew
from deploy.cluster.shards import Shards
from deploy.setup import SNAPSHOTS

_COPIED_S = 10.0  # a shard that takes longer is being replaced


class ClusterEvaluations:
    """As ``deploy.evaluations.Evaluations``; the shards give their parts to the evaluator without a way through here.

    Args:
      shards, crew: of the run.
      exact: the replicas wait for the snapshot of an epoch's end.
    """

    def __init__(self, shards: Shards, crew: ClusterCrew, exact: bool):
        self._shards, self._crew, self._exact = shards, crew, exact
        self._under_way: deque[tuple[int, dict[str, Any]]] = deque()
        self._last_versions: list[int] | None = None
        self.latest: dict[str, float] = {}

    @property
    def pending(self) -> int:
        """Snapshots not answered yet."""
        return len(self._under_way)

    @property
    def full(self) -> bool:
        """There is no room for another snapshot until one is answered."""
        return self.pending >= SNAPSHOTS

    def is_current(self) -> bool:
        """The center has not changed since the last snapshot."""
        versions = self._versions()
        return versions is not None and versions == self._last_versions

    def request(self, epoch: int, facts: dict[str, Any]) -> None:
        """Have the center as it is now evaluated; there must be room.

        Args:
          epoch: 0-based, the answer's. facts: go into its record.
        """
        self._last_versions = self._versions()  # read before the center: one that changes in between counts as changed
        self._under_way.append((epoch, facts))
        parts = self._shards.vectors()
        if self._exact:  # what comes next must not change them before they are copied
            ray.wait(parts, num_returns=len(parts), timeout=_COPIED_S, fetch_local=False)
        self._crew.evaluate(parts)

    def again(self) -> None:
        """Ray repeats the calls of an evaluator that has died itself."""

    def answered(self, metrics: dict[str, float]) -> tuple[int, dict[str, Any]]:
        """Take the answer to the oldest request: its epoch and its record."""
        epoch, facts = self._under_way.popleft()
        self.latest = metrics
        return epoch, {"kind": "evaluation", "epoch": epoch + 1, **facts, "evaluation": metrics}

    def _versions(self) -> list[int] | None:
        looks = self._shards.look()
        return None if None in looks else [look["version"] for look in looks if look]
