"""What a job takes of a cluster, and the bounds that a service sets to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from deploy.cluster.memory import MB
from deploy.job import Job
from deploy.service.room import Pieces, Room
from deploy.service.sweeping import may_step_in_place
from deploy.words import number
from ps.errors import JobError

_MOST = 1e9  # of anything; more is a slip of the keyboard
_MOST_PIECES = 10_000  # shards, and workers


@dataclass(frozen=True)
class Demand:
    """Amounts that Ray reserves while the job runs: of ``cpus``, ``gpus`` and ``memory_bytes``; 0 bytes: the job does not say."""

    cpus: float
    gpus: float
    memory_bytes: int


@dataclass(frozen=True)
class Limits:
    """What a service takes.

    Attributes:
      cpus, memory_bytes: of one job; None: no bound.
      upload_bytes: of an archive.
    """

    cpus: float | None = None
    memory_bytes: int | None = None
    upload_bytes: int = 100_000_000


def demand_of(job: Job, workers: int) -> Demand:
    """The demand of a job with so many workers.

    Raises:
      JobError: it is not finite, or absurdly large.
    """
    shards, cluster = job.shards.count, job.cluster
    cpus = workers * cluster.replica_cpus + shards * cluster.shard_cpus
    gpus = workers * cluster.replica_gpus
    memory = (workers * (cluster.replica_memory_mb or 0.0) + shards * (cluster.shard_memory_mb or 0.0)) * MB
    for amount, what in ((cpus, "CPUs"), (gpus, "GPUs"), (memory / MB, "MB of memory")):
        if not (math.isfinite(amount) and amount <= _MOST):
            raise JobError(
                f"the job asks for {number(amount)} {what}, with {workers} workers and {shards} shards; ask for less"
            )
    if max(workers, shards) > _MOST_PIECES:
        raise JobError(
            f"the job asks for {number(workers)} workers and {number(shards)} shards; ask for at most {_MOST_PIECES:,} of each"
        )
    return Demand(round(cpus, 6), round(gpus, 6), int(memory))


def pieces_of(job: Job, files: Path) -> Pieces:
    """What the job asks of Ray, piece by piece, with as many workers as it cannot do without.

    Args:
      files: the folder of what travelled with it; its task is read there, but not run.
    """
    cluster = job.cluster
    return Pieces(
        shards=job.shards.count,
        shard=Room(cluster.shard_cpus, 0.0, int((cluster.shard_memory_mb or 0.0) * MB)),
        workers=job.workers.fewest,
        worker=Room(cluster.replica_cpus, _gpus(cluster.replica_gpus), int((cluster.replica_memory_mb or 0.0) * MB)),
        packed=cluster.shard_nodes == "pack",
        # With more shards it is refused where it runs.
        beside=job.shards.count == 1 and may_step_in_place(job, files),
    )


def _gpus(each: float) -> float:
    """Parts of a GPU are of a single one: of 0.4 there is room for two on each, so that one takes a half."""
    return each if each >= 1 or each <= 0 else 1 / math.floor(1 / each + 1e-9)


def check_limits(demand: Demand, limits: Limits) -> None:
    """Refuse a job that asks for more than this service gives to one.

    Raises:
      JobError: it does; the message has both numbers.
    """
    if limits.cpus is not None and demand.cpus > limits.cpus:
        raise JobError(
            f"the job asks for {number(demand.cpus)} CPUs, this service gives one job at most {number(limits.cpus)}; lower "
            "[workers] count, [shards] count or [cluster] replica_cpus"
        )
    if limits.memory_bytes is None:
        return
    if not demand.memory_bytes:
        raise JobError(
            f"this service gives one job at most {limits.memory_bytes / 1e9:g} GB of memory, so a job must say what it needs: "
            "[cluster] replica_memory_mb and shard_memory_mb"
        )
    if demand.memory_bytes > limits.memory_bytes:
        raise JobError(
            f"the job asks for {demand.memory_bytes / 1e9:.3g} GB of memory, this service gives one job at most "
            f"{limits.memory_bytes / 1e9:g} GB; lower [workers] count or [cluster] replica_memory_mb"
        )
