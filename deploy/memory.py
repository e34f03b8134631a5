"""What a job will take of the memory, from its layout, and a refusal before it is taken where there is less.

The kernel grants what it does not have and kills a process later, often another one. So the job is added up first: vectors of the
model's size at the shards and in each worker, the data in shared memory, and a little for each process. Only what is sure to be
written is counted, so a job that fits is never refused; libraries and a task's own intermediate results come on top.
"""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy.words import plural
from ps.errors import MemoryShortage
from ps.layout import Layout
from ps.memory import Room, room, words
from ps.reader_memory import capacity
from ps.shard import HEADER_WORDS
from worker.courier import buffers_of
from worker.statistics import statistics_specs

if TYPE_CHECKING:
    from deploy.blueprint import Blueprint
    from deploy.job import Job

# Measured: what a forked process writes of the memory that it inherits, and Python's objects of a simulated replica or a shard.
PROCESS_BYTES = 5_000_000
REPLICA_BYTES = 4_000
SHARD_BYTES = 2_000
FILES_PER_WORKER = 2  # the launcher's ends of a pipe and of the process
_OTHER_FILES = 12  # data, a checkpoint, the log of a run


@dataclass(frozen=True)
class Needs:
    """Bytes that a job is sure to write.

    Attributes:
      shared: in shared memory, without the data. data: the examples in shared memory.
      worker: of each worker's own. workers: that there are on this machine.
      launcher: of the launcher's own, the evaluator included. processes: each worker is one.
    """

    shared: int
    data: int
    worker: int
    workers: int
    launcher: int
    processes: bool

    @property
    def total(self) -> int:
        """When all are at work. Data in shared memory take the place of the ones that were read."""
        return max(self.shared + self.workers * self.worker + self.launcher, self.data)

    @property
    def largest_process(self) -> int:
        """What the largest process has in its address space."""
        if not self.processes:
            return self.total
        return self.shared + self.data + max(self.worker, self.launcher)


def require_processes(job: Job) -> None:
    """Refuse more workers than the machine could hold whatever they train, before any data are read.

    Raises:
      MemoryShortage: it says how many there may be.
    """
    if job.backend == "ray":  # on machines of which this one knows nothing
        return
    each = PROCESS_BYTES if job.backend == "processes" else REPLICA_BYTES
    free = room()
    if job.workers.count * each > free.memory:
        raise MemoryShortage(
            f"[workers] count = {job.workers.count} needs at least {words(job.workers.count * each)} of memory, "
            f"{words(free.memory)} are free {free.bound}; at most {free.memory // each} workers fit, without any model"
        )
    if job.backend == "processes":
        _require_files(job.workers.count)


def require_room(setup: Blueprint) -> None:
    """Refuse a job that needs more than is free, before anything of it is allocated but the initial values.

    Raises:
      MemoryShortage: with the figures, and the key to change.
    """
    needs, free = needs_of(setup), room()
    in_segments = needs.shared + needs.data if needs.processes else 0
    if free.shared is not None and in_segments > free.shared:
        raise MemoryShortage(
            f"too little shared memory: this job needs {words(in_segments)} in /dev/shm ({_shared_words(setup, needs)}), "
            f"{words(free.shared)} are free there; enlarge it (mount -o remount,size=… /dev/shm; with Docker: --shm-size), or "
            f"use {_smaller(setup)}"
        )
    trial = setup.layout.nbytes + _dense_bytes(setup.layout)  # initial values and a gradient, for the task to be tried
    shortage = free.shortage(max(needs.total, trial), max(needs.largest_process, trial))
    if shortage:
        parts = f"{_shared_words(setup, needs)}, and {worker_words(setup)}"
        if trial > needs.total:
            parts = f"{words(trial)} for its parameters and one gradient"
        raise MemoryShortage(
            f"too little memory: this job needs at least {words(max(needs.total, trial))}, {shortage}; it takes {parts}: "
            f"{_remedy(setup, needs, free)}"
        )


def require_worker(setup: Blueprint) -> None:
    """Refuse to begin a worker on a node that has no memory for it; raises MemoryShortage."""
    needed = _worker_bytes(setup)
    shortage = room().shortage(needed)
    if shortage:
        raise MemoryShortage(
            f"too little memory for a worker: it takes at least {words(needed)}, {shortage}; use fewer workers per node "
            f"([cluster] replica_memory_mb = {math.ceil(needed / 1e6)} has Ray keep that free), or {_smaller(setup)}"
        )


