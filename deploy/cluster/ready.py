"""A job made ready for a cluster: what ``deploy.blueprint`` draws, with room at the shards for more than the replicas."""

from __future__ import annotations

from dataclasses import replace

from deploy.blueprint import Blueprint, draw
from deploy.job import Job
from ps.errors import JobError


def ready(job: Job) -> Blueprint:
    """The task, its data, layout and rules; see ``draw``.

    At the shards the numbers of the replicas come first, then those of clients in other languages, then those of groups.

    Raises:
      JobError: replicas would have to step in place what is not beside them.
    """
    setup = draw(job)
    if setup.sweeps and job.shards.count > 1 and not grouped(setup):
        raise JobError(
            f"[strategy] hogwild steps the center in place, so on a cluster all of it lies in one shard, the workers beside it, "
            f'but [shards] count is {job.shards.count}; set it to 1, or between_nodes = "easgd" for a group of workers per node'
        )
    numbers = job.workers.count + guests(setup) + (job.workers.count if grouped(setup) else 0)
    setup.shard_options = replace(setup.shard_options, replicas=numbers)
    return setup


def grouped(setup: Blueprint) -> bool:
    """Replicas of a node step a center of their own, and the nodes' centers are averaged elastically."""
    return setup.sweeps and getattr(setup.strategy, "between_nodes", "none") != "none"


def beside(setup: Blueprint) -> bool:
    """Replicas must run where the only shard does."""
    return setup.sweeps and not grouped(setup)


def guests(setup: Blueprint) -> int:
    """Numbers for clients in other languages; where a shard keeps a vector per number there are none."""
    return 0 if setup.rounds or setup.rule.remembers is not None else setup.job.cluster.guests


def first_group(setup: Blueprint) -> int:
    """The number of the first group."""
    return setup.job.workers.count + guests(setup)
