"""Reader of text tables of ids and numbers: ratings, edge lists, labels of nodes.

A table of plain integers is parsed by compiled code; any other by the standard library's csv reader. Both give the same
ids, the text of the cells (see ``worker.data.ids``).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from ps.errors import DataError
from ps.jit import njit
from worker.data.columns import Column, Found, find_columns, is_missing, is_number, too_few
from worker.data.files import read_text
from worker.data.ids import IdColumn
from worker.data.svmlight import parse_number

LONGEST_ID = 1000  # characters; what is longer is most likely a quote that was never closed
_SEPARATORS = ("\t", ",", ";", "::")
_ROWS = 1 << 12  # that are turned into columns at once: they fit the cache
_QUOTED_OR_PLAIN = re.compile(r'"((?:[^"]|"")*)"|(\S+)')
_NO_PLAIN_NUMBER = re.compile(r"[^0-9eE+.,-]")


def read_table(
    path: Path, wanted: Sequence[Column], *, like: Found | None = None, known: Mapping[str, np.ndarray] | None = None
) -> tuple[dict[str, IdColumn | np.ndarray], Found]:
    """Read some columns of a table; others are ignored.

    Columns are separated by tabs, commas, semicolons, ``::`` or blanks (the first line decides); cells may be quoted as
    in csv, blanks around them do not count; empty lines are skipped, and lines that begin with # or %, as comments.

    Args:
      path: the file, perhaps compressed.
      wanted: the columns; see ``find_columns`` for how they are found.
      like: the columns of the training file.
      known: ids that the model knows, by the column's name.

    Returns:
      Name to column, ids as ``IdColumn``, numbers float64 (n,); and where they were found.

    Raises:
      DataError: with line and column: too few columns, an empty id, no number, not finite; or no line at all.
    """
    content = read_text(path)
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    number, line = _first_line(content, path)
    separator = _separator(line, len(wanted), like)
    first, cells = next(_records(content, separator, path))
    found = find_columns(path, first, cells, separator, wanted, like=like, known=known)
    skip = number if found.header else 0
    columns = _read_integers(content, found, wanted, skip)
    if columns is None:
        columns = _read_cells(content, found, wanted, path)
    if not len(columns[wanted[0].name]):
        raise DataError(f"{path}: holds no line of data")
    return columns, found


def _first_line(content: bytes, path: Path) -> tuple[int, str]:
    """The number of the first line that is neither empty nor a comment, and the line; with the next ones if a quoted cell
    of it goes on there."""
    file = io.BytesIO(content)
    for number, raw in enumerate(file, 1):
        line = raw.decode("utf-8", "surrogateescape").strip()
        if line and line[0] not in "#%":
            for more in islice(file, 100 if line.count('"') % 2 else 0):
                line += "\n" + more.decode("utf-8", "surrogateescape").rstrip()
                if line.count('"') % 2 == 0:
                    break
            return number, line
    raise DataError(f"{path}: holds no line of data")


def _separator(line: str, needed: int, like: Found | None) -> str:
    """The separator by which the line has enough columns, the training file's own first."""
    own = None if like is None or like.separator == " " else like.separator
    present = [separator for separator in ((own,) if own else ()) + _SEPARATORS if separator in line]
    for separator in present:
        if len(_split(line, separator)) >= needed:
            return separator
    if own and needed == 1:
        return own
    return " " if not present or len(_split(line, " ")) >= needed else present[0]


