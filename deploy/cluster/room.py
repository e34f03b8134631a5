"""What a run says when the cluster has no room for all of it."""

from __future__ import annotations

from collections.abc import Mapping

import ray

from deploy.cluster.memory import MB
from deploy.cluster.placement import alive_nodes, asks_of_replica, asks_of_shard
from deploy.job import Job
from deploy.words import number, plural


def complaint(job: Job, workers: int, shards: int, node: str | None) -> str | None:
    """A sentence about what waits for a node, or None if it is only slow to begin.

    Args:
      workers, shards: how many have no node yet; a shard that is only slow to begin has one.
      node: where workers must run, if not anywhere.
    """
    cluster = job.cluster
    if shards:
        return (
            f"{plural(shards, 'shard')} of {job.shards.count} wait for a node with room: each needs "
            f"{_words(asks_of_shard(cluster))}, the cluster has {_has(asks_of_shard(cluster), None)} in all; add nodes, or lower "
            "[cluster] shard_cpus"
        )
    asked = asks_of_replica(cluster)
    if not workers or _is_room(asked, node):
        return None
    where = "the cluster" if node is None else f"the shard's node {node[:8]}, where they must run,"
    return (
        f"{plural(workers, 'worker')} of {job.workers.count} wait for a node with room: each needs {_words(asked)}, {where} "
        f"has {_has(asked, node)} in all, and {_words(_most_free(asked, node))} free on one node; add nodes, or lower [workers] "
        "count or [cluster] replica_cpus"
    )


def _is_room(asked: Mapping[str, float], node: str | None) -> bool:
    """Whether one more finds its place right now: then it is on its way there."""
    free = ray._private.state.available_resources_per_node()
    return any(
        all(has.get(name, 0.0) >= amount for name, amount in asked.items())
        for name_of_node, has in free.items()
        if node in (None, name_of_node)
    )


def _most_free(asked: Mapping[str, float], node: str | None) -> dict[str, float]:
    """The most of each that is free on one node."""
    free = ray._private.state.available_resources_per_node()
    nodes = [has for name, has in free.items() if node in (None, name)]
    return {name: max((has.get(name, 0.0) for has in nodes), default=0.0) for name in asked}


def _has(asked: Mapping[str, float], node: str | None) -> str:
    """What the cluster, or one of its nodes, has of what is asked, taken or not."""
    nodes = [facts["Resources"] for name, facts in alive_nodes().items() if node in (None, name)]
    return _words({name: sum(has.get(name, 0.0) for has in nodes) for name in asked})


def _words(amounts: Mapping[str, float]) -> str:
    parts = [
        f"{amount / MB:.0f} MB of memory"
        if name == "memory"
        else f"{number(amount)} {name}{'' if amount == 1 else 's'}"
        for name, amount in amounts.items()
    ]
    return " and ".join(parts)
