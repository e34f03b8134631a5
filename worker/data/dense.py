"""Readers of dense data: .npz, idx (MNIST), csv and scikit-learn's bundled sets, all as two arrays ``x`` and ``y``."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ps.errors import DataError
from worker.data.bundled import read_bundled
from worker.data.files import locate, plain_suffix, read_bytes

_IDX_DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_dense(name: str | Path | Mapping[str, np.ndarray], *, part: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Read examples and targets.

    Args:
      name: one of
        - ``sklearn:digits`` (also iris, wine, breast_cancer, diabetes),
        - an ``.npz`` with arrays ``x`` (n, ...) and ``y`` (n,) or (n, k),
        - a folder with MNIST's four idx files, plain or .gz, of which ``part`` chooses ``train-`` or ``t10k-``; or one
          images file, whose labels file stands beside it under the same name with ``labels-idx1`` for ``images-idx3``,
        - a ``.csv`` (or .csv.gz, ...) of numbers, with or without a header line, whose last column is the target;
        or arrays by name, ``x`` and ``y`` as in an ``.npz``.
      part: ``train`` or ``test``.

    Returns:
      x (n, d), uint8 if the file is, else float32; y (n,) or (n, k) as in the file.

    Raises:
      DataError: no such file, malformed, NaN or infinity (with row and column), unequal lengths, or no example.
    """
    if isinstance(name, Mapping):
        return _checked(*_x_and_y(name, part), part)
    scheme, colon, rest = str(name).partition(":")
    if colon and scheme == "sklearn":
        x, y, source = *read_bundled(rest), str(name)
    else:
        path = locate(name, part)
        source = str(path)
        if path.is_dir() or "idx" in path.name:
            x, y = _idx_pair(path, part)
        elif path.suffix == ".npz":
            x, y = _npz(path)
        elif plain_suffix(path) in (".csv", ".txt", ".tsv"):
            x, y = _csv(path)
        else:
            raise DataError(f"{path}: must be .npz, .csv, an idx file or a folder of them, or 'sklearn:NAME'")
    return _checked(x, y, source)


def _checked(x: np.ndarray, y: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray]:
    for array, letter in ((x, "x"), (y, "y")):
        if array.dtype.kind not in "buif":
            raise DataError(f"{source}: {letter} must be numeric, got dtype {array.dtype}")
    if x.ndim < 2 or y.ndim not in (1, 2):
        raise DataError(f"{source}: x must be (n, d) and y (n,) or (n, k), got {x.shape} and {y.shape}")
    if len(x) != len(y):
        raise DataError(f"{source}: x and y must have equally many examples, got {len(x)} and {len(y)}")
    if x.size == 0:
        raise DataError(f"{source}: holds no example")
    x = x.reshape(len(x), -1)
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    for array, letter in ((x, "x"), (y.reshape(len(y), -1), "y")):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0]
            raise DataError(
                f"{source}: {letter} must be finite, got {array[row, column]} in row {row}, column {column} (from 0)"
            )
    return np.ascontiguousarray(x), y


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return _x_and_y(content, str(path))
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is damaged, holds objects, or no .npz file: {error}") from error


def _x_and_y(arrays: Mapping[str, np.ndarray], source: str) -> tuple[np.ndarray, np.ndarray]:
    if not {"x", "y"} <= set(arrays):
        raise DataError(f"{source}: must hold the arrays 'x' and 'y', got {', '.join(arrays) or 'none'}")
    return arrays["x"], arrays["y"]


def _idx_pair(path: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    if path.is_dir():
        prefix = "train" if part == "train" else "t10k"
        found = sorted(path.glob(f"{prefix}-images-idx3-ubyte*")) + sorted(path.glob(f"{prefix}-images.idx3-ubyte*"))
        if not found:
            raise DataError(f"{path}: holds no file {prefix}-images-idx3-ubyte or {prefix}-images-idx3-ubyte.gz")
        path = found[0]
    labels = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if labels == path or not labels.is_file():
        raise DataError(f"{path}: the file of its labels, {labels.name}, must stand beside it")
    return _idx(path), _idx(labels)


def _idx(path: Path) -> np.ndarray:
    """One array in Yann LeCun's idx format: 0, 0, type, number of axes, big-endian sizes, then the elements."""
    content = read_bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES:
        raise DataError(
            f"{path}: is no idx file: it must begin with two zero bytes and a type, got {content[:4].hex(' ')}"
        )
    dtype, axes = np.dtype(_IDX_DTYPES[content[2]]), content[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{path}: must have {start} bytes of header, got {len(content)} bytes in all")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", axes, 4))
    needed = start + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if len(content) != needed:
        raise DataError(f"{path}: must have {needed} bytes for shape {shape}, got {len(content)}")
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    text = read_bytes(path).decode("utf-8", errors="replace")
    lines = text.splitlines()
    separator = "\t" if lines and "\t" in lines[0] else ","
    header = bool(lines) and not _is_number(lines[0].split(separator)[-1])
    body = "\n".join(lines[header:])
    if not body.strip():
        raise DataError(f"{path}: holds no example")
    try:
        table = np.loadtxt(io.StringIO(body), delimiter=separator, ndmin=2, comments=None)
    except ValueError as error:
        raise DataError(_bad_cell(path, lines, separator, int(header)) or f"{path}: {error}") from error
    if table.shape[1] < 2:
        raise DataError(f"{path}: must have at least two columns, the last one the target, got {table.shape[1]}")
    return table[:, :-1], table[:, -1]


def _bad_cell(path: Path, lines: list[str], separator: str, first: int) -> str | None:
    """Where a table of numbers is none: the first cell that is no number, or the first line of another length."""
    columns = None
    for number, line in enumerate(lines[first:], first + 1):
        if not line.strip():
            continue
        cells = line.split(separator)
        columns = columns or len(cells)
        for column, cell in enumerate(cells, 1):
            if not _is_number(cell):
                return f"{path}, line {number}, column {column}: a number is expected, got {cell.strip()!r}"
        if len(cells) != columns:
            return f"{path}, line {number}: must have {columns} columns as the lines before, got {len(cells)}"
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
