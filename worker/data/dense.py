"""Readers of dense data: .npz, idx (MNIST), csv and scikit-learn's bundled sets, all as two arrays ``x`` and ``y``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ps.errors import DataError
from worker.data.bundled import read_bundled
from worker.data.files import NUMPY_MAGIC, ZIP_MAGIC, first_bytes, load_npz, locate, plain_suffix, read_bytes
from worker.data.numbers import read_numbers

_IDX_DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@dataclass
class Examples:
    """A file that was read.

    Attributes:
      x: (n, d), uint8 if the file is, else float32.
      y: (n,) or (n, k) as in the file.
      names: of the columns of a csv with a header, the target last; else None.
    """

    x: np.ndarray
    y: np.ndarray
    names: tuple[str, ...] | None = None


def read_dense(name: str | Path | Mapping[str, np.ndarray], *, part: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Read examples and targets; see ``read_examples``. Returns x and y."""
    found = read_examples(name, part=part)
    return found.x, found.y


def read_examples(
    name: str | Path | Mapping[str, np.ndarray], *, part: str = "train", like: tuple[str, ...] | None = None
) -> Examples:
    """Read examples and targets. What a file is, its first bytes say.

    Args:
      name: one of
        - ``sklearn:digits`` (also iris, wine, breast_cancer, diabetes),
        - an ``.npz`` with arrays ``x`` (n, ...) and ``y`` (n,) or (n, k),
        - a folder with MNIST's four idx files, plain or .gz, of which ``part`` chooses ``train-`` or ``t10k-``; or one
          images file, whose labels file stands beside it under the same name with ``labels-idx1`` for ``images-idx3``,
        - a csv file (commas, semicolons or tabs) of numbers, with or without a header line, whose last column is the
          target; plain or compressed;
        or arrays by name, ``x`` and ``y`` as in an ``.npz``.
      part: ``train`` or ``test``.
      like: names of the columns of the training file: those of a csv are put into their order.

    Raises:
      DataError: no such file, malformed, NaN or infinity (with row and column), unequal lengths, or no example.
    """
    if isinstance(name, Mapping):
        return _checked(*_x_and_y(name, part), part)
    scheme, colon, rest = str(name).partition(":")
    if colon and scheme == "sklearn":
        return _checked(*read_bundled(rest), str(name))
    path = locate(name, part)
    kind = _kind(path)
    if kind == "idx":
        images = _images(path, part)
        return _checked(_idx(images), _idx(_labels(images)), str(path))
    if kind == "npz":
        return _checked(*_x_and_y(load_npz(path), str(path)), str(path))
    if kind == "npy":
        raise DataError(f"{path}: a .npy file holds no targets; save both as an .npz with arrays x and y")
    table, names = read_numbers(path, like=like)
    if table.shape[1] < 2:
        raise DataError(f"{path}: must have at least two columns, the last one the target, got {table.shape[1]}")
    return _checked(table[:, :-1], table[:, -1], str(path), names)


def read_inputs(name: str | Path, *, width: int, like: tuple[str, ...] | None = None) -> np.ndarray:
    """Read examples without their targets: any file that ``read_examples`` reads (of a folder its ``t10k-`` part), which
    may lack the targets; or a ``.npy`` file.

    Args:
      width: d, the number of inputs that the model has; a csv may have a target after them.
      like: names of the columns of the training file, the target last.

    Returns:
      x (n, d), uint8 if the file is, else float32; d may differ from ``width`` where the file's columns have no names.

    Raises:
      DataError: as ``read_examples``.
    """
    scheme, colon, rest = str(name).partition(":")
    if colon and scheme == "sklearn":
        return _checked_inputs(read_bundled(rest)[0], str(name))
    path = locate(name, "inputs")
    kind = _kind(path)
    if kind == "idx":
        x = _idx(_images(path, "test"))
    elif kind == "npz":
        arrays = load_npz(path)
        if "x" not in arrays:
            raise DataError(f"{path}: must hold the array 'x', got {', '.join(arrays) or 'none'}")
        x = arrays["x"]
    elif kind == "npy":
        x = _npy(path)
    else:
        x, _ = read_numbers(path, like=None if like is None else like[:-1], first=width)
    return _checked_inputs(x, str(path))


