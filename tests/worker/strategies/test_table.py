"""Every strategy on a dense task, one with sparse rows and one with averaged parameters, over one and three shards."""

from __future__ import annotations

import numpy as np
import pytest

from ps.rules import NAG, SGD, Adagrad, Add, build_rule
from tests.worker.harness import Averaged, Dense, Farm, Sparse, interleaving
from worker.strategies import (
    EAMSGD,
    EASGD,
    STRATEGIES,
    Downpour,
    Hogwild,
    MDownpour,
    Sequential,
    Synchronous,
)

# name -> (strategy, server rule, local rule)
CASES = {
    "hogwild": (Hogwild(), SGD(lr=0.03), None),
    "downpour": (Downpour(n_fetch=2, n_push=3), Adagrad(lr=0.05), SGD(lr=0.02)),
    "downpour update": (Downpour(n_fetch=3, n_push=3, push="update"), Add(), NAG(lr=0.01, momentum=0.5)),
    "downpour average": (Downpour(average="running"), SGD(lr=0.03), SGD(lr=0.02)),
    "mdownpour": (MDownpour(), NAG(lr=0.01, momentum=0.8), None),
    "easgd": (EASGD(tau=3), None, SGD(lr=0.05)),
    "easgd synchronous": (EASGD(tau=2, mode="synchronous"), None, SGD(lr=0.05)),
    "eamsgd": (EAMSGD(tau=3), None, NAG(lr=0.02, momentum=0.7, form="lookahead")),
    "synchronous": (Synchronous(), SGD(lr=0.05), None),
    "sequential": (Sequential(), SGD(lr=0.03), None),
}
TASKS = {"dense": Dense, "sparse": Sparse, "averaged": Averaged}
STEPS = 24


def played(case: str, task: str, shards: int, **options) -> Farm:
    strategy, rule, local = CASES[case]
    replicas = 1 if strategy.single else 3
    farm = Farm(strategy, rule, local, task=TASKS[task](), replicas=replicas, shards=shards, **options)
    if strategy.rounds:
        return farm.play_together(STEPS)
    return farm.play(interleaving(replicas, STEPS))


def loss_of(farm: Farm, vector: np.ndarray) -> float:
    data = farm.task.dataset()
    return farm.task.loss_and_gradient(farm.layout.views(vector), data)[0]


def test_the_table_has_every_strategy():
    assert {strategy.name for strategy, _, _ in CASES.values()} == set(STRATEGIES)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("case", CASES)
def test_learns_the_same_over_any_number_of_shards(case, task):
    one, three = played(case, task, 1), played(case, task, 3)
    start = one.layout.flatten(one.start)
    moved = np.abs(one.center - start).max()
    assert loss_of(one, one.center) < 0.9 * loss_of(one, start)
    assert np.abs(one.center - three.center).max() < 1e-12 * moved
    for first, second in zip(one.drivers, three.drivers):
        assert np.abs(first.replica.parameters - second.replica.parameters).max() < 1e-12 * moved
        assert first.statistics.updates == second.statistics.updates > 0
        assert first.statistics.steps == STEPS and first.replica.clock == STEPS


@pytest.mark.parametrize("case", CASES)
def test_averaged_parameters_are_averaged_and_never_stepped(case):
    """A running mean stays within what was observed, and comes close to its mean."""
    farm = played(case, "averaged", 3)
    observed = np.array(
        [farm.task.x[batch].mean(0) for driver in farm.drivers for batch in farm.batches(driver.replica.id)[:STEPS]]
    )
    seen = farm.layout.views(farm.center)["seen"]
    lowest, highest = np.minimum(observed.min(0), 0), np.maximum(observed.max(0), 0)
    assert (lowest <= seen).all() and (seen <= highest).all() and np.abs(seen).max() > 0.01
    # An exponential average of weight .2 of observations with this spread is within a few of its own deviations.
    assert (np.abs(seen - observed.mean(0)) < 4 * observed.std(0) * np.sqrt(0.2 / 1.8) + 0.1).all()


@pytest.mark.parametrize("case", ["hogwild", "downpour", "mdownpour", "sequential"])
def test_sparse_pushes_touch_only_their_rows(case):
    """Rows that no example has touched keep their initial values, also under a rule with momentum."""
    strategy, rule, local = CASES[case]
    task = Sparse()
    untouched = 6
    task.rows[task.rows == untouched] = 0
    farm = Farm(strategy, rule, local, task=task, shards=2).play([0] * STEPS)
    table = farm.layout.views(farm.center)["table"]
    assert np.array_equal(table[untouched], farm.start["table"][untouched])
    assert (table[:untouched] != farm.start["table"][:untouched]).all()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("case", ["hogwild", "downpour", "mdownpour", "sequential"])
def test_clipping_by_norm_is_of_the_whole_gradient(case, task):
    """However the vector is cut into shards; the bound is low enough to bind nearly always."""
    strategy, _, local = CASES[case]
    rule = build_rule({"name": "sgd", "lr": 0.05, "clip_norm": 0.2})
    centers = []
    for shards in (1, 2, 3):
        farm = Farm(strategy, rule, local, task=TASKS[task](), replicas=1, shards=shards).play([0] * STEPS)
        centers.append(farm.center.copy())
    free = Farm(strategy, SGD(lr=0.05), local, task=TASKS[task](), replicas=1).play([0] * STEPS).center
    moved = np.abs(centers[0] - farm.layout.flatten(farm.start)).max()
    assert max(np.abs(centers[0] - other).max() for other in centers[1:]) < 1e-12 * moved
    assert np.abs(centers[0] - free).max() > 0.01


def test_local_clipping_is_of_the_whole_gradient():
    """A gradient that comes in parts is clipped as one vector, as on a shard."""
    bound, lr = 0.1, 0.5
    rule = build_rule({"name": "sgd", "lr": lr, "clip_norm": bound})
    farm = Farm(EASGD(tau=100), local_rule=rule, task=Sparse())
    farm.begin()
    driver = farm.drivers[0]
    before = driver.replica.parameters.copy()
    driver.step()
    assert np.linalg.norm(driver.replica.parameters - before) == pytest.approx(lr * bound, rel=1e-12)
