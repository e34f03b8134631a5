"""What a port is: one shard as a link sees it, in this process's reach (``ps.shard.Shard``) or over gRPC (``RemoteShard``)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ps.layout import Range
from ps.shard import Applied, Stamp
from ps.stepper import Payload


class Port(Protocol):
    """Pull, push and exchange at one shard. ``ps.shard.Shard`` says what each does.

    Attributes:
      index: of the shard, from 0.
      range: its part of the flat vector.
    """

    index: int
    range: Range

    @property
    def version(self) -> int:
        """Pushes and exchanges applied so far."""
        ...

    @property
    def rounds(self) -> int:
        """Synchronous steps made so far."""
        ...

    def pull(self, out: np.ndarray, reader: int | None = None, consistent: bool = False) -> int:
        """Copy the shard's part of the center into ``out`` (n,); returns its version."""
        ...

    def push(
        self,
        payload: Payload,
        stamp: Stamp,
        *,
        version: int,
        count: int = 1,
        gradient_norm: float | None = None,
        epoch: int = 0,
    ) -> Applied:
        """Apply one push; ``payload`` is this shard's part, as ``ps.stepper.split_payload`` gives it."""
        ...

    def exchange(self, x: np.ndarray, alpha: float, stamp: Stamp, *, version: int) -> Applied:
        """The elastic step between ``x`` (n,), changed in place, and the center."""
        ...

    def contribute(
        self, payload: np.ndarray, stamp: Stamp, *, version: int, epoch: int = 0, number: int = 0
    ) -> Applied:
        """Lay down a part of a synchronous step; it has been made once ``rounds`` has reached the answer's ``round``."""
        ...

    def note_updates(self, count: int) -> int:
        """Count updates made in place; returns the version before them."""
        ...
