"""What a strategy may ask for. A driver performs it: on a link, in threads, or in virtual time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.gradients import Gradient


@dataclass(frozen=True, slots=True)
class Pull:
    """Copy the center into the replica's parameters.

    Attributes:
      wait: go on only when it has arrived. Otherwise it arrives later, between two steps.
      into: a vector (N,) to be filled instead of the replica's parameters; only with ``wait``.
    """

    wait: bool = True
    into: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class ComputeGradient:
    """Take the next minibatch and answer with its gradient.

    Attributes:
      at: the point (N,) to take it at; by default the replica's parameters.
    """

    at: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Push:
    """Send a gradient or an update to the shards, whose rule applies it.

    Attributes:
      payload: the values, which stay as they are for the rest of the step: a gradient just computed, or what
        ``replica.accrued.take()`` gave. A driver that carries them longer, because of ``wait``, copies them.
      count: number of gradients summed in it.
      wait: go on only when it has been applied.
      together: a synchronous step: go on when the mean of all replicas' contributions has been applied.
    """

    payload: Gradient
    count: int = 1
    wait: bool = True
    together: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """EASGD's atomic elastic step between the replica's parameters and the center.

    Attributes:
      alpha: moving rate, 0 < alpha < 1.
    """

    alpha: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """Run the task's compiled loop over the next examples, stepping the mapped center in place (Hogwild!)."""


Command = Pull | ComputeGradient | Push | Exchange | Sweep
