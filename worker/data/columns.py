"""Which columns of a table are which: decided once, by the training file, for the test file and the inputs too."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ps.errors import DataError
from worker.data.ids import CANONICAL_INTEGER, has_all

_MISSING = frozenset(("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "missing", "?", ".", "-", "--", "\\n"))
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """A column that a reader wants.

    Attributes:
      name: in messages.
      words: what a header may call it, the likeliest first; in lower case, letters and digits only.
      number: it holds finite numbers, else ids.
    """

    name: str
    words: tuple[str, ...] = ()
    number: bool = False


@dataclass(frozen=True)
class Found:
    """The columns of one table.

    Attributes:
      separator: between cells; a blank stands for any run of blanks and tabs.
      places: name -> index of the column, from 0.
      header: the cells of the header, or None.
    """

    separator: str
    places: Mapping[str, int]
    header: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        """The number of columns that a line needs."""
        return 1 + max(self.places.values())


def is_number(cell: str) -> bool:
    """Whether a cell holds a decimal number; not ``1_0``, as Python has it, nor NaN or infinity."""
    return _NUMBER.fullmatch(cell) is not None


def is_missing(cell: str) -> bool:
    """Whether a cell says that its value is missing: nothing, NA, NaN, null, ..."""
    return cell.casefold() in _MISSING


def is_word(cell: str) -> bool:
    """Whether a cell could be a column's name: neither a number nor missing."""
    return not (is_number(cell) or is_missing(cell) or _NOT_FINITE.fullmatch(cell))


def find_columns(
    path: Path,
    line: int,
    cells: Sequence[str],
    separator: str,
    wanted: Sequence[Column],
    *,
    like: Found | None = None,
    known: Mapping[str, np.ndarray] | None = None,
) -> Found:
    """Decide by the first line of a table which columns are which, and whether that line is a header.

    A line is a header if it names the columns, or if it has words where numbers are wanted and holds no number at all. A
    value that is missing (NA) makes no header. Where only ids are wanted and none of them is known, one name is enough,
    or words where all known ids are integers. Columns are taken by the header's names, else at the places where the
    training file has them, else the first ones in the order of ``wanted``.

    Args:
      path, line: where the cells stand, for messages.
      cells: of the first line.
      separator: of this table.
      like: the training file's columns.
      known: name of a column -> the ids that the model knows: a line of known ids is no header.

    Raises:
      DataError: too few columns, or a header that cannot be understood.
    """
    named = _by_name(path, line, cells, wanted, like)
    by_order = _by_order(path, line, cells, wanted, like)
    numbers = [column.name for column in wanted if column.number]
    if known is not None and any(has_all(ids, [cells[(by_order | named)[name]]]) for name, ids in known.items()):
        return Found(separator, by_order)
    if len(named) == len(wanted) and not any(is_number(cells[named[name]]) for name in numbers):
        return Found(separator, named, tuple(cells))
    if numbers:
        header = all(is_word(cells[by_order[name]]) for name in numbers) and not any(map(is_number, cells))
    else:
        texts = [
            ids.dtype.kind == "i" and not CANONICAL_INTEGER.fullmatch(cells[by_order[name]])
            for name, ids in (known or {}).items()
        ]
        header = bool(named) or (bool(texts) and all(texts))
        header = header and all(map(is_word, cells))
    if not header:
        return Found(separator, by_order)
    if any(by_order[name] != place for name, place in named.items()):
        expected = ", ".join(column.name for column in wanted)
        raise DataError(
            f"{path}, line {line}: the header names some columns but not all ({', '.join(map(repr, cells))}); "
            f"call them {expected}, in any order"
        )
    return Found(separator, by_order, tuple(cells))


def _by_name(
    path: Path, line: int, cells: Sequence[str], wanted: Sequence[Column], like: Found | None
) -> dict[str, int]:
    """The columns that the cells name, as in the training file's header or by their usual words."""
    if like is not None and like.header is not None:
        own = {column.name: like.header[like.places[column.name]] for column in wanted}
        if len(set(own.values())) == len(own) and all(list(cells).count(cell) == 1 for cell in own.values()):
            return {name: list(cells).index(cell) for name, cell in own.items()}
    plain = [re.sub(r"[^a-z0-9]", "", cell.casefold()) for cell in cells]
    found = {}
    for column in wanted:
        word = next((word for word in column.words if word in plain), None)
        if word is None:
            continue
        if plain.count(word) > 1 and all(map(is_word, cells)):
            raise DataError(
                f"{path}, line {line}: the header has two columns {cells[plain.index(word)]!r}; rename the one that is "
                f"not the {column.name}"
            )
        found[column.name] = plain.index(word)
    return found


def _by_order(
    path: Path, line: int, cells: Sequence[str], wanted: Sequence[Column], like: Found | None
) -> dict[str, int]:
    names = [column.name for column in wanted]
    places = {name: place for place, name in enumerate(names)}
    if like is not None:
        there = {name: like.places[name] for name in names}
        if len(cells) == len(names):  # only what is wanted, in the training file's order
            places = {name: rank for rank, name in enumerate(sorted(names, key=there.__getitem__))}
        else:
            places = there
    if len(cells) <= max(places.values()):
        raise DataError(too_few(path, line, cells, Found("", places)))
    return places


def too_few(path: Path, line: int, cells: Sequence[str], found: Found) -> str:
    """The message for a line with too few columns."""
    names = sorted(found.places, key=found.places.__getitem__)
    shown = ", ".join(cells)
    shown = shown if len(shown) <= 100 else shown[:100] + "..."
    return f"{path}, line {line}: must have {found.width} columns ({', '.join(names)}), got {len(cells)}: {shown!r}"
