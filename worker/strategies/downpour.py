"""Downpour SGD in its two forms, and the variants of the EASGD paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ps.rules import AveragedCenter
from ps.rules.base import UpdateRule
from worker.commands import ComputeGradient, Pull, Push
from worker.replica import Replica
from worker.strategies.base import Steps, Strategy, Tables, require


@dataclass(frozen=True)
class Downpour(Strategy):
    """Downpour SGD: replicas push summed gradients, the server steps the center with a rule of its own.

    Args:
      n_fetch: local steps between two pulls, >= 1.
      n_push: local steps between two pushes, >= 1.
      push: "gradient" pushes the sum of raw gradients to the server's ``[rule]`` (Dean et al.); "update" pushes what the local
        rule has changed, and the server adds it (the DOWNPOUR of Zhang et al.; n_fetch = n_push is its tau).
      average: the result is an average of the center: "running" over all versions (ADOWNPOUR), "moving" with weight
        ``average_weight`` (MVADOWNPOUR), or "none". With one worker these are ASGD and MVASGD.
      average_weight: weight of the newest center in the moving average, 0 < w <= 1.
      warmstart: steps that one replica makes alone before the others are released, >= 0.

    References: Dean et al. 2012, Algorithm 7.1; Zhang, Choromanska, LeCun 2015, section 4 and supplement.
    """

    n_fetch: int = 1
    n_push: int = 1
    push: Literal["gradient", "update"] = "gradient"
    average: Literal["none", "running", "moving"] = "none"
    average_weight: float = 0.001
    warmstart: int = 0

    name: ClassVar[str] = "downpour"
    server_rule: ClassVar[Tables | None] = {"name": "adagrad", "lr": 0.01}
    own_rule: ClassVar[Tables | None] = {"name": "sgd", "lr": 0.01}
    source: ClassVar[str] = "Dean et al. 2012"

    def __post_init__(self):
        require(self.n_fetch >= 1, self, "n_fetch", ">= 1 local step")
        require(self.n_push >= 1, self, "n_push", ">= 1 local step")
        require(0 < self.average_weight <= 1, self, "average_weight", "> 0 and <= 1")
        require(self.warmstart >= 0, self, "warmstart", ">= 0 steps")

    def step(self, replica: Replica) -> Steps:
        return self._step_gradients(replica) if self.push == "gradient" else self._step_updates(replica)

    def _step_gradients(self, replica: Replica) -> Steps:
        """Dean et al., lines 3 to 8."""
        if replica.clock % self.n_fetch == 0:
            yield Pull(wait=False)
        gradient = yield ComputeGradient()
        if self.n_push == 1 and replica.accrued.count == 0 and isinstance(gradient, np.ndarray):
            replica.step_locally(gradient)
            yield Push(gradient, 1, wait=False)  # a sum of one needs no vectors to be summed in
            return
        replica.accrued.add(gradient)
        replica.step_locally(gradient)
        if replica.clock % self.n_push == 0:
            yield Push(*replica.accrued.take(), wait=False)

    def _step_updates(self, replica: Replica) -> Steps:
        """Zhang et al.: if tau divides t, x̃ += v, x = x̃, v = 0; then x -= ηg, v -= ηg."""
        if replica.clock % self.n_push == 0 and replica.accrued.count:
            yield Push(*replica.accrued.take())
        if replica.clock % self.n_fetch == 0:
            yield Pull()
        gradient = yield ComputeGradient()
        replica.step_and_accrue_update(gradient)

    def finish(self, replica: Replica) -> Steps:
        if replica.accrued.count:
            yield Push(*replica.accrued.take())

    def shard_rule(self, rule: UpdateRule | None) -> UpdateRule:
        rule = super().shard_rule(rule)
        if self.average == "none":
            return rule
        return AveragedCenter(rule, rate=None if self.average == "running" else self.average_weight)

    @property
    def accrues(self) -> bool:
        return self.n_push > 1 or self.push == "update"

    @property
    def evaluated_slot(self) -> str | None:
        return None if self.average == "none" else "average"

    @property
    def vectors(self) -> int:
        if self.push == "update":
            return 3  # the sum, what was pushed last, and the parameters before a step
        return 2 if self.n_push > 1 else 0

    @property
    def payload(self) -> str:
        return self.push

    @property
    def warmstart_steps(self) -> int:
        return self.warmstart

    @classmethod
    def resolve(cls, tables: Tables) -> Tables:
        tables = dict(tables)
        if tables["strategy"].get("push") == "update":
            tables["rule"] = {"name": "add", **(tables.get("rule") or {})}
        return super().resolve(tables)


@dataclass(frozen=True)
class MDownpour(Strategy):
    """MDOWNPOUR: every step pulls and pushes one gradient; momentum lives at the server.

    The server's rule is Nesterov momentum, v = δv + g and x̃ -= η(g + δv). The EASGD paper gives it in words; this form is
    derived from its momentum SGD, not copied from a formula there.

    References: Zhang, Choromanska, LeCun 2015, section 4 and supplement.
    """

    name: ClassVar[str] = "mdownpour"
    server_rule: ClassVar[Tables | None] = {"name": "nag", "lr": 0.01, "momentum": 0.9}
    keeps_parameters: ClassVar[bool] = False
    source: ClassVar[str] = "Zhang, Choromanska, LeCun 2015"

    def step(self, replica: Replica) -> Steps:
        yield Pull()
        gradient = yield ComputeGradient()
        yield Push(gradient)
