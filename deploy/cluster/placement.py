"""Where the actors of a run go: shards into a placement group, replicas wherever there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from deploy.cluster.section import ClusterSection


def place_shards(count: int, cluster: ClusterSection, uid: str) -> Any:
    """A placement group with a bundle per shard. It outlives its maker, and is removed at the end of the run.

    Bundles are spread over the nodes as far as there are any; so a cluster that lost a node still has room for all.
    """
    bundles = [{"CPU": cluster.shard_cpus} for _ in range(count)]
    strategy = "SPREAD" if cluster.shard_nodes == "spread" else "STRICT_PACK"
    return placement_group(bundles, strategy=strategy, name=f"{uid}-shards", lifetime="detached")


def in_bundle(placement: Any, index: int) -> PlacementGroupSchedulingStrategy:
    """Schedule an actor into a bundle."""
    return PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=index)


def on_node(node: str, soft: bool) -> NodeAffinitySchedulingStrategy:
    """Schedule an actor onto a node; ``soft``: elsewhere if it is gone."""
    return NodeAffinitySchedulingStrategy(node_id=node, soft=soft)


def alive_nodes() -> dict[str, dict[str, Any]]:
    """Ray's facts of the nodes that live, by node id."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def total(resource: str, nodes: Sequence[dict[str, Any]]) -> float:
    """How much of a resource these nodes have."""
    return sum(node["Resources"].get(resource, 0.0) for node in nodes)
