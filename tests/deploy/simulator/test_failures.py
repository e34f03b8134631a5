"""Replicas and shards that join, leave and crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hogshead
from deploy.progress import Observer
from deploy.simulation import simulate
from worker import trace

COUNTING = Path(__file__).parents[2] / "hosts" / "counting.py"

STEPS = {"step_seconds": {"distribution": "lognormal", "sigma": 0.3}}


class Events(Observer):
    """Keeps what happened."""

    def __init__(self):
        self.records = []

    def event(self, record):
        self.records.append((record["event"], record["virtual_seconds"]))


def replicas_at(outcome, low, high):
    """Replicas that computed between two virtual times."""
    columns = outcome.trace.columns()
    chosen = (columns["kind"] == trace.COMPUTE) & (columns["time"] >= low) & (columns["time"] < high)
    return set(columns["replica"][chosen].tolist())


@pytest.mark.parametrize("strategy", ["mdownpour", "downpour", "easgd", "synchronous", "hogwild"])
def test_the_others_go_on_when_some_leave(simulated, strategy):
    outcome = simulated(
        4,
        strategy=strategy,
        rule=None,
        stop={"epochs": 4},
        simulation={**STEPS, "latency_seconds": 0.05, "events": [{"at": 20.0, "leave": [0, 1]}]},
    )
    assert outcome.summary["status"] == "done" and outcome.summary["epochs"] == 4
    assert replicas_at(outcome, 0, 19) == {0, 1, 2, 3}
    assert replicas_at(outcome, 22, 1e9) == {2, 3}


def test_one_that_joins_late_shares_the_work(simulated):
    outcome = simulated(3, stop={"epochs": 4}, simulation={**STEPS, "events": [{"at": 30.0, "join": [2]}]})
    assert replicas_at(outcome, 0, 30) == {0, 1}
    assert 2 in replicas_at(outcome, 31, 1e9)


def test_one_that_left_may_come_back(simulated):
    events = [{"at": 10.0, "leave": [0]}, {"at": 40.0, "join": [0]}]
    outcome = simulated(2, stop={"epochs": 2}, simulation={**STEPS, "events": events})
    assert replicas_at(outcome, 12, 40) == {1}
    assert replicas_at(outcome, 42, 60) == {0, 1}
    assert len(np.unique(outcome.trace.columns()["incarnation"])) == 2


@pytest.mark.parametrize("strategy", ["mdownpour", "easgd", "synchronous"])
def test_a_crashed_replica_is_replaced_and_no_example_is_lost(simulated, strategy):
    watcher = Events()
    outcome = simulated(
        3,
        strategy=strategy,
        rule=None,
        observer=watcher,
        stop={"epochs": 2},
        simulation={**STEPS, "restart_seconds": 7.0, "events": [{"at": 9.5, "crash": [1]}]},
    )
    assert [event for event, _ in watcher.records] == ["worker_died", "worker_replaced"]
    assert [seconds for _, seconds in watcher.records] == [9.5, 16.5]
    assert 1 not in replicas_at(outcome, 9.6, 16.5) and 1 in replicas_at(outcome, 16.5, 1e9)
    assert outcome.summary["status"] == "done" and outcome.summary["worker_deaths"] == 1
    assert outcome.summary["examples"] >= 2 * 512  # what the dead one had not finished was done again


def test_a_replica_that_keeps_crashing_ends_the_run(simulated):
    outcome = simulated(
        2,
        stop={"epochs": 50},
        simulation={**STEPS, "crash_every_seconds": {"distribution": "exponential", "mean": 3.0}},
    )
    assert outcome.summary["status"] == "failed" and "times in a row" in str(outcome.error)


def test_random_crashes_come_as_often_as_they_should(simulated):
    mean = 100.0
    outcome = simulated(
        10,
        stop={"epochs": 40},
        data={"batch_size": 8},
        simulation={
            "step_seconds": 1.0,
            "restart_seconds": 0.0,
            "crash_every_seconds": {"distribution": "exponential", "mean": mean},
        },
    )
    assert outcome.summary["status"] == "done"
    assert outcome.summary["worker_deaths"] == pytest.approx(10 * outcome.virtual_seconds / mean, rel=0.5)


def test_a_crashed_shard_goes_on_from_its_snapshot(simulated):
    watcher = Events()
    outcome = simulated(
        4,
        shards={"count": 2},
        observer=watcher,
        stop={"steps": 400},
        simulation={
            "step_seconds": 1.0,
            "snapshot_seconds": 10.2,
            "restart_seconds": 3.0,
            "events": [{"at": 25.5, "crash_shards": [1]}],
        },
    )
    assert outcome.summary["status"] == "done"
    assert [event for event, _ in watcher.records] == ["shard_crashed", "shard_recovered"]
    first, second = (shard.version for shard in outcome.setup.state.shards)
    assert first == 400 and first - second == 4 * 5  # what four replicas did since second 20.4 is lost
    columns = outcome.trace.columns()
    at_second = columns["time"][(columns["shard"] == 1) & (columns["kind"] == trace.PUSH)]
    assert not ((at_second > 25.5) & (at_second < 28.5)).any()


@pytest.mark.parametrize("strategy", ["synchronous", "easgd", "downpour", "hogwild"])
def test_training_survives_shards_that_crash_at_random(simulated, strategy):
    outcome = simulated(
        4,
        strategy=strategy,
        rule=None,
        shards={"count": 2},
        stop={"epochs": 3},
        simulation={
            **STEPS, "latency_seconds": 0.1, "service_seconds": 0.05, "snapshot_seconds": 5.0,
            "shard_crash_every_seconds": {"distribution": "exponential", "mean": 20.0},
        },
    )  # fmt: skip
    assert outcome.summary["status"] == "done" and outcome.error is None


def test_nobody_left_is_said_in_words(simulated):
    outcome = simulated(2, simulation={"events": [{"at": 3.0, "leave": [0, 1]}]})
    assert outcome.summary["status"] == "failed"
    assert (
        str(outcome.error)
        == "no worker is left at virtual second 3; in [simulation] events let one stay, or join later"
    )


def test_one_that_leaves_while_it_is_dead_is_not_replaced(simulated):
    watcher = Events()
    events = [{"at": 5.0, "crash": [1]}, {"at": 7.0, "leave": [1]}, {"at": 40.0, "join": [1]}]
    outcome = simulated(2, observer=watcher, simulation={"restart_seconds": 10.0, "events": events})
    assert [event for event, _ in watcher.records] == ["worker_died", "worker_left", "worker_joined"]
    assert replicas_at(outcome, 5.1, 40) == {0} and 1 in replicas_at(outcome, 40, 1e9)


def test_those_who_wait_for_a_step_that_is_not_made_any_more_do_not_hold_the_end_up(simulated):
    """At the end some have begun a step that others, whose answers were still on their way, will not take part in."""
    for seconds in np.linspace(7.25, 8.15, 7):
        outcome = simulated(
            3,
            strategy="synchronous",
            stop={"seconds": float(seconds)},
            simulation={"step_seconds": 1.0, "latency_seconds": [0.0, 0.3, 0.6], "events": [{"at": 1e6, "crash": [0]}]},
        )
        assert outcome.error is None and outcome.virtual_seconds < seconds + 4


def test_a_dead_replica_does_not_try_a_crashed_shard_again(simulated):
    events = [{"at": 5.5, "crash_shards": [0]}, {"at": 8.0, "leave": [1]}]
    outcome = simulated(2, simulation={"step_seconds": 1.0, "restart_seconds": 10.0, "events": events})
    columns = outcome.trace.columns()
    pushed = columns["time"][(columns["kind"] == trace.PUSH) & (columns["replica"] == 1)]
    assert pushed.size == 5 and pushed.max() < 5.5


def test_a_slow_link_loses_nothing_and_applies_nothing_twice(tmp_path):
    """The exact form of tests/hosts/test_training.py, where the machine may be too busy for exact counts."""
    (tmp_path / "all").write_text("inf")  # the task's gate stands open
    job = hogshead.load(
        task={"name": f"{COUNTING}:Counting", "gate": str(tmp_path), "n": 512},
        backend="simulation",
        data={"batch_size": 32},
        strategy="downpour",
        rule={"name": "sgd", "lr": 1.0},
        shards={"count": 3},
        workers={"count": 3},
        stop={"epochs": 4},
        simulation={**STEPS, "latency_seconds": 0.05, "bandwidth": [1e9, 500.0, 1e9]},
    )
    outcome = simulate(job)
    seen = outcome.setup.layout.views(outcome.setup.state.center)["seen"]
    np.testing.assert_array_equal(seen, 4)
    assert outcome.summary["examples"] == 4 * 512
    counted = (outcome.summary[name] for name in ("worker_deaths", "duplicate_pushes", "torn_updates"))
    assert list(counted) == [0, 0, 0]
    computed = outcome.trace.columns()
    steps = np.bincount(computed["replica"][computed["kind"] == trace.COMPUTE])
    assert 0 < steps[1] < steps[0] / 4  # the worker behind the slow link was held back by it
