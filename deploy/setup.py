"""Everything that a run needs before its first step: the task and its data in shared memory, the layout, rules and shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from deploy.blueprint import Blueprint, averaged_result, draw
from deploy.epoch_ends import EpochEnds, epoch_end_specs
from deploy.job import Job
from ps.admission import Clocks
from ps.layout import Layout
from ps.segment import SharedArrays, Specs
from ps.state import State, build_state, initialise, private_arrays, state_specs
from worker.coordinator import Plan
from worker.data.dataset import Dataset
from worker.locking import Locking
from worker.order import Order
from worker.statistics import statistics_specs

ORDERS_BYTES, MOST_OPEN_EPOCHS = 16 << 20, 64
SNAPSHOTS = 2  # centers waiting for evaluation


@dataclass
class Setup(Blueprint):
    """A job made ready, with its shards. Arrays lie in shared memory, or in this process's own where no other needs them.

    Attributes:
      state: the shards.
      arrays: name -> array: those of ``State``, the statistics, the locks, ``orders`` and ``snapshots``.
      segments: to be closed at the end.
      record_to: the folder in which workers record their operations, or None.
      epoch_ends: where workers take the snapshots of epochs' ends, or None.
    """

    state: State
    arrays: Mapping[str, np.ndarray]
    segments: list[Any] = field(default_factory=list)
    record_to: Path | None = None
    epoch_ends: EpochEnds | None = None

    def locking(self, worker: int) -> Locking:
        """The locks of a sweep as seen by one worker."""
        return self.locking_in(self.arrays, worker)

    def result_vector(self) -> np.ndarray:
        """What is evaluated and returned (N,): the center, or the strategy's average of it."""
        slot = self.strategy.evaluated_slot
        if slot is None:
            return self.state.center
        return averaged_result(self.layout, self.state.center, self.state.arrays[f"slot.{slot}"])

    def close(self) -> None:
        """Give the shared memory back."""
        for segment in self.segments:
            segment.close()


Allocate = Callable[[Specs, str], Mapping[str, np.ndarray]]


def prepare(job: Job, lock: Callable[[int], Any] | None = None, shared: bool = True, task: Any = None) -> Setup:
    """Build the task, place its data, and make the shards with their initial values.

    Args:
      lock: makes the lock of shard i; None for shards of one process.
      shared: place arrays in shared memory.
      task: to be used instead of a new one.

    Raises:
      UsageError: the job does not fit its task. TaskError: the task's own code failed. MemoryShortage: it does not fit.
    """
    blueprint = draw(job, task)
    layout, rule, options, order = blueprint.layout, blueprint.rule, blueprint.shard_options, blueprint.order
    segments: list[Any] = []

    def allocate(specs: Specs, label: str) -> Mapping[str, np.ndarray]:
        if not shared:
            return private_arrays(specs)
        segments.append(SharedArrays.create(specs, label))
        return segments[-1]

    try:
        if shared:
            _share(blueprint.dataset, allocate)
        specs = {
            **state_specs(layout, job.shards.count, rule, options),
            **statistics_specs(job.workers.count),
            **epoch_end_specs(job.workers.count, job.shards.count),
            **_run_specs(layout, order, job.workers.count),
            **blueprint.locking_specs(),
        }
        arrays = allocate(specs, "state")
        state = build_state(layout, job.shards.count, rule, options, arrays, **({} if lock is None else {"lock": lock}))
        initialise(state, blueprint.initial)
    except BaseException:
        for segment in segments:
            segment.close()
        raise
    known = {entry.name: getattr(blueprint, entry.name) for entry in fields(Blueprint)}
    known["initial"] = layout.views(state.center)  # not a second copy of them
    return Setup(**known, state=state, arrays=arrays, segments=segments)


def plan_of(setup: Setup) -> Plan:
    """What the coordinator has to know of a job that was set up."""
    return setup.plan() if setup.job.backend == "simulation" else setup.plan(len(setup.arrays["orders"]))


def _open_epochs(order: Order) -> int:
    """Epochs that the fastest worker may be ahead of the slowest: as many as fit a few megabytes."""
    return min(max(ORDERS_BYTES // (8 * order.examples.size), 2), MOST_OPEN_EPOCHS)


def _share(dataset: Dataset, allocate: Allocate) -> None:
    """Move the data set's arrays to where every process sees the same pages."""
    own = dataset.arrays()
    if not own:
        return
    placed = allocate({name: (array.shape, array.dtype.str) for name, array in own.items()}, "data")
    for name, array in own.items():
        np.copyto(placed[name], array)
    dataset.replace({name: placed[name] for name in own})


def _run_specs(layout: Layout, order: Order, workers: int) -> Specs:
    specs: dict[str, tuple[tuple[int, ...], str]] = {**Clocks.specs(workers)}
    specs["orders"] = ((_open_epochs(order), order.examples.size), "int64")
    specs["snapshots"] = ((SNAPSHOTS, layout.size), layout.dtype)
    specs["mail"] = ((workers,), "int64")  # counts messages sent to each worker, to be looked at between two steps
    return specs
