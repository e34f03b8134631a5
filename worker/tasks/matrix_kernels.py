"""Compiled loops of matrix completion. All scalars come in as the factors' dtype."""

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

_FAST = {"contract", "reassoc", "nsz"}


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _dot(users, items, u, v, zero):
    total = zero
    for k in range(users.shape[1]):
        total += users[u, k] * items[v, k]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def _step(users, items, u, v, move, keep_user, keep_item, zero):
    """L_u <- keep_user L_u + move R_v; R_v <- keep_item R_v + move L_u(old). Returns |L_u|^2 and |R_v|^2 before it."""
    user_norm, item_norm = zero, zero
    for k in range(users.shape[1]):
        left, right = users[u, k], items[v, k]
        user_norm += left * left
        item_norm += right * right
        users[u, k] = keep_user * left + move * right
        items[v, k] = keep_item * right + move * left
    return user_norm, item_norm


@njit(nogil=True, cache=True)
def _prefetch(user_of, item_of, ratings, examples, position):
    """Ask for a rating that comes soon: in random order each is three cache misses."""
    if position + 8 < examples.size:
        e = examples[position + 8]
        prefetch(user_of, e)
        prefetch(item_of, e)
        prefetch(ratings, e)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def sweep(users, items, user_biases, item_biases, user_of, item_of, ratings, user_inverse, item_inverse, examples, mean,
          step, l2, one, mode, owners, turn, order, worker):  # fmt: skip
    """Algorithm 1 over ``examples``. Biases of size 0 are left out. Returns the sum of losses, each before its own
    update."""
    zero = one - one
    half = one / (one + one)
    biased = user_biases.size > 0
    total = 0.0
    if mode == ROUND_ROBIN:
        enter_round(turn, order, worker)
    for position in range(examples.size):
        e = examples[position]
        _prefetch(user_of, item_of, ratings, examples, position)
        u, v = user_of[e], item_of[e]
        if mode == PER_VARIABLE:
            acquire(owners, u, worker)
            acquire(owners, users.shape[0] + v, worker)
        elif mode == GLOBAL:
            acquire(owners, 0, worker)
        error = _dot(users, items, u, v, zero) + mean - ratings[e]
        if biased:
            error += user_biases[u] + item_biases[v]
        if mode == ROUND_ROBIN:
            await_turn(turn, order, worker)
        user_l2, item_l2 = l2 * user_inverse[u], l2 * item_inverse[v]
        user_norm, item_norm = _step(
            users, items, u, v, -step * error, one - step * user_l2, one - step * item_l2, zero
        )
        if biased:
            left, right = user_biases[u], item_biases[v]
            user_norm += left * left
            item_norm += right * right
            user_biases[u] = left - step * (error + user_l2 * left)
            item_biases[v] = right - step * (error + item_l2 * right)
        if mode == ROUND_ROBIN:
            pass_turn(turn)
        elif mode == PER_VARIABLE:
            release(owners, users.shape[0] + v)
            release(owners, u)
        elif mode == GLOBAL:
            release(owners, 0)
        total += half * (error * error + user_l2 * user_norm + item_l2 * item_norm)
    if mode == ROUND_ROBIN:
        leave_round(order, worker)
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def predictions(users, items, user_biases, item_biases, user_of, item_of, mean, zero):
    """mean + L_u.R_v (+ biases) for each pair, (n,) of the factors' dtype."""
    found = np.empty(user_of.size, users.dtype)
    for e in range(user_of.size):
        u, v = user_of[e], item_of[e]
        found[e] = mean + _dot(users, items, u, v, zero)
        if user_biases.size > 0:
            found[e] += user_biases[u] + item_biases[v]
    return found
