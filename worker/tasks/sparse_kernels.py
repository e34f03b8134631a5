"""Compiled loops of the sparse linear task: the in-place sweep of Hogwild!, batch gradients and scores.

The kernels read and write the weights with plain loads and stores, without locks unless the mode asks for them: a lost
component-wise add is part of the algorithm. All constants come in as scalars of the weights' dtype.

``bias`` is the index of the weight that every example has with the value 1 and that is not regularised, or -1. It stands
in no example: the data stay as sparse as they are.
"""

from __future__ import annotations

import numpy as np

from ps.atomics import prefetch
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

HINGE, LOGISTIC, SQUARED = range(3)
LOSSES = {"hinge": HINGE, "logistic": LOGISTIC, "squared": SQUARED}
NO_BIAS = -1
_FAST = {"contract", "reassoc", "nsz"}


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _loss_and_slope(kind, score, label, one):
    """Loss of one example and its derivative by the score, in the dtype of ``one``.

    hinge max(1 - ys, 0), slope -y where positive; logistic log(1 + exp(-ys)); squared (s - y)^2 / 2.
    """
    zero = one - one
    if kind == HINGE:
        gap = one - label * score
        # Written so that a NaN takes the first branch and is seen in the loss.
        if not gap <= zero:
            return gap, -label
        return zero, zero
    if kind == LOGISTIC:
        margin = label * score
        if margin > zero:
            small = np.exp(-margin)
            return np.log1p(small), -label * small / (one + small)
        small = np.exp(margin)
        return np.log1p(small) - margin, -label / (one + small)
    gap = score - label
    return gap * gap / (one + one), gap


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _score(weights, bias, indices, values, start, stop, zero):
    total = weights[bias] if bias >= 0 else zero
    for k in range(start, stop):
        total += weights[indices[k]] * values[k]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _update(weights, inverse_degrees, bias, indices, values, start, stop, move, shrink):
    """x_u += move * z_u, then x_u *= 1 - shrink / d_u. Returns the sum of x_u^2 / d_u before it (0 where shrink is
    0)."""
    zero = shrink - shrink
    if bias >= 0 and move != zero:  # where nothing moves, the cache line that all workers share is not written
        weights[bias] += move
    penalty = zero
    if shrink == zero:
        if move != zero:
            for k in range(start, stop):
                weights[indices[k]] += move * values[k]
        return penalty
    for k in range(start, stop):
        u = indices[k]
        x, inverse = weights[u], inverse_degrees[u]
        penalty += x * x * inverse
        x += move * values[k]
        weights[u] = x - x * (shrink * inverse)
    return penalty


@njit(nogil=True, cache=True)
def _prefetch(indptr, indices, values, labels, examples, position):
    """Ask for the rows that come next: in random order they are cache misses, more than half of the time of a large
    set."""
    if position + 4 < examples.size:
        prefetch(indptr, examples[position + 4])
    if position + 2 < examples.size:
        e = examples[position + 2]
        prefetch(labels, e)
        for k in range(indptr[e], indptr[e + 1], 16):  # 16 words of 4 bytes are a cache line
            prefetch(indices, k)
            prefetch(values, k)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def sweep(weights, inverse_degrees, bias, indptr, indices, values, labels, examples, kind, step, l2, one, mode,
          owners, turn, order, worker):  # fmt: skip
    """Algorithm 1 over ``examples`` in their order. Returns the sum of their losses, each before its own update."""
    zero = one - one
    half = one / (one + one)
    shrink = step * l2
    total = 0.0
    if mode == ROUND_ROBIN:
        enter_round(turn, order, worker)
    for position in range(examples.size):
        e = examples[position]
        _prefetch(indptr, indices, values, labels, examples, position)
        start, stop = indptr[e], indptr[e + 1]
        if mode == PER_VARIABLE:
            for k in range(start, stop):  # ascending, as the indices of a row are
                acquire(owners, indices[k], worker)
            if bias >= 0:  # the greatest index
                acquire(owners, bias, worker)
        elif mode == GLOBAL:
            acquire(owners, 0, worker)
        loss, slope = _loss_and_slope(kind, _score(weights, bias, indices, values, start, stop, zero), labels[e], one)
        if mode == ROUND_ROBIN:
            await_turn(turn, order, worker)
        penalty = _update(weights, inverse_degrees, bias, indices, values, start, stop, -step * slope, shrink)
        if mode == ROUND_ROBIN:
            pass_turn(turn)
        elif mode == PER_VARIABLE:
            for k in range(start, stop):
                release(owners, indices[k])
            if bias >= 0:
                release(owners, bias)
        elif mode == GLOBAL:
            release(owners, 0)
        total += loss + half * l2 * penalty
    if mode == ROUND_ROBIN:
        leave_round(order, worker)
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def batch_gradient(weights, inverse_degrees, bias, indptr, indices, values, labels, places, kind, l2, one, weight,
                   gradient):  # fmt: skip
    """Mean loss of a batch; its gradient is added to ``gradient`` (k,), entry j of the batch at ``places[j]``, the bias'
    at the end.

    ``weight`` is 1 / (rows of the batch).
    """
    count = labels.size
    zero = one - one
    total = 0.0
    for row in range(count):
        start, stop = indptr[row], indptr[row + 1]
        loss, slope = _loss_and_slope(kind, _score(weights, bias, indices, values, start, stop, zero), labels[row], one)
        penalty = zero
        if bias >= 0:
            gradient[-1] += weight * slope
        for k in range(start, stop):
            x, inverse = weights[indices[k]], inverse_degrees[indices[k]]
            penalty += x * x * inverse
            gradient[places[k]] += weight * (slope * values[k] + l2 * x * inverse)
        total += loss + l2 * penalty / (one + one)
    return total / count


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def scores(weights, bias, features, indptr, indices, values, one):
    """x.z of each row, (n,) of the weights' dtype; an index from ``features`` on counts as weight 0."""
    result = np.empty(indptr.size - 1, weights.dtype)
    for row in range(result.size):
        total = weights[bias] if bias >= 0 else one - one
        for k in range(indptr[row], indptr[row + 1]):
            if indices[k] < features:
                total += weights[indices[k]] * values[k]
        result[row] = total
    return result


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def mean_loss(found, labels, kind, one):
    """Mean loss of scores ``found`` (n,), without the regulariser."""
    total = 0.0
    for row in range(labels.size):
        total += _loss_and_slope(kind, found[row], labels[row], one)[0]
    return total / labels.size
