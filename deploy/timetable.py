"""What is due by the clock of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping


class Timetable:
    """Occasions that come again every so many seconds, counted from when each was last due.

    Args:
      periods: occasion -> seconds between two, or None where it never comes.
      now: seconds of the run at its start.
    """

    def __init__(self, periods: Mapping[str, float | None], now: float):
        self._periods = {occasion: period or math.inf for occasion, period in periods.items()}
        self._next = {occasion: now + period for occasion, period in self._periods.items()}

    def due(self, occasion: str, now: float) -> bool:
        """Its time has come; the next is a period from ``now``."""
        if now < self._next[occasion]:
            return False
        self._next[occasion] = now + self._periods[occasion]
        return True

    def hasten(self, occasion: str) -> None:
        """Its time is now."""
        self._next[occasion] = -math.inf
