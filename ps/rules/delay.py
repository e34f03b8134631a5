"""Rules for delayed gradients: by what was read (AdaptiveRevision, DC-ASGD), by its age (staleness-aware, DynSGD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ps.rules import bounds, kernels, kernels_adaptive, kernels_delay
from ps.rules.base import Context, UpdateRule
from ps.rules.descent import rows_of


def _known(remembered: np.ndarray | None, center: np.ndarray) -> tuple[np.ndarray, bool]:
    """The last two arguments of a delay-aware kernel."""
    return (center[:0], False) if remembered is None else (remembered, True)


@dataclass(frozen=True)
class AsyncAdaGrad(UpdateRule):
    """Adagrad as delayed gradients arrive, with no regard to the delay: AdaptiveRevision's baseline.

    Adagrad with ``initial=1`` and no eps.

    Args:
      lr: α, the step size, > 0.
      initial: value that z starts with, > 0.

    References: McMahan, Streeter 2014, section 5 (AsyncAdaGrad).
    """

    lr: float = 0.1
    initial: float = 1.0
    name: ClassVar[str] = "async_adagrad"
    slots: ClassVar[tuple[str, ...]] = ("z",)
    formula: ClassVar[str] = "z ← z + g²;  x ← x − lr·g/√z   (z starts at 1)"
    source: ClassVar[str] = "McMahan, Streeter 2014"
    kernel = kernels_adaptive.adagrad

    def __post_init__(self) -> None:
        bounds.positive(self, "lr", "initial")

    def initial_slot(self, name: str) -> float:
        return self.initial

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        return rows_of(steps, self.learning_rate(context), 0.0, 0.0)


@dataclass(frozen=True)
class AdaptiveRevision(UpdateRule):
    """Adagrad that accounts for delay: it counts what others applied since the read, and revises their steps.

    A shard remembers, per reader, the running sum of gradients as of its read (``remembers``); g_bck is what was
    added since. Where nothing is remembered (no room within the byte bound) g_bck is 0 and the update is
    AsyncAdaGrad's, with the running maximum. Without delay the rule is Adagrad with ``initial=1, eps=0``.

    ``star=True`` drops the running maximum (AdaptiveRevision*) and with it one slot. z can then fall, after gradients
    of opposite signs even below its initial value or below zero, where no step size is defined: the square root is
    taken of z or of its initial value, whichever is larger. (The paper does not say what its implementation does
    there.)

    Args:
      lr: α, the step size, > 0.
      initial: value that z and z' start with, > 0.
      star: drop z'.

    References: McMahan, Streeter 2014, Algorithm 2 (AdaptiveRevision), section 5 (AdaptiveRevision*).
    """

    lr: float = 0.1
    initial: float = 1.0
    star: bool = False
    name: ClassVar[str] = "adaptive_revision"
    remembers: ClassVar[str | None] = "gradient_sum"
    formula: ClassVar[str] = (
        "g_bck = ḡ − ḡ_read;  η_old = lr/√z';  z ← z + g² + 2·g·g_bck;  z' ← max(z', z);  η = lr/√z';  "
        "x ← x − η·g + (η_old − η)·g_bck;  ḡ ← ḡ + g"
    )
    source: ClassVar[str] = "McMahan, Streeter 2014"

    def __post_init__(self) -> None:
        bounds.positive(self, "lr", "initial")
        bounds.true_or_false(self, "star")

    @property
    def slots(self) -> tuple[str, ...]:
        """The sum of all gradients (ḡ), z, and z' unless starred."""
        return ("gradient_sum", "z") if self.star else ("gradient_sum", "z", "z_max")

    def initial_slot(self, name: str) -> float:
        return 0.0 if name == "gradient_sum" else self.initial

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        rate = self.learning_rate(context)
        return rows_of(steps, rate, 2.0, self.initial) if self.star else rows_of(steps, rate, 2.0)

    def _kernel(self):
        return kernels_delay.adaptive_revision_star if self.star else kernels_delay.adaptive_revision

    def _run(self, center, slots, rows, gradients, coefficients, remembered) -> None:
        state = (slots[name] for name in self.slots)
        self._kernel()(center, *state, rows, gradients, coefficients, *_known(remembered, center))


