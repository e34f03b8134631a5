"""The folders of unpacked files on a node: kept while a process uses them, removed when nobody has for long.

Who uses one holds a shared lock on it, which the kernel lets go of when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

UNUSED_S = 24 * 3600.0

_held: dict[Path, int] = {}  # descriptors of this process, open until it ends


def keep(place: Path) -> bool:
    """Have a folder stay while this process lives; False: it is not there (any more)."""
    if place in _held and _is_there(place, _held[place]):
        return True
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not _is_there(place, descriptor):  # it was being removed
        os.close(descriptor)
        return False
    os.utime(descriptor)
    _held[place] = descriptor
    return True


def sweep(folder: Path) -> None:
    """Remove what nobody uses and nobody has begun to use within ``UNUSED_S``, also what a killed process has left half done."""
    late = time.time() - UNUSED_S
    for place in folder.iterdir():
        with suppress(OSError):  # gone already, in use, or no folder: whoever comes next looks again
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_mtime < late:
                    _remove(place, descriptor)
            finally:
                os.close(descriptor)


def _remove(place: Path, descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    gone = place.with_name(f".gone-{place.name}")  # out of the way at once: nobody must find half of it
    place.rename(gone)
    shutil.rmtree(gone)


def _is_there(place: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(place), os.fstat(descriptor))
    except FileNotFoundError:
        return False
