"""Signals that end a command in order: ^C (SIGINT), SIGTERM of a supervisor or scheduler, SIGHUP of a terminal that closes.

Each of them raises KeyboardInterrupt: what runs stops, saves, and says so. Supervisors send several in a row (systemd's
SendSIGHUP, a shell that passes on what the kernel has sent already), so SIGTERM and SIGHUP count once, and not after ^C. A signal
that is ignored, as SIGHUP is under nohup, stays ignored.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

STOPS = (signal.SIGTERM, signal.SIGHUP)


class _Once:
    """A handler that raises KeyboardInterrupt the first time."""

    def __init__(self) -> None:
        self.raised = False

    def __call__(self, _signal: int, _frame: Any) -> None:
        if not self.raised:
            self.raised = True
            raise KeyboardInterrupt


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt. Only possible in the main thread; elsewhere nothing changes."""
    once, before = _Once(), {}
    try:
        for number in STOPS:
            if _is_free(number):
                before[number] = signal.signal(number, once)
    except ValueError:
        pass
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals that would interrupt this block wait for its end, where the first of them raises KeyboardInterrupt."""
    heard: list[int] = []
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, *STOPS):
            if isinstance(signal.getsignal(number), _Once) or _raises(number):
                before[number] = signal.signal(number, lambda number, _frame: heard.append(number))
    except ValueError:
        pass
    try:
        yield
    finally:
        _restore(before)
    if heard:
        signal.raise_signal(heard[0])


class Interruption:
    """Within it signals raise KeyboardInterrupt only where something is waited for, or when ^C comes once more.

    Anywhere else KeyboardInterrupt would leave half done what was being done: the rest of a message that is half read is
    taken for the next one. Only possible in the main thread; elsewhere nothing changes. A program that ignores or handles
    ^C itself goes on to do so.
    """

    def __init__(self) -> None:
        self._heard = self._asked = self._admitted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            for number in STOPS:
                if _is_free(number):
                    self._before[number] = signal.signal(number, self._interrupt)
            if _raises(signal.SIGINT):
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        except ValueError:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for handler in self._before.values():
            if isinstance(handler, _Once):
                handler.raised |= self._heard
        _restore(self._before)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Let KeyboardInterrupt be raised in this block, also for a signal that came before it."""
        self._admitted = True
        try:
            if self._asked:
                self._raise()
            yield
        finally:
            self._admitted = False

    def _interrupt(self, number: int, _frame: Any) -> None:
        if number in STOPS and self._heard:
            return
        self._heard = True
        if self._admitted or self._asked:
            self._raise()
        self._asked = True

    def _raise(self) -> None:
        self._asked = self._admitted = False
        raise KeyboardInterrupt


def _is_free(number: int) -> bool:
    """The signal may be taken over: SIGTERM unless it is ignored, SIGHUP unless it is ignored or a program uses it itself."""
    handler = signal.getsignal(number)
    if number == signal.SIGTERM:
        return handler is not signal.SIG_IGN
    return handler is signal.SIG_DFL or isinstance(handler, _Once)


def _raises(number: int) -> bool:
    return signal.getsignal(number) is signal.default_int_handler


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
