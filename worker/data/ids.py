"""Ids: the text of a cell, exactly. ``1``, ``01``, ``1_0`` and ``1.0`` are four ids.

Ids of which all are integers as Python writes them (``-7``, ``0``, ``42``) are kept as int64: text and number are then one
to one, so that the kind of an array never decides which ids are equal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # below 10**18, so that int64 holds it


@dataclass
class IdColumn:
    """A column of ids.

    Attributes:
      ids: the distinct ids (k,), int64 or text, sorted.
      codes: int64 (n,), for each row the index of its id in ``ids``.
    """

    ids: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, column: np.ndarray) -> IdColumn:
        """From an array with the id of each row (n,), integers or text."""
        if column.dtype.kind == "S":
            column = np.char.decode(column, "utf-8", "surrogateescape")
        if column.dtype.kind == "u" and column.size and column.max() > np.iinfo(np.int64).max:
            column = column.astype(str)
        elif column.dtype.kind in "iu":
            column = column.astype(np.int64)
        ids, codes = np.unique(column, return_inverse=True)
        return cls(ids, codes.astype(np.int64))

    @classmethod
    def numbered(cls, cells: Sequence[str], codes: np.ndarray) -> IdColumn:
        """From distinct ids in any order, and the index of each row's id in them (n,)."""
        canonical = all(map(CANONICAL_INTEGER.fullmatch, cells))
        ids = np.array([int(cell) for cell in cells], np.int64) if canonical else np.array(cells, str)
        order = np.argsort(ids)
        places = np.empty(order.size, np.int64)
        places[order] = np.arange(order.size)
        return cls(ids[order], places[codes])

    def __len__(self) -> int:
        return self.codes.size

    @property
    def cells(self) -> np.ndarray:
        """The id of each row (n,)."""
        return self.ids[self.codes]

    def codes_in(self, known: np.ndarray) -> np.ndarray:
        """The index of each row's id in ``known`` (sorted ids), -1 where it is not among them; int64 (n,)."""
        return places(known, self.ids)[self.codes]


def union(*columns: IdColumn) -> tuple[np.ndarray, list[np.ndarray]]:
    """Number the ids of several columns together.

    Returns:
      The sorted ids (k,), and for each column the index of each row's id in them.
    """
    kinds = {column.ids.dtype.kind for column in columns}
    distinct = [column.ids if len(kinds) == 1 else column.ids.astype(str) for column in columns]
    ids = np.unique(np.concatenate(distinct))
    return ids, [np.searchsorted(ids, own)[column.codes] for own, column in zip(distinct, columns, strict=True)]


def places(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of each of ``wanted`` in the sorted ids ``known``, -1 where it is not among them; int64."""
    if known.dtype.kind == wanted.dtype.kind:
        order = np.arange(known.size)
    else:  # integers on one side, text on the other
        known, wanted = known.astype(str), wanted.astype(str)
        order = np.argsort(known)
    found = np.minimum(np.searchsorted(known, wanted, sorter=order), known.size - 1)
    found = order[found]
    return np.where(known[found] == wanted, found, -1).astype(np.int64)


def has_all(known: np.ndarray, cells: Iterable[str]) -> bool:
    """Whether all cells are among the ids ``known``."""
    return bool((places(known, np.array(list(cells), str)) >= 0).all())


def digest(*columns: np.ndarray) -> str:
    """Text that changes with the ids of any of the columns (distinct, sorted), or their order."""
    content = hashlib.sha256()
    for ids in columns:
        content.update(f"{ids.dtype.str} {ids.size}\n".encode())
        content.update(np.ascontiguousarray(ids).tobytes())
    return content.hexdigest()[:16]
