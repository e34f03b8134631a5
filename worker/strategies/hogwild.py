"""Hogwild! and the schemes it was compared with (Niu, Recht, Ré, Wright 2011)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from worker.commands import ComputeGradient, Pull, Push, Sweep
from worker.replica import Replica
from worker.strategies.base import Steps, Strategy, Tables, require


@dataclass(frozen=True)
class Hogwild(Strategy):
    """Hogwild!: replicas step the shared parameters in place, without locks.

    Where the task has a compiled sweep and the rule is plain SGD, each example touches only its own coordinates; otherwise a step
    is pull, gradient and a push that the shards apply lock-free. The step size is constant within an epoch and is multiplied by
    ``backoff`` at its end (unless ``[rule]`` has a schedule of its own). ``[data] replacement = true`` draws with replacement.

    Args:
      locking: "none" is Hogwild!; "per_variable" locks all variables of an example (the paper's AIG), "round_robin" lets replicas
        update in turn (RR), "global" is one lock.
      backoff: factor on the step size after each epoch, 0 < backoff <= 1.
      between_nodes: on a cluster: "none" keeps all workers beside the center; "easgd" makes a group of the workers of each node,
        which step a center of their own, and averages the groups elastically.
      tau: of such a group: its examples between two exchanges, >= 1.
      beta: of such a group: alpha = beta / groups, 0 < beta < 1.

    References: Niu et al. 2011, Algorithm 1, sections 2 and 5; between nodes Zhang, Choromanska, LeCun 2015, Algorithm 1.
    """

    locking: Literal["none", "per_variable", "round_robin", "global"] = "none"
    backoff: float = 0.9
    between_nodes: Literal["none", "easgd"] = "none"
    tau: int = 1_000
    beta: float = 0.9

    name: ClassVar[str] = "hogwild"
    server_rule: ClassVar[Tables | None] = {"name": "sgd", "lr": 0.1}
    epoch_barrier: ClassVar[bool] = True
    keeps_parameters: ClassVar[bool] = False
    source: ClassVar[str] = "Niu, Recht, Ré, Wright 2011"

    def __post_init__(self):
        require(0 < self.backoff <= 1, self, "backoff", "> 0 and <= 1")
        require(self.tau >= 1, self, "tau", ">= 1 example")
        require(0 < self.beta < 1, self, "beta", "> 0 and < 1")

    def step(self, replica: Replica) -> Steps:
        if replica.sweeps:
            yield Sweep()  # lines 1 to 3 for many examples
            return
        yield Pull()
        gradient = yield ComputeGradient()
        yield Push(gradient)

    def may_sweep(self, batch_size: int | str) -> bool:
        return True

    def check(self, sweeps: bool) -> None:
        inside = self.locking in ("per_variable", "round_robin")
        require(
            sweeps or not inside,
            self,
            "locking",
            '"none" or "global" for a task without a compiled sweep or a rule other than plain sgd',
            "the other two lock inside the sweep",
        )

    @classmethod
    def resolve(cls, tables: Tables) -> Tables:
        tables = super().resolve(tables)
        backoff = tables["strategy"].get("backoff", cls.backoff)
        if backoff != 1 and "schedule" not in tables["rule"]:
            tables["rule"] = {**tables["rule"], "schedule": {"name": "decay", "beta": backoff}}
        lock_free = tables["strategy"].get("locking", cls.locking) == "none"
        tables["shards"] = {"apply": "lock_free" if lock_free else "locked", **(tables.get("shards") or {})}
        return tables
