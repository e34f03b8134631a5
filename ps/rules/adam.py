"""The Adam family: Adam, AdaMax, Nadam, AMSGrad, AdamW, QHAdam."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from ps.rules import bounds, kernels_adaptive
from ps.rules.base import Context, UpdateRule
from ps.rules.descent import rows_of

# Below this a product of momenta changes 1 − product no more, in float64.
NEGLIGIBLE = 1e-17


def bias(beta: float, steps: np.ndarray) -> np.ndarray:
    """1 − betaᵗ, the weight that a moving average started at zero has taken in after t steps."""
    return 1.0 - beta ** steps.astype(np.float64)


@dataclass(frozen=True)
class _Moments(UpdateRule):
    """What the family shares: hyper-parameters and the two moving averages."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    slots: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")
        bounds.decay_rate(self, "beta1", "beta2")
        bounds.nonnegative(self, "eps")

    def _averages(self) -> tuple[float, float, float, float]:
        return self.beta1, 1.0 - self.beta1, self.beta2, 1.0 - self.beta2


@dataclass(frozen=True)
class Adam(_Moments):
    """Momentum and RMSprop with both averages corrected for their start at zero.

    Equals ``torch.optim.Adam(lr, (beta1, beta2), eps)``, optax's and the survey's.

    Args:
      lr: step size, > 0.
      beta1: factor that the mean gradient keeps, in [0, 1).
      beta2: factor that the mean square keeps, in [0, 1).
      eps: added to the denominator, >= 0; with 0 a coordinate that never had a gradient does not move.

    References: Kingma, Ba 2015, Algorithm 1.
    """

    name: ClassVar[str] = "adam"
    formula: ClassVar[str] = (
        "m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  x ← x − lr·m̂/(√v̂ + eps), m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ)"
    )
    source: ClassVar[str] = "Kingma, Ba 2015, Algorithm 1; torch.optim.Adam"
    kernel = kernels_adaptive.adam

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        rate = self.learning_rate(context)
        first, second = rate / bias(self.beta1, steps), 1.0 / bias(self.beta2, steps)
        return rows_of(steps, *self._averages(), first, 0.0, second, self.eps, 0.0)


@dataclass(frozen=True)
class AdamW(_Moments):
    """Adam with weight decay beside the step instead of inside the gradient.

    Equals ``torch.optim.AdamW``: x shrinks by lr·weight_decay, schedules included. optax's default weight_decay is
    1e-4.

    Args:
      lr: step size, > 0.
      beta1: factor that the mean gradient keeps, in [0, 1).
      beta2: factor that the mean square keeps, in [0, 1).
      eps: added to the denominator, >= 0.
      weight_decay: part of x, times lr, that each step takes away, >= 0.

    References: Loshchilov, Hutter 2019, Algorithm 2.
    """

    weight_decay: float = 0.01
    name: ClassVar[str] = "adamw"
    formula: ClassVar[str] = "x ← (1 − lr·weight_decay)·x − lr·m̂/(√v̂ + eps), m̂ and v̂ as Adam's"
    source: ClassVar[str] = "Loshchilov, Hutter 2019, Algorithm 2; torch.optim.AdamW"
    kernel = kernels_adaptive.adam

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds.nonnegative(self, "weight_decay")

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        rate = self.learning_rate(context)
        first, second = rate / bias(self.beta1, steps), 1.0 / bias(self.beta2, steps)
        return rows_of(steps, *self._averages(), first, 0.0, second, self.eps, rate * self.weight_decay)


