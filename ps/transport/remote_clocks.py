"""The replicas' clocks over gRPC: what a gate needs on another host than the shard that keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ps.transport.remote import RemoteShard

_LONG_POLL_S = 0.05  # a driver looks in between whether to stop waiting


class RemoteClocks:
    """Has of ``ps.admission.Clocks`` what ``worker.gate.Gate`` and the policies ask for, for one replica.

    Every look at the lag is a call; while the replica must wait, the call is answered when the smallest clock has risen, or
    after a moment. A coordinator that lets the replica join or leave sets its clock at the shard, between two of its steps.

    Args:
      shard: the one that keeps the clocks.
      replica: whose gate asks; it alone advances its clock.
    """

    def __init__(self, shard: RemoteShard, replica: int):
        self._shard, self._replica = shard, replica
        self._waiting = False
        self._clock, self._minimum, self._member = shard.read_clocks(replica)

    @property
    def members(self) -> tuple[int, ...]:
        """Ids of the replicas that are waited for."""
        return self._shard.clock_members()

    def clock(self, replica: int) -> int:
        """Of one replica; the gate's own as of its last look or advance."""
        return self._clock if replica == self._replica else self._shard.read_clocks(replica)[0]

    def minimum(self) -> int:
        """Smallest clock of the members, 0 if there are none."""
        return self._shard.read_clocks(self._replica)[1]

    def lag(self, replica: int) -> int:
        """Steps that ``replica`` is ahead of the slowest member; 0 for one that is not a member."""
        assert replica == self._replica, "a gate asks for its own replica"
        above = self._minimum if self._waiting else None
        self._clock, self._minimum, self._member = self._shard.read_clocks(
            replica, above, _LONG_POLL_S if self._waiting else 0.0
        )
        return self._clock - self._minimum if self._member else 0

    def note_waiting(self, waiting: bool) -> None:
        """Whether the replica must wait: then the next answer may come when there is news."""
        self._waiting = waiting

    def advance(self, replica: int, to: int) -> None:
        """All updates of ``replica`` before clock ``to`` have been applied."""
        self._shard.advance_clock(replica, to)
        self._clock = to