def needs_of(setup: Blueprint) -> Needs:
    """Add up a job that has been drawn."""
    job, layout, rule, options = setup.job, setup.layout, setup.rule, setup.shard_options
    vector, workers = layout.nbytes, job.workers.count
    stored = vector * (1 + len(rule.slots))
    if setup.rounds:
        stored += vector * (workers + 1)
    shards = job.shards.count * SHARD_BYTES
    data = sum(array.nbytes for array in setup.dataset.arrays().values())
    worker = _worker_bytes(setup)
    if job.backend == "simulation":
        replicas = min(workers, _most_steps(setup))
        worker = worker if setup.strategy.keeps_parameters else worker - vector
        return Needs(0, 0, worker + REPLICA_BYTES, replicas, stored + shards, processes=False)
    if job.backend == "ray":  # where the shards and workers will be is not known yet; each looks at its own node
        return Needs(0, 0, 0, workers, 0, processes=True)
    from deploy.setup import SNAPSHOTS

    tables = sum(8 * table.shape[0] for table in layout.tables)
    remembered = 0 if rule.remembers is None else capacity(options.memory_bytes, vector, options.replicas) * vector
    counted = sum(8 * math.prod(shape) for shape, _ in statistics_specs(workers).values())
    shared = stored + SNAPSHOTS * vector + tables + remembered + counted + _words_of_shards(setup)
    copied = vector * (1 + len(rule.slots)) - vector  # a checkpoint's copies; the initial values are given back before
    return Needs(shared, data, PROCESS_BYTES + worker, workers, PROCESS_BYTES + shards + copied, processes=True)


def worker_words(setup: Blueprint) -> str:
    """What each worker takes, in words."""
    worker, vector = _worker_bytes(setup), setup.layout.nbytes
    each = f"{words(worker)} of memory for each of {plural(setup.job.workers.count, 'worker')}"
    vectors = round(worker / vector, 1)
    return f"{each} ({vectors:g} times the model's {words(vector)})" if vectors > 1 else each


def _worker_bytes(setup: Blueprint) -> int:
    """What a worker writes of its own, without what any process does."""
    if setup.sweeps:
        return 0
    layout, local = setup.layout, setup.local_rule
    vector, dense = layout.nbytes, _dense_bytes(layout)
    taken = vector + dense * (1 + setup.strategy.vectors)  # its parameters, the gradient, and what it accrues
    if local is not None:
        taken += vector * len(local.slots)
    if setup.driver_options().background and setup.job.backend != "simulation":
        taken += vector + dense * buffers_of(vector)
    working = getattr(setup.task, "working_bytes", None)
    return taken + (0 if working is None else int(working(setup.batch_size)))


def _dense_bytes(layout: Layout) -> int:
    """Of the parameters whose gradients are whole; of a table only the rows that examples touch are written."""
    elements = sum(parameter.size for parameter in layout.parameters if not parameter.sparse)
    return elements * np.dtype(layout.dtype).itemsize


def _words_of_shards(setup: Blueprint) -> int:
    """Headers and watermarks."""
    return 8 * setup.job.shards.count * (HEADER_WORDS + 2 * setup.shard_options.replicas)


def _most_steps(setup: Blueprint) -> int:
    """No more simulated replicas than this make a step."""
    stop = setup.job.stop
    bounds = [bound for bound in (stop.steps, stop.examples) if bound is not None]
    return max(min(bounds, default=setup.job.workers.count), 1)


def _shared_words(setup: Blueprint, needs: Needs) -> str:
    slots = plural(len(setup.rule.slots), "slot")
    center = f"{words(needs.shared or needs.launcher)} for the center, {slots} and their copies"
    return center + (f", {words(needs.data)} for the data" if needs.data else "")


def _remedy(setup: Blueprint, needs: Needs, free: Room) -> str:
    left = free.memory - needs.shared - needs.launcher
    fit = left // needs.worker if needs.worker and left > 0 else 0
    if 1 <= fit < needs.workers:
        return f"lower [workers] count to {fit} or less"
    return f"use {_smaller(setup)}, or a machine with more memory"


def _smaller(setup: Blueprint) -> str:
    largest = max(setup.layout.parameters, key=lambda parameter: parameter.size)
    source = getattr(setup.task, "model_size", None)
    return (
        f"a smaller model (the largest parameter is {largest.name} {largest.shape}{f', by {source}' if source else ''})"
    )


def _require_files(workers: int) -> None:
    """Have this process be allowed the files that so many workers need, as far as its user may decide that."""
    opened = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    needed = opened + FILES_PER_WORKER * workers + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise MemoryShortage(
            f"[workers] count = {workers} needs {needed} open files, the limit is {hard}; raise it (ulimit -n {needed}), or use "
            f"at most {max((hard - opened - _OTHER_FILES) // FILES_PER_WORKER, 0)} workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