def _kind(path: Path) -> str:
    """``idx``, ``npz``, ``npy`` or ``csv``."""
    if path.is_dir():
        return "idx"
    start = first_bytes(path, 8)
    if len(start) > 3 and start[:2] == b"\0\0" and start[2] in _IDX_DTYPES:
        return "idx"
    if start.startswith(ZIP_MAGIC) or path.suffix == ".npz":
        return "npz"
    if start.startswith(NUMPY_MAGIC):
        return "npy"
    text = start and b"\0" not in start and not start.startswith(b"PAR1")  # that is Parquet
    if text or plain_suffix(path) in (".csv", ".txt", ".tsv") or not path.is_file():
        return "csv"
    raise DataError(
        f"{path}: must be .npz, .csv, an idx file or a folder of them, or 'sklearn:NAME'; it begins with "
        f"{start.hex(' ') or 'nothing'}"
    )


def _checked(x: np.ndarray, y: np.ndarray, source: str, names: tuple[str, ...] | None = None) -> Examples:
    x = _checked_inputs(x, source)
    _check_numeric(y, "y", source)
    if y.ndim not in (1, 2):
        raise DataError(f"{source}: x must be (n, d) and y (n,) or (n, k), got {x.shape} and {y.shape}")
    if len(x) != len(y):
        raise DataError(f"{source}: x and y must have equally many examples, got {len(x)} and {len(y)}")
    _check_finite(y.reshape(len(y), -1), "y", source)
    return Examples(x, y, names)


def _checked_inputs(x: np.ndarray, source: str) -> np.ndarray:
    """``x`` as (n, d), uint8 or float32."""
    _check_numeric(x, "x", source)
    if x.ndim < 2:
        raise DataError(f"{source}: x must be (n, d), got {x.shape}")
    if x.size == 0:
        raise DataError(f"{source}: holds no example")
    x = x.reshape(len(x), -1)
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    _check_finite(x, "x", source)
    return np.ascontiguousarray(x)


def _check_numeric(array: np.ndarray, letter: str, source: str) -> None:
    if array.dtype.kind not in "buif":
        raise DataError(f"{source}: {letter} must be numeric, got dtype {array.dtype}")


def _check_finite(array: np.ndarray, letter: str, source: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise DataError(
            f"{source}: {letter} must be finite, got {array[row, column]} in row {row}, column {column} (from 0)"
        )


def _npy(path: Path) -> np.ndarray:
    try:
        return np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: is damaged, or holds objects: {error}") from error


def _x_and_y(arrays: Mapping[str, np.ndarray], source: str) -> tuple[np.ndarray, np.ndarray]:
    if not {"x", "y"} <= set(arrays):
        raise DataError(f"{source}: must hold the arrays 'x' and 'y', got {', '.join(arrays) or 'none'}")
    return arrays["x"], arrays["y"]


def _images(path: Path, part: str) -> Path:
    """The file of the images: ``path`` itself, or of a folder the one of that part."""
    if not path.is_dir():
        return path
    prefix = "train" if part == "train" else "t10k"
    found = sorted(path.glob(f"{prefix}-images-idx3-ubyte*")) + sorted(path.glob(f"{prefix}-images.idx3-ubyte*"))
    if not found:
        raise DataError(f"{path}: holds no file {prefix}-images-idx3-ubyte or {prefix}-images-idx3-ubyte.gz")
    return found[0]


def _labels(images: Path) -> Path:
    """The file of the labels, beside that of the images."""
    labels = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
    if labels == images:
        raise DataError(
            f"{images}: the name of an idx file must hold 'images', so that the file of its labels is known"
        )
    if not labels.is_file():
        raise DataError(f"{images}: the file of its labels, {labels.name}, must stand beside it")
    return labels


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
