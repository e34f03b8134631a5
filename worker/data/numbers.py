"""Reader of csv files of numbers, with or without a header."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ps.errors import DataError
from worker.data.columns import is_missing, is_word
from worker.data.files import read_text


def read_numbers(
    path: Path, *, like: Sequence[str] | None = None, first: int | None = None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Read a table of numbers, separated by tabs, semicolons or commas; cells may be quoted.

    The first line is a header if it holds no number but a name, or names beside numbers in a row (0, 1, 2, target). A value
    that is missing (NA) makes no header.

    Args:
      path: the file, perhaps compressed.
      like: names of the columns wanted, for a file with a header: it may have them in any order, and others besides. A
        header with none of these names says nothing about the order.
      first: without names to go by, the number of columns wanted, if the file has one more (the target).

    Returns:
      float64 (rows, columns), and the header's cells or None.

    Raises:
      DataError: a cell that is no number, a line of another length, a missing column (with its place), or no example.
    """
    text = read_text(path).decode("utf-8", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    start = len(text) - len(text.lstrip("\n"))
    top = text[start : text.find("\n", start)] if "\n" in text[start:] else text[start:]
    separator = next((candidate for candidate in "\t;," if candidate in top), ",")
    cells = [cell.strip() for cell in next(csv.reader([top], delimiter=separator, skipinitialspace=True), [])]
    names = tuple(cells) if _is_header(cells) else None
    body = text[start + len(top) :] if names else text
    if not body.strip():
        raise DataError(f"{path}: holds no example")
    columns = _chosen(path, text.count("\n", 0, start) + 1, cells, names, like, first)
    try:
        table = np.loadtxt(
            io.StringIO(body), delimiter=separator, ndmin=2, comments=None, quotechar='"', usecols=columns
        )
    except ValueError as error:
        raise DataError(_bad_cell(path, text, separator, names is not None, columns) or f"{path}: {error}") from error
    return table, names


def _is_header(cells: Sequence[str]) -> bool:
    words = sum(map(is_word, cells))
    if not words:
        return False
    numbers = [cell for cell in cells if not is_word(cell) and not is_missing(cell)]
    if len(numbers) < 2:
        return not numbers
    start = int(numbers[0]) if numbers[0].isdecimal() else 0
    return numbers == [str(start + k) for k in range(len(numbers))]


def _chosen(
    path: Path,
    line: int,
    cells: Sequence[str],
    names: tuple[str, ...] | None,
    like: Sequence[str] | None,
    first: int | None,
) -> list[int] | None:
    """The columns to read, from 0; None for all of them."""
    if names is not None and like is not None and set(names) & set(like):
        counts = Counter(names)
        missing = [name for name in like if not counts[name]]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise DataError(
                f"{path}, line {line}: the header lacks the column {', '.join(map(repr, missing[:3]))}{more}, which train has"
            )
        if tuple(like) == names[: len(like)]:
            return list(range(len(like)))
        twice = [name for name in like if counts[name] > 1]
        if twice:
            raise DataError(f"{path}, line {line}: the header has more than one column {twice[0]!r}; rename one")
        return [names.index(name) for name in like]
    return list(range(first)) if first is not None and len(cells) == first + 1 else None


def _bad_cell(path: Path, text: str, separator: str, header: bool, columns: list[int] | None) -> str | None:
    """Where a table of numbers is none: the first cell that is no number, or the first line of another length."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    width = None
    for cells in reader:
        if not cells:
            continue
        if header:
            header = False
            continue
        width = width or len(cells)
        for column, cell in enumerate(cells):
            if (columns is None or column in columns) and not _is_float(cell.strip()):
                return (
                    f"{path}, line {reader.line_num}, column {column + 1}: a number is expected, got {cell.strip()!r}"
                )
        if len(cells) != width:
            return f"{path}, line {reader.line_num}: must have {width} columns as the lines before, got {len(cells)}"
    return None


def _is_float(cell: str) -> bool:
    """Whether numpy's reader takes it; NaN and infinity are refused later, as in every kind of file."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and cell.isascii()
