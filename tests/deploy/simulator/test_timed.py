"""Times against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worker import trace

EXPONENTIAL = {"distribution": "exponential", "mean": 1.0}


def repairman(p: int, think: float, service: float) -> float:
    """Utilisation of one server that p customers return to, times exponential: the machine-repairman queue M/M/1//p."""
    weights = [math.factorial(p) / math.factorial(p - k) * (service / think) ** k for k in range(p + 1)]
    return 1 - 1 / sum(weights)


@pytest.mark.parametrize(("p", "service"), [(4, 0.1), (8, 0.2), (16, 0.05)])
def test_identical_replicas_around_one_shard_are_the_repairman_queue(simulated, p, service):
    outcome = simulated(
        p,
        stop={"steps": 6000},
        simulation={"step_seconds": EXPONENTIAL, "service_seconds": {"distribution": "exponential", "mean": service}},
    )
    utilisation = outcome.summary["shard_busy_seconds"][0] / outcome.virtual_seconds
    expected = repairman(p, 1.0, service)
    assert utilisation == pytest.approx(expected, rel=0.05)
    assert outcome.summary["updates_per_second"] == pytest.approx(expected / service, rel=0.05)
    # In each cycle of a replica every other one updates once, on average, and none of its own updates come between.
    assert outcome.summary["staleness"]["mean"] == pytest.approx(p - 1, rel=0.05)


def test_one_replicas_step_is_the_sum_of_its_parts(simulated):
    outcome = simulated(
        stop={"steps": 50},
        simulation={"step_seconds": 1.0, "latency_seconds": 0.1, "service_seconds": 0.02, "pull_seconds": 0.003},
    )
    begin = 0.1 + 0.003 + 0.1  # the strategy's first pull
    assert outcome.virtual_seconds == pytest.approx(begin + 50 * (0.203 + 1.0 + 0.22))


def test_bytes_take_their_time_on_the_link(simulated):
    outcome = simulated(stop={"steps": 10}, simulation={"step_seconds": 1.0, "bandwidth": 1000.0})
    small, large = 64 / 1000, (64 + 5 * 4) / 1000  # a header, and a header with five parameters of four bytes
    assert outcome.virtual_seconds == pytest.approx(11 * (small + large) + 10 * (1.0 + large + small))


def test_messages_of_one_worker_follow_each_other_and_those_of_two_do_not(simulated):
    def seconds(workers, shards):
        simulation = {"step_seconds": 0.0, "bandwidth": 1000.0}
        return simulated(workers, shards={"count": shards}, stop={"steps": 80}, simulation=simulation).virtual_seconds

    one = seconds(1, 1)
    assert seconds(2, 1) == pytest.approx(one / 2, rel=0.05)
    assert seconds(1, 5) > one  # five headers instead of one


def test_a_slow_worker_makes_as_many_fewer_steps(simulated):
    outcome = simulated(2, stop={"steps": 500}, simulation={"step_seconds": 1.0, "speeds": [1.0, 0.25]})
    fast, slow = (worker["steps"] for worker in outcome.summary["per_worker"])
    assert fast == pytest.approx(4 * slow, rel=0.03)


def test_stragglers_lengthen_the_mean_step(simulated):
    outcome = simulated(
        stop={"steps": 4000}, simulation={"step_seconds": 1.0, "stragglers": {"probability": 0.1, "slowdown": 11.0}}
    )
    assert outcome.virtual_seconds / 4000 == pytest.approx(1 + 0.1 * 10, rel=0.1)


def test_synchronous_steps_take_as_long_as_the_slowest_of_them(simulated):
    p, steps = 5, 3000
    outcome = simulated(
        p,
        strategy="synchronous",
        stop={"steps": steps},
        data={"batch_size": 1},
        simulation={"step_seconds": EXPONENTIAL},
    )
    mean_of_maximum = sum(1 / k for k in range(1, p + 1))
    assert outcome.virtual_seconds / (steps / p) == pytest.approx(mean_of_maximum, rel=0.08)
    assert outcome.summary["staleness"]["max"] == 0


def test_locked_shards_serve_one_at_a_time_and_lock_free_ones_all_at_once(simulated):
    def seconds(apply):
        simulation = {"step_seconds": 1.0, "service_seconds": 1.0}
        outcome = simulated(8, shards={"apply": apply}, stop={"steps": 400}, simulation=simulation)
        assert 0.4 < outcome.summary["shard_busy_seconds"][0] / outcome.virtual_seconds <= 1.0
        return outcome.virtual_seconds

    assert seconds("locked") == pytest.approx(400, rel=0.02)
    assert seconds("lock_free") == pytest.approx(400 * 2 / 8, rel=0.02)


def test_a_consistent_read_waits_for_the_updates_before_it(simulated):
    def waited(reads):
        simulation = {"step_seconds": 1.0, "service_seconds": 5.0}
        outcome = simulated(2, shards={"reads": reads}, stop={"steps": 40}, simulation=simulation)
        return outcome.summary["staleness"]["mean"]

    assert waited("consistent") < waited("torn")


