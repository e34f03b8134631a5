"""The update rules written once more in plain numpy, each from its published formula and from nothing in ``ps``.

A formula is ``start(x) -> step``, ``step(x, g, t, delay) -> x``: arrays (n,) in float64, ``t`` the step from 1,
``delay`` the number of steps that others made since the gradient's reader read. What must be remembered between steps
is kept in the closure, as the mathematics has it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Step = Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]
Formula = Callable[[np.ndarray], Step]


def sgd(lr: float) -> Formula:
    """x − lr·g."""
    return lambda start: lambda x, g, t, delay: x - lr * g


def momentum(lr: float, mu: float, dampening: float = 0.0) -> Formula:
    """torch: v = μv + (1−dampening)g, first v = g; x − lr·v."""

    def begin(start):
        v = np.zeros_like(start)

        def step(x, g, t, delay):
            nonlocal v
            v = g if t == 1 else mu * v + (1 - dampening) * g
            return x - lr * v

        return step

    return begin


def momentum_survey(lr: float, gamma: float) -> Formula:
    """Ruder 2016, section 4.1: v = γv + ηg; θ − v."""

    def begin(start):
        v = np.zeros_like(start)

        def step(x, g, t, delay):
            nonlocal v
            v = gamma * v + lr * g
            return x - v

        return step

    return begin


def nag(lr: float, mu: float) -> Formula:
    """torch: v = μv + g; x − lr(g + μv)."""

    def begin(start):
        v = np.zeros_like(start)

        def step(x, g, t, delay):
            nonlocal v
            v = mu * v + g
            return x - lr * (g + mu * v)

        return step

    return begin


def nag_lookahead(lr: float, mu: float) -> Formula:
    """EAMSGD's line: v = μv − lr·g; x + v. (The gradient is taken at x + μv, by whoever calls.)"""

    def begin(start):
        v = np.zeros_like(start)

        def step(x, g, t, delay):
            nonlocal v
            v = mu * v - lr * g
            return x + v

        return step

    return begin


def aggmo(lr: float, betas: tuple[float, ...]) -> Formula:
    """v_k = β_k·v_k + g; x − lr/K·Σ v_k."""

    def begin(start):
        v = np.zeros((len(betas), start.size))

        def step(x, g, t, delay):
            nonlocal v
            v = np.array(betas)[:, None] * v + g
            return x - lr / len(betas) * v.sum(0)

        return step

    return begin


def qhm(lr: float, nu: float, beta: float) -> Formula:
    """m = βm + (1−β)g; x − lr[(1−ν)g + νm]."""

    def begin(start):
        m = np.zeros_like(start)

        def step(x, g, t, delay):
            nonlocal m
            m = beta * m + (1 - beta) * g
            return x - lr * ((1 - nu) * g + nu * m)

        return step

    return begin


def adagrad(lr: float, eps: float, initial: float = 0.0, inside: bool = False) -> Formula:
    """G = G + g²; x − lr·g/(√G + ε), or /√(G + ε) with ``inside``."""

    def begin(start):
        total = np.full_like(start, initial)

        def step(x, g, t, delay):
            nonlocal total
            total = total + g**2
            return x - lr * g / (np.sqrt(total + eps) if inside else np.sqrt(total) + eps)

        return step

    return begin


def adadelta(lr: float, rho: float, eps: float) -> Formula:
    """Zeiler 2012, Algorithm 1."""

    def begin(start):
        squares, steps = np.zeros_like(start), np.zeros_like(start)

        def step(x, g, t, delay):
            nonlocal squares, steps
            squares = rho * squares + (1 - rho) * g**2
            change = np.sqrt(steps + eps) / np.sqrt(squares + eps) * g
            steps = rho * steps + (1 - rho) * change**2
            return x - lr * change

        return step

    return begin


def rmsprop(
    lr: float, decay: float, eps: float, mu: float = 0.0, initial: float = 0.0, inside: bool = False, late: bool = False
) -> Formula:
    """E = decay·E + (1−decay)g²; d = g/(√E + ε); momentum on d (torch), or on lr·d with ``late`` (optax)."""

    def begin(start):
        mean, v = np.full_like(start, initial), np.zeros_like(start)

        def step(x, g, t, delay):
            nonlocal mean, v
            mean = decay * mean + (1 - decay) * g**2
            direction = g / (np.sqrt(mean + eps) if inside else np.sqrt(mean) + eps)
            v = mu * v + (lr * direction if late else direction)
            return x - (v if late else lr * v)

        return step

    return begin
