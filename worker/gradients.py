"""Gradients as they travel from a task to a rule: one flat vector, or named parts of which some touch only rows of a table."""

from __future__ import annotations

import math

import numpy as np

from ps.jit import njit
from ps.layout import Layout, Range
from ps.rows import Rows
from ps.rules import ClipByNorm
from ps.rules.base import Context, UpdateRule
from ps.rules.kernels_transform import sum_of_squares
from ps.rules.wrappers import chain
from ps.stepper import Payload, Stepper

Gradient = Payload


def is_finite(gradient: Gradient) -> bool:
    """No value is NaN or infinite, observed averages included (nor so large that its square overflows float64)."""
    if isinstance(gradient, np.ndarray):
        return math.isfinite(sum_of_squares(gradient))
    return all(math.isfinite(sum_of_squares(_values(part))) for part in gradient.values())


def norm(gradient: Gradient, layout: Layout) -> float:
    """2-norm over the trained parameters."""
    if isinstance(gradient, np.ndarray):
        return math.sqrt(sum_of_squares(gradient[: layout.trained_size]))
    parts = [_values(part) for name, part in gradient.items() if not layout[name].averaged]
    return math.sqrt(sum(sum_of_squares(part) for part in parts))


def needs_norm(rule: UpdateRule) -> bool:
    """The rule clips by the norm of the whole gradient, which it does not see whole."""
    return any(isinstance(inner, ClipByNorm) for inner in chain(rule))


def _values(part: Rows | np.ndarray) -> np.ndarray:
    return (part.values if isinstance(part, Rows) else part).reshape(-1)


class LocalStep:
    """A replica's own rule on its own parameters: trained ones are stepped, averaged ones move towards what was observed.

    Args:
      layout: of the parameters.
      rule: the local rule.
      averaging: weight of one new observation of an averaged parameter.
      seed: of gradient noise.
    """

    def __init__(self, layout: Layout, rule: UpdateRule, averaging: float = 0.1, seed: int = 0):
        self.layout, self.rule, self.averaging, self.seed = layout, rule, averaging, seed
        self.slots = rule.allocate(layout.size, layout.dtype)
        self.steps = 0
        self.row_steps = {table.name: np.zeros(table.shape[0], np.int64) for table in layout.tables}
        self._needs_norm = needs_norm(rule)
        self._stepper: Stepper | None = None

    def apply(self, parameters: np.ndarray, gradient: Gradient, epoch: int = 0) -> None:
        """Step ``parameters`` (N,) in place."""
        if self._stepper is None or self._stepper.vector is not parameters:
            whole = Range(0, self.layout.size)
            self._stepper = Stepper(
                self.layout, whole, self.rule, self.averaging, parameters, self.slots, self.row_steps
            )
        self.steps += 1
        length = norm(gradient, self.layout) if self._needs_norm else None
        self._stepper.apply(gradient, Context(step=self.steps, epoch=epoch, seed=self.seed, gradient_norm=length))


class Accrual:
    """Gradients or updates summed since the last push.

    The sum lies in one flat vector; of sparse tables it also knows the rows touched, so that only these are pushed.

    Args:
      layout: of the parameters.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.count = 0
        self.sum = np.zeros(layout.size, layout.dtype)
        self._spare = np.zeros(layout.size, layout.dtype)  # not zeros_like, which writes every page at once
        self._touched: dict[str, list[np.ndarray]] | None = None
        self._all = frozenset(parameter.name for parameter in layout.parameters)
        self.dense: set[str] = set()

    def touched_rows(self) -> dict[str, np.ndarray]:
        """Rows of sparse tables that the sum touches, name -> int64 (k,) sorted."""
        return {name: np.unique(np.concatenate(rows)) for name, rows in (self._touched or {}).items()}

    def restore(self, count: int, dense: list[str], touched: dict[str, np.ndarray]) -> None:
        """Describe a sum that has been written into ``sum``, as it was saved."""
        self.count, self.dense = count, set(dense)
        self._touched = {name: [rows] for name, rows in touched.items()} or None

    def add(self, gradient: Gradient) -> None:
        """Add one gradient (or update)."""
        self.count += 1
        if isinstance(gradient, np.ndarray):
            add_into(gradient, self.sum)
            self.dense |= self._all
            return
        if self._touched is None:
            self._touched = {}
        for name, part in gradient.items():
            table = self.layout[name]
            view = self.sum[table.offset : table.stop]
            if isinstance(part, Rows):
                add_rows(part.rows, part.values.reshape(part.size, table.width), view.reshape(-1, table.width))
                self._touched.setdefault(name, []).append(part.rows)
            else:
                add_into(part.reshape(-1), view)
                self.dense.add(name)

    def add_change(self, before: np.ndarray, after: np.ndarray, gradient: Gradient) -> None:
        """Add the update ``after - before`` (N,) that ``gradient`` made; of averaged parameters, what was observed."""
        trained = self.layout.trained_size
        if isinstance(gradient, np.ndarray):
            add_difference(before[:trained], after[:trained], self.sum[:trained])
            add_into(gradient[trained:], self.sum[trained:])
            self.count += 1
            self.dense |= self._all
            return
        change: dict[str, Rows | np.ndarray] = {}
        for name, part in gradient.items():
            table = self.layout[name]
            if table.averaged:
                change[name] = part
            elif isinstance(part, Rows):
                shape = (table.shape[0], table.width)
                rows = np.unique(part.rows)
                difference = after[table.offset : table.stop].reshape(shape)[rows]
                difference -= before[table.offset : table.stop].reshape(shape)[rows]
                change[name] = Rows(rows, difference)
            else:
                change[name] = after[table.offset : table.stop] - before[table.offset : table.stop]
        self.add(change)

    def take(self) -> tuple[Gradient, int]:
        """The sum and the number of gradients in it; starts again from zero.

        The payload stays untouched until the next ``take``, whatever is added meanwhile.
        """
        count, self.count = self.count, 0
        if self._touched is None:
            self.sum, self._spare = self._spare, self.sum
            payload: Gradient = self._spare
            self.sum[:] = 0
        else:
            payload = self._take_parts()
        self._touched, self.dense = None, set()
        return payload, count

    def _take_parts(self) -> dict[str, Rows | np.ndarray]:
        payload: dict[str, Rows | np.ndarray] = {}
        for name in sorted(self.dense):  # one order in every process: the sum of a norm depends on it
            view = self.sum[self.layout[name].offset : self.layout[name].stop]
            payload[name] = view.copy()
            view[:] = 0
        for name, rows in self.touched_rows().items():
            if name in self.dense:
                continue
            table = self.layout[name]
            view = self.sum[table.offset : table.stop].reshape(table.shape[0], table.width)
            payload[name] = Rows(rows, view[rows])
            view[rows] = 0
        return payload


@njit(nogil=True, cache=True)
def add_into(values, total):
    """``total += values``, both (n,)."""
    for i in range(total.size):
        total[i] += values[i]


@njit(nogil=True, cache=True)
def add_difference(before, after, total):
    """``total += after - before``, all (n,)."""
    for i in range(total.size):
        total[i] += after[i] - before[i]


@njit(nogil=True, cache=True)
def add_rows(rows, values, table):
    """``table[rows[k]] += values[k]`` in order; a row may stand twice."""
    for k in range(rows.size):
        row = rows[k]
        for i in range(values.shape[1]):
            table[row, i] += values[k, i]
