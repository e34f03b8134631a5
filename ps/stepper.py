"""How a payload steps one range of the vector: trained parameters by the rule, averaged ones towards what was observed.

The same on a shard (its range of the center) and on a replica (the whole vector, with the local rule).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ps.errors import UsageError
from ps.layout import Layout, Parameter, Range
from ps.rows import Rows
from ps.rules import MovingAverage
from ps.rules.base import Context, Slots, UpdateRule, part_of, replace_context

Payload = np.ndarray | Mapping[str, "Rows | np.ndarray"]


class Stepper:
    """A rule at work on one range.

    Args:
      layout: of the whole vector.
      part: the range stepped here.
      rule: for the trained parameters.
      averaging: weight of one new observation of an averaged parameter.
      vector: (n,) the range's values, changed in place.
      slots: name -> (n,).
      row_steps: table name -> int64 (rows of the table in this range,).
    """

    def __init__(
        self,
        layout: Layout,
        part: Range,
        rule: UpdateRule,
        averaging: float,
        vector: np.ndarray,
        slots: Slots,
        row_steps: Mapping[str, np.ndarray],
    ):
        self.layout, self.part, self.rule = layout, part, rule
        self.vector, self.slots, self.row_steps = vector, slots, row_steps
        # A center that is itself a moving average of the replicas (synchronous EASGD) treats all parameters alike.
        self._averaging = rule if isinstance(rule, MovingAverage) else MovingAverage(weight=averaging)
        # Averaged parameters stand at the end of the whole vector, so at the end of the ranges that hold them.
        self._trained = min(max(layout.trained_size - part.start, 0), part.size)

    def apply(self, payload: Payload, context: Context) -> None:
        """Step the range in place.

        Args:
          payload: this range's part (n,), or name -> this range's part of that parameter (a flat array, or ``Rows`` with row
            numbers counted within the range), as ``split_payload`` gives it.
          context: of the whole range.

        Raises:
          UsageError: a shape or dtype does not fit, or a row is not in its table.
        """
        if isinstance(payload, np.ndarray):
            if payload.shape != self.vector.shape:
                raise UsageError(f"push: the range has {self.part.size} elements, got {payload.shape}")
            self._dense(0, payload, context)
            return
        for name, part in payload.items():
            start = max(self.layout[name].offset, self.part.start) - self.part.start
            if isinstance(part, Rows):
                self._rows(self.layout[name], start, part, context)
            else:
                self._dense(start, part.reshape(-1), context)

    def _dense(self, start: int, values: np.ndarray, context: Context) -> None:
        if values.size == self._trained == self.vector.size:  # most pushes: nothing to cut
            self.rule.apply(self.vector, self.slots, values, context)
            return
        stop = start + values.size
        cut = min(max(self._trained, start), stop)
        if start < cut:
            slots = {name: slot[start:cut] for name, slot in self.slots.items()}
            self.rule.apply(self.vector[start:cut], slots, values[: cut - start], part_of(context, start, cut))
        if cut < stop:
            self._averaging.apply(self.vector[cut:stop], {}, values[cut - start :], part_of(context, cut, stop))

    def _rows(self, table: Parameter, start: int, part: Rows, context: Context) -> None:
        rows = self.row_steps[table.name].size
        stop, shape = start + rows * table.width, (rows, table.width)
        within = part_of(context, start, stop, row_steps=self.row_steps[table.name])
        if within.remembered is not None:
            within = replace_context(within, remembered=within.remembered.reshape(shape))
        self.rule.apply_rows(
            self.vector[start:stop].reshape(shape),
            {key: slot[start:stop].reshape(shape) for key, slot in self.slots.items()},
            part.rows,
            part.values.reshape(part.size, table.width),
            within,
        )


def split_payload(payload: Payload, layout: Layout, part: Range) -> Payload | None:
    """The part of a payload that concerns one range, as ``Stepper.apply`` takes it; None if there is none.

    Raises:
      UsageError: a part has another size than its parameter, or ``Rows`` are given for what is not declared sparse.
    """
    if isinstance(payload, np.ndarray):
        return part.of(payload)
    pieces: dict[str, Rows | np.ndarray] = {}
    for name, values in payload.items():
        parameter = layout[name]
        start, stop = max(parameter.offset, part.start), min(parameter.stop, part.stop)
        if start >= stop:
            continue
        first, last = start - parameter.offset, stop - parameter.offset
        if isinstance(values, Rows):
            piece = _rows_within(values, parameter, first, last)
            if piece.size:
                pieces[name] = piece
        elif values.size == last - first == parameter.size:
            pieces[name] = values.reshape(-1)
        elif values.size == parameter.size:
            pieces[name] = values.reshape(-1)[first:last]
        else:
            raise UsageError(f"push: {name!r} has {parameter.size} elements, got {values.size}")
    return pieces or None


def _rows_within(values: Rows, table: Parameter, first: int, last: int) -> Rows:
    """The rows whose elements ``[first, last)`` of ``table`` lie in a range, counted from the range's first row.

    Rows that are not in the table at all go to the range at its end, whose rule refuses them.
    """
    if not table.sparse:
        raise UsageError(f"push: {table.name!r} is not declared sparse, got Rows; name it in the task's `sparse`")
    if first == 0 and last == table.size:
        return values
    rows = values.rows
    chosen = np.ones(rows.size, bool)
    if first > 0:
        chosen &= rows >= first // table.width
    if last < table.size:
        chosen &= rows < last // table.width
    if chosen.all():
        return Rows(rows - first // table.width, values.values) if first else values
    return Rows(rows[chosen] - first // table.width, values.values[chosen])
