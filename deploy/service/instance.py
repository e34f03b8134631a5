"""One service at a time: two that share jobs would start each of them twice."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ps.errors import UsageError


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock in this file; the kernel lets go of it when the process dies, however it dies.

    Raises:
      UsageError: another process has it, or the file cannot be made.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UsageError(f"{path}: cannot be made: {error.strerror}; is the folder there, and this user's?") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            raise UsageError(
                f"{path} is held by process {holder}: a service with these jobs is running; stop it, or give another --jobs"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)
