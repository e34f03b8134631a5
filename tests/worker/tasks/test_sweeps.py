"""The compiled sweeps: against plain loops in floats, under every locking mode, with threads and after deaths."""

import math
import threading

import numpy as np
import pytest

from worker.locking import GLOBAL, MODES, NONE, PER_VARIABLE, ROUND_ROBIN, Locking
from worker.tasks.sparse_kernels import NO_BIAS
from worker.tasks.sparse_kernels import sweep as sparse_sweep

STEP = 0.11


def locking(mode, lockables=1, workers=1, worker=0):
    arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in Locking.sizes(mode, lockables, workers).items()}
    return Locking(mode, worker=worker, **arrays)


def linear_loop(task, parameters, examples, step, sign=1.0):
    """ALGORITHMS.md section 1 in plain floats; ``sign`` = -1 is the mutation."""
    weights, data, total = parameters["weights"].tolist(), task.dataset(), 0.0
    degrees = np.bincount(data.indices, minlength=task.lockables).tolist()
    for e in examples:
        part = range(data.indptr[e], data.indptr[e + 1])
        u_of, z_of, y = (
            [int(data.indices[k]) for k in part],
            [float(data.values[k]) for k in part],
            float(data.labels[e]),
        )
        bias = [task.features] if task.bias else []
        score = sum(weights[u] * z for u, z in zip(u_of, z_of, strict=True)) + sum(weights[u] for u in bias)
        if task.loss == "hinge":
            loss, slope = max(1 - y * score, 0.0), -y if y * score < 1 else 0.0
        elif task.loss == "logistic":
            loss, slope = math.log(1 + math.exp(-y * score)), -y / (1 + math.exp(y * score))
        else:
            loss, slope = (score - y) ** 2 / 2, score - y
        for u, z in zip(u_of, z_of, strict=True):
            pull = task.l2 / degrees[u]
            loss += pull * weights[u] ** 2 / 2
            weights[u] -= sign * step * slope * z
            weights[u] *= 1 - step * pull
        for u in bias:
            weights[u] -= sign * step * slope
        total += loss
    return total, {"weights": np.array(weights)}


def matrix_loop(task, parameters, examples, step, sign=1.0):
    found = {name: value.copy() for name, value in parameters.items()}
    data, total = task.dataset(), 0.0
    counts = {side: np.bincount(data[side], minlength=len(found[f"{side}s"])) for side in ("user", "item")}
    for e in examples:
        u, v = data["user"][e], data["item"][e]
        left, right = found["users"][u].tolist(), found["items"][v].tolist()
        error = sum(a * b for a, b in zip(left, right, strict=True)) + task.mean - data["rating"][e]
        bias_u = found["user_biases"][u] if task.biases else 0.0
        bias_v = found["item_biases"][v] if task.biases else 0.0
        error += bias_u + bias_v
        l2_u, l2_v = task.l2 / counts["user"][u], task.l2 / counts["item"][v]
        total += 0.5 * (error**2 + l2_u * (sum(a * a for a in left) + bias_u**2))
        total += 0.5 * l2_v * (sum(b * b for b in right) + bias_v**2)
        for k, (a, b) in enumerate(zip(left, right, strict=True)):
            found["users"][u, k] = (1 - step * l2_u) * a - sign * step * error * b
            found["items"][v, k] = (1 - step * l2_v) * b - sign * step * error * a
        if task.biases:
            found["user_biases"][u] = (1 - step * l2_u) * bias_u - sign * step * error
            found["item_biases"][v] = (1 - step * l2_v) * bias_v - sign * step * error
    return total, found


def simplex(row):
    """Projection by sorting (Held, Wolfe, Crowder 1974)."""
    ordered, total, threshold = sorted(row, reverse=True), 0.0, 0.0
    for count, value in enumerate(ordered, 1):
        total += value
        if value - (total - 1) / count > 0:
            threshold = (total - 1) / count
    return [max(value - threshold, 0.0) for value in row]


