"""The clocks of all replicas as one of them sees them: they lie at shard 0, mapped or far, and move with it."""

from __future__ import annotations

from typing import Any

from ps.admission import Clocks
from ps.transport.following import FollowingPort
from ps.transport.remote_clocks import RemoteClocks


class FollowingClocks:
    """What ``worker.gate`` asks of clocks.

    Args:
      port: to shard 0.
      replica: who sees them.
    """

    def __init__(self, port: FollowingPort, replica: int):
        self._port, self._replica = port, replica
        self._far: RemoteClocks | None = None

    def clock(self, replica: int) -> int:
        """See ``Clocks``."""
        return self._clocks().clock(replica)

    def minimum(self) -> int:
        """See ``Clocks``."""
        return self._clocks().minimum()

    def lag(self, replica: int) -> int:
        """See ``Clocks``."""
        return self._clocks().lag(replica)

    def advance(self, replica: int, to: int) -> None:
        """See ``Clocks``."""
        self._clocks().advance(replica, to)

    def note_waiting(self, waiting: bool) -> None:
        """See ``Clocks``."""
        self._clocks().note_waiting(waiting)

    def _clocks(self) -> Any:
        if self._port.mapped is not None:
            self._port.note_updates(0)  # moves on if the owner is gone
        mapped = self._port.mapped
        if mapped is not None:
            return Clocks.of(mapped.arrays)
        if self._far is None:
            self._far = RemoteClocks(self._port.inner, self._replica)
        return self._far
