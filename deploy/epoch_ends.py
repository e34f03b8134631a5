"""Snapshots at the ends of epochs, taken by the worker whose step completes the count of examples.

The launcher hears of finished ranges only, and later. A worker looks at what all have counted, the more often the nearer the end
of the epoch is, and copies the center before its next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from typing import TYPE_CHECKING

import numpy as np

from deploy.blueprint import Blueprint
from ps.locks import Lock
from ps.segment import Specs
from worker.statistics import columns

if TYPE_CHECKING:
    from deploy.setup import Setup

OF_WORKERS = 0  # the snapshot that workers write
_NONE = -1


@dataclass(frozen=True)
class Taken:
    """The workers' snapshot.

    Attributes:
      examples, steps: counted as it was taken. versions: of the shards.
    """

    examples: int
    steps: int
    versions: tuple[int, ...]


def epoch_end_specs(workers: int, shards: int) -> Specs:
    """Arrays that workers and the launcher share."""
    return {
        # By worker: what it had counted before the ranges that count. Last: less what is done by others, as of earlier runs.
        "epoch_ends.offsets": ((workers + 1,), "int64"),
        "epoch_ends.next": ((1,), "int64"),  # the epoch that ends next
        "epoch_ends.taken": (
            (3 + shards,),
            "int64",
        ),  # the epoch of the workers' snapshot or _NONE; what ``Taken`` holds
    }


class EpochEnds:
    """Counts examples and takes snapshots; the same object in the launcher and, forked, in all workers.

    Args:
      setup: of the run, with the arrays of ``epoch_end_specs``.
      lock: excludes all others; freed when its holder dies.
    """

    def __init__(self, setup: Setup, lock: Lock):
        self._setup, self._lock = setup, lock
        self._offsets, self._next = setup.arrays["epoch_ends.offsets"], setup.arrays["epoch_ends.next"]
        self._taken, self._counters = setup.arrays["epoch_ends.taken"], columns(setup.arrays)
        self._taken[0] = _NONE
        self._every = setup.job.evaluation.every_epochs
        self._ends = accumulate(setup.order.size(epoch) for epoch in count())
        self._epoch, self._end = -1, 0  # the epoch looked at, and the examples up to its end
        options = setup.driver_options()
        step_size = options.sweep_examples if setup.sweeps else options.batch_size
        # The fastest worker makes at least its share of all steps. So it looks again before half of what is left is done.
        self._per_look = 2 * setup.job.workers.count * step_size
        self._steps_to_go = 0

    @staticmethod
    def needed(setup: Blueprint) -> bool:
        """Workers go on over an epoch's end: nothing makes them wait for its snapshot."""
        plan = setup.plan()
        return not (plan.exact or plan.epoch_barrier) and plan.evaluate_every > 0

    # -- by the launcher ----------------------------------------------------------------------------------------------

    def begin(self, ended: int, done: int, by_worker: Sequence[int]) -> None:
        """Before the first worker starts.

        Args:
          ended: epochs. done: examples of all finished ranges. by_worker: those of each worker.
        """
        self._next[0] = ended
        self._offsets[-1] = sum(by_worker) - done

    def starts(self, worker: int, done: int) -> None:
        """A worker's process starts; what the one before had counted of an unfinished range counts no more.

        Args:
          done: examples of its finished ranges.
        """
        self._offsets[worker] = self._counters["examples"][worker] - done

    def taken(self, epoch: int) -> Taken | None:
        """The workers' snapshot, if it is of the end of ``epoch``; if not, there will be none of it."""
        with self._lock:
            self._next[0] = max(self._next[0], epoch + 1)
            held, examples, steps, *versions = self._taken.tolist()
        return Taken(examples, steps, tuple(versions)) if held == epoch else None

    def evaluated(self) -> None:
        """The workers' snapshot may be written again."""
        self._taken[0] = _NONE

    # -- by a worker --------------------------------------------------------------------------------------------------

    def stepped(self) -> None:
        """After each step of a worker."""
        if self._steps_to_go > 0:
            self._steps_to_go -= 1
        else:
            self.look()

    def look(self) -> None:
        """Take the snapshot if it is time; also before the launcher hears of a finished range, which may complete an epoch."""
        if self._left() <= 0:
            with self._lock:
                while self._left() <= 0:
                    if (self._epoch + 1) % self._every == 0 and self._taken[0] == _NONE:
                        self._take()  # else the evaluator is behind, and the launcher takes it as soon as it can
                    self._next[0] += 1
        self._steps_to_go = self._left() // self._per_look

    def _left(self) -> int:
        """Examples until the end of the epoch that ends next."""
        while self._epoch < self._next[0]:
            self._epoch, self._end = self._epoch + 1, next(self._ends)
        return self._end - int(self._counters["examples"].sum() - self._offsets.sum())

    def _take(self) -> None:
        counted = [int(self._counters[name].sum()) for name in ("examples", "steps")]
        versions = [shard.version for shard in self._setup.state.shards]  # first: what changes meanwhile makes it old
        np.copyto(self._setup.arrays["snapshots"][OF_WORKERS], self._setup.result_vector())
        self._taken[:] = self._epoch, *counted, *versions
