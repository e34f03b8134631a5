"""Every strategy against its paper in plain floats, in fixed interleavings of one to four replicas, in float64."""

from __future__ import annotations

from functools import partial
from itertools import chain

import numpy as np
import pytest

from ps.rules import NAG, SGD, Adagrad, Add
from tests.worker.harness import (
    EXAMPLES,
    Dense,
    Farm,
    distance,
    gradient_in_floats,
    interleaving,
)
from tests.worker.strategies import oracles
from worker.strategies import (
    EAMSGD,
    EASGD,
    Downpour,
    Hogwild,
    MDownpour,
    Sequential,
    Synchronous,
)

TOLERANCE = 1e-10  # relative to the movement
MUTATED = 1e-3  # a wrong algorithm is at least that far off
STEPS = 30
REPLICAS = [1, 2, 3, 4]


def oracle_inputs(farm: Farm):
    """Gradient function, start and batches for an oracle of this farm's run."""
    start = farm.layout.flatten(farm.start).tolist()
    batches = [iter(farm.batches(k)) for k in range(len(farm.drivers))]
    return partial(gradient_in_floats, farm.task), start, batches


def check(farm: Farm, center, replicas=None, wrong_by=0.0):
    """The farm's center (and replicas) are the oracle's; or, for a mutation, clearly not."""
    start = farm.layout.flatten(farm.start).tolist()
    worst = distance(farm.center.tolist(), center, start)
    for driver, expected in zip(farm.drivers, replicas or []):
        worst = max(worst, distance(driver.replica.parameters.tolist(), expected, start))
    if wrong_by:
        assert worst > wrong_by
    else:
        assert worst < TOLERANCE


@pytest.mark.parametrize("replicas", REPLICAS)
@pytest.mark.parametrize(("n_fetch", "n_push"), [(1, 1), (4, 1), (1, 3), (2, 5), (5, 2)])
@pytest.mark.parametrize("local", ["sgd", "adagrad"])
def test_downpour_pushes_gradients(replicas, n_fetch, n_push, local):
    mine = SGD(lr=0.02) if local == "sgd" else Adagrad(lr=0.02, eps=0.0)
    theirs = (lambda: oracles.SGD(0.02)) if local == "sgd" else (lambda: oracles.Adagrad(0.02, 4))
    order = interleaving(replicas, STEPS)
    farm = Farm(Downpour(n_fetch=n_fetch, n_push=n_push), Adagrad(lr=0.05, eps=0.0), mine, replicas=replicas)
    farm.play(order)
    center, x = oracles.downpour_gradients(
        *oracle_inputs(farm), order, n_fetch, n_push, oracles.Adagrad(0.05, 4), theirs
    )
    check(farm, center, x)


def test_downpour_is_sensitive_to_its_periods():
    order = interleaving(3, STEPS)
    farm = Farm(Downpour(n_fetch=2, n_push=5), Adagrad(lr=0.05, eps=0.0), SGD(lr=0.02), replicas=3).play(order)
    for n_fetch, n_push in [(5, 2), (2, 4), (3, 5)]:
        center, x = oracles.downpour_gradients(
            *oracle_inputs(farm), order, n_fetch, n_push, oracles.Adagrad(0.05, 4), lambda: oracles.SGD(0.02)
        )
        check(farm, center, x, wrong_by=MUTATED)


@pytest.mark.parametrize("replicas", REPLICAS)
@pytest.mark.parametrize("tau", [1, 4, 7])
@pytest.mark.parametrize("local", ["sgd", "adagrad"])
def test_downpour_pushes_updates(replicas, tau, local):
    mine = SGD(lr=0.03) if local == "sgd" else Adagrad(lr=0.03, eps=0.0)
    theirs = (lambda: oracles.SGD(0.03)) if local == "sgd" else (lambda: oracles.Adagrad(0.03, 4))
    order = interleaving(replicas, STEPS)
    farm = Farm(Downpour(n_fetch=tau, n_push=tau, push="update"), Add(), mine, replicas=replicas).play(order)
    check(farm, *oracles.downpour_updates(*oracle_inputs(farm), order, tau, theirs))


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize(("average", "weight"), [("running", None), ("moving", 0.05)])
def test_averages_of_the_center(replicas, average, weight):
    """ADOWNPOUR and MVADOWNPOUR; with one replica ASGD and MVASGD."""
    order = interleaving(replicas, STEPS)
    strategy = Downpour(n_fetch=2, n_push=2, push="update", average=average, average_weight=weight or 0.001)
    farm = Farm(strategy, Add(), SGD(lr=0.03), replicas=replicas).play(order)
    given = oracle_inputs(farm)
    alpha = (lambda t: weight) if weight else (lambda t: 1 / (t + 1))
    expected, _ = oracles.downpour_updates(*given, order, 2, lambda: oracles.SGD(0.03), alpha)
    averaged = farm.arrays[f"slot.{strategy.evaluated_slot}"].tolist()
    assert distance(averaged, expected, given[1]) < TOLERANCE
    assert distance(farm.center.tolist(), expected, given[1]) > MUTATED  # the center itself is another vector


def ticks(farm: Farm, order: list[int]) -> None:
    """Perform one command of the replica named, each in turn, so that replicas are inside their steps at once."""

    def run(driver):
        while True:
            commands, answer = driver.strategy.step(driver.replica), None
            while True:
                try:
                    command = commands.send(answer)
                except StopIteration:
                    break
                answer = driver._perform[type(command)](command)
                yield
            driver.replica.clock += 1

    running = [run(driver) for driver in farm.begin().drivers]
    for replica in order:
        next(running[replica])


