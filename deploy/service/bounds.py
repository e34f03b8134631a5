"""What a job's folder may take of the disk: its log loses its beginning, and a folder that outgrows its bound ends the job.

The beginning of a log is given back to the file system and leaves a hole, so that every other byte keeps its place: the job
writes on, and readers go on from where they were.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

MOST_LOG_BYTES = 64 << 20
_BLOCK = 4096  # a hole begins and ends where blocks of the file system do
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # see fallocate(2)
_libc = ctypes.CDLL(None, use_errno=True)


def bound_log(path: Path, most_bytes: int = MOST_LOG_BYTES) -> None:
    """Drop the beginning of a log that takes more than ``most_bytes``: its last half of so much stays.

    Raises:
      OSError: it cannot be opened or cut.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        facts = os.fstat(file)
        if facts.st_blocks * 512 > most_bytes:
            _punch(file, (facts.st_size - most_bytes // 2) // _BLOCK * _BLOCK)
    finally:
        os.close(file)


def kept_from(file: int, offset: int) -> int:
    """The first byte at or after ``offset`` that is still there, of an open file; its size if none is."""
    size = os.fstat(file).st_size
    if offset >= size:
        return size
    before = os.lseek(file, 0, os.SEEK_CUR)
    try:
        return os.lseek(file, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # only a hole follows
            return size
        raise
    finally:
        os.lseek(file, before, os.SEEK_SET)


def folder_bytes(folder: Path) -> int:
    """What a folder takes of the disk, links not followed; what vanishes meanwhile does not count."""
    total, waiting = 0, [os.fspath(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return total


def _punch(file: int, size: int) -> None:
    """Give the first ``size`` bytes back; where the file system cannot, cut the whole file off."""
    length = ctypes.c_longlong(size)
    if size <= 0 or _libc.fallocate(file, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_longlong(0), length) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(code, os.strerror(code))
    os.ftruncate(file, 0)  # it is written at its end, wherever that is
