"""What a link is: a replica's view of all shards. Every transport keeps this contract (tests/ps/transport)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ps.layout import Layout
from ps.stepper import Payload

LATE = -2  # instead of a staleness: the contribution was dropped


class Link(Protocol):
    """Pull, push and exchange over all shards for one replica.

    Versions are int64 (S,), one per shard: one pull can see different versions on different shards. Who pushes says which
    versions its gradient was taken at; the answer is the staleness at each shard, int64 (S,), -1 where a shard had no part.

    Attributes:
      layout: of the whole vector.
      center: the whole center (N,) where it is mapped into this process, else None.
    """

    layout: Layout
    center: np.ndarray | None

    def pull(self, out: np.ndarray) -> np.ndarray:
        """Copy the center into ``out`` (N,); returns the versions read."""
        ...

    def push(
        self,
        payload: Payload,
        versions: np.ndarray,
        *,
        count: int = 1,
        gradient_norm: float | None = None,
        epoch: int = 0,
    ) -> np.ndarray:
        """Apply a gradient or an update, whichever the shards' rule takes; returns the staleness."""
        ...

    def push_together(self, payload: np.ndarray, versions: np.ndarray, *, epoch: int = 0) -> np.ndarray:
        """Contribute to a synchronous step and wait until it has been made with the mean of the contributions.

        With backup workers the answer is ``LATE`` for a shard that had made the step already and dropped this part of it. Then
        nothing is waited for, at no shard: replicas that waited here for one shard and there for another would lack at both.
        """
        ...

    def exchange(self, x: np.ndarray, alpha: float, versions: np.ndarray) -> np.ndarray:
        """The atomic elastic step of EASGD with ``x`` (N,), changed in place; returns the staleness.

        ``versions`` (those after the last exchange or pull) becomes, in place, those after this one.
        """
        ...

    def versions(self) -> np.ndarray:
        """Versions of all shards now."""
        ...

    def note_updates(self, count: int) -> int:
        """Count ``count`` updates made in place on a mapped center; returns shard 0's version before them."""
        ...
