"""Gradient descent and its momenta: SGD, Momentum, NAG, AggMo, QHM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ps.rules import bounds, kernels
from ps.rules.base import Context, Slots, UpdateRule, require


def rows_of(steps: np.ndarray, *values: float | np.ndarray) -> np.ndarray:
    """Coefficients (len(steps), len(values)) in float64; a value is one number for all rows, or (len(steps),)."""
    table = np.empty((steps.size, len(values)))
    for column, value in enumerate(values):
        table[:, column] = value
    return table


@dataclass(frozen=True)
class SGD(UpdateRule):
    """Plain gradient descent: one step against the gradient.

    Equals ``torch.optim.SGD(lr)``. A push that sums several gradients takes the step of their sum.

    Args:
      lr: step size, > 0.

    References: Robbins, Monro 1951.
    """

    lr: float = 1e-3
    name: ClassVar[str] = "sgd"
    formula: ClassVar[str] = "x ← x − lr·g"
    source: ClassVar[str] = "Robbins, Monro 1951; torch.optim.SGD"
    kernel = kernels.sgd

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        return rows_of(steps, -self.learning_rate(context))


@dataclass(frozen=True)
class Momentum(UpdateRule):
    """Heavy-ball momentum: a decaying sum of gradients is the direction.

    ``form="torch"`` equals ``torch.optim.SGD(lr, momentum, dampening)``: the first velocity is the first gradient,
    undamped. The survey writes v ← γv + lr·g; x ← x − v (``form="survey"``), which differs when lr changes: the
    velocity then keeps the old rate.

    Args:
      lr: step size, > 0.
      momentum: factor that the velocity keeps, in [0, 1).
      dampening: part of each gradient but the first that the velocity does not take, in [0, 1].
      form: "torch" (rate applied after the velocity) or "survey" (rate inside the velocity).

    References: Polyak 1964; Ruder 2016, section 4.1.
    """

    lr: float = 1e-3
    momentum: float = 0.9
    dampening: float = 0.0
    form: str = "torch"
    name: ClassVar[str] = "momentum"
    slots: ClassVar[tuple[str, ...]] = ("velocity",)
    formula: ClassVar[str] = "v ← momentum·v + (1−dampening)·g (first v = g);  x ← x − lr·v"
    source: ClassVar[str] = "Polyak 1964; torch.optim.SGD; survey form: Ruder 2016, section 4.1"
    kernel = kernels.momentum

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")
        bounds.decay_rate(self, "momentum")
        bounds.fraction(self, "dampening")
        bounds.one_of(self, "form", ("torch", "survey"))

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        rate = self.learning_rate(context)
        take = np.where(steps == 1, 1.0, 1.0 - self.dampening)
        if self.form == "survey":
            return rows_of(steps, self.momentum, rate * take, -1.0)
        return rows_of(steps, self.momentum, take, -rate)


@dataclass(frozen=True)
class NAG(UpdateRule):
    """Nesterov's accelerated gradient: the gradient counts at the point that momentum leads to.

    ``form="torch"`` equals ``torch.optim.SGD(lr, momentum, nesterov=True)``: the vector that is stepped *is* the
    look-ahead point. ``form="lookahead"`` keeps the vector itself and asks for the gradient at x + momentum·v
    (``gradient_point``): v ← momentum·v − lr·g(x + momentum·v); x ← x + v, as EAMSGD and the survey (there v has the
    other sign) write it. The look-ahead points of the second form are the vectors of the first; hence the first on a
    server is MDOWNPOUR, whose master hands out x̃ + δv.

    Args:
      lr: step size, > 0.
      momentum: factor that the velocity keeps, in [0, 1).
      form: "torch" or "lookahead".

    References: Nesterov 1983; Sutskever et al. 2013; Zhang, Choromanska, LeCun 2015, equation 15.
    """

    lr: float = 1e-3
    momentum: float = 0.9
    form: str = "torch"
    name: ClassVar[str] = "nag"
    slots: ClassVar[tuple[str, ...]] = ("velocity",)
    formula: ClassVar[str] = (
        "torch: v ← momentum·v + g;  x ← x − lr·(g + momentum·v)   "
        "lookahead: v ← momentum·v − lr·g(x + momentum·v);  x ← x + v"
    )
    source: ClassVar[str] = "Nesterov 1983; torch.optim.SGD(nesterov=True); Zhang, Choromanska, LeCun 2015, Algorithm 2"

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")
        bounds.decay_rate(self, "momentum")
        bounds.one_of(self, "form", ("torch", "lookahead"))

    def _kernel(self):
        return kernels.momentum if self.form == "lookahead" else kernels.momentum_with_gradient

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        rate = self.learning_rate(context)
        if self.form == "lookahead":
            return rows_of(steps, self.momentum, -rate, 1.0)
        return rows_of(steps, self.momentum, 1.0, -rate, -rate * self.momentum)

    def gradient_point(self, parameters: np.ndarray, slots: Slots, out: np.ndarray) -> np.ndarray:
        """``parameters`` for the torch form; x + momentum·v in ``out`` (same shape) for the look-ahead form."""
        if self.form == "torch":
            return parameters
        np.multiply(slots["velocity"], self.momentum, out=out)
        out += parameters
        return out


@dataclass(frozen=True)
class AggMo(UpdateRule):
    """Aggregated momentum: the mean of several momenta, the slow ones passively damped by the fast ones.

    With one beta it is ``Momentum`` (torch form, no dampening).

    Args:
      lr: step size, > 0.
      betas: factor that each velocity keeps, each in [0, 1); one slot each.

    References: Lucas et al. 2019, "Aggregated Momentum", equation 2.
    """

    lr: float = 0.1
    betas: tuple[float, ...] = (0.0, 0.9, 0.99)
    name: ClassVar[str] = "aggmo"
    formula: ClassVar[str] = "v_k ← β_k·v_k + g for each k of K;  x ← x − lr/K·Σ v_k"
    source: ClassVar[str] = "Lucas et al. 2019"
    kernel = kernels.aggmo

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")
        given = self.betas if isinstance(self.betas, (tuple, list)) else ()
        valid = len(given) > 0 and all(bounds.is_number(beta) and 0 <= beta < 1 for beta in given)
        require(valid, self, "betas", "a list of numbers in [0, 1)", "the paper's are [0, 0.9, 0.99]")
        object.__setattr__(self, "betas", tuple(self.betas))

    @property
    def slots(self) -> tuple[str, ...]:
        """One velocity per beta."""
        return tuple(f"velocity_{k}" for k in range(len(self.betas)))

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        return rows_of(steps, -self.learning_rate(context) / len(self.betas), *self.betas)

    def _run(self, center, slots, rows, gradients, coefficients, remembered) -> None:
        kernels.aggmo(center, tuple(slots[name] for name in self.slots), rows, gradients, coefficients)


@dataclass(frozen=True)
class QHM(UpdateRule):
    """Quasi-hyperbolic momentum: a weighted mean of the gradient and its moving average.

    nu = 1 is momentum with dampening = beta (the first gradient damped as well), nu = 0 is SGD. Formula, nu and beta
    are stated from memory of the paper, not re-read in it; the two limits are tested.

    Args:
      lr: step size, > 0.
      nu: weight of the moving average against the gradient itself, in [0, 1].
      beta: factor that the moving average keeps, in [0, 1).

    References: Ma, Yarats 2019, "Quasi-hyperbolic momentum and Adam", section 3.
    """

    lr: float = 0.1
    nu: float = 0.7
    beta: float = 0.999
    name: ClassVar[str] = "qhm"
    slots: ClassVar[tuple[str, ...]] = ("mean",)
    formula: ClassVar[str] = "m ← beta·m + (1−beta)·g;  x ← x − lr·[(1−nu)·g + nu·m]"
    source: ClassVar[str] = "Ma, Yarats 2019"
    kernel = kernels.momentum_with_gradient

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")
        bounds.fraction(self, "nu")
        bounds.decay_rate(self, "beta")

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        rate = self.learning_rate(context)
        return rows_of(steps, self.beta, 1.0 - self.beta, -rate * (1.0 - self.nu), -rate * self.nu)