def graph_loop(task, parameters, examples, step, sign=1.0):
    x, data, total = parameters["nodes"].tolist(), task.dataset(), 0.0
    terminals = set(np.flatnonzero((task.parameters(None)["nodes"] == 1).any(1)).tolist())
    for e in examples:
        u, v, w = int(data["u"][e]), int(data["v"][e]), float(data["weight"][e])
        gaps = [a - b for a, b in zip(x[u], x[v], strict=True)]
        total += w * sum(map(abs, gaps))
        for node, direction in ((u, -1), (v, 1)):
            if node not in terminals:
                moved = [a + sign * direction * step * w * np.sign(gap) for a, gap in zip(x[node], gaps, strict=True)]
                x[node] = simplex(moved)
    return total, {"nodes": np.array(x)}


SWEEPS = [
    ("sparse_linear", {"loss": "hinge", "bias": False, "l2": 0.8}, linear_loop),
    ("sparse_linear", {"loss": "logistic", "l2": 0.8}, linear_loop),
    ("sparse_linear", {"loss": "squared", "l2": 0.0}, linear_loop),
    ("matrix_completion", {"biases": False}, matrix_loop),
    ("matrix_completion", {"biases": True}, matrix_loop),
    ("graph_cuts", {}, graph_loop),
]


def start(task):
    """Parameters that have left the start, and where graph cuts lie in the simplex."""
    parameters = task.parameters(np.random.default_rng(0))
    examples = np.random.default_rng(1).permutation(len(task.dataset()))
    task.sweep(parameters, examples, 0.05, Locking())
    return parameters


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "options", "loop"), SWEEPS, ids=[f"{n}-{o}" for n, o, _ in SWEEPS])
def test_a_sweep_is_the_loop_of_the_paper(name, options, loop, mode, make):
    task = make(name, **options)
    parameters = start(task)
    examples = np.random.default_rng(2).integers(0, len(task.dataset()), 200)
    before = {key: value.copy() for key, value in parameters.items()}
    expected_loss, expected = loop(task, parameters, examples, STEP)
    with np.errstate(all="ignore"):  # uphill it diverges
        mutated_loss, mutated = loop(task, parameters, examples[:60], STEP, sign=-1.0)
    held = locking(MODES[mode], task.lockables)
    loss = task.sweep(parameters, examples, STEP, held)
    assert loss == pytest.approx(expected_loss, rel=1e-11)
    assert mutated_loss != pytest.approx(expected_loss, rel=1e-3)
    for key in parameters:
        movement = np.abs(expected[key] - before[key]).max()
        assert movement > 1e-3
        np.testing.assert_allclose(parameters[key], expected[key], rtol=0, atol=1e-10 * movement)
        assert not np.allclose(mutated[key], parameters[key], rtol=0, atol=1e-3 * movement)
    assert not held.owners.any() and not held.order.any() and held.turn[0] % 2 == 0


@pytest.mark.parametrize("name", ["sparse_linear", "matrix_completion", "graph_cuts"])
def test_float32_is_swept_in_float32_and_learns(name, make):
    task = make(name, dtype="float32")
    parameters = task.parameters(np.random.default_rng(0))
    count, rng = len(task.dataset()), np.random.default_rng(0)
    before = task.evaluate(parameters)["objective"]
    for epoch in range(40):
        task.sweep(parameters, rng.permutation(count), 0.05 * 0.9**epoch, Locking())
    assert task.evaluate(parameters)["objective"] < 0.99 * before
    assert all(value.dtype == np.float32 for value in parameters.values())


def counting_problem(workers=3, updates=3_000, bias=NO_BIAS):
    """Hinge examples that stay active and all touch variable 0 (and the bias, variable 4, if any): each update adds exactly
    2**-30 to its weights."""
    indptr = np.array([0, 2, 4, 6])
    indices, values = np.array([0, 1, 0, 2, 0, 3], np.int32), np.ones(6)
    examples = [np.random.default_rng(k).integers(0, 3, updates) for k in range(workers)]
    weights = np.zeros(4 if bias == NO_BIAS else bias + 1)

    def run(held, worker):
        one = Locking(held.mode, held.owners, held.turn, held.order, worker)
        sparse_sweep(
            weights,
            np.zeros(4),
            bias,
            indptr,
            indices,
            values,
            np.ones(3),
            examples[worker],
            0,
            2.0**-30,
            0.0,
            1.0,
            *one.words,
        )

    return weights, examples, run


