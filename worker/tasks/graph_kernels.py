"""Compiled loops of graph cuts. All scalars come in as the dtype of the nodes' table."""

from __future__ import annotations

from ps.jit import njit
from worker.locking import (
    GLOBAL,
    PER_VARIABLE,
    ROUND_ROBIN,
    acquire,
    await_turn,
    enter_round,
    leave_round,
    pass_turn,
    release,
)

_FAST = {"contract", "reassoc", "nsz"}


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def project(x, row, one):
    """Euclidean projection of ``x[row]`` on the simplex {x >= 0, sum x = 1}, in place (Michelot 1986).

    It is max(x - t, 0) where t makes the sum 1: starting from all coordinates, those at most t are dropped until none
    is. Each pass drops one at least; rounding, or another replica writing to the row meanwhile, could bring one back, and
    ends it.
    """
    zero = one - one
    kept, threshold, first = x.shape[1] + 1, zero, True
    while True:
        total, size, count = zero - one, 0, zero
        for k in range(x.shape[1]):
            if first or x[row, k] > threshold:
                total += x[row, k]
                size += 1
                count += one
        if size >= kept or size == 0:
            break
        threshold, kept, first = total / count, size, False
    for k in range(x.shape[1]):
        # A NaN is not <= anything and stays to be seen.
        x[row, k] = zero if x[row, k] <= threshold else x[row, k] - threshold


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def project_all(x, fixed, one):
    """Project every row of ``x`` that is not fixed."""
    for row in range(x.shape[0]):
        if fixed[row] < 0:
            project(x, row, one)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _value(x, fixed, node, k, one):
    """x[node, k], or for a terminal 1 in its own class and 0 elsewhere."""
    if fixed[node] < 0:
        return x[node, k]
    return one if fixed[node] == k else one - one


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _step(x, fixed, u, v, move, one):
    """x_u -= move sign(x_u - x_v), x_v += the same, then both are projected; terminals stay. Returns |x_u - x_v|_1
    before."""
    zero = one - one
    distance = zero
    for k in range(x.shape[1]):
        gap = _value(x, fixed, u, k, one) - _value(x, fixed, v, k, one)
        distance += abs(gap)
        change = move if gap > zero else (-move if gap < zero else zero)
        if fixed[u] < 0:
            x[u, k] -= change
        if fixed[v] < 0:
            x[v, k] += change
    if fixed[u] < 0:
        project(x, u, one)
    if fixed[v] < 0:
        project(x, v, one)
    return distance


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def sweep(x, fixed, us, vs, weights, examples, step, one, mode, owners, turn, order, worker):
    """Algorithm 1 over ``examples``. Returns the sum of w_uv |x_u - x_v|_1, each before its own update."""
    total = 0.0
    if mode == ROUND_ROBIN:
        enter_round(turn, order, worker)
    for position in range(examples.size):
        e = examples[position]
        u, v = us[e], vs[e]
        if mode == PER_VARIABLE:
            acquire(owners, min(u, v), worker)
            acquire(owners, max(u, v), worker)
        elif mode == GLOBAL:
            acquire(owners, 0, worker)
        elif mode == ROUND_ROBIN:
            # The subgradient and the projection depend on each other's result, and cost less than the hand-over of the
            # turn.
            await_turn(turn, order, worker)
        total += weights[e] * _step(x, fixed, u, v, step * weights[e], one)
        if mode == ROUND_ROBIN:
            pass_turn(turn)
        elif mode == PER_VARIABLE:
            release(owners, max(u, v))
            release(owners, min(u, v))
        elif mode == GLOBAL:
            release(owners, 0)
    if mode == ROUND_ROBIN:
        leave_round(order, worker)
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def batch_gradient(x, fixed, us, vs, weights, places, share, one, gradient):
    """Mean of w_uv |x_u - x_v|_1 over a batch; its subgradient is added to ``gradient`` (rows, classes).

    ``places`` (2m,) are the rows of the m ends u and then of the m ends v; ``share`` is 1/m. Rows of terminals stay 0.
    """
    zero = one - one
    total = 0.0
    count = us.size
    for e in range(count):
        u, v = us[e], vs[e]
        for k in range(x.shape[1]):
            gap = _value(x, fixed, u, k, one) - _value(x, fixed, v, k, one)
            total += weights[e] * abs(gap)
            slope = share * weights[e] * (one if gap > zero else (-one if gap < zero else zero))
            if fixed[u] < 0:
                gradient[places[e], k] += slope
            if fixed[v] < 0:
                gradient[places[count + e], k] -= slope
    return total / count
