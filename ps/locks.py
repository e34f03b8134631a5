"""Locks that the kernel takes back when their holder dies.

A lock of a byte range of a file belongs to the process: SIGKILL inside an update frees it. Threads of one process are kept apart
by an ordinary lock in front of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from pathlib import Path
from typing import Protocol

from ps.errors import TransportError
from ps.segment import FOLDER, new_file

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, process


class Lock(Protocol):
    """What a shard asks of a lock: to be entered and left."""

    def __enter__(self) -> object: ...
    def __exit__(self, *exc: object) -> object: ...


class LockFile:
    """A file whose bytes are locks, made before the processes that share it are forked.

    Args:
      label: a word in the file's name.
    """

    def __init__(self, label: str = "locks"):
        # Never closed by hand while in use: closing any descriptor of the file drops all locks of the process.
        self._path, self.descriptor = new_file(label)
        self._maker = os.getpid()

    @staticmethod
    def attach(name: str) -> LockFile:
        """The lock file called ``name`` that another process of this host has made.

        Raises:
          TransportError: there is none.
        """
        file = LockFile.__new__(LockFile)
        file._path, file._maker = FOLDER / name, -1
        try:
            file.descriptor = os.open(file._path, os.O_RDWR)
        except OSError as error:
            raise TransportError(f"lock file {name!r} cannot be opened on this host: {error.strerror}") from error
        return file

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._path

    def lock(self, index: int) -> RobustLock:
        """The lock number ``index`` of this file."""
        return RobustLock(self, index)

    def close(self) -> None:
        """Close and, in the process that made it, remove the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            if os.getpid() == self._maker:
                self._path.unlink(missing_ok=True)


class RobustLock:
    """Excludes other processes and other threads; freed by the kernel when its process dies. Not re-entrant, not to be nested."""

    def __init__(self, file: LockFile, index: int):
        self._file, self._index = file, index
        self._threads = threading.Lock()

    def __enter__(self) -> RobustLock:
        self._threads.acquire()
        try:
            while not self._taken():
                os.sched_yield()
        except BaseException:  # ^C while waiting: the next to come must not find this process's half taken
            self._threads.release()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            fcntl.lockf(self._file.descriptor, fcntl.LOCK_UN, 1, self._index)
        finally:
            self._threads.release()

    def holder(self) -> int | None:
        """Id of the other process that holds the lock now, or None."""
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, self._index, 1, 0)
        kind, _, _, _, process = struct.unpack(_FLOCK, fcntl.fcntl(self._file.descriptor, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else process

    def _taken(self) -> bool:
        """Wait for the file's lock.

        The kernel knows of processes, not of threads, and refuses a lock when two processes wait for each other, though with
        different threads. That is no deadlock, because no thread holds two of these locks at once: so ask again.
        """
        try:
            fcntl.lockf(self._file.descriptor, fcntl.LOCK_EX, 1, self._index)
        except OSError as error:
            if error.errno != errno.EDEADLK:
                raise
            return False
        return True