@dataclass(frozen=True)
class AdaMax(_Moments):
    """Adam with the largest past gradient in place of the root mean square.

    Equals ``torch.optim.Adamax``; with ``eps=0`` it is the paper's and the survey's.

    Args:
      lr: step size, > 0.
      beta1: factor that the mean gradient keeps, in [0, 1).
      beta2: factor that the largest size keeps, in [0, 1).
      eps: added to each gradient's size, >= 0; with 0 a coordinate that never had a gradient does not move.

    References: Kingma, Ba 2015, Algorithm 2.
    """

    lr: float = 2e-3
    name: ClassVar[str] = "adamax"
    slots: ClassVar[tuple[str, ...]] = ("first_moment", "largest")
    formula: ClassVar[str] = "m ← β₁m + (1−β₁)g;  u ← max(β₂u, |g| + eps);  x ← x − lr/(1−β₁ᵗ)·m/u"
    source: ClassVar[str] = "Kingma, Ba 2015, Algorithm 2; torch.optim.Adamax"
    kernel = kernels_adaptive.adamax

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        first = self.learning_rate(context) / bias(self.beta1, steps)
        return rows_of(steps, self.beta1, 1.0 - self.beta1, self.beta2, first, self.eps)


@dataclass(frozen=True)
class Nadam(_Moments):
    """Adam with Nesterov's look-ahead in its first moment.

    Three forms of the numerator are in use (t counts from 1):

    - "torch": μ_{t+1}·m/(1 − Π_{i≤t+1} μ_i) + (1−μ_t)·g/(1 − Π_{i≤t} μ_i) with
      μ_t = β₁(1 − ½·0.96^{t·momentum_decay}), as ``torch.optim.NAdam`` and Dozat's report;
    - "optax": β₁·m/(1−β₁^{t+1}) + (1−β₁)·g/(1−β₁ᵗ), as ``optax.nadam``;
    - "survey": β₁·m/(1−β₁ᵗ) + (1−β₁)·g/(1−β₁ᵗ), as Ruder 2016, section 4.8.

    Args:
      lr: step size, > 0.
      beta1: factor that the mean gradient keeps, in [0, 1).
      beta2: factor that the mean square keeps, in [0, 1).
      eps: added to the denominator, >= 0.
      momentum_decay: how fast μ_t rises to β₁, >= 0; the torch form only.
      form: "torch", "optax" or "survey".

    References: Dozat 2016; Ruder 2016, section 4.8.
    """

    lr: float = 2e-3
    momentum_decay: float = 4e-3
    form: str = "torch"
    name: ClassVar[str] = "nadam"
    formula: ClassVar[str] = "x ← x − lr·(a_t·m + b_t·g)/(√v̂ + eps), m and v̂ as Adam's, a_t and b_t by form"
    source: ClassVar[str] = "Dozat 2016; torch.optim.NAdam; Ruder 2016, section 4.8"
    kernel = kernels_adaptive.adam

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds.nonnegative(self, "momentum_decay")
        bounds.one_of(self, "form", ("torch", "optax", "survey"))

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        rate, second = self.learning_rate(context), 1.0 / bias(self.beta2, steps)
        on_mean, on_gradient = self._numerator(steps)
        return rows_of(steps, *self._averages(), rate * on_mean, rate * on_gradient, second, self.eps, 0.0)

    def _numerator(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights of m and of g for each step count."""
        if self.form == "torch":
            now, following = self._mu(steps), self._mu(steps + 1)
            through_now, through_following = self._product(steps), self._product(steps + 1)
            return following / (1.0 - through_following), (1.0 - now) / (1.0 - through_now)
        ahead = steps + 1 if self.form == "optax" else steps
        return self.beta1 / bias(self.beta1, ahead), (1.0 - self.beta1) / bias(self.beta1, steps)

    def _mu(self, steps: np.ndarray) -> np.ndarray:
        return momenta(self.beta1, self.momentum_decay, steps)

    def _product(self, steps: np.ndarray) -> np.ndarray:
        """Π_{i≤t} μ_i for each t; a table is kept until the product is negligible."""
        length = 1 << int(steps.max()).bit_length() if steps.size else 1
        table = momentum_products(self.beta1, self.momentum_decay, length)
        return table[np.minimum(steps, table.size - 1)]


def momenta(beta1: float, decay: float, steps: np.ndarray) -> np.ndarray:
    """μ_t = β₁(1 − ½·0.96^{t·decay}), Dozat's warming schedule of the momentum."""
    return beta1 * (1.0 - 0.5 * 0.96 ** (steps * decay))


@lru_cache(maxsize=64)
def momentum_products(beta1: float, decay: float, length: int) -> np.ndarray:
    """Π_{i≤t} μ_i for t = 0 … length − 1, cut after the first value that is negligible (later ones are so too)."""
    if length > 1024:
        shorter = momentum_products(beta1, decay, length // 2)
        if shorter[-1] < NEGLIGIBLE:
            return shorter
    factors = momenta(beta1, decay, np.arange(length))
    factors[0] = 1.0
    products = np.cumprod(factors)
    products = products[: int(np.count_nonzero(products >= NEGLIGIBLE)) + 1]
    products.setflags(write=False)
    return products


@dataclass(frozen=True)
class AMSGrad(_Moments):
    """Adam whose denominator never falls.

    Three forms are in use: "torch" keeps the maximum of the raw v and corrects it
    (``torch.optim.Adam(amsgrad=True)``); "optax" keeps the maximum of the corrected v̂ (``optax.amsgrad``); "survey"
    corrects nothing (the paper, and Ruder 2016).

    Args:
      lr: step size, > 0.
      beta1: factor that the mean gradient keeps, in [0, 1).
      beta2: factor that the mean square keeps, in [0, 1).
      eps: added to the denominator, >= 0.
      form: "torch", "optax" or "survey".

    References: Reddi, Kale, Kumar 2018, Algorithm 2.
    """

    form: str = "torch"
    name: ClassVar[str] = "amsgrad"
    slots: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment", "largest")
    formula: ClassVar[str] = "torch: w ← max(w, v);  x ← x − lr·m̂/(√(w/(1−β₂ᵗ)) + eps), m̂ and v as Adam's"
    source: ClassVar[str] = "Reddi, Kale, Kumar 2018; torch.optim.Adam(amsgrad=True)"
    kernel = kernels_adaptive.amsgrad

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds.one_of(self, "form", ("torch", "optax", "survey"))

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        rate, one = self.learning_rate(context), np.ones(steps.size)
        first, second = rate / bias(self.beta1, steps), 1.0 / bias(self.beta2, steps)
        by_form = {"torch": (first, one, second), "optax": (first, second, one), "survey": (rate, one, one)}
        return rows_of(steps, *self._averages(), *by_form[self.form], self.eps)


@dataclass(frozen=True)
class QHAdam(_Moments):
    """Adam with quasi-hyperbolic averages: each moving average is mixed with its newest value.

    nu1 = nu2 = 1 is Adam. Defaults are those of the authors' package, from memory (not re-read).

    Args:
      lr: step size, > 0.
      beta1: factor that the mean gradient keeps, in [0, 1).
      beta2: factor that the mean square keeps, in [0, 1).
      eps: added to the denominator, >= 0.
      nu1: weight of the mean gradient against the gradient itself, in [0, 1].
      nu2: weight of the mean square against the square itself, in [0, 1].

    References: Ma, Yarats 2019, section 4.
    """

    beta1: float = 0.995
    nu1: float = 0.7
    nu2: float = 1.0
    name: ClassVar[str] = "qhadam"
    formula: ClassVar[str] = "x ← x − lr·[(1−nu1)·g + nu1·m̂]/(√((1−nu2)·g² + nu2·v̂) + eps), m̂ and v̂ as Adam's"
    source: ClassVar[str] = "Ma, Yarats 2019, section 4"
    kernel = kernels_adaptive.qhadam

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds.fraction(self, "nu1", "nu2")

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        rate = self.learning_rate(context)
        first, second = rate * self.nu1 / bias(self.beta1, steps), self.nu2 / bias(self.beta2, steps)
        on_gradient = rate * (1.0 - self.nu1)
        return rows_of(steps, *self._averages(), first, on_gradient, second, 1.0 - self.nu2, self.eps)
