"""Joining a cluster or starting a private Ray; Ray itself is stood in for."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'hogshead[ray]'")

import ray  # noqa: E402

from deploy.cluster import leave, reach  # noqa: E402
from deploy.cluster.connection import ClusterError, connected  # noqa: E402
from deploy.job import Job  # noqa: E402
from ps.errors import HogsheadError, UsageError  # noqa: E402


@pytest.fixture(autouse=True)
def inits(monkeypatch):
    """What ``ray.init`` is called with; no Ray runs here."""
    calls = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: calls.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return calls


def job(**cluster):
    sections = {"strategy": "sequential", "task": "mlp", "data": {"train": "sklearn:digits"}}
    return Job.from_dict({**sections, "backend": "ray", "cluster": cluster})


def test_a_cluster_is_joined_once_it_was_found_to_be_reachable(inits, monkeypatch):
    asked = []
    monkeypatch.setattr(reach, "require_reachable", lambda address: asked.append((address, threading.current_thread())))
    with connected(job(address="10.0.0.4:6379")):
        assert inits[0]["address"] == "10.0.0.4:6379"
    assert inits[1:] == ["shutdown"]
    ((address, thread),) = asked
    assert address == "10.0.0.4:6379" and thread is not threading.main_thread(), "meanwhile Ray is imported"


def test_one_that_is_not_is_not_joined(inits, monkeypatch):
    def refuse(address):
        raise HogsheadError(f"{address}: nothing listens there")

    monkeypatch.setattr(reach, "require_reachable", refuse)
    with pytest.raises(HogsheadError, match="10.0.0.4:6379: nothing listens"), connected(job(address="10.0.0.4:6379")):
        pass
    assert inits == []


def test_a_private_ray_that_cannot_be_started_is_told_with_the_remedy(monkeypatch):
    def fail(**_options):
        raise Exception("The current node timed out during startup.\nmore")

    monkeypatch.setattr(ray, "init", fail)
    with (
        pytest.raises(ClusterError, match="timed out during startup; try again .* `ray start --head`"),
        connected(job()),
    ):
        pass


def test_a_private_ray_cannot_be_left_behind(inits):
    with pytest.raises(UsageError, match="a private Ray ends with this command"), connected(job(detach=True)):
        pass
    assert inits == []


HEAD, NODE = {"Alive": True, "Resources": {"memory": 1.0}}, {"Alive": True, "Resources": {"CPU": 2.0}}


def test_where_no_node_trains_any_more_nothing_is_waited_for(monkeypatch):
    """When all of a cluster ends: the nodes have had their runs saved, and their shards are gone."""
    monkeypatch.setattr(ray.util, "list_named_actors", lambda **_: pytest.fail("asked"), raising=False)
    monkeypatch.setattr(ray, "nodes", lambda: [HEAD, {**NODE, "Alive": False}])
    assert leave.save_all(1.0) == (0, 0)


def test_a_run_that_ends_just_now_need_not_be_saved(monkeypatch):
    """It was listed, and is gone when it is looked up."""
    monkeypatch.setattr(ray, "nodes", lambda: [HEAD, NODE])

    def gone(*_, **__):
        raise ValueError("Failed to look up actor")

    monkeypatch.setattr(
        ray.util, "list_named_actors", lambda **_: [{"name": "coordinator", "namespace": "hogshead-1"}], raising=False
    )
    monkeypatch.setattr(ray, "get_actor", gone)
    assert leave.save_all(1.0) == (0, 0)


def test_a_job_shows_what_its_workers_print_and_not_what_rays_own_processes_do(monkeypatch):
    """A node that was paused ends with a stack trace of Ray's node process."""
    from ray._private import worker

    shown = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, ignore_prefix: shown.append(data["pid"]))
    monkeypatch.setattr(reach, "require_reachable", lambda address: None)
    with connected(job(address="10.0.0.4:6379"), echo=True):
        for pid in ("4711", 4712, "raylet", "gcs_server", "autoscaler"):
            worker.print_to_stdstream({"pid": pid, "lines": ["*** SIGABRT received"]}, ignore_prefix=False)
    assert shown == ["4711", 4712]
    with connected(job(address="10.0.0.4:6379")):
        worker.print_to_stdstream({"pid": "4711", "lines": []}, ignore_prefix=False)
    assert shown == ["4711", 4712]
