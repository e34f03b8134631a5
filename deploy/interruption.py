"""SIGTERM ends a run as ^C does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt: stop, save, say so. Only possible in the main thread; elsewhere nothing changes."""

    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interruption:
    """Within it ^C and SIGTERM raise KeyboardInterrupt only where something is waited for, or when they come once more.

    Anywhere else it would leave half done what was being done: of a message that is half read the rest is taken for the next one.
    Only possible in the main thread; elsewhere nothing changes. Who ignores or handles ^C goes on to do so.
    """

    def __init__(self) -> None:
        self._asked = self._admitted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._interrupt)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        except ValueError:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """In here it may come, also one that has been asked for before."""
        self._admitted = True
        try:
            if self._asked:
                self._interrupt()
            yield
        finally:
            self._admitted = False

    def _interrupt(self, *_: Any) -> None:
        now = self._admitted or self._asked
        self._asked = not now
        if now:
            self._admitted = False
            raise KeyboardInterrupt
