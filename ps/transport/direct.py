"""The link for shards that this process can touch: in its own memory, or mapped from shared memory.

A pull is a copy, an update is applied in place by the replica that pushes it, under the shard's lock or lock-free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ps.shard import Applied, Stamp
from ps.state import State
from ps.stepper import Payload, split_payload
from ps.transport.together import Together


class DirectLink:
    """Keeps the contract of ``ps.transport.link.Link`` over a ``State``.

    Args:
      state: shards that this process can touch.
      replica: this replica's id.
      incarnation: of the process that is this replica now.
      consistent: pull each shard under its lock, so that it is of one version.
      abandoned: asked while waiting for a synchronous step; raise in it to stop waiting.
    """

    def __init__(
        self,
        state: State,
        replica: int = 0,
        incarnation: int = 1,
        *,
        consistent: bool = False,
        abandoned: Callable[[], None] = lambda: None,
    ):
        self.state, self.layout, self.center = state, state.layout, state.center
        self.replica, self.incarnation, self.consistent = replica, incarnation, consistent
        self._steps = Together(state.shards, abandoned)
        self._sequence = 0

    def pull(self, out: np.ndarray) -> np.ndarray:
        """See ``Link.pull``."""
        self.layout.check_vector(out)
        versions = [shard.pull(shard.range.of(out), self.replica, self.consistent) for shard in self.state.shards]
        return np.array(versions, np.int64)

    def push(
        self,
        payload: Payload,
        versions: np.ndarray,
        *,
        count: int = 1,
        gradient_norm: float | None = None,
        epoch: int = 0,
    ) -> np.ndarray:
        """See ``Link.push``."""
        if isinstance(payload, np.ndarray):
            self.layout.check_vector(payload)
        stamp = self._stamp()
        staleness = []
        for shard, version in zip(self.state.shards, versions.tolist()):
            part = split_payload(payload, self.layout, shard.range)
            if part is None:
                staleness.append(-1)
                continue
            applied = shard.push(part, stamp, version=version, count=count, gradient_norm=gradient_norm, epoch=epoch)
            staleness.append(applied.staleness)
        return np.array(staleness, np.int64)

    def push_together(self, payload: np.ndarray, versions: np.ndarray, *, epoch: int = 0) -> np.ndarray:
        """See ``Link.push_together``."""
        self.layout.check_vector(payload)
        shards = self.state.shards

        def lay(indices: Iterable[int], number: int) -> list[Applied]:
            stamp = self._stamp()
            return [
                shards[index].contribute(
                    shards[index].range.of(payload), stamp, version=int(versions[index]), epoch=epoch, number=number
                )
                for index in indices
            ]

        return self._steps.step(lay)

    def exchange(self, x: np.ndarray, alpha: float, versions: np.ndarray) -> np.ndarray:
        """See ``Link.exchange``."""
        self.layout.check_vector(x)
        stamp = self._stamp()
        answers = [
            shard.exchange(shard.range.of(x), alpha, stamp, version=version)
            for shard, version in zip(self.state.shards, versions.tolist())
        ]
        versions[:] = [answer.version for answer in answers]
        return np.array([answer.staleness for answer in answers], np.int64)

    def versions(self) -> np.ndarray:
        """See ``Link.versions``."""
        return np.array([shard.version for shard in self.state.shards], np.int64)

    def note_updates(self, count: int) -> int:
        """See ``Link.note_updates``."""
        return [shard.note_updates(count) for shard in self.state.shards][0]

    def _stamp(self) -> Stamp:
        self._sequence += 1
        return Stamp(self.replica, self.incarnation, self._sequence)
