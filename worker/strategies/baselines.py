"""The baselines: one process, and synchronous data parallelism."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from worker.commands import ComputeGradient, Pull, Push, Sweep
from worker.replica import Replica
from worker.strategies.base import Steps, Strategy, Tables


@dataclass(frozen=True)
class Sequential(Strategy):
    """One process: ``[data] batch_size`` = "all", 1 or n makes it batch, stochastic or mini-batch gradient descent.

    With a batch of 1, plain SGD and a task that has a compiled sweep, it is the serial version of Hogwild!.

    References: Ruder 2016, section 2.
    """

    name: ClassVar[str] = "sequential"
    server_rule: ClassVar[Tables | None] = {"name": "sgd", "lr": 0.1}
    epoch_barrier: ClassVar[bool] = True
    single: ClassVar[bool] = True
    keeps_parameters: ClassVar[bool] = False
    source: ClassVar[str] = "Ruder 2016, section 2"

    def step(self, replica: Replica) -> Steps:
        if replica.sweeps:
            yield Sweep()
            return
        yield Pull()
        gradient = yield ComputeGradient()
        yield Push(gradient)

    def may_sweep(self, batch_size: int | str) -> bool:
        return batch_size == 1


@dataclass(frozen=True)
class Synchronous(Strategy):
    """Synchronous SGD: every step is the mean of one gradient from each replica, all taken at the same center.

    p replicas with batches of b make the same step as one process with a batch of p·b. With ``[admission] policy = "backup"`` a
    step does not wait for the slowest.

    References: Chen et al. 2016, section 2.
    """

    name: ClassVar[str] = "synchronous"
    server_rule: ClassVar[Tables | None] = {"name": "sgd", "lr": 0.1}
    rounds: ClassVar[bool] = True
    epoch_barrier: ClassVar[bool] = True
    keeps_parameters: ClassVar[bool] = False
    source: ClassVar[str] = "Chen et al. 2016"

    def step(self, replica: Replica) -> Steps:
        yield Pull()
        gradient = yield ComputeGradient()
        yield Push(gradient, together=True)

    @classmethod
    def resolve(cls, tables: Tables) -> Tables:
        tables = super().resolve(tables)
        tables["admission"] = {"policy": "synchronous", **(tables.get("admission") or {})}
        return tables
