"""Compiled loops of the gradient-descent family, of ``Add`` and of ``MovingAverage``.

All kernels of ``ps.rules`` share one signature: ``kernel(center (R, w), *slots (R, w), rows int64 (k,), gradients (k,
w), coefficients (k, m))``. Row ``rows[j]`` of the center and of the slots is stepped with ``gradients[j]`` and the
scalars ``coefficients[j]``. Everything has one dtype: a single Python literal in a loop would promote a float32 loop
to float64, so that each constant comes in as a coefficient. One pass over memory, no temporaries, no GIL; a NaN or an
infinity in the gradient reaches the center (no value-changing fast-math flags).
"""

from __future__ import annotations

import numpy as np

from ps.jit import njit

# error_model="numpy": a division by zero is an infinity, not a Python exception, whose branch would stop vectorisation.
kernel = njit(nogil=True, cache=True, fastmath=False, error_model="numpy")

# Elements that a kernel with several passes handles at a time: few enough to stay in the first-level cache.
CACHE_BLOCK = 1024


@kernel
def all_below(rows, count):
    """Whether 0 <= r < count for every r in ``rows``."""
    for j in range(rows.size):
        if rows[j] < 0 or rows[j] >= count:
            return False
    return True


@kernel
def count_rows(row_steps, rows):
    """Count ``row_steps[r]`` up for every r in ``rows`` and return the counts after it, int64 (k,)."""
    counts = np.empty(rows.size, np.int64)
    for j in range(rows.size):
        row_steps[rows[j]] += 1
        counts[j] = row_steps[rows[j]]
    return counts


@kernel
def sgd(center, rows, gradients, coefficients):
    """x += a·g; also ``Add``, with the other sign."""
    for j in range(rows.size):
        x, g = center[rows[j]], gradients[j]
        a = coefficients[j, 0]
        for i in range(x.size):
            x[i] += a * g[i]


@kernel
def momentum(center, velocity, rows, gradients, coefficients):
    """v = keep·v + take·g;  x += b·v."""
    for j in range(rows.size):
        x, v, g = center[rows[j]], velocity[rows[j]], gradients[j]
        keep, take, b = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2]
        for i in range(x.size):
            moved = keep * v[i] + take * g[i]
            v[i] = moved
            x[i] += b * moved


@kernel
def momentum_with_gradient(center, velocity, rows, gradients, coefficients):
    """v = keep·v + take·g;  x += a·g + b·v  (Nesterov's form in torch, and QHM)."""
    for j in range(rows.size):
        x, v, g = center[rows[j]], velocity[rows[j]], gradients[j]
        keep, take, a, b = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2], coefficients[j, 3]
        for i in range(x.size):
            moved = keep * v[i] + take * g[i]
            v[i] = moved
            x[i] += a * g[i] + b * moved


@kernel
def aggmo(center, velocities, rows, gradients, coefficients):
    """v_k = β_k·v_k + g;  x += a·Σ v_k.

    ``velocities`` is a tuple of K tables, coefficients (k, 1 + K) are a, β_1 … β_K. Each block of
    a row stays in the first-level cache for its K short loops: memory sees one pass.
    """
    for j in range(rows.size):
        x, g = center[rows[j]], gradients[j]
        a = coefficients[j, 0]
        for start in range(0, x.size, CACHE_BLOCK):
            block, given = x[start : start + CACHE_BLOCK], g[start : start + CACHE_BLOCK]
            for k in range(len(velocities)):
                v = velocities[k][rows[j]][start : start + CACHE_BLOCK]
                beta = coefficients[j, 1 + k]
                for i in range(block.size):
                    moved = beta * v[i] + given[i]
                    v[i] = moved
                    block[i] += a * moved


@kernel
def moving_average(center, rows, gradients, coefficients):
    """x += a·(b·g − x)."""
    for j in range(rows.size):
        x, g = center[rows[j]], gradients[j]
        a, b = coefficients[j, 0], coefficients[j, 1]
        for i in range(x.size):
            x[i] += a * (b * g[i] - x[i])
