"""The launcher's end of the evaluator: snapshots out, metrics back, in order."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from deploy.crew import EVALUATOR, Crew
from deploy.epoch_ends import OF_WORKERS
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
        return not self._free()

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
        free, versions = self._free()[0], self._versions()
        np.copyto(self._setup.arrays["snapshots"][free], self._setup.result_vector())
        self._ask(epoch, free, facts, versions)

    def hand_on(self, epoch: int, facts: dict[str, Any], versions: tuple[int, ...]) -> None:
        """Hand the snapshot that workers have taken to the evaluator; arguments and errors as of ``request``.

        Args:
          versions: of the shards as it was taken.
        """
        self._ask(epoch, OF_WORKERS, facts, versions)

    def _ask(self, epoch: int, snapshot: int, facts: dict[str, Any], versions: tuple[int, ...]) -> None:
        require_finite(self._setup.arrays["snapshots"][snapshot], self._setup.dataset)
        self._last_versions = versions
        self._under_way.append((epoch, snapshot, facts))
        self._crew.tell(EVALUATOR, "evaluate", snapshot=snapshot)

    def _free(self) -> list[int]:
        """Snapshots that may be written here; one is for the workers where they take any."""
        used = {snapshot for _, snapshot, _ in self._under_way}
        first = 0 if self._setup.epoch_ends is None else OF_WORKERS + 1
        return [index for index in range(first, SNAPSHOTS) if index not in used]

    def again(self) -> None:
        """Hand all that is not answered to the evaluator once more: it is a new one."""
        for _, snapshot, _ in self._under_way:
            self._crew.tell(EVALUATOR, "evaluate", snapshot=snapshot)

    def answered(self, metrics: dict[str, float]) -> tuple[int, dict[str, Any]]:
        """Take the answer to the oldest request: its epoch and its record."""
        epoch, snapshot, facts = self._under_way.popleft()
        if snapshot == OF_WORKERS and self._setup.epoch_ends is not None:
            self._setup.epoch_ends.evaluated()
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
