"""What is said of a cluster without room, and that nothing is said of one that is only slow."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deploy.cluster.section import ClusterSection

pytest.importorskip("ray")

from deploy.cluster import room
from deploy.cluster.crew import ClusterCrew, Member
from deploy.cluster.shards import Shards

MB = 10**6
TOTAL = {"one": {"CPU": 4.0, "memory": 100.0 * MB}, "two": {"CPU": 4.0, "memory": 100.0 * MB}}


@pytest.fixture
def free(monkeypatch):
    """What is free on each node; a test changes it."""
    free = {name: dict(has) for name, has in TOTAL.items()}
    monkeypatch.setattr(room, "alive_nodes", lambda: {name: {"Resources": has} for name, has in TOTAL.items()})
    monkeypatch.setattr(room.ray._private.state, "available_resources_per_node", lambda: free)
    return free


def said(workers: int = 0, shards: int = 0, node: str | None = None, **cluster) -> str | None:
    counted = SimpleNamespace(count=4)
    return room.complaint(
        SimpleNamespace(cluster=ClusterSection(**cluster), workers=counted, shards=counted), workers, shards, node
    )


def test_workers_that_find_room_are_only_slow(free):
    assert said(workers=2) is None and said(workers=2, node="one") is None
    free["one"]["CPU"] = 0.5
    assert said(workers=2) is None, "there is room on the other"
    assert "each needs 1 CPU, the shard's node one, where they must run, has 4 CPUs in all, and 0.5 CPUs free" in said(
        workers=2, node="one"
    )
    free["two"]["CPU"] = 0.5
    assert said(workers=2).startswith(
        "2 workers of 4 wait for a node with room: each needs 1 CPU, the cluster has 8 CPUs"
    )


def test_what_is_missing_is_named(free):
    assert "each needs 1 CPU and 150 MB of memory, the cluster has 8 CPUs and 200 MB" in said(
        1, replica_memory_mb=150.0
    )
    assert "each needs 1 CPU and 1 GPU, the cluster has 8 CPUs and 0 GPUs" in said(1, replica_gpus=1.0)
    assert said(shards=1).startswith(
        "1 shard of 4 wait for a node with room: each needs 0.1 CPUs, the cluster has 8 CPUs"
    )


@pytest.mark.parametrize("state, homeless", [("PENDING", 2), ("RESCHEDULING", 2), ("CREATED", 0)])
def test_a_shard_that_has_its_place_is_only_slow(monkeypatch, state, homeless):
    shards = Shards.__new__(Shards)
    shards.count, shards.places, shards.placement = 3, {0: "served"}, object()
    monkeypatch.setattr("deploy.cluster.placement.placement_group_table", lambda group: {"state": state})
    assert shards.homeless == homeless
    shards.places = {0: "", 1: "", 2: ""}
    assert shards.homeless == 0


def test_workers_that_have_a_process_are_only_slow(monkeypatch):
    """Their CPUs are taken, so nothing is free; they have it themselves."""
    pids = {"placed": 4711, "waits": 0}
    known = SimpleNamespace(actors=lambda actor: {"Pid": pids.get(actor)})
    monkeypatch.setattr("deploy.cluster.placement.ray._private.state", known)
    crew = ClusterCrew(None, None, "")
    try:
        for replica, (name, here) in enumerate(
            [("placed", False), ("waits", False), ("unknown", False), ("waits", True)]
        ):
            handle = SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda name=name: name))
            crew.members[replica] = Member(handle, 1, None, here=here)
        assert len(crew.waiting()) == 3 and crew.homeless() == 2
    finally:
        crew.members.clear()
        crew.end()
