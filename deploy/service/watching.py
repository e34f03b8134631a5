"""Following two files of a job as they grow: its records, which may begin anew, and its log."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from deploy.service.bounds import kept_from
from ps.errors import UsageError

BATCH_BYTES = 1 << 20
MOST_LINE_BYTES = 3 << 20  # a longer record does not go over the wire, and is left out
LOG_BYTES = 256 << 10
MOST_TAIL = 1_000_000  # lines
_PRINT_BYTES = 4096  # before a position, by which it is known again
_POSITION = re.compile(r"([0-9]{1,18})-([0-9a-f]{8})")


@dataclass(frozen=True)
class News:
    """What has come.

    Attributes:
      lines: whole ones, without their ends.
      anew: they are the first of all; what came before them is to be forgotten.
      more: there is more already.
    """

    lines: list[str]
    anew: bool = False
    more: bool = False


class Records:
    """Reads ``metrics.jsonl`` on, whole line by whole line.

    A run that goes on from a checkpoint replaces the file, taking back what came after it. That is noticed by the bytes before
    the place where reading stopped; so a position also outlives a restart of the service, and a restored backup.

    Args:
      open_file: opens it; raises FileNotFoundError while there is none.
      position: where to go on; empty: from the beginning.

    Raises:
      UsageError: ``position`` is none.
    """

    def __init__(self, open_file: Callable[[], BinaryIO], position: str = ""):
        found = _POSITION.fullmatch(position or "0-00000000")
        if not found:
            raise UsageError(f"position must be that of a reply before, or empty, got {position[:80]!r}")
        self._open, self._offset, self._print = open_file, int(found[1]), int(found[2], 16)

    @property
    def position(self) -> str:
        """Behind the last line that was read."""
        return f"{self._offset}-{self._print:08x}"

    def read(self) -> News:
        """What has come since, at most about ``BATCH_BYTES`` of it."""
        try:
            file = self._open()
        except FileNotFoundError:
            return News([], anew=self._begin())
        with file:
            anew = not self._is_the_same(file) and self._begin()
            size, before = os.fstat(file.fileno()).st_size, self._offset
            file.seek(before)
            content = file.read(BATCH_BYTES)
            if b"\n" not in content and len(content) == BATCH_BYTES:
                content += file.read(MOST_LINE_BYTES - BATCH_BYTES)
            whole = content.rfind(b"\n") + 1
            if not whole and len(content) == MOST_LINE_BYTES:
                self._offset, whole = self._skip(file), 0
            self._offset += whole
            self._print = _print(file, self._offset)
            lines = [line.decode("utf-8", "replace") for line in content[:whole].split(b"\n") if line]
            return News(lines, anew, more=before < self._offset and before + len(content) < size)

    def _begin(self) -> bool:
        """From the beginning; False: it is there already."""
        moved, self._offset, self._print = self._offset > 0, 0, 0
        return moved

    def _is_the_same(self, file: BinaryIO) -> bool:
        return _print(file, self._offset) == self._print

    def _skip(self, file: BinaryIO) -> int:
        """The place behind the end of the line that the file is in; where it began, if it has no end yet."""
        while block := file.read(BATCH_BYTES):
            end = block.find(b"\n")
            if end >= 0:
                return file.tell() - len(block) + end + 1
        return self._offset


def _print(file: BinaryIO, offset: int) -> int:
    """A checksum of what stands before ``offset``; of a file that is not that long one that no other has."""
    if offset == 0:
        return 0
    if os.fstat(file.fileno()).st_size < offset:
        return -1
    start = max(0, offset - _PRINT_BYTES)
    file.seek(start)
    return zlib.crc32(file.read(offset - start))


class Log:
    """Reads a log on.

    Args:
      open_file: opens it; raises FileNotFoundError while there is none.
      offset: bytes to leave out.
      tail_lines: only the last so many lines, and what comes; 0: all.

    Raises:
      UsageError: ``tail_lines`` is too many, or both are given.
    """

    def __init__(self, open_file: Callable[[], BinaryIO], offset: int = 0, tail_lines: int = 0):
        if tail_lines > MOST_TAIL or (tail_lines and offset):
            raise UsageError(f"tail_lines must be at most {MOST_TAIL}, and not with an offset, got {tail_lines}")
        self._open, self.offset, self._tail_lines = open_file, offset, tail_lines

    def read(self) -> bytes:
        """What has come since, at most ``LOG_BYTES``; empty: nothing. Where a part was dropped, a line that says so."""
        try:
            file = self._open()
        except FileNotFoundError:
            return b""
        with file:
            if self._tail_lines:
                self.offset, self._tail_lines = _start_of_tail(file, self._tail_lines), 0
            kept = kept_from(file.fileno(), self.offset)
            if kept > self.offset:
                return self._leave_out(file, kept)
            if self.offset >= os.fstat(file.fileno()).st_size:
                return b""
            file.seek(self.offset)
            content = file.read(LOG_BYTES)
            self.offset += len(content)
            return content

    def _leave_out(self, file: BinaryIO, kept: int) -> bytes:
        """Go on with the first whole line of what was kept; returns what is said of the rest."""
        file.seek(kept)
        begun = file.readline(LOG_BYTES)  # its beginning was dropped
        dropped, self.offset = kept + len(begun) - self.offset, kept + len(begun)
        return f"[{dropped:,} bytes of this log were dropped: it had grown to its bound]\n".encode()


def _start_of_tail(file: BinaryIO, lines: int) -> int:
    """Where the last so many lines begin."""
    first = kept_from(file.fileno(), 0)
    at = end = file.seek(0, os.SEEK_END)
    wanted = lines
    while at > first:
        start = max(first, at - LOG_BYTES)
        file.seek(start)
        block = file.read(at - start)
        if at == end and block.endswith(b"\n"):
            wanted += 1  # the last line's own end
        found = block.count(b"\n")
        if found >= wanted:
            place = len(block)
            for _ in range(wanted):
                place = block.rfind(b"\n", 0, place)
            return start + place + 1
        wanted -= found
        at = start
    return first
