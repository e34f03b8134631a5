"""Rows of numbers, thinned as they come, so that a page can draw a run of any length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_GROUPS = 400
MOST_COLUMNS = 32


@dataclass(slots=True)
class _Cell:
    """What a group knows of one column."""

    total: float
    count: int
    low: float
    high: float

    def add(self, total: float, count: int, low: float, high: float) -> None:
        self.total += total
        self.count += count
        if low < self.low:
            self.low = low
        if high > self.high:
            self.high = high


@dataclass(slots=True)
class _Group:
    """Neighbouring rows; it stands where its last one stands."""

    at: tuple[float, ...] = ()
    rows: int = 0
    cells: dict[str, _Cell] = field(default_factory=dict)

    def add(self, name: str, total: float, count: int, low: float, high: float) -> None:
        cell = self.cells.get(name)
        if cell is None:
            self.cells[name] = _Cell(total, count, low, high)
        else:
            cell.add(total, count, low, high)

    def join(self, other: _Group) -> None:
        self.at = other.at
        self.rows += other.rows
        for name, cell in other.cells.items():
            self.add(name, cell.total, cell.count, cell.low, cell.high)


class Thinned:
    """At most ``most`` groups of equally many neighbouring rows; each knows mean, least and greatest of every column.

    Every row is looked at once, and memory does not grow: when there are too many groups, neighbours are joined.

    Args:
      places: names of what rows are placed by, e.g. seconds and examples.
      most: groups, >= 2 and even.
    """

    def __init__(self, places: Sequence[str], most: int = MOST_GROUPS):
        self.places, self.most = tuple(places), most
        self._size = 1  # rows per group
        self._groups: list[_Group] = []
        self._columns: dict[str, None] = {}

    def add(self, at: Sequence[float], values: Mapping[str, float | None]) -> None:
        """A row at ``at``; None and what is not finite is left out, and so is a row of nothing else."""
        known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        for name in [name for name in known if name not in self._columns]:
            if len(self._columns) < MOST_COLUMNS:
                self._columns[name] = None
            else:
                del known[name]
        if not known:
            return
        if not self._groups or self._groups[-1].rows == self._size:
            if len(self._groups) == self.most:
                self._join()
            self._groups.append(_Group())
        group = self._groups[-1]
        group.at = tuple(at)
        group.rows += 1
        for name, value in known.items():
            group.add(name, value, 1, value, value)

    def lines(self) -> dict[str, Any]:
        """Lists of equal length: each place and, in ``columns``, each column's ``mean`` and, once rows were joined, its ``low``
        and ``high``; None where a group has none."""
        groups = self._groups
        lines: dict[str, Any] = {
            place: [_short(group.at[index]) for group in groups] for index, place in enumerate(self.places)
        }
        lines["columns"] = {name: self._column(name) for name in self._columns}
        lines["rows_per_point"] = self._size
        return lines

    def last(self, name: str) -> float | None:
        """The newest group's mean of a column."""
        cells = (group.cells[name] for group in reversed(self._groups) if name in group.cells)
        cell = next(cells, None)
        return None if cell is None else cell.total / cell.count

    def _column(self, name: str) -> dict[str, list[float | None]]:
        cells = [group.cells.get(name) for group in self._groups]
        column = {"mean": [cell and _short(cell.total / cell.count) for cell in cells]}
        if self._size > 1:
            column["low"] = [cell and _short(cell.low) for cell in cells]
            column["high"] = [cell and _short(cell.high) for cell in cells]
        return column

    def _join(self) -> None:
        """Twice as many rows per group, half as many groups."""
        for first, second in zip(self._groups[::2], self._groups[1::2]):
            first.join(second)
        self._groups = self._groups[::2]
        self._size *= 2


def _short(value: float) -> float:
    """Six digits are more than a screen shows."""
    return float(f"{value:.6g}")
