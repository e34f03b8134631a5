"""Virtual time: events in the order of their times, and of their making where times are equal."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """A queue of events; ``now`` jumps from one to the next.

    Attributes:
      now: virtual seconds since the start.
    """

    __slots__ = ("_alarms", "_events", "_made", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0
        self._alarms = 0  # of the events

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action(*arguments)`` at ``time``, which is not before now."""
        self._made += 1
        heapq.heappush(self._events, (max(time, self.now), self._made, action, arguments))

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action(*arguments)`` in ``seconds``."""
        self.at(self.now + seconds, action, *arguments)

    def alarm(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """As ``after``, for what comes by the clock alone: without other events nothing will ever happen again."""
        self._alarms += 1
        self.at(self.now + seconds, self._ring, action, arguments)

    def _ring(self, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._alarms -= 1
        action(*arguments)

    def turn(self, alarms: bool = False) -> bool:
        """Let the next event happen; False if there is none but alarms.

        Args:
          alarms: there is something that would happen after them, though not by this clock's events.
        """
        if len(self._events) <= (0 if alarms else self._alarms):
            return False
        self.now, _, action, arguments = heapq.heappop(self._events)
        action(*arguments)
        return True

    def due(self, time: float) -> bool:
        """An event is due at ``time`` or before."""
        return bool(self._events) and self._events[0][0] <= time
