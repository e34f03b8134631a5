"""Times, delays and availabilities that are known exactly, or in distribution."""

from __future__ import annotations

import numpy as np
import pytest

from worker import trace

EXPONENTIAL = {"distribution": "exponential", "mean": 1.0}


def rows(outcome, kind):
    """Columns of one kind of operation."""
    columns = outcome.trace.columns()
    return {name: column[columns["kind"] == kind] for name, column in columns.items()}


@pytest.mark.parametrize("strategy", ["mdownpour", "downpour", "easgd", "hogwild"])
def test_where_only_steps_take_time_each_begins_where_the_last_one_ended(simulated, strategy):
    speeds = [1.0, 0.25, 2.0]
    outcome = simulated(
        3,
        strategy=strategy,
        rule=None,
        stop={"epochs": 1},
        simulation={"step_seconds": {"distribution": "lognormal", "sigma": 0.5}, "speeds": speeds},
    )
    computed = rows(outcome, trace.COMPUTE)
    for replica in range(3):
        mine = computed["replica"] == replica
        time, seconds = computed["time"][mine], computed["seconds"][mine]
        assert time[0] == 0 and time[1:] == pytest.approx((time + seconds)[:-1])
        assert seconds.mean() * speeds[replica] == pytest.approx(np.exp(0.125), rel=0.25)


def test_updates_of_memoryless_replicas_are_missed_geometrically(simulated):
    """The next update is anybody's: P(k others before mine) = (1 - 1/p)^k / p."""
    p = 5
    outcome = simulated(
        p, record=True, data={"batch_size": 1}, stop={"steps": 6000}, simulation={"step_seconds": EXPONENTIAL}
    )
    missed = rows(outcome, trace.PUSH)["staleness"]
    expected = (1 - 1 / p) ** np.arange(12) / p
    assert np.bincount(missed, minlength=12)[:12] / missed.size == pytest.approx(expected, abs=0.02)


def test_a_slow_replica_misses_more_and_is_missed_less(simulated):
    """Between two updates of replica i each other one makes v_j / v_i."""
    speeds = [1.0, 0.25]
    outcome = simulated(2, record=True, stop={"steps": 4000}, simulation={"step_seconds": 1.0, "speeds": speeds})
    pushed = rows(outcome, trace.PUSH)
    seen = [pushed["staleness"][pushed["replica"] == replica].mean() for replica in range(2)]
    assert seen == pytest.approx([0.25, 4.0], rel=0.1)


@pytest.mark.parametrize(("p", "think", "service"), [(4, 1.0, 0.1), (4, 1.0, 0.5), (10, 3.0, 0.25)])
def test_constant_times_around_one_locked_shard(simulated, p, think, service):
    """Either the shard is always busy or nobody waits: a cycle takes max(think + service, p service)."""
    outcome = simulated(
        p, data={"batch_size": 1}, stop={"steps": 400}, simulation={"step_seconds": think, "service_seconds": service}
    )
    cycle = max(think + service, p * service)
    assert outcome.virtual_seconds / (400 / p) == pytest.approx(cycle, rel=0.03)
    assert outcome.summary["shard_busy_seconds"][0] == pytest.approx(400 * service)


def test_where_nobody_waits_for_long_the_response_time_follows_from_the_throughput(simulated):
    """Little's law over a whole cycle: replicas = throughput * (step + response)."""
    p = 6
    outcome = simulated(
        p,
        data={"batch_size": 1},
        stop={"steps": 500},
        simulation={"step_seconds": EXPONENTIAL, "service_seconds": {"distribution": "exponential", "mean": 0.15}},
    )
    waited = sum(worker["wait_seconds"] for worker in outcome.summary["per_worker"])
    worked = sum(worker["busy_seconds"] for worker in outcome.summary["per_worker"])
    ends = rows(outcome, trace.END)["time"]
    assert waited + worked == pytest.approx(ends.sum())
    assert waited > 0


def test_a_replica_that_crashes_is_there_as_often_as_it_should(simulated):
    """Mean life M, replaced after R: there M / (M + R) of the time."""
    life, away = 40.0, 20.0
    outcome = simulated(
        {"count": 16, "max_restarts": 1000},
        data={"batch_size": 4},
        record=True,
        stop={"epochs": 40},
        simulation={
            "step_seconds": 1.0,
            "restart_seconds": away,
            "crash_every_seconds": {"distribution": "exponential", "mean": life},
        },
    )
    assert outcome.summary["status"] == "done"
    there = rows(outcome, trace.END)["time"].sum() - rows(outcome, trace.BEGIN)["time"].sum()
    assert there / (16 * outcome.virtual_seconds) == pytest.approx(life / (life + away), rel=0.12)


def test_a_shard_that_crashes_is_there_as_often_as_it_should(simulated):
    life, away = 30.0, 10.0
    outcome = simulated(
        1,
        record=True,
        stop={"seconds": 8000.0},
        simulation={
            "step_seconds": 1.0,
            "restart_seconds": away,
            "snapshot_seconds": 100.0,
            # Two that were made to happen must not add to the random ones.
            "events": [{"at": 1.0, "crash_shards": [0]}, {"at": 20.0, "crash_shards": [0]}],
            "shard_crash_every_seconds": {"distribution": "exponential", "mean": life},
        },
    )
    steps = outcome.summary["steps"]
    assert steps / 8000 == pytest.approx(life / (life + away), rel=0.08)


def test_a_delay_pattern_keeps_its_own_time_whatever_the_clock_says(simulated):
    """As many turns as replicas take a step's time, also with evaluations in between."""
    outcome = simulated(
        None,
        stop={"steps": 300},
        evaluation={"every_seconds": 0.37, "every_epochs": 0},
        simulation={"step_seconds": 2.0, "delay": {"pattern": "constant", "updates": 3}},
    )
    assert rows(outcome, trace.COMPUTE)["time"][:200] == pytest.approx(0.5 * np.arange(1, 201))
    between = np.diff([record["virtual_seconds"] for record in outcome.evaluations[:100]])
    assert between == pytest.approx(0.37)


def test_a_delay_pattern_ends_by_the_clock_too(simulated):
    outcome = simulated(None, stop={"seconds": 50.0}, simulation={"delay": {"pattern": "random", "updates": 3}})
    assert outcome.summary["stop_reason"] == "50 seconds" and outcome.error is None
    assert outcome.summary["steps"] == pytest.approx(4 * 50, abs=4)


def test_a_step_begins_when_what_it_is_taken_at_has_arrived(simulated):
    outcome = simulated(stop={"steps": 20}, simulation={"step_seconds": 1.0, "latency_seconds": 0.1})
    # The strategy's first pull, then in each step a pull, the gradient, and a push.
    expected = 0.2 + 0.2 + np.arange(20) * (0.2 + 1.0 + 0.2)
    assert rows(outcome, trace.COMPUTE)["time"] == pytest.approx(expected)
