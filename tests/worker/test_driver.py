"""The driver: commands carried out, gradients refused, stopping between two steps, sweeps."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from ps.errors import NonFiniteError
from ps.rules import NAG, SGD, Adagrad, build_rule
from tests.worker.harness import Averaged, Dense, Farm, Sparse
from worker.commands import Pull
from worker.driver import Work
from worker.strategies import EAMSGD, EASGD, Downpour, Hogwild, MDownpour, Sequential
from worker.strategies.base import Strategy


class Broken(Dense):
    """Spoils the answer of its ``at``-th gradient (counted from 0) with ``value``."""

    def __init__(self, what: str, value: float = math.nan, at: int = 2):
        super().__init__()
        self.what, self.value, self.at, self.calls = what, value, at, 0

    def loss_and_gradient(self, parameters, batch):
        loss, gradient = super().loss_and_gradient(parameters, batch)
        self.calls += 1
        if self.calls - 1 == self.at:
            if self.what == "loss":
                return self.value, gradient
            gradient["w"][1] = self.value
        return loss, gradient


class BrokenAverage(Averaged):
    def loss_and_gradient(self, parameters, batch):
        loss, gradient = super().loss_and_gradient(parameters, batch)
        return loss, {**gradient, "seen": np.array([0.0, math.inf, 0.0])}


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_stops(what, value):
    farm = Farm(Sequential(), SGD(lr=0.1), task=Broken(what, value)).begin()
    driver = farm.drivers[0]
    driver.step()
    driver.step()
    before = farm.center.copy()
    message = rf"the {what} is not finite .* in epoch 0, step 2 of replica 0; lower the step size, clip .* on_nonfinite"
    with pytest.raises(NonFiniteError, match=message) as caught:
        driver.step()
    assert caught.value.replica == 0
    assert np.array_equal(farm.center, before) and driver.replica.clock == 2


def test_data_that_are_not_finite_are_named_beside_the_step_size():
    task = Dense()
    task.x[7, 1] = math.inf
    farm = Farm(Sequential(), SGD(lr=0.1), task=task).begin()
    said = r"is not finite .*: example 7 of the data .* has inf in array 'item0' at \[1\]; mend the data, .* lower the step"
    with np.errstate(invalid="ignore"), pytest.raises(NonFiniteError, match=said):
        farm.drivers[0].run(Work(0, 0, np.arange(60)))


def test_an_observation_that_is_not_finite_stops():
    farm = Farm(Sequential(), SGD(lr=0.1), task=BrokenAverage()).begin()
    with pytest.raises(NonFiniteError, match="the gradient is not finite"):
        farm.drivers[0].step()
    assert np.isfinite(farm.center).all()


def test_a_gradient_that_is_not_finite_is_skipped_and_counted():
    """The rest goes on as if that batch had not been there."""
    farm = Farm(Sequential(), SGD(lr=0.1), task=Broken("gradient"), skip_nonfinite=True).begin()
    driver = farm.drivers[0]
    driver.run(Work(0, 0, farm.examples[0][:12]))
    driver.finish()
    without = Farm(Sequential(), SGD(lr=0.1)).begin()
    without.drivers[0].run(Work(0, 0, np.delete(farm.examples[0][:12], [4, 5])))
    assert np.array_equal(farm.center, without.center)
    statistics = driver.statistics
    assert (statistics.skipped, statistics.steps, statistics.examples, statistics.updates) == (1, 6, 12, 5)
    assert statistics.loss_count == 10 and math.isfinite(statistics.loss_sum)


@pytest.mark.parametrize("strategy", [Downpour(n_push=3), Downpour(push="update", n_push=2), EASGD(tau=2)])
def test_skipping_never_lets_a_bad_number_into_the_center(strategy):
    rule = (
        None
        if isinstance(strategy, EASGD)
        else SGD(lr=0.01)
        if strategy.push == "gradient"
        else build_rule({"name": "add"})
    )
    farm = Farm(strategy, rule, SGD(lr=0.1), task=Broken("gradient", at=4), skip_nonfinite=True).play([0] * 12)
    assert np.isfinite(farm.center).all() and farm.drivers[0].statistics.skipped == 1
    assert np.isfinite(farm.drivers[0].replica.parameters).all()


def test_large_float32_gradients_are_finite():
    """The square of 1e25 overflows float32; the gradient itself is fine, and nothing warns."""

    class Steep(Dense):
        def parameters(self, rng):
            return {name: value.astype(np.float32) for name, value in super().parameters(rng).items()}

        def loss_and_gradient(self, parameters, batch):
            return 1.0, {"w": np.full(3, 1e25, np.float32), "c": np.zeros(1, np.float32)}

    farm = Farm(Sequential(), build_rule({"name": "sgd", "lr": 1.0, "clip_norm": 3**0.5}), task=Steep()).begin()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        farm.drivers[0].step()
    moved = farm.layout.flatten(farm.start) - farm.center
    assert moved[:3] == pytest.approx([1, 1, 1], rel=1e-5)


# -- stopping and going on --------------------------------------------------------------------------------------------


class Halt(Exception):
    pass


def test_between_steps_is_called_after_each_step_and_may_stop_there():
    whole = Farm(Sequential(), SGD(lr=0.1)).begin()
    whole.drivers[0].run(Work(0, 0, whole.examples[0][:11]))

    farm = Farm(Sequential(), SGD(lr=0.1)).begin()
    driver, work = farm.drivers[0], Work(7, 3, farm.examples[0][:11])
    positions = []

    def between():
        positions.append(work.position)
        if len(positions) == 3:
            raise Halt

    with pytest.raises(Halt):
        driver.run(work, between)
    assert positions == [2, 4, 6] and work.left == 5
    assert driver.replica.clock == 3 and driver.replica.epoch == 3
    driver.run(work, between)
    assert positions == [2, 4, 6, 8, 10, 11]  # the last batch is what is left
    assert np.array_equal(farm.center, whole.center)


RESUMED = {
    "downpour": (Downpour(n_fetch=3, n_push=4), Adagrad(lr=0.05), NAG(lr=0.01)),
    "downpour update": (
        Downpour(n_fetch=4, n_push=4, push="update", average="running"),
        build_rule({"name": "add"}),
        SGD(lr=0.03),
    ),
    "delay-aware": (Downpour(n_fetch=4), build_rule({"name": "staleness_aware", "lr": 0.05}), SGD(lr=0.02)),
    "easgd": (EASGD(tau=3), None, Adagrad(lr=0.05)),
    "eamsgd": (EAMSGD(tau=3), None, NAG(lr=0.01, form="lookahead")),
    "mdownpour": (MDownpour(), NAG(lr=0.01), None),
}


@pytest.mark.parametrize("task", [Dense, Sparse, Averaged])
@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("cut", [1, 5, 6])
def test_resumed_is_uninterrupted_bit_for_bit(case, task, cut):
    strategy, rule, local = RESUMED[case]

    def farm() -> Farm:
        return Farm(strategy, rule, local, task=task(), shards=2)

    whole, first, second = farm().play([0] * 14), farm().begin(), farm()
    for _ in range(cut):
        first.drivers[0].step()
    first.drivers[0].settle()
    for name, array in first.arrays.items():
        np.copyto(second.arrays[name], array)
    driver, replica = second.drivers[0], first.drivers[0].replica
    driver.replica.restore({name: array.copy() for name, array in replica.arrays().items()}, replica.scalars())
    driver.link._sequence = first.drivers[0].link._sequence
    driver.resumed()
    driver.work.position = first.drivers[0].work.position
    for _ in range(14 - cut):
        driver.step()
    driver.finish()
    assert np.array_equal(second.center, whole.center)
    assert np.array_equal(driver.replica.parameters, whole.drivers[0].replica.parameters)
    assert not np.array_equal(first.center, whole.center)


def test_resumed_on_another_number_of_shards():
    first, second = (Farm(EASGD(tau=2), local_rule=SGD(lr=0.1), shards=shards) for shards in (2, 3))
    first.begin()
    first.drivers[0].step()
    replica = first.drivers[0].replica
    second.drivers[0].replica.restore(replica.arrays(), replica.scalars())
    second.drivers[0].resumed()
    second.drivers[0].step()
    assert second.drivers[0].replica.versions.shape == (3,)


# -- what a push carries ----------------------------------------------------------------------------------------------


class Spy:
    """Notes what is pushed."""

    def __init__(self, link):
        self.link, self.norms, self.payloads = link, [], []

    def push(self, payload, versions, *, gradient_norm=None, **more):
        self.norms.append(gradient_norm)
        self.payloads.append(payload)
        return self.link.push(payload, versions, gradient_norm=gradient_norm, **more)

    def __getattr__(self, name):
        return getattr(self.link, name)


@pytest.mark.parametrize("task", [Dense, Sparse, Averaged])
def test_a_clipping_rule_is_told_the_norm_over_trained_parameters(task):
    rule = build_rule({"name": "sgd", "lr": 0.1, "clip_norm": 1.0, "schedule": {"name": "constant"}})
    farm = Farm(Hogwild(), rule, task=task(), shards=2).begin()
    driver = farm.drivers[0]
    spy = driver.link = Spy(driver.link)
    examples = farm.batches(0)[0]
    data = farm.task.dataset()
    _, gradient = farm.task.loss_and_gradient(farm.start, tuple(array[examples] for array in data))
    driver.step()
    parts = [getattr(part, "values", part) for name, part in gradient.items() if name != "seen"]
    assert spy.norms == [pytest.approx(math.sqrt(sum((part**2).sum() for part in parts)), rel=1e-12)]


def test_other_rules_are_not_told_the_norm():
    farm = Farm(Hogwild(), SGD(lr=0.1)).begin()
    spy = farm.drivers[0].link = Spy(farm.drivers[0].link)
    farm.drivers[0].step()
    assert spy.norms == [None]


# -- sweeps -----------------------------------------------------------------------------------------------------------


class Swept(Dense):
    """A sweep that adds its step size to the first parameter once per example."""

    def __init__(self, loss: float = 0.5):
        super().__init__()
        self.loss, self.seen = loss, []

    def sweep(self, parameters, examples, step_size, locking):
        self.seen.append((examples.tolist(), step_size))
        parameters["w"][0] += step_size * examples.size
        return self.loss * examples.size


def swept(task: Swept, rule, **options) -> Farm:
    farm = Farm(Hogwild(), rule, task=task, sweep_examples=4, **options).begin()
    farm.drivers[0].replica.sweeps = True
    return farm


def test_a_sweep_steps_the_center_in_place():
    task = Swept()
    farm = swept(task, build_rule({"name": "sgd", "lr": 0.5, "schedule": {"name": "decay", "beta": 0.5}}))
    driver = farm.drivers[0]
    driver.run(Work(0, 2, np.arange(10)))
    assert task.seen == [([0, 1, 2, 3], 0.125), ([4, 5, 6, 7], 0.125), ([8, 9], 0.125)]
    assert farm.layout.views(farm.center)["w"][0] == pytest.approx(0.3 + 1.25)
    statistics = driver.statistics
    assert (statistics.steps, statistics.examples, statistics.updates, driver.replica.clock) == (10, 10, 10, 10)
    assert (statistics.loss_sum, statistics.loss_count, statistics.heartbeat) == (5.0, 10.0, 3)
    assert farm.state.shards[0].version == 10 and statistics.histogram[0] == 10


def test_a_sweep_counts_others_updates_as_staleness():
    task = Swept()
    farm = swept(task, SGD(lr=0.1))
    driver = farm.drivers[0]
    sweep = task.sweep

    def crowded(*arguments):
        driver.link.note_updates(12)  # others make twelve while this one makes four
        return sweep(*arguments)

    task.sweep = crowded
    driver.run(Work(0, 0, np.arange(4)))
    assert driver.statistics.histogram[3] == 4 and driver.statistics.staleness_sum == 12


def test_a_sweep_whose_loss_is_not_finite_stops_even_if_others_are_skipped():
    farm = swept(Swept(math.nan), SGD(lr=0.25), skip_nonfinite=True)
    with pytest.raises(NonFiniteError, match=r"cannot take a step back: lower \[rule\] lr \(now 0.25\)"):
        farm.drivers[0].run(Work(0, 1, np.arange(4)))


def test_a_step_that_takes_no_examples_is_a_mistake_of_the_strategy():
    class Idle(Strategy):
        def step(self, replica):
            yield Pull()

    farm = Farm(Idle(), SGD(lr=0.1)).begin()
    with pytest.raises(AssertionError, match="Idle.step took no examples"):
        farm.drivers[0].run(Work(0, 0, np.arange(4)))


def test_counts_of_a_step():
    farm = Farm(Downpour(n_fetch=2, n_push=3), SGD(lr=0.1), SGD(lr=0.1)).play([0] * 6)
    statistics = farm.drivers[0].statistics
    # Pushes at clocks 0 and 3, and of the last two steps at the end; pulls at the start and at clocks 0, 2, 4.
    assert (statistics.steps, statistics.updates, statistics.pulls, statistics.examples) == (6, 3, 4, 12)
    assert statistics.heartbeat == 6 and statistics.loss_count == 12
    # The first reads and pushes at once; the second was read at clock 2, the third at clock 4 after both pushes.
    assert statistics.histogram[0] == 3 and statistics.histogram.sum() == 3