@pytest.mark.parametrize("replicas", REPLICAS)
def test_mdownpour(replicas):
    farm = Farm(MDownpour(), NAG(lr=0.01, momentum=0.8), replicas=replicas)
    order = interleaving(replicas, 3 * STEPS)
    ticks(farm, order)
    check(farm, *oracles.mdownpour(*oracle_inputs(farm), order, 0.01, 0.8))
    check(farm, *oracles.mdownpour(*oracle_inputs(farm), order, 0.01, 0.7), wrong_by=MUTATED)


@pytest.mark.parametrize("replicas", REPLICAS)
def test_hogwild_without_a_sweep(replicas):
    farm = Farm(Hogwild(), SGD(lr=0.02), replicas=replicas)
    order = interleaving(replicas, 3 * STEPS)
    ticks(farm, order)
    check(farm, *oracles.stale_sgd(*oracle_inputs(farm), order, 0.02))
    serial = oracles.descent(*oracle_inputs(farm)[:2], farm.batches(0)[:STEPS], 0.02)
    check(farm, serial, wrong_by=0.0 if replicas == 1 else MUTATED)


def test_staleness_is_what_others_pushed_in_between():
    farm = Farm(Hogwild(), SGD(lr=0.02), replicas=2)
    ticks(farm, [0, 0, *[1] * 6, 0])  # 0 pulls and computes, 1 makes two steps, 0 pushes
    histogram = farm.drivers[0].statistics.histogram
    assert histogram[2] == 1 and histogram.sum() == 1
    assert farm.drivers[1].statistics.histogram[0] == 2


@pytest.mark.parametrize("replicas", REPLICAS)
@pytest.mark.parametrize("tau", [1, 3, 10])
def test_easgd(replicas, tau):
    order = interleaving(replicas, STEPS)
    farm = Farm(EASGD(tau=tau, beta=0.8), local_rule=SGD(lr=0.05), replicas=replicas).play(order)
    check(farm, *oracles.easgd(*oracle_inputs(farm), order, tau, 0.8 / replicas, 0.05))


@pytest.mark.parametrize("mutation", ["late", "one-sided"])
def test_easgd_mutations_fail(mutation):
    order = interleaving(3, STEPS)
    farm = Farm(EASGD(tau=3, alpha=0.3), local_rule=SGD(lr=0.05), replicas=3).play(order)
    check(farm, *oracles.easgd(*oracle_inputs(farm), order, 3, 0.3, 0.05))
    mutant = oracles.easgd(*oracle_inputs(farm), order, 3, 0.3, 0.05, mutation=mutation)
    check(farm, *mutant, wrong_by=MUTATED)


@pytest.mark.parametrize("replicas", REPLICAS)
@pytest.mark.parametrize("tau", [1, 4])
def test_eamsgd(replicas, tau):
    order = interleaving(replicas, STEPS)
    rule = NAG(lr=0.02, momentum=0.8, form="lookahead")
    farm = Farm(EAMSGD(tau=tau), local_rule=rule, replicas=replicas).play(order)
    check(farm, *oracles.easgd(*oracle_inputs(farm), order, tau, 0.9 / replicas, 0.02, 0.8))
    for mutation in ("late", "here"):
        mutant = oracles.easgd(*oracle_inputs(farm), order, tau, 0.9 / replicas, 0.02, 0.8, mutation)
        check(farm, *mutant, wrong_by=MUTATED)


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("tau", [1, 3])
def test_synchronous_easgd(replicas, tau):
    farm = Farm(
        EASGD(tau=tau, beta=0.7, mode="synchronous"), local_rule=SGD(lr=0.05), replicas=replicas, shards=2
    ).play_together(STEPS)
    check(farm, *oracles.easgd_together(*oracle_inputs(farm), STEPS, tau, 0.7, 0.05))
    mutant = oracles.easgd_together(*oracle_inputs(farm), STEPS, tau, 0.7, 0.05, mutation="new")
    check(farm, *mutant, wrong_by=MUTATED)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_synchronous_is_one_process_with_a_larger_batch(replicas):
    farm = Farm(Synchronous(), SGD(lr=0.05), replicas=replicas, shards=3, batch=2).play_together(STEPS)
    shares = zip(*(farm.batches(k)[:STEPS] for k in range(replicas)))
    together = [list(chain(*share)) for share in shares]
    assert all(len(batch) == 2 * replicas for batch in together)
    check(farm, oracles.descent(*oracle_inputs(farm)[:2], together, 0.05))


@pytest.mark.parametrize("batch", [1, 7, EXAMPLES])
def test_sequential_is_stochastic_minibatch_or_batch_descent(batch):
    farm = Farm(Sequential(), SGD(lr=0.03), batch=batch).play([0] * STEPS)
    check(farm, oracles.descent(*oracle_inputs(farm)[:2], farm.batches(0)[:STEPS], 0.03))


def test_oracle_gradient_is_the_tasks():
    """Both gradients against finite differences of the task's own loss."""
    task, x = Dense(), np.array([0.4, -0.3, 0.2, 0.1])
    examples = [3, 5, 8]

    def loss(point):
        return task.loss_and_gradient({"w": point[:3], "c": point[3:]}, (task.x[examples], task.y[examples]))[0]

    slopes = [(loss(x + 1e-6 * unit) - loss(x - 1e-6 * unit)) / 2e-6 for unit in np.eye(4)]
    assert gradient_in_floats(task, x.tolist(), examples) == pytest.approx(slopes, rel=1e-7)
