"""Schedules of the step size: each is a factor on the rule's lr, as a function of the step or of the epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ps.rules import bounds
from ps.rules.base import Context, replace_context, require

UNITS = ("step", "epoch")


class Schedule:
    """Base of all schedules.

    A shard counts steps in pushes, a replica in its own local steps; epochs are the run's.

    Class attributes:
      name: what a job calls it.
      unit: what the schedule counts: "step" or "epoch".
    """

    name: ClassVar[str] = ""
    unit: str = "epoch"

    def factor(self, context: Context) -> float:
        """Factor on the step size, >= 0."""
        raise NotImplementedError

    def elapsed(self, context: Context) -> int:
        """Steps or epochs finished before this application, from 0."""
        return context.step - 1 if self.unit == "step" else context.epoch

    def config(self) -> dict[str, Any]:
        """As it stands in a job."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        nested = {key: value.config() if isinstance(value, Schedule) else value for key, value in values.items()}
        return {"name": self.name} | {key: value for key, value in nested.items() if value is not None}


@dataclass(frozen=True)
class Constant(Schedule):
    """The step size stays as it is."""

    name: ClassVar[str] = "constant"

    def factor(self, context: Context) -> float:
        return 1.0


@dataclass(frozen=True)
class Decay(Schedule):
    """Factor betaᵏ after k epochs: Hogwild!'s γ ← βγ at the end of each epoch.

    Args:
      beta: factor per unit, in (0, 1].
      unit: "epoch" or "step".

    References: Niu, Recht, Ré, Wright 2011, section 7.
    """

    beta: float = 0.9
    unit: str = "epoch"
    name: ClassVar[str] = "decay"

    def __post_init__(self) -> None:
        bounds.positive(self, "beta")
        require(self.beta <= 1, self, "beta", "a number in (0, 1]", "the step size would grow without end")
        bounds.one_of(self, "unit", UNITS)

    def factor(self, context: Context) -> float:
        return self.beta ** self.elapsed(context)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiply by ``gamma`` after every ``every`` epochs (or steps), as ``torch.optim.lr_scheduler.StepLR``.

    Args:
      every: number of units between two drops, >= 1.
      gamma: factor of one drop, in (0, 1].
      unit: "epoch" or "step".
    """

    every: int = 10
    gamma: float = 0.1
    unit: str = "epoch"
    name: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        bounds.whole_number(self, "every")
        bounds.positive(self, "gamma")
        require(self.gamma <= 1, self, "gamma", "a number in (0, 1]", "the step size would grow without end")
        bounds.one_of(self, "unit", UNITS)

    def factor(self, context: Context) -> float:
        return self.gamma ** (self.elapsed(context) // self.every)


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """Factor 1/√t, t counting from 1: the rate of the classical proofs; constant for the first ``period`` units.

    Args:
      period: units after which the factor begins to fall, >= 1: the factor is 1/√max(1, t/period).
      unit: "step" or "epoch".
    """

    period: int = 1
    unit: str = "step"
    name: ClassVar[str] = "inverse_sqrt"

    def __post_init__(self) -> None:
        bounds.whole_number(self, "period")
        bounds.one_of(self, "unit", UNITS)

    def factor(self, context: Context) -> float:
        return 1.0 / math.sqrt(max(1.0, (self.elapsed(context) + 1) / self.period))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 down to ``final``, which then stays.

    Args:
      length: units until ``final`` is reached, >= 1.
      final: last factor, in [0, 1].
      unit: "epoch" or "step".

    References: Loshchilov, Hutter 2017 (SGDR, equation 5, without restarts).
    """

    length: int = 10
    final: float = 0.0
    unit: str = "epoch"
    name: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        bounds.whole_number(self, "length")
        bounds.fraction(self, "final")
        bounds.one_of(self, "unit", UNITS)

    def factor(self, context: Context) -> float:
        done = min(self.elapsed(context), self.length) / self.length
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Warmup(Schedule):
    """Linear warm-up: from ``start`` to 1 over ``length`` units, then another schedule from its beginning.

    The k-th unit (from 1) has the factor start + (1 − start)·k/length, so that no step is wasted on a rate of zero.

    Args:
      length: units of warm-up, >= 1.
      start: factor before the first unit, in [0, 1].
      unit: "step" or "epoch".
      then: the schedule afterwards; it counts its steps or epochs from the end of the warm-up if its unit is the
        same, else from the beginning of the run. Not given: constant.

    References: Goyal et al. 2017, section 2.2 (gradual warm-up).
    """

    length: int = 100
    start: float = 0.0
    unit: str = "step"
    then: Schedule | None = None
    name: ClassVar[str] = "warmup"

    def __post_init__(self) -> None:
        bounds.whole_number(self, "length")
        bounds.fraction(self, "start")
        bounds.one_of(self, "unit", UNITS)
        require(self.then is None or isinstance(self.then, Schedule), self, "then", "a schedule")

    def factor(self, context: Context) -> float:
        done = self.elapsed(context)
        if done < self.length:
            return self.start + (1.0 - self.start) * (done + 1) / self.length
        if self.then is None:
            return 1.0
        if self.unit == "step":
            return self.then.factor(replace_context(context, step=context.step - self.length))
        return self.then.factor(replace_context(context, epoch=context.epoch - self.length))


SCHEDULES: dict[str, type[Schedule]] = {
    schedule.name: schedule for schedule in (Constant, Decay, StepDecay, InverseSqrt, Cosine, Warmup)
}
