"""Rules that divide by the size of past gradients: Adagrad, Adadelta, RMSprop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ps.rules import bounds, kernels_adaptive
from ps.rules.base import Context, UpdateRule
from ps.rules.descent import rows_of


@dataclass(frozen=True)
class Adagrad(UpdateRule):
    """Per-coordinate step size ``lr / (sqrt(sum g^2) + eps)``, kept where the center is.

    Equals ``torch.optim.Adagrad(lr, eps=eps, initial_accumulator_value=initial)`` on the same gradients in the same
    order; the order is the order of arrival, so two replicas pushing at once give one of two results. The survey has
    ``eps_inside=True, eps=1e-8``; optax has ``initial=0.1, eps=1e-7``; DistBelief's server rule has no eps. A
    coordinate whose denominator is zero (eps = 0, never a gradient) does not move.

    Args:
      lr: step size, > 0.
      eps: added to the denominator, >= 0.
      initial: value that the sum of squares starts with, >= 0.
      eps_inside: add eps inside the square root instead of outside.

    Example:
      >>> rule, center = Adagrad(lr=0.5), np.array([1.0, 1.0])
      >>> rule.apply(center, rule.allocate(2, "float64"), np.array([3.0, -0.1]), Context())
      >>> center.round(6)
      array([0.5, 1.5])

    References: Duchi, Hazan, Singer 2011, JMLR 12, Figure 1; Dean et al. 2012, section 4.1; Ruder 2016, section 4.3.
    """

    lr: float = 0.01
    eps: float = 1e-10
    initial: float = 0.0
    eps_inside: bool = False
    name: ClassVar[str] = "adagrad"
    slots: ClassVar[tuple[str, ...]] = ("sum_squares",)
    formula: ClassVar[str] = "s ← s + g²;  x ← x − lr·g/(√s + eps)   (eps_inside: √(s + eps))"
    source: ClassVar[str] = "Duchi, Hazan, Singer 2011; torch.optim.Adagrad"
    kernel = kernels_adaptive.adagrad

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")
        bounds.nonnegative(self, "eps", "initial")
        bounds.true_or_false(self, "eps_inside")

    def initial_slot(self, name: str) -> float:
        return self.initial

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        inside, outside = (self.eps, 0.0) if self.eps_inside else (0.0, self.eps)
        return rows_of(steps, self.learning_rate(context), inside, outside)


@dataclass(frozen=True)
class Adadelta(UpdateRule):
    """Steps as large as past steps were, against gradients as large as past gradients were: no rate to choose.

    Equals ``torch.optim.Adadelta(lr, rho, eps)`` and the survey's (which has no lr: 1).

    Args:
      lr: factor on the step, > 0.
      rho: factor that both mean squares keep, in [0, 1).
      eps: added inside both square roots, > 0; it also sets the size of the first steps.

    References: Zeiler 2012, Algorithm 1; Ruder 2016, section 4.4.
    """

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    name: ClassVar[str] = "adadelta"
    slots: ClassVar[tuple[str, ...]] = ("mean_square", "mean_step")
    formula: ClassVar[str] = "E ← rho·E + (1−rho)·g²;  d = √(D+eps)/√(E+eps)·g;  D ← rho·D + (1−rho)·d²;  x ← x − lr·d"
    source: ClassVar[str] = "Zeiler 2012; torch.optim.Adadelta"
    kernel = kernels_adaptive.adadelta

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")
        bounds.decay_rate(self, "rho")
        bounds.positive(self, "eps", remedy="with eps = 0 the first step is zero, and so is every later one")

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        return rows_of(steps, self.learning_rate(context), self.rho, 1.0 - self.rho, self.eps)


@dataclass(frozen=True)
class RMSprop(UpdateRule):
    """Adagrad with a moving mean of squares instead of their sum.

    Equals ``torch.optim.RMSprop(lr, alpha=decay, eps=eps, momentum=momentum)``. The survey has ``eps_inside=True,
    decay=0.9, lr=0.001``; optax has ``decay=0.9, momentum_after_lr=True`` (the rate is inside the velocity, which
    differs when it changes).

    Args:
      lr: step size, > 0.
      decay: factor that the mean square keeps, in [0, 1).
      eps: added to the denominator, >= 0.
      momentum: factor that the velocity keeps, in [0, 1); 0 has no velocity.
      initial: value that the mean square starts with, >= 0.
      eps_inside: add eps inside the square root instead of outside.
      momentum_after_lr: scale by lr before the velocity takes the step (optax) instead of after it (torch).

    References: Tieleman, Hinton 2012, lecture 6e; Ruder 2016, section 4.5.
    """

    lr: float = 0.01
    decay: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    initial: float = 0.0
    eps_inside: bool = False
    momentum_after_lr: bool = False
    name: ClassVar[str] = "rmsprop"
    formula: ClassVar[str] = "E ← decay·E + (1−decay)·g²;  v ← momentum·v + g/(√E + eps);  x ← x − lr·v"
    source: ClassVar[str] = "Tieleman, Hinton 2012; torch.optim.RMSprop"

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")
        bounds.decay_rate(self, "decay", "momentum")
        bounds.nonnegative(self, "eps", "initial")
        bounds.true_or_false(self, "eps_inside", "momentum_after_lr")

    @property
    def slots(self) -> tuple[str, ...]:
        """The mean square, and a velocity if there is momentum."""
        return ("mean_square", "velocity") if self.momentum else ("mean_square",)

    def initial_slot(self, name: str) -> float:
        return self.initial if name == "mean_square" else 0.0

    def _kernel(self):
        return kernels_adaptive.rmsprop_momentum if self.momentum else kernels_adaptive.rmsprop

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        rate = self.learning_rate(context)
        inside, outside = (self.eps, 0.0) if self.eps_inside else (0.0, self.eps)
        means = (self.decay, 1.0 - self.decay, inside, outside)
        if not self.momentum:
            return rows_of(steps, rate, *means)
        before, after = (rate, 1.0) if self.momentum_after_lr else (1.0, rate)
        return rows_of(steps, before, *means, self.momentum, after)
