"""The port to a shard whose owner is another process of this host: its memory is mapped, updates are applied in place."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from typing import Any

import numpy as np

from ps.errors import TransportError
from ps.host import Place, ShardPlan
from ps.locks import LockFile
from ps.segment import SharedArrays, start_time
from ps.shard import Applied, Stamp
from ps.stepper import Payload


class OwnerGone(TransportError):
    """The owner of a mapped shard is dead: what is still mapped is nobody's memory any more."""


class MappedShard:
    """Keeps ``ps.transport.port.Port`` over another process's memory, for as long as that process lives.

    Args:
      plan: which shard. place: where it lies on this host.

    Raises:
      TransportError: it is not there.
    """

    transport = "shared memory"

    def __init__(self, plan: ShardPlan, place: Place):
        self._owner = _open_owner(place, plan.index)
        try:
            self.arrays: Mapping[str, np.ndarray] = SharedArrays.attach(place.segment)
            self._locks = LockFile.attach(place.locks)
        except BaseException:
            os.close(self._owner)
            raise
        self._poll = select.poll()
        self._poll.register(self._owner, select.POLLIN)
        self.shard = plan.build(self.arrays, self._locks.lock(0))
        self.index, self.range = self.shard.index, self.shard.range

    @property
    def version(self) -> int:
        """See ``Port``."""
        self._check()
        return self.shard.version

    @property
    def rounds(self) -> int:
        """See ``Port``."""
        self._check()
        return self.shard.rounds

    @property
    def center(self) -> np.ndarray:
        """The shard's part of the center (n,), in place."""
        return self.shard.center

    def pull(self, out: np.ndarray, reader: int | None = None, consistent: bool = False) -> int:
        """See ``Port``."""
        self._check()
        return self.shard.pull(out, reader, consistent)

    def push(self, payload: Payload, stamp: Stamp, **facts: Any) -> Applied:
        """See ``Port``."""
        self._check()
        return self.shard.push(payload, stamp, **facts)

    def exchange(self, x: np.ndarray, alpha: float, stamp: Stamp, *, version: int) -> Applied:
        """See ``Port``."""
        self._check()
        return self.shard.exchange(x, alpha, stamp, version=version)

    def contribute(self, payload: np.ndarray, stamp: Stamp, **facts: Any) -> Applied:
        """See ``Port``."""
        self._check()
        return self.shard.contribute(payload, stamp, **facts)

    def note_updates(self, count: int) -> int:
        """See ``Port``."""
        self._check()
        return self.shard.note_updates(count)

    def close(self) -> None:
        """Let go of the files; the memory goes with the last array that is held."""
        os.close(self._owner)
        self._locks.close()

    def _check(self) -> None:
        if self._poll.poll(0):  # a process's descriptor becomes readable when it ends
            raise OwnerGone(f"shard {self.index}: the process that owned it is gone", shard=self.index)


def _open_owner(place: Place, index: int) -> int:
    """A descriptor of the owner's process."""
    try:
        descriptor = os.pidfd_open(place.pid)
    except OSError as error:
        raise OwnerGone(f"shard {index}: the process that owned it is gone ({error.strerror})", shard=index) from error
    if start_time(place.pid) != place.started:  # another process has its number by now
        os.close(descriptor)
        raise OwnerGone(f"shard {index}: the process that owned it is gone", shard=index)
    return descriptor
