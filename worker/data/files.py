"""Finding and reading data files: compressed or not, the user's or bundled, with errors that name them.

What a file is, its first bytes say, not its name: a compressed file may have any ending.
"""

from __future__ import annotations

import bz2
import codecs
import difflib
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ps.errors import DataError, nearest

BUNDLED = Path(__file__).resolve().parents[1] / "tasks" / "data"
NUMPY_MAGIC, ZIP_MAGIC = b"\x93NUMPY", b"PK\x03\x04"  # of .npy and .npz
_SUFFIXES = (".gz", ".bz2", ".xz")
# The first bytes of a compressed file, what it is called, what opens it.
_COMPRESSED = (
    (re.compile(rb"\x1f\x8b\x08"), "gzip", gzip.open),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2", bz2.open),  # with a block, or empty
    (re.compile(rb"\xfd7zXZ\x00"), "xz", lzma.open),
)
_DAMAGED = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error)


def locate(name: str | Path, what: str) -> Path:
    """The path of a data file; ``hogshead:NAME`` is a bundled one.

    Args:
      name: as given by the user.
      what: the option it came from, for the message.

    Raises:
      DataError: there is no such file; the message names one much like it in the same folder.
    """
    text = str(name)
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "hogshead":
        path = BUNDLED / f"{rest}.xz"
        if not path.is_file():
            there = [entry.name.removesuffix(".xz") for entry in BUNDLED.glob("*.xz")]
            raise DataError(f"{what}: no bundled data {text!r}{nearest(rest, there)}")
        return path
    path = Path(text).expanduser()
    if not path.exists():
        raise DataError(f"{what}: there is no file {path}{_alike(path)}")
    return path


def read_bytes(path: Path) -> bytes:
    """The content of ``path``, decompressed if its first bytes are those of gzip, bzip2 or xz.

    Raises:
      DataError: a folder, unreadable, or damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    name, opener = _compression(content[:16])
    if opener is None:
        return content
    try:
        with opener(io.BytesIO(content)) as file:
            return file.read()
    except _DAMAGED as error:
        raise DataError(f"{path}: is a damaged {name} file: {error}") from error


def read_text(path: Path) -> bytes:
    """As ``read_bytes``, for text: UTF-8 without a byte order mark. UTF-16 is translated if it has its mark.

    Raises:
      DataError: as ``read_bytes``; or the file holds NUL bytes, so it is no text.
    """
    content = read_bytes(path)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            content = content.decode("utf-16").encode()
        except UnicodeError as error:
            raise DataError(f"{path}: begins as UTF-16 does, but is not: {error}; save it as UTF-8") from error
    if b"\0" in content:
        raise DataError(f"{path}: must be text (UTF-8), but holds NUL bytes")
    return content.removeprefix(codecs.BOM_UTF8)


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of ``path`` under the compression, at most ``count``: by them a file's kind is known. Of a folder or
    a pipe, which can be read only once, none.

    Raises:
      DataError: as ``read_bytes``.
    """
    if not path.is_file():
        return b""
    try:
        with open(path, "rb") as file:
            name, opener = _compression(file.read(16))
            file.seek(0)
            if opener is None:
                return file.read(count)
            try:
                return opener(file).read(count)
            except _DAMAGED as error:
                raise DataError(f"{path}: is a damaged {name} file: {error}") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, by name; the file may be compressed once more.

    Raises:
      DataError: as ``read_bytes``; it is no such file, or holds objects, which are never unpickled.
    """
    bare = first_bytes(path, 4)
    if bare != ZIP_MAGIC:
        raise DataError(f"{path}: is damaged, or no .npz file: it begins with {bare!r}")
    try:
        with open(path, "rb") as file:
            packed = _compression(file.read(16))[1] is not None
        with np.load(io.BytesIO(read_bytes(path)) if packed else path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is damaged, or holds objects: {error}") from error


def plain_suffix(path: Path) -> str:
    """Suffix of ``path`` under the compression: ``.csv`` for ``ratings.csv.gz``."""
    return Path(path.stem).suffix if path.suffix in _SUFFIXES else path.suffix


def _compression(magic: bytes) -> tuple[str, Callable[..., Any] | None]:
    return next(((name, opener) for pattern, name, opener in _COMPRESSED if pattern.match(magic)), ("", None))


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read: {error.strerror}")


def _alike(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    close = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
