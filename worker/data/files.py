"""Finding and reading data files: compressed or not, the user's or bundled, with errors that name them."""

from __future__ import annotations

import bz2
import difflib
import gzip
import lzma
import zlib
from pathlib import Path

from ps.errors import DataError, nearest

BUNDLED = Path(__file__).resolve().parents[1] / "tasks" / "data"
_DECOMPRESS = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


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
    """The content of ``path``, decompressed by its suffix (.gz, .bz2, .xz).

    Raises:
      DataError: a folder, unreadable, or not what its suffix says.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    decompress = _DECOMPRESS.get(path.suffix)
    if decompress is None:
        return content
    try:
        return decompress(content)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path}: is damaged, or no {path.suffix} file: {error}") from error


def plain_suffix(path: Path) -> str:
    """Suffix of ``path`` under the compression: ``.csv`` for ``ratings.csv.gz``."""
    return Path(path.stem).suffix if path.suffix in _DECOMPRESS else path.suffix


def _alike(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    close = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
