"""When a call on a shard's server is tried again, how long is waited before, and when it is given up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ps.errors import TransportError, UsageError

_LOOK_S = 0.05  # between two looks at whether to stop waiting


@dataclass(frozen=True)
class Retry:
    """Bounds of one call.

    Attributes:
      deadline_s: a call fails when for so long nothing has come of it: no answer, and no chunk of one taken or given. So a
        large vector over a slow network is given the time that it needs, and a peer that is gone is noticed in this time.
      patience_s: a call that failed is tried again until so much time has passed since the first failure in a row.
      first_s, longest_s: the pause before try k (from 0) is uniform in [0, min(first_s * 2**k, longest_s)]: full jitter, so that
        many replicas that lost one shard do not come back at one moment.
    """

    deadline_s: float = 5.0
    patience_s: float = 60.0
    first_s: float = 0.05
    longest_s: float = 2.0

    def __post_init__(self):
        for name in ("deadline_s", "first_s", "longest_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"Retry: {name} must be > 0 seconds, got {getattr(self, name)}")
        if not self.patience_s >= 0:
            raise UsageError(f"Retry: patience_s must be >= 0 seconds, got {self.patience_s}; 0 tries once")

    def pause_s(self, attempt: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
        """Seconds to wait before trying again after ``attempt`` (from 0) failed."""
        return uniform(0.0, min(self.first_s * 2.0 ** min(attempt, 60), self.longest_s))


class Attempts:
    """Counts the failures in a row of one call.

    Args:
      retry: bounds.
      stopped: asked while waiting; raise in it to give up.
      clock: monotonic seconds.
      wait: waits so many seconds.
    """

    def __init__(
        self,
        retry: Retry,
        stopped: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ):
        self._retry, self._stopped, self._clock, self._wait = retry, stopped, clock, wait
        self.count, self._since = 0, 0.0

    def succeeded(self) -> None:
        """Something came of it: patience begins anew."""
        self.count = 0

    def failed(self, error: TransportError) -> None:
        """Wait before the next try.

        Raises:
          TransportError: ``error`` with how often and how long was tried, once patience is at its end.
        """
        now = self._clock()
        if self.count == 0:
            self._since = now
        spent, self.count = now - self._since, self.count + 1
        if spent >= self._retry.patience_s:
            tries = "try" if self.count == 1 else "tries"
            message = f"{error}; gave up after {self.count} {tries} in {spent:.1f} s"
            raise TransportError(message, shard=error.shard, replica=error.replica, version=error.version) from error
        until = now + min(self._retry.pause_s(self.count - 1), self._retry.patience_s - spent)
        self._stopped()
        while (left := until - self._clock()) > 0:
            self._wait(min(left, _LOOK_S))
            self._stopped()


def outcome(future: Future, stopped: Callable[[], None]) -> Any:
    """The result of ``future``; ``stopped`` is asked while waiting and may raise to stop waiting."""
    while True:
        try:
            return future.result(_LOOK_S)
        except TimeoutError:
            if future.done():
                return future.result()
            stopped()


class Watch:
    """Cancels calls of which nothing has come for too long. One thread for all of them, while there are any.

    A call is watched inside ``with watch.over(cancel, deadline_s) as watched:``; ``watched.progress()`` says that something has
    come of it, and ``watched.expired`` afterwards whether it was cancelled.
    """

    def __init__(self):
        self._watched: set[Watched] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def over(self, cancel: Callable[[], object], deadline_s: float, busy: Callable[[], bool] | None = None) -> Watched:
        """Watch a call; ``busy`` tells whether something is to come of it now (by default always)."""
        return Watched(self, cancel, deadline_s, busy)

    def add(self, watched: Watched) -> None:
        with self._changed:
            self._watched.add(watched)
            if self._thread is None or not self._thread.is_alive():  # a forked process has none
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, watched: Watched) -> None:
        with self._changed:
            self._watched.discard(watched)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._watched:
                    self._changed.wait()
                pause = min(watched.deadline_s for watched in self._watched) / 4
                self._changed.wait(min(pause, 0.5))
                late = [watched for watched in self._watched if watched.is_late()]
            for watched in late:
                watched.expire()


class Watched:
    """One call under watch, see ``Watch``."""

    def __init__(self, watch: Watch, cancel: Callable[[], object], deadline_s: float, busy: Callable[[], bool] | None):
        self._watch, self._cancel, self.deadline_s, self._busy = watch, cancel, deadline_s, busy
        self._at = time.monotonic()
        self.expired = False

    def __enter__(self) -> Watched:
        self.progress()
        self._watch.add(self)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._watch.remove(self)

    def progress(self) -> None:
        """Something has come of the call."""
        self._at = time.monotonic()

    def is_late(self) -> bool:
        """Nothing has come of it for too long. What is not busy is never late."""
        if self._busy is not None and not self._busy():
            self.progress()
        return time.monotonic() - self._at > self.deadline_s

    def expire(self) -> None:
        """Cancel the call."""
        self.expired = True
        self._cancel()


WATCH = Watch()
