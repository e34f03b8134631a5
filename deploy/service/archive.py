"""Unpacking an archive from a stranger: what it may hold, how much of it, and under which names.

Nothing is written before all names are known to be good, and only what an archive may hold is read at all: regular files and
folders, stored or deflated. Readers of zip archives disagree about odd ones; those are refused rather than understood.
"""

from __future__ import annotations

import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ps.errors import UsageError

MOST_FILES = 10_000
MOST_NAME_BYTES, MOST_PART_BYTES, MOST_DEPTH = 1000, 255, 32
MOST_RATIO, _RATIO_FROM_BYTES = 250, 10_000_000  # a little of anything may be that uniform
_CHUNK_BYTES = 1 << 20
_END = struct.Struct("<4s4H2LH")  # the last record of an archive
_END_MARK, _ZIP64_MARK, _ZIP64_BYTES = b"PK\5\6", b"PK\6\7", 20
_ENTRY_BYTES = 46 + 512 + MOST_NAME_BYTES  # of a directory's entry, with room for what others add
_ENCRYPTED = 0x1 | 0x40 | 0x2000


class BadArchive(UsageError):
    """An archive that is damaged, or holds what it must not."""


@dataclass(frozen=True)
class Unpacked:
    """What came out: how many ``files``, and how many ``bytes`` they have."""

    files: int
    bytes: int


def unpack(archive: Path, folder: Path, most_bytes: int) -> Unpacked:
    """Unpack a zip archive into an empty folder.

    Args:
      archive: the file.
      folder: is there and empty; after an error it holds anything, below itself.
      most_bytes: bound on what the files are unpacked.

    Raises:
      BadArchive: see there; the message names the entry.
      OSError: the disk is full, or the like.
    """
    try:
        with open(archive, "rb") as file:
            _check_end(file)
            with zipfile.ZipFile(file) as opened:
                entries = _checked(opened.infolist(), archive.stat().st_size, most_bytes)
                return _written(opened, entries, folder, most_bytes)
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError) as error:
        raise BadArchive(f"the archive is damaged: {error}; make it again") from error
    except (ValueError, OverflowError, UnicodeError) as error:
        if isinstance(error, UsageError):
            raise
        raise BadArchive(f"the archive is damaged: {error}; make it again") from error


def _check_end(file: BinaryIO) -> None:
    """The directory is not larger than any good one, and lies right before the end: there is one way to read it."""
    size = file.seek(0, os.SEEK_END)
    if size < _END.size:
        raise BadArchive(f"the archive must be a zip archive, got {size} bytes")
    file.seek(max(0, size - _END.size - _ZIP64_BYTES))
    tail = file.read()
    mark, disk, first, here, count, length, start, comment = _END.unpack(tail[-_END.size :])
    if mark != _END_MARK or comment:
        raise BadArchive("the archive must be a zip archive without a comment or anything else behind it")
    if tail[: -_END.size].startswith(_ZIP64_MARK) or 0xFFFFFFFF in (length, start):
        raise BadArchive("the archive must not be a ZIP64 one; hand in fewer and smaller files")
    if disk or first or here != count or start + length + _END.size != size:
        raise BadArchive("the archive must be a zip archive in one piece, with nothing before or between its parts")
    if count > MOST_FILES or length > MOST_FILES * _ENTRY_BYTES:
        raise BadArchive(f"the archive must hold at most {MOST_FILES} files, got {count}")
    file.seek(0)


def _checked(entries: list[zipfile.ZipInfo], archive_bytes: int, most_bytes: int) -> list[zipfile.ZipInfo]:
    if len(entries) > MOST_FILES:
        raise BadArchive(f"the archive must hold at most {MOST_FILES} files, got {len(entries)}")
    total = sum(entry.file_size for entry in entries)
    if total > most_bytes:
        raise BadArchive(
            f"the archive must unpack to at most {most_bytes / 1e6:g} MB, got {total / 1e6:.1f} MB; give large data by a URL, "
            "or by a path that every node has"
        )
    if total > max(_RATIO_FROM_BYTES, MOST_RATIO * archive_bytes):
        raise BadArchive(
            f"the archive must unpack to at most {MOST_RATIO} times its size, got {total / max(archive_bytes, 1):.0f} times"
        )
    names: dict[str, str] = {}
    folders: set[str] = set()
    for entry in entries:
        _check_entry(entry)
        _check_unique(entry, names, folders)
    return entries


def _check_entry(entry: zipfile.ZipInfo) -> None:
    # zipfile cuts a name at NUL; what was there is here.
    name = entry.orig_filename
    shown = repr(name[:80])
    reason = _wrong_name(name)
    if reason:
        raise BadArchive(f"the archive holds {shown}, {reason}")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if name.endswith("/") else stat.S_IFREG):
        raise BadArchive(
            f"the archive holds {shown}, which is neither a regular file nor a folder: no links, no devices"
        )
    if name.endswith("/") and entry.file_size:
        raise BadArchive(f"the archive holds {shown}, a folder with content")
    if entry.flag_bits & _ENCRYPTED:
        raise BadArchive(f"the archive holds {shown}, which is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadArchive(
            f"the archive holds {shown}, which is neither stored nor deflated; make it with another method"
        )


def _wrong_name(name: str) -> str:
    """What is wrong with an entry's name; empty: nothing."""
    parts = name.removesuffix("/").split("/")
    if name.startswith("/"):
        return "whose path must be relative"
    if "\\" in name or not name.isprintable():
        return "whose name must have no backslash, control character or half a character"
    if any(part in ("", ".", "..") for part in parts):
        return "whose path must go straight down from the archive's top"
    too_long = len(name.encode()) > MOST_NAME_BYTES or max(len(part.encode()) for part in parts) > MOST_PART_BYTES
    if too_long or len(parts) > MOST_DEPTH:
        return (
            f"whose path must have at most {MOST_NAME_BYTES} bytes, {MOST_PART_BYTES} per part and {MOST_DEPTH} parts"
        )
    return ""


def _check_unique(entry: zipfile.ZipInfo, names: dict[str, str], folders: set[str]) -> None:
    """No name twice, also where a file system does not tell capitals or accents apart, and no file that is a folder as well."""
    name = entry.orig_filename
    path = _folded(name.removesuffix("/"))
    if path in names:
        raise BadArchive(
            f"the archive holds {name[:80]!r} and {names[path][:80]!r}, which are one name on some file systems"
        )
    above = path
    while "/" in above:
        above = above.rpartition("/")[0]
        if above in names and not names[above].endswith("/"):
            raise BadArchive(f"the archive holds {names[above][:80]!r} as a file and as a folder")
        folders.add(above)
    if path in folders and not name.endswith("/"):
        raise BadArchive(f"the archive holds {name[:80]!r} as a file and as a folder")
    names[path] = name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _written(opened: zipfile.ZipFile, entries: list[zipfile.ZipInfo], folder: Path, most_bytes: int) -> Unpacked:
    files = total = 0
    for entry in entries:
        target = folder / entry.orig_filename
        if entry.orig_filename.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        total += _write(opened, entry, target, most_bytes - total)
        files += 1
    return Unpacked(files, total)


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, most_bytes: int) -> int:
    mode = 0o700 if entry.external_attr >> 16 & 0o100 else 0o600
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    written = 0
    with opened.open(entry) as source, os.fdopen(os.open(target, flags, mode), "wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > most_bytes:  # what the directory says of sizes need not be true
                raise BadArchive("the archive unpacks to more than it says")
            file.write(chunk)
    return written
