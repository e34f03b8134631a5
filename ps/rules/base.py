"""What an update rule is: a frozen dataclass over flat arrays, the same on a shard and on a replica.

A rule holds hyper-parameters only. Its state are the *slots*, arrays of the center's size that the caller owns (a
shard keeps them in shared memory, a replica in its own). A rule has one compiled kernel that works on rows: ``apply``
treats a vector as one row, ``apply_rows`` treats a table row by row with a step count of its own per row. What
depends on the step (bias corrections, schedules) is computed outside the loop as ``coefficients``, one line per row,
of the center's dtype, so that a float32 vector is stepped by a float32 loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ps.errors import UsageError
from ps.rules import kernels

Slots = Mapping[str, np.ndarray]
ROW_ZERO = np.zeros(1, dtype=np.int64)


class Context(NamedTuple):
    """What a rule may know about one application. (A tuple, because one is made for every push.)

    Attributes:
      step: 1-based number of this application to this vector (a shard counts its pushes, a replica its local steps).
      epoch: 0-based epoch that the gradient belongs to; for schedules by epoch.
      staleness: shard version at apply minus version pulled, >= 0.
      offset: index of ``center[0]`` in the whole flat vector, so that a split vector sees the same noise as a whole
        one.
      count: number of gradients summed in the push, >= 1.
      gradient_norm: 2-norm of the whole gradient over all shards, or None if the pusher did not say.
      seed: seed of gradient noise.
      lr_scale: factor on the step size, set by schedules.
      remembered: what the rule asked to be remembered at the reader's last pull (shape of ``center``), or None where
        the reader memory had no room: the rule then acts as if nobody had pushed since the read.
      row_steps: int64 (rows of the table,), updates so far per row; ``apply_rows`` counts them up. None: all rows are
        at ``step``.
    """

    step: int = 1
    epoch: int = 0
    staleness: int = 0
    offset: int = 0
    count: int = 1
    gradient_norm: float | None = None
    seed: int = 0
    lr_scale: float = 1.0
    remembered: np.ndarray | None = None
    row_steps: np.ndarray | None = None


def replace_context(context: Context, **changes: Any) -> Context:
    """The same context with other values for some of its fields."""
    return context._replace(**changes)


def part_of(context: Context, start: int, stop: int, **changes: Any) -> Context:
    """The context for elements ``[start, stop)`` of the vector that ``context`` is for."""
    remembered = None if context.remembered is None else context.remembered[start:stop]
    return replace_context(context, offset=context.offset + start, remembered=remembered, **changes)


def require(condition: bool, rule: object, name: str, bound: str, remedy: str = "") -> None:
    """Refuse a hyper-parameter: ``Adagrad: lr must be > 0, got -1.0; <remedy>``."""
    if not condition:
        tail = f"; {remedy}" if remedy else ""
        raise UsageError(f"{type(rule).__name__}: {name} must be {bound}, got {getattr(rule, name)!r}{tail}")


class UpdateRule:
    """Base of all rules.

    A concrete rule sets ``slots`` and ``kernel`` and defines ``coefficients``; a wrapper overrides the ``apply``
    methods.

    Class attributes:
      name: what a job calls it.
      slots: names of the arrays of optimizer state; each has the center's shape and dtype. May be a property.
      remembers: ``"center"`` or the name of a slot whose value at the reader's pull must come back as
        ``context.remembered`` when that reader pushes; None for rules that know no delay.
      pushes: ``"gradient"`` if what is pushed is a gradient, ``"update"`` if it is an update to be added,
        ``"observation"`` if it is a sum of observed values to average.
      formula: one line of mathematics, shown by ``hogshead rules NAME``.
      source: where the rule comes from.
      local_only: it can step a replica's parameters but not a shard's.
      dense_only: it has no ``apply_rows``.
      isolated: its library does not survive forking, so that a process that forks others must not apply it.
    """

    name: ClassVar[str] = ""
    slots: ClassVar[tuple[str, ...]] = ()
    remembers: ClassVar[str | None] = None
    pushes: ClassVar[str] = "gradient"
    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""
    local_only: ClassVar[bool] = False
    dense_only: ClassVar[bool] = False
    isolated: ClassVar[bool] = False
    kernel: ClassVar[Any] = None

    def before_forking(self) -> None:
        """Raise UsageError where the rule could not be applied in a process forked from this one."""

    def initial_slot(self, name: str) -> float:
        """Value that slot ``name`` starts with (0 unless the rule says otherwise)."""
        return 0.0

    def coefficients(self, steps: np.ndarray, context: Context) -> np.ndarray:
        """Scalars of the kernel for each row: float64 (len(steps), m), where ``steps`` are 1-based counts."""
        raise NotImplementedError

    def learning_rate(self, context: Context) -> float:
        """The step size in force, schedules included (1.0 for rules that have none)."""
        return getattr(self, "lr", 1.0) * context.lr_scale

    def gradient_point(self, parameters: np.ndarray, slots: Slots, out: np.ndarray) -> np.ndarray:
        """Where the gradient is to be taken: ``parameters`` itself, or a look-ahead written into ``out``."""
        return parameters

    def allocate(self, size: int, dtype: np.dtype | str = np.float32) -> dict[str, np.ndarray]:
        """Fresh slots for a vector of ``size`` elements."""
        return {name: np.full(size, self.initial_slot(name), dtype) for name in self.slots}

    def initialise(self, center: np.ndarray, slots: Slots) -> None:
        """Fill existing slots for a center that holds its initial values (a slot may start as a copy of it)."""
        for name in self.slots:
            slots[name][...] = self.initial_slot(name)

    def apply(self, center: np.ndarray, slots: Slots, gradient: np.ndarray, context: Context) -> None:
        """Step ``center`` (n,) in place with ``gradient`` (n,) of the same dtype.

        Raises:
          UsageError: shapes or dtypes differ.
        """
        check_arrays(self, center, gradient)
        width = center.size
        coefficients = self.coefficients(np.array([context.step], dtype=np.int64), context)
        self._run(
            center.reshape(1, width),
            {name: slots[name].reshape(1, width) for name in self.slots},
            ROW_ZERO,
            gradient.reshape(1, width),
            coefficients.astype(center.dtype, copy=False),
            None if context.remembered is None else context.remembered.reshape(1, width),
        )

    def apply_rows(
        self, center: np.ndarray, slots: Slots, rows: np.ndarray, gradients: np.ndarray, context: Context
    ) -> None:
        """Step only ``rows`` of a table, in place.

        Args:
          center: (R, width), slots likewise.
          rows: int64 (k,), indices into the table; a row that stands twice is stepped twice, in order.
          gradients: (k, width), dtype of ``center``.
          context: with ``row_steps`` int64 (R,) for a step count per row; it is counted up here. ``remembered`` is
            (R, width).

        Raises:
          UsageError: widths, dtypes or counts differ, or a row is not in the table.
        """
        check_rows(self, center, rows, gradients)
        if context.row_steps is None:
            steps = np.full(rows.size, context.step, dtype=np.int64)
        else:
            steps = kernels.count_rows(context.row_steps, rows)
        coefficients = self.coefficients(steps, context).astype(center.dtype, copy=False)
        self._run(center, slots, rows, gradients, coefficients, context.remembered)

    def _run(self, center, slots, rows, gradients, coefficients, remembered) -> None:
        """Call the kernel; ``remembered`` has the shape of ``center`` (the table, not only the rows)."""
        self._kernel()(center, *(slots[name] for name in self.slots), rows, gradients, coefficients)

    def _kernel(self) -> Any:
        """The compiled loop; options may choose between several. (``self.kernel`` would bind it as a method.)"""
        return type(self).kernel

    def config(self) -> dict[str, Any]:
        """Name and hyper-parameters as plain values, as they stand in a job: ``build_rule(rule.config()) == rule``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return {"name": self.name} | plain


def check_arrays(rule: object, center: np.ndarray, gradient: np.ndarray) -> None:
    """Raise UsageError unless both are vectors of one length and one dtype."""
    if center.ndim != 1 or center.shape != gradient.shape or center.dtype != gradient.dtype:
        raise UsageError(
            f"{type(rule).__name__}: center and gradient must be vectors of one length and dtype, "
            f"got {center.shape} of {center.dtype} and {gradient.shape} of {gradient.dtype}"
        )


def check_rows(rule: object, center: np.ndarray, rows: np.ndarray, gradients: np.ndarray) -> None:
    """Raise UsageError unless ``gradients`` has a row for each of ``rows``, and these lie in ``center``."""
    if gradients.shape != (rows.size, *center.shape[1:]) or center.ndim != 2 or center.dtype != gradients.dtype:
        raise UsageError(
            f"{type(rule).__name__}: gradients of {rows.size} rows of a table {center.shape} of {center.dtype} "
            f"must have shape ({rows.size}, width) and that dtype, got {gradients.shape} and {gradients.dtype}"
        )
    if not kernels.all_below(rows, len(center)):
        raise UsageError(
            f"{type(rule).__name__}: rows must lie in [0, {len(center)}), got {rows.min()} to {rows.max()}"
        )
