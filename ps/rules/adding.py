"""Rules for what is no gradient: updates that the server only adds, and observations that it averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ps.rules import bounds, kernels
from ps.rules.base import Context, UpdateRule
from ps.rules.descent import rows_of


@dataclass(frozen=True)
class Add(UpdateRule):
    """The server only adds: what is pushed is an update, not a gradient.

    EASGD's paper defines its DOWNPOUR like this: replicas push the update that their local rule accumulated. Not for
    a replica's local rule: it would climb the gradient.

    Args:
      lr: factor on the pushed update, > 0; 1 adds it as it is.

    References: Zhang, Choromanska, LeCun 2015, Algorithm 3 (DOWNPOUR).
    """

    lr: float = 1.0
    name: ClassVar[str] = "add"
    pushes: ClassVar[str] = "update"
    formula: ClassVar[str] = "x ← x + lr·u"
    source: ClassVar[str] = "Zhang, Choromanska, LeCun 2015, Algorithm 3"
    kernel = kernels.sgd

    def __post_init__(self) -> None:
        bounds.positive(self, "lr")

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        return rows_of(steps, self.learning_rate(context))


@dataclass(frozen=True)
class MovingAverage(UpdateRule):
    """Exponential moving average of observed values, for parameters that are averaged and never stepped.

    A push holds the *sum* of ``context.count`` observations; it moves the center as ``count`` observations of their
    mean one after the other would. Schedules do not scale it. With count = 1 it is batch normalisation's running
    update in torch (``momentum=weight``).

    Args:
      weight: weight of one new observation against the average so far, in [0, 1].

    References: Ioffe, Szegedy 2015, section 3.1 (running statistics).
    """

    weight: float = 0.1
    name: ClassVar[str] = "moving_average"
    pushes: ClassVar[str] = "observation"
    formula: ClassVar[str] = "x ← x + (1 − (1−weight)^count)·(sum/count − x)"
    source: ClassVar[str] = "Ioffe, Szegedy 2015; torch.nn.BatchNorm1d"
    kernel = kernels.moving_average

    def __post_init__(self) -> None:
        bounds.fraction(self, "weight")

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        return rows_of(steps, 1.0 - (1.0 - self.weight) ** context.count, 1.0 / context.count)