@dataclass(frozen=True)
class DCASGD(UpdateRule):
    """Delay compensation: the gradient is corrected to first order for how far the center moved since the read.

    The Hessian is approximated by λ·g·gᵀ's diagonal. A shard remembers the center per reader (``remembers``); where
    nothing is remembered the correction is 0 and the step is SGD's.

    Args:
      lr: step size, > 0.
      adaptive: divide the strength by the root mean square of the gradient (DC-ASGD-a) instead of keeping it constant.
      strength: λ, >= 0; not given: 0.04 constant, 2.0 (λ₀) adaptive.
      decay: factor that the mean square keeps, in [0, 1); adaptive only. The mean takes in the gradient before it is
        used.
      eps: added inside the root, > 0; adaptive only.

    References: Zheng et al. 2017, "Asynchronous SGD with Delay Compensation", Algorithm 2 and section 4.
    """

    lr: float = 0.1
    adaptive: bool = False
    strength: float | None = None
    decay: float = 0.95
    eps: float = 1e-7
    name: ClassVar[str] = "dc_asgd"
    remembers: ClassVar[str | None] = "center"
    formula: ClassVar[str] = (
        "x ← x − lr·[g + λ·g²·(x − x_read)], λ = strength; "
        "adaptive: λ = strength/√(MS + eps), MS ← decay·MS + (1−decay)·g²"
    )
    source: ClassVar[str] = "Zheng et al. 2017"

    def __post_init__(self) -> None:
        bounds.true_or_false(self, "adaptive")
        if self.strength is None:
            object.__setattr__(self, "strength", 2.0 if self.adaptive else 0.04)
        bounds.positive(self, "lr", "eps")
        bounds.nonnegative(self, "strength")
        bounds.decay_rate(self, "decay")

    @property
    def slots(self) -> tuple[str, ...]:
        """The mean square of the gradient if adaptive, else none."""
        return ("mean_square",) if self.adaptive else ()

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        rate = self.learning_rate(context)
        if not self.adaptive:
            return rows_of(steps, rate, self.strength)
        return rows_of(steps, rate, self.strength, self.decay, 1.0 - self.decay, self.eps)

    def _kernel(self):
        return kernels_delay.delay_compensation_adaptive if self.adaptive else kernels_delay.delay_compensation

    def _run(self, center, slots, rows, gradients, coefficients, remembered) -> None:
        state = (slots[name] for name in self.slots)
        self._kernel()(center, *state, rows, gradients, coefficients, *_known(remembered, center))


@dataclass(frozen=True)
class StalenessAware(UpdateRule):
    """SGD whose rate is divided by the gradient's staleness.

    Args:
      lr: step size of a gradient of staleness 0 or 1, > 0.

    References: Zhang, Gupta, Lian, Liu 2016, "Staleness-aware Async-SGD", equation 6.
    """

    lr: float = 0.1
    name: ClassVar[str] = "staleness_aware"
    formula: ClassVar[str] = "x ← x − lr/max(1, staleness)·g"
    source: ClassVar[str] = "Zhang, Gupta, Lian, Liu 2016"
    kernel = kernels.sgd

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        return rows_of(steps, -self.learning_rate(context) / max(1, context.staleness))


@dataclass(frozen=True)
class DynSGD(UpdateRule):
    """The server adds pushed updates, each divided by its staleness + 1.

    What is pushed is an update (the local rule's step), not a gradient; hence not for a replica's local rule.

    Args:
      lr: factor on the pushed update, > 0.

    References: Jiang, Cui, Zhang, Yu 2017, "Heterogeneity-aware Distributed Parameter Servers", section 4 (DynSGD).
    """

    lr: float = 1.0
    name: ClassVar[str] = "dynsgd"
    pushes: ClassVar[str] = "update"
    formula: ClassVar[str] = "x ← x + lr/(staleness + 1)·u"
    source: ClassVar[str] = "Jiang, Cui, Zhang, Yu 2017"
    kernel = kernels.sgd

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        return rows_of(steps, self.learning_rate(context) / (context.staleness + 1))
