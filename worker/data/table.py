"""Reader of text tables of ids and numbers: ratings, edge lists, labels of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numba import njit

from ps.errors import DataError
from worker.data.files import read_bytes
from worker.data.svmlight import parse_number

_EXACT = 2.0**53  # integers up to here are exact in float64


def read_table(path: Path, ids: Sequence[str], numbers: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the first columns of a table; further columns are ignored.

    Columns are separated by tabs, commas, semicolons, ``::`` or blanks (the first line decides); lines that begin with
    # or % are comments; a first line whose number columns hold no number is a header.

    Args:
      path: the file, perhaps compressed.
      ids: names of the first columns, which hold ids: integers or any text.
      numbers: names of the columns after them, which hold finite numbers.

    Returns:
      Name to column: ids int64 (n,) if all are integers, else text; numbers float64 (n,).

    Raises:
      DataError: with line and column: too few columns, no number, not finite; or no line at all.
    """
    content = read_bytes(path).replace(b"::", b"\t").replace(b"\r\n", b"\n")
    separator, skip = _dialect(content, len(ids), len(numbers), path)
    columns = len(ids) + len(numbers)
    text = np.frombuffer(content, np.uint8)
    table = np.empty((1 + content.count(b"\n"), columns))
    rows = _parse(text, np.uint8(ord(separator)), skip, table)
    if rows >= 0 and _all_integers(table[:rows, : len(ids)]) and np.isfinite(table[:rows]).all():
        found = {name: table[:rows, k].astype(np.int64) for k, name in enumerate(ids)}
        found |= {name: table[:rows, len(ids) + k].copy() for k, name in enumerate(numbers)}
    else:
        found = _parse_slowly(content, separator, skip, ids, numbers, path)
    if not len(found[ids[0]]):
        raise DataError(f"{path}: holds no line of data")
    return found


def remap(*columns: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Number the ids that stand in ``columns`` from 0.

    Returns:
      The sorted ids (k,), and each column as int64 indices into them.
    """
    if len({column.dtype.kind for column in columns}) > 1:  # integers here, text there: compare as text
        columns = tuple(column.astype(str) for column in columns)
    ids, places = np.unique(np.concatenate(columns), return_inverse=True)
    cuts = np.cumsum([column.size for column in columns])[:-1]
    return ids, [part.astype(np.int64) for part in np.split(places, cuts)]


def _all_integers(table: np.ndarray) -> bool:
    return bool((table == np.floor(table)).all() and (np.abs(table) < _EXACT).all())


def _dialect(content: bytes, ids: int, numbers: int, path: Path) -> tuple[str, int]:
    """The separator, and how many lines the header takes (with the comments before it)."""
    for number, line in enumerate(content.split(b"\n", 1000)):
        text = line.decode("utf-8", errors="replace").strip()
        if not text or text[0] in "#%":
            continue
        separator = next((candidate for candidate in "\t,;" if candidate in text), " ")
        cells = _cells(text, separator)
        header = numbers > 0 and len(cells) >= ids + numbers and not any(map(_is_number, cells[ids : ids + numbers]))
        return separator, number + 1 if header else 0
    raise DataError(f"{path}: holds no line of data")


def _cells(line: str, separator: str) -> list[str]:
    return line.split() if separator == " " else line.split(separator)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@njit(nogil=True, cache=True)
def _parse(text, separator, skip, table):
    """Fill ``table`` (lines, columns) where all cells are numbers. Returns the rows filled, or -1 where one is not."""
    at, row = 0, 0
    for _ in range(skip):
        while at < text.size and text[at] != 10:
            at += 1
        at += 1
    while at < text.size:
        while at < text.size and (text[at] == 32 or (text[at] == 9 and separator == 32)):
            at += 1
        if at < text.size and text[at] != 10 and text[at] != 35 and text[at] != 37:
            for column in range(table.shape[1]):
                while at < text.size and text[at] == 32:
                    at += 1
                token = at
                value, at = parse_number(text, at)
                if at == token:
                    return -1
                table[row, column] = value
                while at < text.size and text[at] == 32 and separator != 32:
                    at += 1
                if at < text.size and text[at] == separator:
                    at += 1
                elif column + 1 < table.shape[1] or (at < text.size and text[at] != 10):
                    return -1
            row += 1
        while at < text.size and text[at] != 10:
            at += 1
        at += 1
    return row


def _parse_slowly(
    content: bytes, separator: str, skip: int, ids: Sequence[str], numbers: Sequence[str], path: Path
) -> dict[str, np.ndarray]:
    """As ``read_table``, cell by cell: for ids of text, and to say where a cell is wrong."""
    found: dict[str, list] = {name: [] for name in (*ids, *numbers)}
    needed = len(found)
    for number, raw in enumerate(content.decode("utf-8", errors="replace").split("\n"), 1):
        line = raw.strip()
        if number <= skip or not line or line[0] in "#%":
            continue
        cells = [cell.strip() for cell in _cells(line, separator)]
        if len(cells) < needed:
            raise DataError(
                f"{path}, line {number}: must have {needed} columns ({', '.join(found)}), got {len(cells)}: {line!r}"
            )
        for name, cell in zip(ids, cells, strict=False):
            found[name].append(cell)
        for column, name in enumerate(numbers, len(ids)):
            if not _is_number(cells[column]) or not np.isfinite(float(cells[column])):
                raise DataError(
                    f"{path}, line {number}, column {column + 1}: {name} must be a finite number, got {cells[column]!r}"
                )
            found[name].append(float(cells[column]))
    columns = {name: np.array(found[name], dtype=np.float64) for name in numbers}
    return {name: _ids(found[name]) for name in ids} | columns


def _ids(cells: list[str]) -> np.ndarray:
    try:
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    except (ValueError, OverflowError):
        return np.array(cells, dtype=str)
