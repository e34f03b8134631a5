"""Wrappers that compose with any rule: schedules, decoupled weight decay, averages of the center.

A wrapper is a rule with a rule inside. Those that change the gradient are in ``ps.rules.transforms``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ps.rules import bounds, kernels_transform
from ps.rules.base import ROW_ZERO, Context, Slots, UpdateRule, check_arrays, check_rows, replace_context, require
from ps.rules.schedules import Schedule


@dataclass(frozen=True)
class Wrapper(UpdateRule):
    """Base of all wrappers: everything that it does not change is the inner rule's."""

    rule: UpdateRule

    def __post_init__(self) -> None:
        require(isinstance(self.rule, UpdateRule), self, "rule", "an update rule")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The inner rule's name."""
        return self.rule.name

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        """The inner rule's slots."""
        return self.rule.slots

    @property
    def remembers(self) -> str | None:  # type: ignore[override]
        """What the inner rule wants remembered."""
        return self.rule.remembers

    @property
    def pushes(self) -> str:  # type: ignore[override]
        """What the inner rule wants pushed."""
        return self.rule.pushes

    @property
    def formula(self) -> str:  # type: ignore[override]
        """The inner rule's formula."""
        return self.rule.formula

    @property
    def source(self) -> str:  # type: ignore[override]
        """The inner rule's source."""
        return self.rule.source

    @property
    def local_only(self) -> bool:  # type: ignore[override]
        """The inner rule is."""
        return self.rule.local_only

    @property
    def dense_only(self) -> bool:  # type: ignore[override]
        """The inner rule is."""
        return self.rule.dense_only

    @property
    def isolated(self) -> bool:  # type: ignore[override]
        """The inner rule is."""
        return self.rule.isolated

    def before_forking(self) -> None:
        self.rule.before_forking()

    def initial_slot(self, name: str) -> float:
        return self.rule.initial_slot(name)

    def initialise(self, center: np.ndarray, slots: Slots) -> None:
        self.rule.initialise(center, slots)

    def learning_rate(self, context: Context) -> float:
        return self.rule.learning_rate(context)

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        return self.rule.coefficients(steps, context)

    def gradient_point(self, parameters: np.ndarray, slots: Slots, out: np.ndarray) -> np.ndarray:
        return self.rule.gradient_point(parameters, slots, out)

    def config(self) -> dict[str, Any]:
        return self.rule.config() | self.own_config()

    def own_config(self) -> dict[str, Any]:
        """This wrapper's key and value in a job."""
        raise NotImplementedError

    def apply(self, center: np.ndarray, slots: Slots, gradient: np.ndarray, context: Context) -> None:
        raise NotImplementedError

    def apply_rows(
        self, center: np.ndarray, slots: Slots, rows: np.ndarray, gradients: np.ndarray, context: Context
    ) -> None:
        raise NotImplementedError


def chain(rule: UpdateRule) -> list[UpdateRule]:
    """The rule and all rules inside it, the outermost first."""
    rules = [rule]
    while isinstance(rules[-1], Wrapper):
        rules.append(rules[-1].rule)
    return rules


def scalar(value: float, like: np.ndarray) -> np.ndarray:
    """A number as the kernels take it: (1,) of the dtype of ``like``."""
    return np.array([value], dtype=like.dtype)


