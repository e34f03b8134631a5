"""Compiled loops of the rules with a step size per coordinate; signature and promises as in ``ps.rules.kernels``.

Where a denominator is zero (a coordinate that never had a gradient, with eps = 0) the step is zero, its limit, and
not 0/0. The tests are written so that a NaN fails them: it is never replaced by a number.
"""

from __future__ import annotations

import math

from ps.rules.kernels import kernel


@kernel
def adagrad(center, sum_squares, rows, gradients, coefficients):
    """s += g²;  x −= a·g/(√(s + inside) + outside)."""
    for j in range(rows.size):
        x, s, g = center[rows[j]], sum_squares[rows[j]], gradients[j]
        a, inside, outside = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2]
        zero = a - a
        for i in range(x.size):
            total = s[i] + g[i] * g[i]
            s[i] = total
            below = math.sqrt(total + inside) + outside
            x[i] -= zero if below == zero else a * g[i] / below


@kernel
def adadelta(center, mean_square, mean_step, rows, gradients, coefficients):
    """E = ρE + (1−ρ)g²;  d = √(D + ε)/√(E + ε)·g;  D = ρD + (1−ρ)d²;  x −= a·d."""
    for j in range(rows.size):
        x, e, d, g = center[rows[j]], mean_square[rows[j]], mean_step[rows[j]], gradients[j]
        a, rho, rest, eps = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2], coefficients[j, 3]
        for i in range(x.size):
            square = rho * e[i] + rest * g[i] * g[i]
            e[i] = square
            move = math.sqrt((d[i] + eps) / (square + eps)) * g[i]
            d[i] = rho * d[i] + rest * move * move
            x[i] -= a * move


@kernel
def rmsprop(center, mean_square, rows, gradients, coefficients):
    """E = ρE + (1−ρ)g²;  x −= a·g/(√(E + inside) + outside)."""
    for j in range(rows.size):
        x, e, g = center[rows[j]], mean_square[rows[j]], gradients[j]
        a, rho, rest = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2]
        inside, outside = coefficients[j, 3], coefficients[j, 4]
        zero = a - a
        for i in range(x.size):
            square = rho * e[i] + rest * g[i] * g[i]
            e[i] = square
            below = math.sqrt(square + inside) + outside
            x[i] -= zero if below == zero else a * g[i] / below


@kernel
def rmsprop_momentum(center, mean_square, velocity, rows, gradients, coefficients):
    """E as in ``rmsprop``;  v = μv + a·g/(√(E + inside) + outside);  x −= b·v."""
    for j in range(rows.size):
        x, e, v, g = center[rows[j]], mean_square[rows[j]], velocity[rows[j]], gradients[j]
        a, rho, rest = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2]
        inside, outside, mu, b = coefficients[j, 3], coefficients[j, 4], coefficients[j, 5], coefficients[j, 6]
        zero = a - a
        for i in range(x.size):
            square = rho * e[i] + rest * g[i] * g[i]
            e[i] = square
            below = math.sqrt(square + inside) + outside
            moved = mu * v[i] + (zero if below == zero else a * g[i] / below)
            v[i] = moved
            x[i] -= b * moved


@kernel
def adam(center, first, second, rows, gradients, coefficients):
    """m = β₁m + (1−β₁)g;  v = β₂v + (1−β₂)g²;  x −= decay·x + (a·m + b·g)/(√(c·v) + ε): Adam, AdamW and Nadam."""
    for j in range(rows.size):
        x, m, v, g = center[rows[j]], first[rows[j]], second[rows[j]], gradients[j]
        beta1, rest1, beta2, rest2 = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2], coefficients[j, 3]
        a, b, c = coefficients[j, 4], coefficients[j, 5], coefficients[j, 6]
        eps, decay = coefficients[j, 7], coefficients[j, 8]
        zero = beta1 - beta1
        for i in range(x.size):
            mean = beta1 * m[i] + rest1 * g[i]
            square = beta2 * v[i] + rest2 * g[i] * g[i]
            m[i] = mean
            v[i] = square
            below = math.sqrt(c * square) + eps
            x[i] -= decay * x[i] + (zero if below == zero else (a * mean + b * g[i]) / below)


@kernel
def amsgrad(center, first, second, largest, rows, gradients, coefficients):
    """m and v as in ``adam``;  w = max(w, c·v);  x −= a·m/(√(d·w) + ε)."""
    for j in range(rows.size):
        x, m, v, w, g = center[rows[j]], first[rows[j]], second[rows[j]], largest[rows[j]], gradients[j]
        beta1, rest1, beta2, rest2 = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2], coefficients[j, 3]
        a, c, d, eps = coefficients[j, 4], coefficients[j, 5], coefficients[j, 6], coefficients[j, 7]
        zero = beta1 - beta1
        for i in range(x.size):
            mean = beta1 * m[i] + rest1 * g[i]
            square = beta2 * v[i] + rest2 * g[i] * g[i]
            m[i] = mean
            v[i] = square
            bound = w[i] if c * square <= w[i] else c * square
            w[i] = bound
            below = math.sqrt(d * bound) + eps
            x[i] -= zero if below == zero else a * mean / below


@kernel
def adamax(center, first, largest, rows, gradients, coefficients):
    """m = β₁m + (1−β₁)g;  u = max(β₂u, |g| + ε);  x −= a·m/u."""
    for j in range(rows.size):
        x, m, u, g = center[rows[j]], first[rows[j]], largest[rows[j]], gradients[j]
        beta1, rest1, beta2 = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2]
        a, eps = coefficients[j, 3], coefficients[j, 4]
        zero = beta1 - beta1
        for i in range(x.size):
            mean = beta1 * m[i] + rest1 * g[i]
            size = abs(g[i]) + eps
            decayed = beta2 * u[i]
            bound = decayed if size <= decayed else size
            m[i] = mean
            u[i] = bound
            x[i] -= zero if bound == zero else a * mean / bound


@kernel
def qhadam(center, first, second, rows, gradients, coefficients):
    """m and v as in ``adam``;  x −= (a·m + b·g)/(√(c·v + d·g²) + ε)."""
    for j in range(rows.size):
        x, m, v, g = center[rows[j]], first[rows[j]], second[rows[j]], gradients[j]
        beta1, rest1, beta2, rest2 = coefficients[j, 0], coefficients[j, 1], coefficients[j, 2], coefficients[j, 3]
        a, b, c = coefficients[j, 4], coefficients[j, 5], coefficients[j, 6]
        d, eps = coefficients[j, 7], coefficients[j, 8]
        zero = beta1 - beta1
        for i in range(x.size):
            mean = beta1 * m[i] + rest1 * g[i]
            square = beta2 * v[i] + rest2 * g[i] * g[i]
            m[i] = mean
            v[i] = square
            below = math.sqrt(c * square + d * g[i] * g[i]) + eps
            x[i] -= zero if below == zero else (a * mean + b * g[i]) / below
