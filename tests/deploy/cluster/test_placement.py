"""The node for a shard whose workers must be beside it."""

from __future__ import annotations

import pytest

from deploy.cluster.section import ClusterSection

GB = 10**9
NODES = {
    "busy": {"CPU": 1.0, "memory": 9 * GB},
    "large": {"CPU": 8.0, "memory": 2 * GB},
    "gpus": {"CPU": 4.0, "GPU": 2.0, "memory": 9 * GB},
    "none": {"memory": 9 * GB},
}


@pytest.mark.parametrize(
    "asked, node",
    [
        ({}, "large"),
        ({"replica_memory_mb": 1000.0}, "gpus"),
        ({"replica_gpus": 1.0}, "gpus"),
        ({"replica_cpus": 0.0, "shard_cpus": 5.0}, "large"),
        ({"replica_cpus": 6.0}, "large"),
        ({"shard_cpus": 9.0}, None),
    ],
)
def test_the_node_with_room_for_most_workers_beside_the_shard(monkeypatch, asked, node):
    ray = pytest.importorskip("ray")
    from deploy.cluster.placement import roomiest

    monkeypatch.setattr(ray._private.state, "available_resources_per_node", lambda: NODES)
    assert roomiest(ClusterSection(**asked)) == node