def _split(line: str, separator: str) -> list[str]:
    """The cells of one line."""
    if separator == " ":
        if '"' not in line:
            return line.split()
        return [
            quoted.replace('""', '"') if quoted or not plain else plain
            for quoted, plain in _QUOTED_OR_PLAIN.findall(line)
        ]
    if separator == "::":
        return line.split("::")
    try:
        return next(csv.reader(io.StringIO(line, newline=""), delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []


class _Lines:
    """Lines of a table for a csv reader: counted, without comments and empty lines between two records.

    Attributes:
      number: of the line that was read last, from 1.
      start: number of the line in which the present record starts; 0 to begin a record.
    """

    def __init__(self, content: bytes):
        self._file = io.TextIOWrapper(io.BytesIO(content), "utf-8", "surrogateescape", newline="\n")
        self.number = self.start = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.number += 1
            if not self.start:
                stripped = line.lstrip(" \t") if line[0] in " \t" else line
                if stripped[:1] in ("", "\n", "#", "%"):
                    continue
                self.start = self.number
            yield line


def _records(content: bytes, separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number of its line and the cells of each row, header included."""
    lines = _Lines(content)
    if separator in (" ", "::"):
        for line in lines:
            lines.start = 0
            yield lines.number, _split(line.strip(), separator)
        return
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            yield lines.start, cells
            lines.start = 0
    except csv.Error as error:
        reason = f"{error}; a quote in it is most likely not closed, or stands where it must be doubled"
        raise DataError(f"{path}, line {lines.start}: {reason}") from None


def _read_cells(content: bytes, found: Found, wanted: Sequence[Column], path: Path) -> dict[str, IdColumn | np.ndarray]:
    """Read by the csv reader, some rows at a time."""
    records = _records(content, found.separator, path)
    if found.header is not None:
        next(records)
    distinct: dict[str, dict[str, int]] = {column.name: {} for column in wanted}
    parts: dict[str, list[np.ndarray]] = {column.name: [] for column in wanted}
    while block := list(islice(records, _ROWS)):
        for column in wanted:
            place = found.places[column.name]
            try:
                cells = [row[place].strip(" \t\n") for _, row in block]
            except IndexError:
                line, row = next(entry for entry in block if len(entry[1]) <= place)
                raise DataError(too_few(path, line, row, found)) from None
            if column.number:
                parts[column.name].append(_numbers(cells, column, place, block, path))
                continue
            _check_ids(cells, column, place, block, path)
            known = distinct[column.name]
            parts[column.name].append(np.array([known.setdefault(cell, len(known)) for cell in cells], np.int64))
    columns: dict[str, IdColumn | np.ndarray] = {}
    for column in wanted:
        whole = np.concatenate(parts[column.name]) if parts[column.name] else np.empty(0)
        columns[column.name] = (
            whole if column.number else IdColumn.numbered(list(distinct[column.name]), whole.astype(np.int64))
        )
    return columns


def _numbers(
    cells: list[str], column: Column, place: int, block: list[tuple[int, list[str]]], path: Path
) -> np.ndarray:
    if "" not in cells and not _NO_PLAIN_NUMBER.search(",".join(cells)):
        try:
            found = np.array(list(map(float, cells)))
        except ValueError:
            found = np.array([np.nan])
        if np.isfinite(found).all():
            return found
    row = next(k for k, cell in enumerate(cells) if not is_number(cell) or not np.isfinite(float(cell)))
    where, cell = f"{path}, line {block[row][0]}, column {place + 1}", cells[row]
    if is_missing(cell):
        raise DataError(f"{where}: the {column.name} is missing, got {cell!r}; take the line out")
    raise DataError(f"{where}: {column.name} must be a finite number, got {cell!r}")


def _check_ids(cells: list[str], column: Column, place: int, block: list[tuple[int, list[str]]], path: Path) -> None:
    if "" in cells:
        line = block[cells.index("")][0]
        raise DataError(f"{path}, line {line}, column {place + 1}: the {column.name} is empty; take the line out")
    if max(map(len, cells)) > LONGEST_ID:
        row = next(k for k, cell in enumerate(cells) if len(cell) > LONGEST_ID)
        raise DataError(
            f"{path}, line {block[row][0]}, column {place + 1}: the {column.name} has {len(cells[row])} characters, of at "
            f"most {LONGEST_ID}; a quote before it is most likely not closed"
        )


def _read_integers(
    content: bytes, found: Found, wanted: Sequence[Column], skip: int
) -> dict[str, IdColumn | np.ndarray] | None:
    """Read a table whose ids are all integers in the form that ``CANONICAL_INTEGER`` has; None if one is not."""
    start = 0
    for _ in range(skip):
        start = content.find(b"\n", start) + 1 or len(content)
    if content.find(b'"', start) >= 0:
        return None
    separator = found.separator
    if separator == "::":
        if b"\t" in content:
            return None
        content, separator, start = content[start:].replace(b"::", b"\t"), "\t", 0
    ids = [column.name for column in wanted if not column.number]
    numbers = [column.name for column in wanted if column.number]
    targets = np.full(found.width, -1, np.int64)
    for target, name in enumerate(ids + numbers):
        targets[found.places[name]] = target
    lines = 1 + content.count(b"\n")
    id_table, number_table = np.empty((len(ids), lines), np.int64), np.empty((len(numbers), lines))
    text = np.frombuffer(content, np.uint8)[start:]
    rows = _parse(text, np.uint8(ord(separator)), targets, id_table, number_table)
    if rows < 0 or not np.isfinite(number_table[:, :rows]).all():
        return None
    columns: dict[str, IdColumn | np.ndarray] = {
        name: IdColumn.of(row[:rows]) for name, row in zip(ids, id_table, strict=True)
    }
    return columns | {name: row[:rows].copy() for name, row in zip(numbers, number_table, strict=True)}


@njit(nogil=True, cache=True)
def _parse(text, separator, targets, ids, numbers):
    """Fill ``ids`` and ``numbers`` (columns, lines): column k of the text goes to row targets[k] of both together, -1 to
    none. Returns the rows filled, or -1 where an id is not written as int64 is, or a number is none."""
    at, row = 0, 0
    while at < text.size:
        while at < text.size and (text[at] == 32 or (text[at] == 9 and separator == 32)):
            at += 1
        if at < text.size and text[at] != 10 and text[at] != 35 and text[at] != 37:
            for column in range(targets.size):
                while at < text.size and (text[at] == 32 or (text[at] == 9 and separator == 32)):
                    at += 1
                token, target = at, targets[column]
                if target < 0:
                    while at < text.size and text[at] != separator and text[at] != 10:
                        if separator == 32 and text[at] == 9:
                            break
                        at += 1
                elif target < ids.shape[0]:
                    value, at = _parse_integer(text, at)
                    ids[target, row] = value
                else:
                    number, at = parse_number(text, at)
                    numbers[target - ids.shape[0], row] = number
                if at == token and target >= 0:
                    return -1
                blank = at
                while at < text.size and (text[at] == 32 or (text[at] == 9 and separator == 32)):
                    at += 1
                if at >= text.size or text[at] == 10:
                    if column + 1 < targets.size:
                        return -1
                elif separator == 32:
                    if at == blank:
                        return -1
                elif text[at] == separator:
                    at += 1
                else:
                    return -1
            row += 1
        while at < text.size and text[at] != 10:
            at += 1
        at += 1
    return row


@njit(nogil=True, cache=True)
def _parse_integer(text, at):
    """Read an integer of up to 18 digits without needless zeros or signs. Returns (value, position after it); that position
    is ``at`` if there is none."""
    start = at
    negative = at < text.size and text[at] == 45
    if negative:
        at += 1
    first, value = at, np.int64(0)
    while at < text.size and 48 <= text[at] <= 57 and at - first < 18:
        value = value * 10 + (np.int64(text[at]) - 48)
        at += 1
    if at == first or (text[first] == 48 and (negative or at - first > 1)):
        return np.int64(0), start
    return (-value if negative else value), at
