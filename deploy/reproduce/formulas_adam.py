"""Adam's family and the rules that know of delay, in plain numpy; what a formula is stands in ``formulas``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deploy.reproduce.formulas import Formula

Top = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
Below = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def _with_moments(beta1: float, beta2: float, step: Callable[..., np.ndarray]) -> Formula:
    """A formula that sees m = β₁m + (1−β₁)g and v = β₂v + (1−β₂)g²: ``step(x, g, t, m, v, memory)``."""

    def begin(start):
        m, v, memory = np.zeros_like(start), np.zeros_like(start), {}

        def with_moments(x, g, t, delay):
            nonlocal m, v
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g**2
            return step(x, g, t, m, v, memory)

        return with_moments

    return begin


def adam(lr: float, beta1: float, beta2: float, eps: float, weight_decay: float = 0.0) -> Formula:
    """θ* = (1 − lr·wd)θ; θ* − lr·m̂/(√v̂ + ε)."""

    def step(x, g, t, m, v, memory):
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        return (1 - lr * weight_decay) * x - lr * m_hat / (np.sqrt(v_hat) + eps)

    return _with_moments(beta1, beta2, step)


def adamax(lr: float, beta1: float, beta2: float, eps: float) -> Formula:
    """u = max(β₂u, |g| + ε); x − lr/(1−β₁ᵗ)·m/u."""

    def step(x, g, t, m, v, memory):
        u = memory["u"] = np.maximum(beta2 * memory.get("u", 0.0), np.abs(g) + eps)
        return x - lr / (1 - beta1**t) * m / u

    return _with_moments(beta1, beta2, step)


def nadam(lr: float, beta1: float, beta2: float, eps: float, psi: float) -> Formula:
    """torch: μ_t = β₁(1 − ½·.96^{tψ}); [μ_{t+1}m/(1−Π_{i≤t+1}μ_i) + (1−μ_t)g/(1−Π_{i≤t}μ_i)]/(√v̂ + ε)."""

    def step(x, g, t, m, v, memory):
        mu = beta1 * (1 - 0.5 * 0.96 ** (np.arange(1, t + 2) * psi))
        top = mu[t] * m / (1 - np.prod(mu)) + (1 - mu[t - 1]) * g / (1 - np.prod(mu[:t]))
        return x - lr * top / (np.sqrt(v / (1 - beta2**t)) + eps)

    return _with_moments(beta1, beta2, step)


def nadam_plain(lr: float, beta1: float, beta2: float, eps: float, ahead: int) -> Formula:
    """[β₁m/(1−β₁^{t+ahead}) + (1−β₁)g/(1−β₁ᵗ)]/(√v̂ + ε): the survey with ``ahead`` 0, optax with 1."""

    def step(x, g, t, m, v, memory):
        top = beta1 * m / (1 - beta1 ** (t + ahead)) + (1 - beta1) * g / (1 - beta1**t)
        return x - lr * top / (np.sqrt(v / (1 - beta2**t)) + eps)

    return _with_moments(beta1, beta2, step)


def amsgrad(lr: float, beta1: float, beta2: float, eps: float, form: str) -> Formula:
    """The largest v so far, raw and corrected later (torch), corrected first (optax), or nothing corrected (survey)."""

    def step(x, g, t, m, v, memory):
        first, second = 1 - beta1**t, 1 - beta2**t
        now = v / second if form == "optax" else v
        largest = memory["largest"] = np.maximum(memory.get("largest", 0.0), now)
        if form == "survey":
            return x - lr * m / (np.sqrt(largest) + eps)
        below = np.sqrt(largest / second) if form == "torch" else np.sqrt(largest)
        return x - lr * (m / first) / (below + eps)

    return _with_moments(beta1, beta2, step)


def qhadam(lr: float, beta1: float, beta2: float, eps: float, nu1: float, nu2: float) -> Formula:
    """x − lr·[(1−ν₁)g + ν₁m̂]/(√((1−ν₂)g² + ν₂v̂) + ε)."""

    def step(x, g, t, m, v, memory):
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        return x - lr * ((1 - nu1) * g + nu1 * m_hat) / (np.sqrt((1 - nu2) * g**2 + nu2 * v_hat) + eps)

    return _with_moments(beta1, beta2, step)


def adaptive_revision(alpha: float) -> Formula:
    """McMahan, Streeter 2014, Algorithm 2, line by line; g_old is ḡ as it was ``delay`` steps ago."""

    def begin(start):
        sums = [np.zeros_like(start)]  # ḡ before each step
        z, z_max = np.ones_like(start), np.ones_like(start)

        def step(x, g, t, delay):
            nonlocal z, z_max
            g_bck = sums[-1] - sums[-1 - delay]
            eta_old = alpha / np.sqrt(z_max)
            z = z + g**2 + 2 * g * g_bck
            z_max = np.maximum(z_max, z)
            eta = alpha / np.sqrt(z_max)
            sums.append(sums[-1] + g)
            return x - eta * g + (eta_old - eta) * g_bck

        return step

    return begin


def dc_asgd(lr: float, strength: float) -> Formula:
    """w − η[g + λ·g⊙g⊙(w − w_bak)]; w_bak is w as it was ``delay`` steps ago."""
    return _dc_asgd(lr, lambda g, memory: strength)


def dc_asgd_adaptive(lr: float, strength: float, decay: float, eps: float) -> Formula:
    """The same with λ_t = λ₀/√(MS + ε), MS = m·MS + (1−m)g²."""

    def lambda_of(g, memory):
        memory["ms"] = decay * memory.get("ms", 0.0) + (1 - decay) * g**2
        return strength / np.sqrt(memory["ms"] + eps)

    return _dc_asgd(lr, lambda_of)


def _dc_asgd(lr: float, lambda_of: Callable[..., np.ndarray | float]) -> Formula:
    def begin(start):
        past, memory = [], {}

        def step(x, g, t, delay):
            past.append(x)
            return x - lr * (g + lambda_of(g, memory) * g * g * (x - past[-1 - delay]))

        return step

    return begin


def staleness_aware(lr: float) -> Formula:
    """x − lr/max(1, staleness)·g."""
    return lambda start: lambda x, g, t, delay: x - lr / max(1, delay) * g


def dynsgd(lr: float) -> Formula:
    """x + lr/(staleness + 1)·u."""
    return lambda start: lambda x, u, t, delay: x + lr / (delay + 1) * u