@pytest.mark.parametrize(
    ("locking", "seconds"),
    [
        ("none", lambda p, g, c, h: (g + c) / p),
        ("global", lambda p, g, c, h: max((g + c) / p, c)),
        ("per_variable", lambda p, g, c, h: max((g + c) / p, c)),  # the gradient is dense: all touch the same variables
        ("round_robin", lambda p, g, c, h: max((g + c) / p, c + h)),
    ],
)
@pytest.mark.parametrize("g", [0.5, 20.0])
def test_hogwilds_locking_schemes_have_their_known_rates(simulated, locking, seconds, g):
    p, c, h = 10, 0.5, 0.3
    outcome = simulated(
        p,
        strategy={"name": "hogwild", "locking": locking, "backoff": 1.0},
        rule={"name": "sgd", "lr": 1e-4},
        data={"batch_size": 4},
        stop={"steps": 1000},
        simulation={"step_seconds": g, "service_seconds": c, "handoff_seconds": h},
    )
    # Epochs of 128 steps end with a barrier, so a little is lost at each.
    assert outcome.virtual_seconds / 1000 == pytest.approx(seconds(p, g, c, h), rel=0.2)
    assert outcome.virtual_seconds / 1000 >= seconds(p, g, c, h) * 0.999


@pytest.mark.parametrize("lag", [0, 1])
def test_a_turn_passes_over_one_that_must_wait_for_the_others(simulated, lag):
    """They would wait for its update, and it for theirs."""
    outcome = simulated(
        3,
        strategy={"name": "hogwild", "locking": "round_robin"},
        admission={"policy": "bounded", "max_clock_lag": lag},
        data={"batch_size": 1},
        stop={"epochs": 2},
        simulation={"step_seconds": 0.1, "pull_seconds": {"distribution": "exponential", "mean": 0.2}},
    )
    assert outcome.error is None and outcome.summary["steps"] == 2 * 512


def test_a_pull_that_is_not_waited_for_arrives_a_step_later(simulated):
    sections = {"strategy": "downpour", "rule": {"name": "sgd", "lr": 0.01}, "local_rule": {"name": "sgd", "lr": 0.01}}
    near = simulated(**sections, simulation={"step_seconds": 1.0})
    far = simulated(**sections, simulation={"step_seconds": 1.0, "latency_seconds": 0.4})
    assert near.summary["staleness"]["max"] == 0
    assert far.summary["staleness"]["p50"] == 1  # the step before had been pushed after the read that this one uses
    assert far.virtual_seconds == pytest.approx(near.virtual_seconds, abs=2.1)  # nothing waits


def test_a_link_that_is_too_slow_holds_its_replica_back(simulated):
    simulation = {"step_seconds": 1.0, "latency_seconds": 10.0}
    sections = {"strategy": "downpour", "rule": {"name": "sgd", "lr": 0.01}, "stop": {"steps": 100}}
    outcome = simulated(**sections, simulation=simulation)
    # At most two pushes are under way, each for 20 seconds.
    assert outcome.virtual_seconds == pytest.approx(100 * 20 / 2, rel=0.05)


@pytest.mark.parametrize("strategy", ["downpour", "easgd", "synchronous", "hogwild"])
def test_the_same_seed_gives_the_same_trace(simulated, strategy):
    def run(seed):
        return simulated(
            6,
            strategy=strategy,
            rule=None,
            seed=seed,
            shards={"count": 3},
            stop={"steps": 300},
            simulation={
                "step_seconds": {"distribution": "lognormal", "sigma": 0.5},
                "latency_seconds": {"distribution": "exponential", "mean": 0.2},
                "service_seconds": 0.01,
                "bandwidth": [1e3, 1e4],
                "crash_every_seconds": {"distribution": "exponential", "mean": 100.0},
                "stragglers": {},
            },
        )

    first, again, other = run(0), run(0), run(1)
    assert len(first.trace) > 300
    assert first.trace == again.trace
    assert all(np.array_equal(first.parameters[name], again.parameters[name]) for name in first.parameters)
    assert first.trace != other.trace


def test_the_trace_tells_of_every_operation(simulated):
    outcome = simulated(3, shards={"count": 2}, stop={"steps": 30}, simulation={"step_seconds": EXPONENTIAL})
    columns = outcome.trace.columns()
    counted = {name: int((columns["kind"] == kind).sum()) for kind, name in enumerate(trace.KINDS)}
    assert counted["begin"] == 3 and counted["compute"] == 30 and counted["push"] == 2 * 30
    assert counted["pull"] == 2 * (30 + 3)
    for shard in range(2):
        pushed = columns["version"][(columns["kind"] == trace.PUSH) & (columns["shard"] == shard)]
        assert pushed.tolist() == list(range(1, 31))
    assert (np.diff(columns["time"][columns["kind"] == trace.PUSH]) >= 0).all()
    assert columns["loss"][columns["kind"] == trace.COMPUTE].min() > 0
