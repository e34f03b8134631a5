"""For how long processes that have something to do have not moved, as pure logic: its caller brings the time and the beats."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

WARN_S = 60.0  # without a beat, until a process is named; then again after twice as long
LOOK_S = 0.2
_MOST_BETWEEN_LOOKS_S = 1.0  # that count: the caller itself may have been stopped, or been at work


class Watchdog:
    """Looks at beats, a few times a second.

    Attributes:
      still: key -> seconds without a beat, of those that have something to do.
      longest: the longest time after which one moved again by itself; a step may well take that long.
    """

    def __init__(self) -> None:
        self.still: dict[int, float] = {}
        self.longest = 0.0
        self._beats: Mapping[int, Hashable] = {}
        self._told: dict[int, float] = {}
        self._last: float | None = None

    def look(self, now: float, beats: Callable[[], Mapping[int, Hashable]]) -> bool:
        """Look, unless the last look is just past; returns whether it looked.

        Args:
          now: seconds on a monotonic clock.
          beats: key -> a value that changes whenever the process moves, of those that have something to do.
        """
        if self._last is not None and now - self._last < LOOK_S:
            return False
        elapsed = 0.0 if self._last is None else min(now - self._last, _MOST_BETWEEN_LOOKS_S)
        self._last = now
        before, self._beats = self._beats, beats()
        still = {}
        for key, beat in self._beats.items():
            known = key in before
            if known and before[key] == beat:
                still[key] = self.still.get(key, 0.0) + elapsed
                continue
            if known:
                self.longest = max(self.longest, self.still.get(key, 0.0))
            still[key] = 0.0
        self.still = still
        self._told = {key: told for key, told in self._told.items() if still.get(key, 0.0) >= told}
        return True

    def stuck(self, seconds: float) -> set[int]:
        """Keys without a beat for at least so long."""
        return {key for key, still in self.still.items() if still >= seconds}

    def to_tell(self) -> dict[int, float]:
        """Key -> seconds of those to be named now: after ``WARN_S``, and each time that they have doubled."""
        due = {key: still for key, still in self.still.items() if still >= max(WARN_S, 2 * self._told.get(key, 0.0))}
        self._told.update(due)
        return due

    def forgive(self) -> None:
        """Count from zero for all: they may have waited for one that is gone now."""
        self.still = dict.fromkeys(self.still, 0.0)
        self._told = {}
