"""Room on the service's disk that is kept for what must work when the disk is full: to stop a job, and to delete one."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ps.errors import HogsheadError

log = logging.getLogger("hogshead.service")

SIZE_BYTES = 16 << 20
NAME = ".ballast"
_Result = TypeVar("_Result")


class Ballast:
    """Files that keep room, one on each file system of these folders.

    Args:
      folders: that the service writes to; none: nothing is kept.
      size_bytes: size of each file.
    """

    def __init__(self, folders: Iterable[Path] = (), size_bytes: int = SIZE_BYTES):
        by_device = {os.stat(folder).st_dev: Path(folder) / NAME for folder in folders}
        self._files, self._size_bytes = tuple(by_device.values()), size_bytes

    def hold(self) -> None:
        """Keep the room (again) where twice as much is free."""
        for file in self._files:
            if _size(file) == self._size_bytes or shutil.disk_usage(file.parent).free < 2 * self._size_bytes:
                continue
            try:
                file.unlink(missing_ok=True)  # what a crash has left of one
                _allocate(file, self._size_bytes)
            except OSError as error:
                file.unlink(missing_ok=True)
                log.warning("%s: no room is kept for a full disk: %s", file, error.strerror)

    def ease(self) -> None:
        """Release the room where less than that is free."""
        if any(shutil.disk_usage(file.parent).free < self._size_bytes for file in self._files):
            self.release()

    def release(self) -> bool:
        """Leave the room to what is written next; False if nothing was kept."""
        held = [file for file in self._files if file.exists()]
        for file in held:
            log.warning("%s: the disk is full; the room that was kept is released; delete jobs that have ended", file)
            with suppress(FileNotFoundError):
                file.unlink()
        return bool(held)

    def working(self, action: Callable[[], _Result]) -> _Result:
        """The result of ``action``, which is tried once more with the room that was kept if the disk is full."""
        try:
            return action()
        except (OSError, HogsheadError) as error:
            if not (is_disk_full(error) and self.release()):
                raise
        return action()


def is_disk_full(error: BaseException | None) -> bool:
    """An error is, or was caused by, a disk or a quota without room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, sqlite3.Error) and ("full" in str(error) or _lacks_shared_memory(error)):
            return True
        error = error.__cause__
    return False


def _lacks_shared_memory(error: sqlite3.Error) -> bool:
    """SQLite cannot enlarge the file that it maps beside a database."""
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_IOERR_SHM")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _allocate(file: Path, size_bytes: int) -> None:
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(opened, 0, size_bytes)
    finally:
        os.close(opened)
