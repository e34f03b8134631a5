"""Every rule once more, for one number, in plain floats, from its formula and from nothing in ``ps``.

An oracle is ``step(s, x, g, t, o)``: ``s`` is a dict that it keeps its state in, ``x`` the value, ``g`` the gradient,
``t`` the step from 1, ``o`` the occasion: ``lr_scale``, ``delay``, ``count`` and ``read``, the oracle's own past
state (with ``"x"``) that this gradient's reader saw, or None. It returns the new x.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt


@dataclass
class Occasion:
    lr_scale: float
    delay: int
    count: int
    read: dict | None


def sgd(lr):
    def step(s, x, g, t, o):
        return x - lr * o.lr_scale * g

    return step


def momentum(lr, mu, dampening=0.0, rate_inside=False):
    def step(s, x, g, t, o):
        rate = lr * o.lr_scale
        given = g if t == 1 else (1 - dampening) * g
        s["v"] = mu * s.get("v", 0.0) + (rate * given if rate_inside else given)
        return x - s["v"] if rate_inside else x - rate * s["v"]

    return step


def nag_torch(lr, mu):
    def step(s, x, g, t, o):
        s["v"] = mu * s.get("v", 0.0) + g
        return x - lr * o.lr_scale * (g + mu * s["v"])

    return step


def nag_lookahead(lr, mu):
    def step(s, x, g, t, o):
        s["v"] = mu * s.get("v", 0.0) - lr * o.lr_scale * g
        return x + s["v"]

    return step


def aggmo(lr, betas):
    def step(s, x, g, t, o):
        total = 0.0
        for k, beta in enumerate(betas):
            s[k] = beta * s.get(k, 0.0) + g
            total += s[k]
        return x - lr * o.lr_scale / len(betas) * total

    return step


def qhm(lr, nu, beta):
    def step(s, x, g, t, o):
        s["m"] = beta * s.get("m", 0.0) + (1 - beta) * g
        return x - lr * o.lr_scale * ((1 - nu) * g + nu * s["m"])

    return step


def adagrad(lr, eps, initial=0.0, inside=False):
    def step(s, x, g, t, o):
        s["s"] = s.get("s", initial) + g * g
        below = sqrt(s["s"] + eps) if inside else sqrt(s["s"]) + eps
        return x - lr * o.lr_scale * g / below

    return step


def adadelta(lr, rho, eps):
    def step(s, x, g, t, o):
        s["E"] = rho * s.get("E", 0.0) + (1 - rho) * g**2
        d = sqrt(s.get("D", 0.0) + eps) / sqrt(s["E"] + eps) * g
        s["D"] = rho * s.get("D", 0.0) + (1 - rho) * d**2
        return x - lr * o.lr_scale * d

    return step


def rmsprop(lr, decay, eps, mu=0.0, initial=0.0, inside=False, rate_inside=False):
    def step(s, x, g, t, o):
        rate = lr * o.lr_scale
        s["E"] = decay * s.get("E", initial) + (1 - decay) * g**2
        d = g / (sqrt(s["E"] + eps) if inside else sqrt(s["E"]) + eps)
        s["v"] = mu * s.get("v", 0.0) + (rate * d if rate_inside else d)
        return x - s["v"] if rate_inside else x - rate * s["v"]

    return step


def _moments(s, g, beta1, beta2):
    s["m"] = beta1 * s.get("m", 0.0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0.0) + (1 - beta2) * g**2
    return s["m"], s["v"]


def adam(lr, beta1, beta2, eps, decay=0.0):
    def step(s, x, g, t, o):
        m, v = _moments(s, g, beta1, beta2)
        rate = lr * o.lr_scale
        return x * (1 - rate * decay) - rate * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

    return step


def adamax(lr, beta1, beta2, eps):
    def step(s, x, g, t, o):
        s["m"] = beta1 * s.get("m", 0.0) + (1 - beta1) * g
        s["u"] = max(beta2 * s.get("u", 0.0), abs(g) + eps)
        return x - lr * o.lr_scale / (1 - beta1**t) * s["m"] / s["u"]

    return step


def nadam(lr, beta1, beta2, eps, form, psi=4e-3):
    def step(s, x, g, t, o):
        m, v = _moments(s, g, beta1, beta2)
        if form == "torch":
            now, after = (beta1 * (1 - 0.5 * 0.96 ** (i * psi)) for i in (t, t + 1))
            s["product"] = s.get("product", 1.0) * now
            top = after * m / (1 - s["product"] * after) + (1 - now) * g / (1 - s["product"])
        elif form == "optax":
            top = beta1 * m / (1 - beta1 ** (t + 1)) + (1 - beta1) * g / (1 - beta1**t)
        else:
            top = beta1 * (m / (1 - beta1**t)) + (1 - beta1) * g / (1 - beta1**t)
        return x - lr * o.lr_scale * top / (sqrt(v / (1 - beta2**t)) + eps)

    return step


def amsgrad(lr, beta1, beta2, eps, form):
    def step(s, x, g, t, o):
        m, v = _moments(s, g, beta1, beta2)
        if form == "torch":
            s["w"] = max(s.get("w", 0.0), v)
            top, below = m / (1 - beta1**t), sqrt(s["w"]) / sqrt(1 - beta2**t) + eps
        elif form == "optax":
            s["w"] = max(s.get("w", 0.0), v / (1 - beta2**t))
            top, below = m / (1 - beta1**t), sqrt(s["w"]) + eps
        else:
            s["w"] = max(s.get("w", 0.0), v)
            top, below = m, sqrt(s["w"]) + eps
        return x - lr * o.lr_scale * top / below

    return step


def qhadam(lr, beta1, beta2, eps, nu1, nu2):
    def step(s, x, g, t, o):
        m, v = _moments(s, g, beta1, beta2)
        top = (1 - nu1) * g + nu1 * m / (1 - beta1**t)
        below = sqrt((1 - nu2) * g**2 + nu2 * v / (1 - beta2**t)) + eps
        return x - lr * o.lr_scale * top / below

    return step


def adaptive_revision(alpha, star=False):
    def step(s, x, g, t, o):
        rate = alpha * o.lr_scale
        total, z, largest = s.get("sum", 0.0), s.get("z", 1.0), s.get("z'", 1.0)
        back = 0.0 if o.read is None else total - o.read.get("sum", 0.0)
        eta_old = rate / sqrt(max(z, 1.0) if star else largest)
        z = z + g**2 + 2 * g * back
        largest = max(largest, z)
        eta = rate / sqrt(max(z, 1.0) if star else largest)
        s["sum"], s["z"], s["z'"] = total + g, z, largest
        return x - eta * g + (eta_old - eta) * back

    return step


def dc_asgd(lr, strength, adaptive=False, decay=0.95, eps=1e-7):
    def step(s, x, g, t, o):
        power = strength
        if adaptive:
            s["MS"] = decay * s.get("MS", 0.0) + (1 - decay) * g * g
            power = strength / sqrt(s["MS"] + eps)
        behind = 0.0 if o.read is None else x - o.read["x"]
        return x - lr * o.lr_scale * (g + power * g * g * behind)

    return step


def staleness_aware(lr):
    def step(s, x, g, t, o):
        return x - lr * o.lr_scale / (o.delay if o.delay > 1 else 1) * g

    return step


def dynsgd(lr):
    def step(s, x, g, t, o):
        return x + lr * o.lr_scale * g / (1 + o.delay)

    return step


def add(lr):
    def step(s, x, g, t, o):
        return x + lr * o.lr_scale * g

    return step


def moving_average(weight):
    def step(s, x, g, t, o):
        for _ in range(o.count):
            x = (1 - weight) * x + weight * g / o.count
        return x

    return step
