"""A process killed by SIGKILL in the middle of its sweep leaves no lock that stops the others."""

import numpy as np
import pytest

from tests.ps.building import forked, until
from worker.locking import MODES, PER_VARIABLE, ROUND_ROBIN, Locking
from worker.tasks.sparse_kernels import NO_BIAS, sweep

VARIABLES = 40
ROWS = np.arange(0, VARIABLES + 1, 4)  # ten examples of four variables


def words(folder, mode, worker):
    """Weights and locks in files that both processes map."""
    arrays = {
        name: np.memmap(folder / name, dtype, "r+", shape=shape)
        for name, (shape, dtype) in Locking.sizes(mode, VARIABLES, 2).items()
    }
    weights = np.memmap(folder / "weights", np.float64, "r+", shape=VARIABLES)
    return weights.view(np.ndarray), Locking(mode, worker=worker, **{k: v.view(np.ndarray) for k, v in arrays.items()})


def learn(folder, mode, worker, count):
    weights, locking = words(folder, mode, worker)
    examples = np.random.default_rng(worker).integers(0, ROWS.size - 1, count)
    indices = np.arange(VARIABLES, dtype=np.int32)
    ones = np.ones(VARIABLES)
    labels = np.ones(ROWS.size)
    sweep(weights, ones, NO_BIAS, ROWS, indices, ones, labels, examples, 0, 1e-12, 0.0, 1.0, *locking.words)


def learn_for_ever(folder, mode, worker):
    while True:
        learn(folder, mode, worker, 100_000)


@pytest.mark.parametrize("mode", ["per_variable", "round_robin", "global"])
def test_the_others_go_on_after_the_dead_ones_words_are_freed(mode, tmp_path):
    mode = MODES[mode]
    for name, (shape, dtype) in Locking.sizes(mode, VARIABLES, 2).items():
        np.zeros(shape, dtype).tofile(tmp_path / name)
    np.zeros(VARIABLES).tofile(tmp_path / "weights")
    weights, locking = words(tmp_path, mode, 0)
    learn(tmp_path, mode, 0, 0)  # loads the compiled code
    with forked(lambda _connection: learn_for_ever(tmp_path, mode, 1)) as (child,):
        until(weights.any)  # it is inside its sweep
        child.kill()
    locking.release_dead(1)
    before = weights.copy()
    learn(tmp_path, mode, 0, 1000)
    assert (weights > before).all()
    assert not locking.owners.any() and locking.turn[0] % 2 == 0 and not locking.order.any()


def test_those_that_others_wait_for_are_known():
    owners = np.array([0, 2, 0, 3, 2], np.int32)
    assert Locking(PER_VARIABLE, owners=owners).holders() == {1, 2}
    order = np.ones(3, np.int64)
    turn = np.array([2 * 5 + 1])
    assert Locking(ROUND_ROBIN, turn=turn, order=order).holders() == {2}
    order[2] = 0  # it takes no part: others pass over its turn
    assert Locking(ROUND_ROBIN, turn=turn, order=order).holders() == set()
