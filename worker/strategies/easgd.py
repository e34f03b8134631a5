"""Elastic averaging: EASGD, synchronous and asynchronous, and EAMSGD (Zhang, Choromanska, LeCun 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ps import elastic
from ps.rules import MovingAverage
from ps.rules.base import UpdateRule
from worker.commands import ComputeGradient, Exchange, Pull, Push
from worker.replica import Replica
from worker.strategies.base import Steps, Strategy, Tables, require


@dataclass(frozen=True)
class EASGD(Strategy):
    """Elastic averaging SGD: replicas train on their own and are tied to the center by a spring.

    The local step is any rule in ``[local_rule]``; with Nesterov momentum ("nag", look-ahead form) it is EAMSGD.

    Args:
      tau: communication period, local steps between two exchanges, >= 1.
      beta: p times the moving rate; alpha = beta / p follows the number of replicas.
      alpha: the moving rate itself, 0 < alpha < 1; if given, ``beta`` is not used. Only with mode "asynchronous".
      mode: "asynchronous" (Algorithm 1) or "synchronous" (equations 5 and 6).

    References: Zhang, Choromanska, LeCun 2015, sections 2 and 3, Algorithms 1 and 2.
    """

    tau: int = 10
    beta: float = 0.9
    alpha: float | None = None
    mode: Literal["asynchronous", "synchronous"] = "asynchronous"

    name: ClassVar[str] = "easgd"
    own_rule: ClassVar[Tables | None] = {"name": "sgd", "lr": 0.05}
    source: ClassVar[str] = "Zhang, Choromanska, LeCun 2015"

    def __post_init__(self):
        require(self.tau >= 1, self, "tau", ">= 1 local step")
        require(0 < self.beta < 1, self, "beta", "> 0 and < 1")
        require(self.alpha is None or 0 < self.alpha < 1, self, "alpha", "> 0 and < 1", "leave it out for beta / p")
        alone = self.mode == "asynchronous"
        remedy = "set beta, the center's rate"
        require(self.alpha is None or alone, self, "alpha", 'left out in mode "synchronous"', remedy)

    @property
    def rounds(self) -> bool:  # type: ignore[override]
        return self.mode == "synchronous"

    @property
    def epoch_barrier(self) -> bool:  # type: ignore[override]
        return self.mode == "synchronous"

    def moving_rate(self, replica: Replica) -> float:
        """alpha, or beta / p."""
        return self.beta / replica.peers if self.alpha is None else self.alpha

    def step(self, replica: Replica) -> Steps:
        return self._step_alone(replica) if self.mode == "asynchronous" else self._step_together(replica)

    def _step_alone(self, replica: Replica) -> Steps:
        """Algorithms 1 and 2."""
        x = replica.parameters
        if replica.clock % self.tau == 0:
            x = replica.snapshot()  # line 1: the gradient is taken before the elastic step
            yield Exchange(self.moving_rate(replica))
        gradient = yield ComputeGradient(at=replica.gradient_point(x))
        replica.step_locally(gradient)

    def _step_together(self, replica: Replica) -> Steps:
        """Equations 5 and 6: both sides of the spring use the old values."""
        gradient = yield ComputeGradient(at=replica.gradient_point(replica.parameters))
        if replica.clock % self.tau != 0:
            replica.step_locally(gradient)
            return
        center = replica.buffer("center")
        yield Pull(into=center)
        old = replica.snapshot()
        yield Push(old, together=True)  # the shards' rule moves the center to the mean by beta
        replica.step_locally(gradient)
        elastic.attract(replica.parameters, old, center, self.moving_rate(replica))

    @property
    def vectors(self) -> int:
        return 1 if self.mode == "asynchronous" else 2  # a snapshot; the center as well

    def shard_rule(self, rule: UpdateRule | None) -> UpdateRule:
        """The center moves by beta towards the mean of the replicas (equation 6); asynchronous replicas never push."""
        return MovingAverage(weight=self.beta)

    @classmethod
    def resolve(cls, tables: Tables) -> Tables:
        tables = super().resolve(tables)
        if tables["local_rule"].get("name") == "nag":  # Algorithm 2 takes the gradient at x + δv
            tables["local_rule"] = {"form": "lookahead", **tables["local_rule"]}
        if tables["strategy"].get("mode", cls.mode) == "synchronous":
            tables["admission"] = {"policy": "synchronous", **(tables.get("admission") or {})}
        return tables


@dataclass(frozen=True)
class EAMSGD(EASGD):
    """Elastic averaging with Nesterov momentum: EASGD whose local rule is "nag" in its look-ahead form by default.

    Args:
      tau: communication period, local steps between two exchanges, >= 1.
      beta: p times the moving rate; alpha = beta / p follows the number of replicas.
      alpha: the moving rate itself, 0 < alpha < 1; if given, ``beta`` is not used. Only with mode "asynchronous".
      mode: "asynchronous" (Algorithm 2) or "synchronous".

    References: Zhang, Choromanska, LeCun 2015, section 3.2, Algorithm 2.
    """

    name: ClassVar[str] = "eamsgd"
    own_rule: ClassVar[Tables | None] = {"name": "nag", "lr": 0.01, "momentum": 0.9, "form": "lookahead"}
