"""Nodes that are about to leave the cluster: between the checkpoint that is made for them and their end nothing is changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container

STAY_S = 60.0  # after which a node that has announced that it leaves, and is still there, counts as one that stays


class Departures:
    """Keeps which nodes are leaving.

    Args:
      clock: seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}  # node -> when it counts as one that stays

    def announce(self, node: str) -> None:
        """A node leaves soon; called in any thread."""
        with self._lock:
            self._until[node] = self._clock() + STAY_S

    @property
    def under_way(self) -> bool:
        """Some node is leaving."""
        return bool(self._until)

    def settle(self, alive: Container[str]) -> None:
        """Forget nodes that have left, and those that stay after all.

        Args:
          alive: ids of the nodes that live.
        """
        now = self._clock()
        with self._lock:
            self._until = {node: until for node, until in self._until.items() if node in alive and now < until}


class Rest:
    """Lets the loop of a worker rest between two steps, asked for from another thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted = self._resting = self._idle = False

    def begin(self, timeout_s: float) -> bool:
        """Have the loop rest from its next step's beginning until ``end``; whether it does within ``timeout_s``."""
        with self._changed:
            self._wanted = True
            return self._changed.wait_for(lambda: self._resting or self._idle, timeout_s)

    def end(self) -> None:
        """Go on."""
        with self._changed:
            self._wanted = False
            self._changed.notify_all()

    def between_steps(self, settle: Callable[[], None]) -> None:
        """In the loop: rest here if asked to.

        Args:
          settle: waits for what is under way, before the rest.
        """
        if not self._wanted:
            return
        settle()
        with self._changed:
            self._resting = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._wanted)
            self._resting = False

    def while_idle(self, wait: Callable[[], dict]) -> dict:
        """In the loop: ``wait`` for a message, which is as good as a rest; one that comes during a rest is taken after it."""
        with self._changed:
            self._idle = True
            self._changed.notify_all()
        message = wait()
        with self._changed:
            self._changed.wait_for(lambda: not self._wanted)
            self._idle = False
        return message
