"""Where the actors of a run go: shards into a placement group, replicas wherever there is room."""

from __future__ import annotations

from typing import Any

import ray
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from deploy.cluster.memory import reserved
from deploy.cluster.section import ClusterSection


def find_group(uid: str) -> Any:
    """The placement group of a run's shards, or None.

    Not by its name: a head that was restarted knows the group, but not what it is called. Nor does a driver in another namespace.
    """
    name = f"{uid}-shards"
    for key, group in placement_group_table().items():
        if group["name"] == name and group["state"] != "REMOVED":
            return PlacementGroup(PlacementGroupID(bytes.fromhex(key)))
    return None


# Marks the nodes that have the job service's folder: `ray start --resources '{"hogshead_jobs": 1000}'`.
HOME = "hogshead_jobs"
_SLIVER = 0.001


def asks_of_shard(cluster: ClusterSection) -> dict[str, float]:
    """Ray's resources of one shard."""
    return {"CPU": cluster.shard_cpus, **reserved(cluster.shard_memory_mb)}


def asks_of_replica(cluster: ClusterSection) -> dict[str, float]:
    """Ray's resources of one replica."""
    gpus = {"GPU": cluster.replica_gpus} if cluster.replica_gpus else {}
    return {"CPU": cluster.replica_cpus, **gpus, **reserved(cluster.replica_memory_mb)}


def is_placed(group: Any) -> bool:
    """All bundles of a placement group have their nodes."""
    return placement_group_table(group).get("state") == "CREATED"


def has_process(actor: Any) -> bool:
    """Ray has found a node for an actor and started a process there, which may yet be slow to begin.

    Args:
      actor: its handle.
    """
    return bool(ray._private.state.actors(actor._actor_id.hex()).get("Pid"))


def place_shards(count: int, cluster: ClusterSection, uid: str, near: str | None = None) -> Any:
    """A placement group with a bundle per shard. It outlives its maker, and is removed at the end of the run.

    Bundles are spread over the nodes as far as there are any; so a cluster that lost a node still has room for all.

    Args:
      near: the node where they should all be, while it has room for them.
    """
    bundles = [asks_of_shard(cluster) for _ in range(count)]
    strategy = "SPREAD" if cluster.shard_nodes == "spread" and near is None else "STRICT_PACK"
    return placement_group(
        bundles, strategy=strategy, name=f"{uid}-shards", lifetime="detached", _soft_target_node_id=near
    )


def roomiest(cluster: ClusterSection) -> str | None:
    """The node that has room for a shard and for most workers beside it; None if there is none."""
    shard, worker = asks_of_shard(cluster), asks_of_replica(cluster)
    best, most = None, 0.0
    for node, free in ray._private.state.available_resources_per_node().items():
        left = {name: free.get(name, 0.0) - shard.get(name, 0.0) for name in ("CPU", "GPU", "memory")}
        if min(left.values()) < 0:
            continue
        places = min((left[name] / each for name, each in worker.items() if each), default=1.0)
        if best is None or places > most:
            best, most = node, places
    return best


def at_home(soft: bool) -> dict[str, Any]:
    """Options of an actor that needs the run directory: it runs where the job service's folder is, else on this node.

    Args:
      soft: on another node if this one is gone.
    """
    here = ray.get_runtime_context().get_node_id()
    if HOME in alive_nodes().get(here, {}).get("Resources", {}):
        return {"resources": {HOME: _SLIVER}}  # this node, also when it has come back under another id
    return {"scheduling_strategy": on_node(here, soft)}


def in_bundle(placement: Any, index: int) -> PlacementGroupSchedulingStrategy:
    """Schedule an actor into a bundle."""
    return PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=index)


def on_node(node: str, soft: bool) -> NodeAffinitySchedulingStrategy:
    """Schedule an actor onto a node; ``soft``: elsewhere if it is gone."""
    return NodeAffinitySchedulingStrategy(node_id=node, soft=soft)


def alive_nodes() -> dict[str, dict[str, Any]]:
    """Ray's facts of the nodes that live, by node id."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
