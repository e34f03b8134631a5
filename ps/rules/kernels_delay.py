"""Compiled loops of the delay-aware rules.

Signature as in ``ps.rules.kernels`` with two more arguments at the end: ``remembered`` (R, w), what the center or a
slot was at the reader's last pull, and ``known``, False where nothing was remembered (``remembered`` is then empty
and is not read). ``read`` then names the gradient, which no loop writes: naming an array that is written would stop
vectorisation.
"""

from __future__ import annotations

import math

from ps.rules.kernels import kernel


@kernel
def adaptive_revision(center, gradient_sum, z, largest, rows, gradients, coefficients, remembered, known):
    """McMahan and Streeter's update, lines 2 to 9: each line of the loop is one of theirs."""
    for j in range(rows.size):
        x, total, square, bound, g = (
            center[rows[j]],
            gradient_sum[rows[j]],
            z[rows[j]],
            largest[rows[j]],
            gradients[j],
        )
        read = remembered[rows[j]] if known else g
        alpha, two = coefficients[j, 0], coefficients[j, 1]
        zero = two - two
        for i in range(x.size):
            back = total[i] - read[i] if known else zero
            eta_old = alpha / math.sqrt(bound[i])
            square_new = square[i] + g[i] * g[i] + two * g[i] * back
            bound_new = bound[i] if square_new <= bound[i] else square_new
            eta = alpha / math.sqrt(bound_new)
            x[i] += (eta_old - eta) * back - eta * g[i]
            square[i] = square_new
            bound[i] = bound_new
            total[i] += g[i]


@kernel
def adaptive_revision_star(center, gradient_sum, z, rows, gradients, coefficients, remembered, known):
    """The same without line 5: the step size follows z itself, floored at its initial value."""
    for j in range(rows.size):
        x, total, square, g = center[rows[j]], gradient_sum[rows[j]], z[rows[j]], gradients[j]
        read = remembered[rows[j]] if known else g
        alpha, two, floor = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2]
        zero = two - two
        for i in range(x.size):
            back = total[i] - read[i] if known else zero
            old = floor if square[i] <= floor else square[i]
            square_new = square[i] + g[i] * g[i] + two * g[i] * back
            new = floor if square_new <= floor else square_new
            eta_old = alpha / math.sqrt(old)
            eta = alpha / math.sqrt(new)
            x[i] += (eta_old - eta) * back - eta * g[i]
            square[i] = square_new
            total[i] += g[i]


@kernel
def delay_compensation(center, rows, gradients, coefficients, remembered, known):
    """x −= a·(g + λ·g²·(x − read))."""
    for j in range(rows.size):
        x, g = center[rows[j]], gradients[j]
        read = remembered[rows[j]] if known else g
        a, strength = coefficients[j, 0], coefficients[j, 1]
        zero = a - a
        for i in range(x.size):
            moved = x[i] - read[i] if known else zero
            x[i] -= a * (g[i] + strength * g[i] * g[i] * moved)


@kernel
def delay_compensation_adaptive(center, mean_square, rows, gradients, coefficients, remembered, known):
    """MS = m·MS + (1−m)·g²;  x −= a·(g + λ₀/√(MS + ε)·g²·(x − read))."""
    for j in range(rows.size):
        x, e, g = center[rows[j]], mean_square[rows[j]], gradients[j]
        read = remembered[rows[j]] if known else g
        a, strength, keep = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2]
        rest, eps = coefficients[j, 3], coefficients[j, 4]
        zero = a - a
        for i in range(x.size):
            square = keep * e[i] + rest * g[i] * g[i]
            e[i] = square
            moved = x[i] - read[i] if known else zero
            x[i] -= a * (g[i] + strength / math.sqrt(square + eps) * g[i] * g[i] * moved)
