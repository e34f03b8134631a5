"""What ``[simulation]`` refuses, and what a delay pattern makes of ``[workers]``."""

from __future__ import annotations

import pytest

import hogshead
from ps.errors import JobError


def load(workers=None, backend="simulation", **simulation):
    sections = {} if workers is None else {"workers": {"count": workers}}
    return hogshead.load(
        task="mlp",
        data={"train": "sklearn:digits"},
        strategy="hogwild",
        backend=backend,
        simulation=simulation,
        **sections,
    )


@pytest.mark.parametrize(
    ("simulation", "message"),
    [
        ({"step_second": 1}, "unknown key.*step_seconds"),
        ({"step_seconds": "slow"}, r"\[simulation\] step_seconds must be"),
        ({"speeds": []}, "speeds must be numbers > 0, at least one"),
        ({"speeds": [1, -1]}, "speeds must be numbers > 0"),
        ({"latency_seconds": []}, "must not be empty"),
        ({"latency_seconds": [0.1, "x"]}, "latency_seconds must be a number"),
        ({"bandwidth": 0}, "leave it out for no limit"),
        ({"bandwidth": [1e6, 0]}, "bandwidth must be > 0"),
        ({"stragglers": {"chance": 0.1}}, "unknown key 'chance'|chance: unknown key"),
        ({"stragglers": {"probability": 2}}, "probability must be >= 0 and <= 1"),
        ({"stragglers": {"slowdown": 0.5}}, "slowdown must be >= 1"),
        ({"snapshot_seconds": 0}, "snapshot_seconds must be > 0"),
        ({"events": [{"leave": [0]}]}, "each must be a table with its time"),
        ({"events": [{"at": -1, "leave": [0]}]}, "at must be >= 0"),
        ({"events": [{"at": 1}]}, "nothing happens"),
        ({"events": [{"at": 1, "explode": [0]}]}, "unknown key"),
        ({"events": [{"at": 1, "leave": [2]}]}, "leave 2, but the job has 2 workers, counted from 0"),
        ({"events": [{"at": 1, "crash_shards": [1]}]}, "crash_shards 1, but the job has 1 shard,"),
        ({"events": [{"at": 1, "leave": 1}]}, r"leave must be a list of integers, got 1.*e\.g\. leave = \[0\]"),
        ({"crash_every_seconds": 0}, "crash_every_seconds must be > 0 on average"),
        ({"restart_seconds": float("inf")}, "restart_seconds must be finite"),
        ({"delay": {"updates": 1}, "latency_seconds": 0.1, "speeds": [1, 2]}, "take out speeds, latency_seconds"),
        ({"events": [{"at": 1, "leave": [-1]}]}, "counted from 0"),
        ({"delay": {"pattern": "batch", "updates": 3}}, "did you mean 'minibatch'|must be one of"),
        ({"delay": {"pattern": "constant"}}, "updates must be an integer"),
        ({"delay": {"updates": -1}}, "updates must be >= 0"),
        ({"delay": {"updates": 1}, "events": [{"at": 1, "leave": [0]}]}, "take out events"),
    ],
)
def test_what_is_refused(simulation, message):
    with pytest.raises(JobError, match=message):
        load(**simulation)


@pytest.mark.parametrize(("pattern", "workers"), [("constant", 31), ("minibatch", 61), ("random", 31)])
def test_a_delay_decides_the_number_of_workers(pattern, workers):
    job = load(delay={"pattern": pattern, "updates": 30})
    assert job.workers.count == workers
    assert hogshead.load(job.to_dict()) == job
    with pytest.raises(JobError, match=f"needs {workers}; leave count out"):
        load(workers=5, delay={"pattern": pattern, "updates": 30})


def test_the_section_is_saved_only_where_it_matters():
    assert "simulation" not in load(backend="processes").to_dict()
    assert "simulation" in load(backend="processes", step_seconds=2.0).to_dict()
    assert "simulation" in load().to_dict()
