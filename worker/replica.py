"""A replica: its own copy of the parameters and all that it must carry from one step to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ps.layout import Layout
from ps.rules import Add
from ps.rules.base import UpdateRule
from worker.gradients import Accrual, Gradient, LocalStep


@dataclass
class Replica:
    """State of one replica; a strategy reads and changes it between its commands.

    Attributes:
      layout: of the parameters.
      id: 0 <= id < number of replicas.
      peers: number of replicas p of the job now, >= 1; EASGD's alpha = beta / p follows it.
      incarnation: counts the processes that have been this replica, from 1.
      local_rule: steps the replica's own parameters; None for strategies without local steps.
      averaging: weight of one new observation of an averaged parameter.
      seed: of the job; with ``id`` it makes ``rng``.
      sweeps: the task's compiled loop may step the center in place.
      clock: steps finished.
      epoch: of the examples at hand, 0-based.
      parameters: (N,).
      versions: int64 (S,), of each shard when the parameters were last read from it; kept by the driver.
      accrued: gradients or updates since the last push.
      scratch: (N,), for a look-ahead or a snapshot within one step; not kept between steps.
    """

    layout: Layout
    id: int = 0
    peers: int = 1
    incarnation: int = 1
    local_rule: UpdateRule | None = None
    averaging: float = 0.1
    seed: int = 0
    sweeps: bool = False
    clock: int = 0
    epoch: int = 0
    versions: np.ndarray = field(init=False, repr=False, default_factory=lambda: np.zeros(0, np.int64))
    _buffers: dict[str, np.ndarray] = field(init=False, repr=False, default_factory=dict)

    # Made when first asked for: of thousands of simulated replicas most never need them all at once.

    @cached_property
    def parameters(self) -> np.ndarray:
        """(N,), zeros at first."""
        return np.zeros(self.layout.size, self.layout.dtype)

    @cached_property
    def accrued(self) -> Accrual:
        """Nothing at first."""
        return Accrual(self.layout)

    @cached_property
    def local(self) -> LocalStep:
        """The local rule at work, with its slots."""
        return LocalStep(self.layout, self.local_rule or Add(), self.averaging, self.seed)

    @cached_property
    def rng(self) -> np.random.Generator:
        """Of this replica alone."""
        return np.random.default_rng([self.seed, self.id, self.incarnation])

    def buffer(self, name: str) -> np.ndarray:
        """A vector (N,) for use within one step; the same one for the same name."""
        if name not in self._buffers:
            self._buffers[name] = np.zeros(self.layout.size, self.layout.dtype)
        return self._buffers[name]

    def snapshot(self) -> np.ndarray:
        """The parameters as they are now, in a buffer that the next snapshot overwrites."""
        copy = self.buffer("snapshot")
        np.copyto(copy, self.parameters)
        return copy

    def gradient_point(self, parameters: np.ndarray) -> np.ndarray:
        """Where the local rule wants the gradient taken, seen from ``parameters`` (N,): there, or at a look-ahead."""
        return self.local.rule.gradient_point(parameters, self.local.slots, self.buffer("look-ahead"))

    def step_locally(self, gradient: Gradient) -> None:
        """One step of the local rule."""
        self.local.apply(self.parameters, gradient, self.epoch)

    def step_and_accrue_update(self, gradient: Gradient) -> None:
        """One step of the local rule, whose change is added to ``accrued``."""
        before = self.snapshot()
        self.step_locally(gradient)
        self.accrued.add_change(before, self.parameters, gradient)

    # -- checkpoint ---------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """What must be saved at a step boundary to go on as if nothing had happened, with ``scalars``."""
        arrays = {"parameters": self.parameters, "accrued": self.accrued.sum}
        arrays |= {f"slot.{name}": slot for name, slot in self.local.slots.items()}
        arrays |= {f"row_steps.{name}": steps for name, steps in self.local.row_steps.items()}
        for name, rows in self.accrued.touched_rows().items():
            arrays[f"touched.{name}"] = rows
        return arrays

    def scalars(self) -> dict[str, object]:
        """Plain values that belong to ``arrays``."""
        return {
            "clock": self.clock,
            "epoch": self.epoch,
            "versions": self.versions.tolist(),
            "local_steps": self.local.steps,
            "accrued_count": self.accrued.count,
            "accrued_dense": sorted(self.accrued.dense),
            "rng": self.rng.bit_generator.state,
        }

    def restore(self, arrays: dict[str, np.ndarray], scalars: dict) -> None:
        """Take over what ``arrays`` and ``scalars`` gave."""
        np.copyto(self.parameters, arrays["parameters"])
        if int(scalars["accrued_count"]):  # else it is zero as it was made, and none of its pages need be written
            np.copyto(self.accrued.sum, arrays["accrued"])
        for name, slot in self.local.slots.items():
            np.copyto(slot, arrays[f"slot.{name}"])
        for name, steps in self.local.row_steps.items():
            np.copyto(steps, arrays[f"row_steps.{name}"])
        touched = {name.removeprefix("touched."): rows for name, rows in arrays.items() if name.startswith("touched.")}
        self.accrued.restore(int(scalars["accrued_count"]), scalars["accrued_dense"], touched)
        self.clock, self.epoch = int(scalars["clock"]), int(scalars["epoch"])
        self.versions = np.array(scalars["versions"], dtype=np.int64)
        self.local.steps = int(scalars["local_steps"])
        self.rng.bit_generator.state = scalars["rng"]
