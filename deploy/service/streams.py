"""The calls under way that last: how many there may be, which of them have stalled, and that they end with the service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import Protocol

from deploy.service.refusals import Refused
from deploy.service.states import BUSY

_LOOK_S = 1.0


class Call(Protocol):
    """What a call can be asked; ``grpc.ServicerContext`` has it."""

    def is_active(self) -> bool:
        """False once the caller has gone."""
        ...

    def cancel(self) -> bool:
        """End it."""
        ...


class Streams:
    """Long calls of one kind.

    Args:
      kind: what they are called. most: at one time.
      idle_s: after which one of which nothing moves is cancelled; None: it may rest.
    """

    def __init__(self, kind: str, most: int, idle_s: float | None = None):
        self.kind, self.most, self._idle_s = kind, most, idle_s
        self._lock = Lock()
        self._open: dict[int, Stream] = {}
        self._over = Event()
        self._watch: Thread | None = None

    @contextmanager
    def one(self, call: Call) -> Iterator[Stream]:
        """One more.

        Raises:
          Refused: there are as many as there may be, or the service is being stopped.
        """
        stream = Stream(call)
        with self._lock:
            self._check()
            self._open[id(stream)] = stream
            if self._idle_s is not None and self._watch is None:
                self._watch = Thread(target=self._look, name=f"streams-{self.kind}", daemon=True)
                self._watch.start()
        try:
            yield stream
        finally:
            with self._lock:
                del self._open[id(stream)]

    @property
    def over(self) -> bool:
        """The service is being stopped."""
        return self._over.is_set()

    def close(self) -> None:
        """No more of them; those that are open see ``over``."""
        self._over.set()
        if self._watch is not None:
            self._watch.join()

    def _check(self) -> None:
        if self.over:
            raise stopping()
        if len(self._open) >= self.most:
            raise Refused("RESOURCE_EXHAUSTED", f"there are {self.most} {self.kind} under way, {BUSY}")

    def _look(self) -> None:
        assert self._idle_s is not None
        while not self._over.wait(_LOOK_S):
            late = time.monotonic() - self._idle_s
            with self._lock:
                stalled = [stream for stream in self._open.values() if stream.moved_at < late]
            for stream in stalled:
                stream.call.cancel()


class Stream:
    """One call; ``moved()`` whenever something has gone one way or the other."""

    def __init__(self, call: Call):
        self.call, self.moved_at = call, time.monotonic()

    def moved(self) -> None:
        """It is alive."""
        self.moved_at = time.monotonic()


def stopping() -> Refused:
    """What calls are told when the service ends; clients try again."""
    return Refused("UNAVAILABLE", "the service is being stopped; try again")
