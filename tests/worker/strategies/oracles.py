"""The papers' algorithms in plain floats and loops, line by line, sharing nothing with the code under test.

Every oracle takes the order in which replicas make their steps and returns (center, each replica's parameters).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

Vector = list[float]
Gradient = Callable[[Vector, Sequence[int]], Vector]
Batches = list[Iterator[list[int]]]


class SGD:
    """x ← x − η·g."""

    def __init__(self, lr: float):
        self.lr = lr

    def step(self, x: Vector, g: Vector) -> None:
        for i in range(len(x)):
            x[i] = x[i] - self.lr * g[i]


class Adagrad:
    """η_i = γ/√(Σ g_i²); x_i ← x_i − η_i·g_i."""

    def __init__(self, lr: float, n: int):
        self.lr, self.squares = lr, [0.0] * n

    def step(self, x: Vector, g: Vector) -> None:
        for i in range(len(x)):
            self.squares[i] += g[i] * g[i]
            if g[i] != 0.0:
                x[i] = x[i] - self.lr / math.sqrt(self.squares[i]) * g[i]


def downpour_gradients(f: Gradient, x0, batches: Batches, order, n_fetch, n_push, server, local):
    """Dean et al. 2012, the client's lines 1 to 8; ``local`` makes one rule per replica."""
    center = list(x0)
    x = [list(x0) for _ in batches]
    accrued = [[0.0] * len(x0) for _ in batches]
    step = [0] * len(batches)
    rules = [local() for _ in batches]
    for r in order:
        if step[r] % n_fetch == 0:
            x[r] = list(center)
        g = f(x[r], next(batches[r]))
        for i in range(len(g)):
            accrued[r][i] += g[i]
        rules[r].step(x[r], g)
        if step[r] % n_push == 0:
            server.step(center, accrued[r])
            accrued[r] = [0.0] * len(x0)
        step[r] += 1
    for r in range(len(batches)):  # what is left at the end
        if any(accrued[r]):
            server.step(center, accrued[r])
    return center, x


def downpour_updates(f: Gradient, x0, batches: Batches, order, tau, local, average=None):
    """Zhang et al. 2015: if τ|t: x̃ += v, x ← x̃, v ← 0; then x −= ηg, v −= ηg.

    ``average(t)`` is the weight α of the t-th center in z_{t+1} = (1−α)·z_t + α·x̃_t, t = 0 being the initial one.
    """
    center, z, versions = list(x0), list(x0), 0
    x = [list(x0) for _ in batches]
    v = [[0.0] * len(x0) for _ in batches]
    t = [0] * len(batches)
    rules = [local() for _ in batches]

    def add(r):
        nonlocal versions
        versions += 1
        for i in range(len(x0)):
            center[i] += v[r][i]
            v[r][i] = 0.0
            if average is not None:
                z[i] = (1 - average(versions)) * z[i] + average(versions) * center[i]

    for r in order:
        if t[r] % tau == 0:
            if t[r] > 0:
                add(r)
            x[r] = list(center)
        g = f(x[r], next(batches[r]))
        before = list(x[r])
        rules[r].step(x[r], g)
        for i in range(len(g)):
            v[r][i] += x[r][i] - before[i]
        t[r] += 1
    for r in range(len(batches)):
        add(r)
    return (center if average is None else z), x


def mdownpour(f: Gradient, x0, batches: Batches, ticks, lr, momentum):
    """τ = 1 and Nesterov momentum at the master, v ← δv − ηg; x̃ ← x̃ + δv − ηg; three ticks: pull, gradient, push."""
    center, v = list(x0), [0.0] * len(x0)
    x: list[Vector] = [[] for _ in batches]
    g: list[Vector] = [[] for _ in batches]
    phase = [0] * len(batches)
    for r in ticks:
        if phase[r] % 3 == 0:
            x[r] = list(center)
        elif phase[r] % 3 == 1:
            g[r] = f(x[r], next(batches[r]))
        else:
            for i in range(len(center)):
                v[i] = momentum * v[i] - lr * g[r][i]
                center[i] = center[i] + momentum * v[i] - lr * g[r][i]
        phase[r] += 1
    return center, x


def easgd(f: Gradient, x0, batches: Batches, order, tau, alpha, lr, momentum=0.0, mutation=""):
    """Algorithms 1 and 2 of Zhang et al. 2015; with momentum 0 the second is the first.

    ``mutation``: "late" takes the gradient after the elastic step, as dist-keras does; "here" takes EAMSGD's at x instead
    of x + δv; "one-sided" moves the center by the difference after x has moved.
    """
    center = list(x0)
    x = [list(x0) for _ in batches]
    v = [[0.0] * len(x0) for _ in batches]
    t = [0] * len(batches)
    for r in order:
        point = list(x[r])  # line 1
        if t[r] % tau == 0:  # line 2
            for i in range(len(x0)):
                difference = point[i] - center[i]
                x[r][i] = x[r][i] - alpha * difference
                center[i] = center[i] + alpha * (x[r][i] - center[i] if mutation == "one-sided" else difference)
        if mutation == "late":
            point = list(x[r])
        ahead = 0.0 if mutation == "here" else momentum
        g = f([point[i] + ahead * v[r][i] for i in range(len(x0))], next(batches[r]))  # line 3
        for i in range(len(x0)):
            v[r][i] = momentum * v[r][i] - lr * g[i]
            x[r][i] = x[r][i] + v[r][i]
        t[r] += 1
    return center, x


def easgd_together(f: Gradient, x0, batches: Batches, steps, tau, beta, lr, mutation=""):
    """Equations 5 and 6, both sides with the old values; ``mutation`` "new" gives the center the new x^i."""
    p, center = len(batches), list(x0)
    x = [list(x0) for _ in batches]
    for t in range(steps):
        gradients = [f(x[r], next(batches[r])) for r in range(p)]
        old_x, old_center = [list(one) for one in x], list(center)
        for r in range(p):
            for i in range(len(x0)):
                pull = beta / p * (old_x[r][i] - old_center[i]) if t % tau == 0 else 0.0
                x[r][i] = old_x[r][i] - lr * gradients[r][i] - pull
        if t % tau == 0:
            for i in range(len(x0)):
                mean = sum((x if mutation == "new" else old_x)[r][i] for r in range(p)) / p
                center[i] = (1 - beta) * old_center[i] + beta * mean
    return center, x


def stale_sgd(f: Gradient, x0, batches: Batches, ticks, lr):
    """Hogwild! for dense gradients, three ticks: read, gradient, component-wise subtract."""
    center = list(x0)
    x: list[Vector] = [[] for _ in batches]
    g: list[Vector] = [[] for _ in batches]
    phase = [0] * len(batches)
    for r in ticks:
        if phase[r] % 3 == 0:
            x[r] = list(center)
        elif phase[r] % 3 == 1:
            g[r] = f(x[r], next(batches[r]))
        else:
            for i in range(len(center)):
                center[i] = center[i] - lr * g[r][i]
        phase[r] += 1
    return center, x


def descent(f: Gradient, x0, batches: Sequence[Sequence[int]], lr):
    """One process: batch, stochastic or mini-batch gradient descent, whichever the batches are."""
    x = list(x0)
    for batch in batches:
        g = f(x, batch)
        for i in range(len(x)):
            x[i] = x[i] - lr * g[i]
    return x