def run_threads(run, held, workers):
    threads = [threading.Thread(target=run, args=(held, worker), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    return threads


def join(threads):
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a sweep is stuck"


@pytest.mark.parametrize("bias", [NO_BIAS, 4], ids=["without-bias", "bias"])
@pytest.mark.parametrize("mode", ["per_variable", "round_robin", "global"])
def test_locked_sweeps_of_several_workers_lose_no_update(mode, bias):
    weights, examples, run = counting_problem(bias=bias)
    held = locking(MODES[mode], weights.size, workers=3)
    join(run_threads(run, held, range(3)))
    everything = np.concatenate(examples)
    expected = [everything.size, *np.bincount(everything, minlength=3), everything.size][: weights.size]
    np.testing.assert_array_equal(weights * 2.0**30, expected)
    assert not held.owners.any() and not held.order.any()


def test_sweeps_without_locks_end_and_never_gain_updates():
    weights, examples, run = counting_problem()
    join(run_threads(run, locking(NONE, 4, workers=3), range(3)))
    assert 0 < weights[0] * 2.0**30 <= sum(part.size for part in examples)


@pytest.mark.parametrize("mode", [PER_VARIABLE, GLOBAL])
def test_the_locks_of_a_dead_worker_are_freed(mode):
    weights, examples, run = counting_problem(workers=2)
    held = locking(mode, 4, workers=2)
    held.owners[0] = 1 + 1  # worker 1 was killed while it held variable 0
    threads = run_threads(run, held, [0])
    assert weights[0] == 0, "nobody may pass a lock that is held"
    assert held.release_dead(1) == 1
    join(threads)
    assert weights[0] * 2.0**30 == examples[0].size


@pytest.mark.parametrize("inside", [0, 1], ids=["before-its-turn", "inside-its-update"])
def test_the_round_goes_on_without_a_dead_worker(inside):
    weights, examples, run = counting_problem(workers=3)
    held = locking(ROUND_ROBIN, 4, workers=3)
    held.turn[0] = 2 * 7 + inside  # turn 7 is worker 1's
    held.order[1] = 1
    threads = run_threads(run, held, [0, 2])
    held.release_dead(1)
    join(threads)
    assert weights[0] * 2.0**30 == examples[0].size + examples[2].size


def test_a_replacement_of_a_worker_killed_in_its_turn_goes_on():
    weights, examples, run = counting_problem(workers=2)
    held = locking(ROUND_ROBIN, 4, workers=2)
    held.turn[0] = 2 * 3 + 1  # turn 3 is worker 1's, and it was inside its update
    join(run_threads(run, held, [1]))
    assert weights[0] * 2.0**30 == examples[1].size


def test_a_worker_that_left_the_round_is_waited_for_by_nobody():
    weights, examples, run = counting_problem(workers=3, updates=50)
    held = locking(ROUND_ROBIN, 4, workers=3)
    for worker in (2, 0, 1):
        join(run_threads(run, held, [worker]))
    assert weights[0] * 2.0**30 == 150


def test_round_robin_updates_in_turn(make):
    """The trace of turns of three workers that are all in the round is 0, 1, 2, 0, 1, 2, ..."""
    from numba import njit

    from worker.locking import await_turn, enter_round, leave_round, pass_turn

    @njit(nogil=True)
    def turns(trace, position, turn, order, worker, count):
        for _ in range(count):
            await_turn(turn, order, worker)
            trace[position[0]] = worker
            position[0] += 1
            pass_turn(turn)
        leave_round(order, worker)

    held = locking(ROUND_ROBIN, 1, workers=3)
    for worker in range(3):
        enter_round(held.turn, held.order, worker)
    trace, position = np.full(300, -1), np.zeros(1, np.int64)
    threads = [
        threading.Thread(target=turns, args=(trace, position, held.turn, held.order, worker, 100), daemon=True)
        for worker in range(3)
    ]
    for thread in threads:
        thread.start()
    join(threads)
    np.testing.assert_array_equal(trace, np.tile([0, 1, 2], 100))
