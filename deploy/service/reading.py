"""Files of a job's folder, read by the service: nothing that the job has put there can lead out of it.

A job's own code may write into its folder, so no link is followed, no pipe or device is opened, and what is listed is bounded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MOST_FILES = 1000  # listed of one job
MOST_DEPTH = 8


SECRET = ("endpoints.json",)  # of a run directory: holds the token of the run's shards


@dataclass(frozen=True)
class Listed:
    """A file: ``path`` below a folder, parts separated by "/"; ``size`` in bytes; ``changed_at`` in seconds since the epoch."""

    path: str
    size: int
    changed_at: float


def open_inside(folder: Path, parts: Sequence[str]) -> BinaryIO:
    """Open the regular file ``parts`` below ``folder`` to read.

    Args:
      folder: is trusted, links in its own path are followed.
      parts: names of folders, then of the file.

    Raises:
      FileNotFoundError: there is no such regular file, or the way to it leads over a link.
    """
    if not parts or any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
        raise FileNotFoundError(f"{'/'.join(parts)[:80]!r} names no file")
    try:
        at = _open_folder(folder, parts[:-1])
        try:
            file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        finally:
            os.close(at)
    except OSError as error:  # also a name that is too long, a link (ELOOP) and a file used as a folder (ENOTDIR)
        raise FileNotFoundError(f"{'/'.join(parts)[:80]!r}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(f"{'/'.join(parts)[:80]!r} is no regular file")
    return os.fdopen(file, "rb")


def list_inside(folder: Path, parts: Sequence[str], most: int = MOST_FILES) -> tuple[list[Listed], bool]:
    """The regular files below the folder ``parts`` of ``folder``, hidden ones left out, sorted by path.

    Returns:
      At most ``most`` files, and whether there are more.
    """
    try:
        at = _open_folder(folder, parts)
    except OSError:
        return [], False
    try:
        found = []
        for listed in _walk(at, "", MOST_DEPTH):
            if len(found) == most:
                return sorted(found, key=_order), True
            found.append(listed)
        return sorted(found, key=_order), False
    finally:
        os.close(at)


def _order(listed: Listed) -> tuple[bool, str]:
    return "/" in listed.path, listed.path  # what lies on top first


def _open_folder(folder: Path, parts: Sequence[str]) -> int:
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def _walk(at: int, above: str, depth: int) -> Iterator[Listed]:
    """Files first, so that a folder of many does not push out what lies beside it."""
    with os.scandir(at) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    folders = []
    for entry in visible:
        facts = _facts(at, entry.name)
        if facts is None or not _shown(entry.name):
            continue
        if stat.S_ISREG(facts.st_mode):
            yield Listed(above + entry.name, facts.st_size, facts.st_mtime)
        elif stat.S_ISDIR(facts.st_mode):
            folders.append(entry.name)
    for name in folders if depth > 1 else ():
        try:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        except OSError:  # removed in between: a checkpoint that is no longer kept
            continue
        try:
            yield from _walk(below, f"{above}{name}/", depth - 1)
        finally:
            os.close(below)


def _facts(at: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError:
        return None


def _shown(name: str) -> bool:
    """A name that is no text cannot be asked for either."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
