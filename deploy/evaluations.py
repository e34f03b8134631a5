"""The launcher's end of the evaluator: snapshots out, metrics back, in order."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from deploy.crew import EVALUATOR, Crew
from deploy.setup import SNAPSHOTS, Setup
from ps.errors import NonFiniteError
from worker.data.dataset import Dataset
from worker.data.finite import blame, not_finite_in


class Evaluations:
    """Snapshots of the center on their way through the evaluator.

    Args:
      setup: of the run. crew: whose evaluator answers.
    """

    def __init__(self, setup: Setup, crew: Crew):
        self._setup, self._crew = setup, crew
        self._under_way: deque[tuple[int, int, dict[str, Any]]] = deque()  # (epoch, snapshot, facts)
        self._last_versions: tuple[int, ...] | None = None
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
        return self._versions() == self._last_versions

    def request(self, epoch: int, facts: dict[str, Any]) -> None:
        """Hand the center as it is now to the evaluator; there must be room.

        Args:
          epoch: 0-based, the answer's.
          facts: go into its record.

        Raises:
          NonFiniteError: the center holds a NaN or an infinity.
        """
        used = {snapshot for _, snapshot, _ in self._under_way}
        free = next(index for index in range(SNAPSHOTS) if index not in used)
        self._last_versions = self._versions()
        vector = self._setup.arrays["snapshots"][free]
        np.copyto(vector, self._setup.result_vector())
        require_finite(vector, self._setup.dataset)
        self._under_way.append((epoch, free, facts))
        self._crew.tell(EVALUATOR, "evaluate", snapshot=free)

    def answered(self, metrics: dict[str, float]) -> tuple[int, dict[str, Any]]:
        """Take the answer to the oldest request: its epoch and its record."""
        epoch, _, facts = self._under_way.popleft()
        self.latest = metrics
        return epoch, {"kind": "evaluation", "epoch": epoch + 1, **facts, "evaluation": metrics}

    def _versions(self) -> tuple[int, ...]:
        return tuple(shard.version for shard in self._setup.state.shards)


def require_finite(vector: np.ndarray, dataset: Dataset) -> None:
    """Raise NonFiniteError unless all of ``vector`` is finite; it says so if ``dataset`` is not finite either."""
    if not np.isfinite(vector).all():
        message = "the parameters are not finite (NaN or infinity)"
        remedy = "lower the step size, or clip the gradient ([rule] clip_norm)"
        raise NonFiniteError(blame(message, not_finite_in(dataset), remedy))
