"""What a run says when the cluster has no room for all of it."""

from __future__ import annotations

import ray

from deploy.cluster.placement import alive_nodes, total
from deploy.job import Job
from deploy.words import plural


def complaint(job: Job, workers: int, shards: int, node: str | None) -> str | None:
    """A sentence about what waits for a node, or None if it is only slow to begin.

    Args:
      workers, shards: how many have no node yet.
      node: where workers must run, if not anywhere.
    """
    cluster, nodes = job.cluster, alive_nodes()
    if shards:
        has = total("CPU", list(nodes.values()))
        return (
            f"{plural(shards, 'shard')} of {job.shards.count} wait for a node with room: each needs {cluster.shard_cpus:g} CPUs, "
            f"the cluster has {has:g} in all; add nodes, or lower [cluster] shard_cpus"
        )
    if not workers or (node is None and ray.available_resources().get("CPU", 0.0) >= cluster.replica_cpus):
        return None
    where = "the cluster" if node is None else f"the shard's node {node[:8]}, where they must run,"
    has = total("CPU", [facts for name, facts in nodes.items() if node in (None, name)])
    return (
        f"{plural(workers, 'worker')} of {job.workers.count} wait for a node with room: each needs "
        f"{cluster.replica_cpus:g} CPUs, {where} has {has:g} in all; add nodes, or lower [workers] count "
        "or [cluster] replica_cpus"
    )
