"""Standard output and standard error that may go away while a command runs: closed, a full disk, a pager that was left.

What a command shows of its work is not worth the work. Where the stream is the work, as in ``hogshead predict``, an error
stays one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class Lenient:
    """A text stream that drops what cannot be written; everything else is the wrapped stream's.

    Args:
      stream: the wrapped one.
      on_loss: is told the first error, in the process that made this object. Processes forked from it go quiet in silence.
    """

    def __init__(self, stream: TextIO, on_loss: Callable[[Exception], None] = lambda error: None):
        self._stream, self._on_loss, self._maker = stream, on_loss, os.getpid()
        self._lost = False

    def write(self, text: str) -> int:
        """Write ``text``, in other characters where the stream's encoding lacks some."""
        try:
            self._try(self._stream.write, text)
        except UnicodeEncodeError as error:
            self._try(self._stream.write, text.encode(error.encoding, "replace").decode(error.encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what is buffered; a closed stream holds nothing."""
        if not getattr(self._stream, "closed", False):
            self._try(self._stream.flush)

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        try:
            return self._stream.isatty()
        except ValueError:  # it was closed
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Callable[..., Any], *args: Any) -> None:
        if self._lost:
            return
        try:
            action(*args)
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._lost = True
            drop(self._stream)
            if os.getpid() == self._maker:
                self._on_loss(error)


@contextmanager
def lenient_output() -> Iterator[None]:
    """Let a command go on without standard output once that cannot be written, and say so on standard error."""
    before = sys.stdout
    sys.stdout = Lenient(before, _say)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout = before


@contextmanager
def lenient_errors() -> Iterator[None]:
    """Let messages on standard error be dropped where they cannot be written."""
    before = sys.stderr
    sys.stderr = Lenient(before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before


def open_closed_streams() -> None:
    """Put the null device where the process was started without standard input, output or error.

    The next file to be opened would take the number instead, and get what libraries and child processes print.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def drop(stream: TextIO) -> None:
    """Send what ``stream`` still holds, and whatever comes, to the null device: its last flush would fail once more."""
    with suppress(OSError, ValueError, AttributeError):  # a stream without a descriptor holds nothing
        descriptor = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, descriptor)
        finally:
            os.close(null)


def _say(error: Exception) -> None:
    reason = getattr(error, "strerror", None) or error
    print(
        f"hogshead: standard output cannot be written any more ({reason}); the command goes on without it",
        file=sys.stderr,
        flush=True,
    )