@dataclass(frozen=True)
class Scheduled(Wrapper):
    """The step size follows a schedule.

    Args:
      rule: the rule inside.
      schedule: factor on its step size.
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        super().__post_init__()
        require(isinstance(self.schedule, Schedule), self, "schedule", "a schedule")

    def own_config(self) -> dict[str, Any]:
        return {"schedule": self.schedule.config()}

    def _scaled(self, context: Context) -> Context:
        return replace_context(context, lr_scale=context.lr_scale * self.schedule.factor(context))

    def learning_rate(self, context: Context) -> float:
        return self.rule.learning_rate(self._scaled(context))

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        return self.rule.coefficients(steps, self._scaled(context))

    def apply(self, center: np.ndarray, slots: Slots, gradient: np.ndarray, context: Context) -> None:
        self.rule.apply(center, slots, gradient, self._scaled(context))

    def apply_rows(
        self, center: np.ndarray, slots: Slots, rows: np.ndarray, gradients: np.ndarray, context: Context
    ) -> None:
        self.rule.apply_rows(center, slots, rows, gradients, self._scaled(context))


@dataclass(frozen=True)
class DecoupledWeightDecay(Wrapper):
    """The center shrinks by lr·decay before each step, beside the rule (AdamW's decay, for any rule).

    Of a table only the rows that a push holds shrink, once per occurrence.

    Args:
      rule: the rule inside; its step size, schedules included, scales the decay.
      decay: >= 0.

    References: Loshchilov, Hutter 2019, Algorithms 1 and 2.
    """

    decay: float

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds.nonnegative(self, "decay")

    def own_config(self) -> dict[str, Any]:
        return {"decoupled_weight_decay": self.decay}

    def _shrink(self, center: np.ndarray, rows: np.ndarray, context: Context) -> None:
        kernels_transform.shrink(center, rows, scalar(self.rule.learning_rate(context) * self.decay, center))

    def apply(self, center: np.ndarray, slots: Slots, gradient: np.ndarray, context: Context) -> None:
        check_arrays(self, center, gradient)
        self._shrink(center.reshape(1, -1), ROW_ZERO, context)
        self.rule.apply(center, slots, gradient, context)

    def apply_rows(
        self, center: np.ndarray, slots: Slots, rows: np.ndarray, gradients: np.ndarray, context: Context
    ) -> None:
        check_rows(self, center, rows, gradients)
        self._shrink(center, rows, context)
        self.rule.apply_rows(center, slots, rows, gradients, context)


@dataclass(frozen=True)
class AveragedCenter(Wrapper):
    """Keeps an average of the center in one more slot, ``average``: z ← (1 − α)·z + α·x after each application.

    ``rate=None`` is ADOWNPOUR's (and ASGD's) running average, α = 1/(t+1) after the t-th step: the mean of the
    initial value and of all that followed. A constant rate is MVADOWNPOUR's (and MVASGD's). ``initialise`` starts the
    average at the center; without it, a vector's average starts at the center before step 1. Of a table only the rows
    that a push holds are averaged, over their own updates (``context.row_steps``).

    Args:
      rule: the rule inside.
      rate: None for the running average, else the constant α in (0, 1]; the paper's is 0.001.

    References: Polyak, Juditsky 1992; Zhang, Choromanska, LeCun 2015, section 5 (ADOWNPOUR, MVADOWNPOUR).
    """

    rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate is not None:
            bounds.positive(self, "rate")
            bounds.fraction(self, "rate")

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        """The inner rule's slots and ``average``."""
        return (*self.rule.slots, "average")

    def initial_slot(self, name: str) -> float:
        return 0.0 if name == "average" else self.rule.initial_slot(name)

    def initialise(self, center: np.ndarray, slots: Slots) -> None:
        self.rule.initialise(center, slots)
        slots["average"][...] = center

    def own_config(self) -> dict[str, Any]:
        """Nothing: an average is asked for by a strategy, not by the rule's section of a job."""
        return {}

    def _weights(self, steps: np.ndarray, center: np.ndarray) -> np.ndarray:
        weights = 1.0 / (steps + 1.0) if self.rate is None else np.full(steps.size, self.rate)
        return weights.astype(center.dtype).reshape(-1, 1)

    def apply(self, center: np.ndarray, slots: Slots, gradient: np.ndarray, context: Context) -> None:
        check_arrays(self, center, gradient)
        if context.step == 1:
            slots["average"][...] = center
        self.rule.apply(center, slots, gradient, context)
        weights = self._weights(np.array([context.step]), center)
        kernels_transform.average(center.reshape(1, -1), slots["average"].reshape(1, -1), ROW_ZERO, weights)

    def apply_rows(
        self, center: np.ndarray, slots: Slots, rows: np.ndarray, gradients: np.ndarray, context: Context
    ) -> None:
        self.rule.apply_rows(center, slots, rows, gradients, context)
        steps = np.full(rows.size, context.step) if context.row_steps is None else context.row_steps[rows]
        kernels_transform.average(center, slots["average"], rows, self._weights(steps, center))
