"""Delays that are exactly what was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from ps.errors import JobError
from worker import trace

ONE_PASS = {"data": {"batch_size": 1}, "stop": {"epochs": 1}}


def staleness(outcome):
    columns = outcome.trace.columns()
    return columns["staleness"][columns["kind"] == trace.PUSH]


@pytest.mark.parametrize("delay", [0, 1, 30])
def test_constant(simulated, delay):
    outcome = simulated(None, simulation={"delay": {"pattern": "constant", "updates": delay}}, **ONE_PASS)
    seen = staleness(outcome)
    assert seen.size == 512 == outcome.summary["updates"]
    assert seen[: delay + 1].tolist() == list(range(delay + 1))  # the first read before anybody has updated
    assert (seen[delay : 512 - delay] == delay).all()


@pytest.mark.parametrize("delay", [1, 10])
def test_minibatch(simulated, delay):
    outcome = simulated(None, simulation={"delay": {"pattern": "minibatch", "updates": delay}}, **ONE_PASS)
    width = 2 * delay + 1
    whole = 400 // width * width  # the last range of each replica ends when it likes
    assert (staleness(outcome)[:whole].reshape(-1, width) == np.arange(width)).all()


def test_random(simulated):
    outcome = simulated(
        None,
        data={"batch_size": 1},
        stop={"epochs": 8},
        simulation={"delay": {"pattern": "random", "updates": 9}},
    )
    seen = staleness(outcome)
    assert seen.mean() == pytest.approx(9, rel=0.08)
    # Geometric: P(0) = 1/10, and the standard deviation is about the mean.
    assert (seen == 0).mean() == pytest.approx(0.1, rel=0.2)
    assert seen.std() == pytest.approx(np.sqrt(9 * 10), rel=0.15)


@pytest.mark.parametrize("strategy", ["downpour", "easgd", "eamsgd", "hogwild"])
def test_a_turn_is_one_local_step_of_any_strategy(simulated, strategy):
    outcome = simulated(
        None,
        strategy=strategy,
        rule=None,
        data={"batch_size": 8},
        stop={"steps": 240},
        simulation={"delay": {"pattern": "random", "updates": 3}},
    )
    columns = outcome.trace.columns()
    computed = columns["replica"][columns["kind"] == trace.COMPUTE]
    assert computed.size == 240
    # A random replica each time: it is the same one as before in about a quarter of the turns.
    assert (computed[1:] == computed[:-1]).mean() == pytest.approx(0.25, abs=0.09)


def test_a_delay_without_others_is_plain_training(simulated):
    sections = {"strategy": "mdownpour", "stop": {"epochs": 2}}
    delayed = simulated(None, simulation={"delay": {"updates": 0}}, **sections)
    alone = simulated(1, **sections)
    assert np.array_equal(delayed.parameters["w"], alone.parameters["w"])


def test_synchronous_steps_have_no_delay(simulated):
    with pytest.raises(JobError, match="synchronous steps have none"):
        simulated(None, strategy="synchronous", simulation={"delay": {"updates": 3}})
