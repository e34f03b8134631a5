"""The layout: named tensors as one flat vector, and that vector cut into shards.

Trained parameters come first, averaged ones (running statistics such as batch normalisation's) stand at the end, so that each
kind is one half-open range of the vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ps.errors import UsageError


@dataclass(frozen=True, slots=True)
class Parameter:
    """One named tensor in the flat vector.

    Attributes:
      name: the task's name for it.
      shape: its shape; the first axis counts the rows of a sparse table.
      offset: index of its first element in the flat vector.
      averaged: a running statistic, which shards average instead of stepping.
      sparse: a table whose gradients touch only some rows.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    averaged: bool = False
    sparse: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """Index after its last element."""
        return self.offset + self.size

    @property
    def width(self) -> int:
        """Elements of one row (1 for a vector or a scalar)."""
        return math.prod(self.shape[1:])


@dataclass(frozen=True, slots=True)
class Range:
    """A half-open range ``[start, stop)`` of the flat vector."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start

    def of(self, vector: np.ndarray) -> np.ndarray:
        """The part of ``vector`` (of the whole size) that lies in this range, as a view."""
        return vector[self.start : self.stop]


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in the flat vector.

    Attributes:
      parameters: in the order of the vector: trained ones first, averaged ones last.
      dtype: ``"float32"`` or ``"float64"``; one for the whole vector.
    """

    parameters: tuple[Parameter, ...]
    dtype: str = "float32"

    def __post_init__(self):
        if self.dtype not in ("float32", "float64"):
            raise UsageError(f"Layout: dtype must be float32 or float64, got {self.dtype}; cast the parameters")

    @staticmethod
    def of(
        tensors: Mapping[str, np.ndarray],
        *,
        averaged: Iterable[str] = (),
        sparse: Iterable[str] = (),
        dtype: str | None = None,
    ) -> Layout:
        """The layout of named tensors.

        Args:
          tensors: name -> array; their shapes define the layout.
          averaged: names of running statistics.
          sparse: names of row-sparse tables.
          dtype: of the flat vector; by default float64 if all tensors are float64, else float32.

        Raises:
          UsageError: no tensor, an empty tensor, an unknown name in ``averaged`` or ``sparse``, or one that stands in both.
        """
        averaged, sparse = tuple(averaged), tuple(sparse)
        if not tensors:
            raise UsageError("Layout: a task must have at least one parameter, got none")
        for name in (*averaged, *sparse):
            if name not in tensors:
                raise UsageError(f"Layout: {name!r} is declared but is no parameter; there are: {', '.join(tensors)}")
        for name in sparse:
            if name in averaged or np.ndim(tensors[name]) == 0:
                raise UsageError(
                    f"Layout: a sparse parameter must be a table that is trained, got {name!r} of shape "
                    f"{np.shape(tensors[name])}{', which is averaged' if name in averaged else ''}; take it out of `sparse`"
                )
        if dtype is None:
            all_double = all(np.asarray(tensor).dtype == np.float64 for tensor in tensors.values())
            dtype = "float64" if all_double else "float32"
        parameters, offset = [], 0
        for name in sorted(tensors, key=lambda name: name in averaged):  # stable: keeps the task's order
            parameter = Parameter(name, tuple(np.shape(tensors[name])), offset, name in averaged, name in sparse)
            if parameter.size == 0:
                raise UsageError(f"Layout: parameter {name!r} has shape {parameter.shape} and no element")
            parameters.append(parameter)
            offset = parameter.stop
        return Layout(tuple(parameters), dtype)

    @cached_property
    def size(self) -> int:
        """Elements of the flat vector."""
        return self.parameters[-1].stop

    @cached_property
    def trained_size(self) -> int:
        """Elements that rules step; the rest are averaged."""
        return sum(parameter.size for parameter in self.parameters if not parameter.averaged)

    @property
    def nbytes(self) -> int:
        """Bytes of the flat vector."""
        return self.size * np.dtype(self.dtype).itemsize

    @cached_property
    def tables(self) -> tuple[Parameter, ...]:
        """The row-sparse parameters."""
        return tuple(parameter for parameter in self.parameters if parameter.sparse)

    @cached_property
    def _by_name(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters}

    @cached_property
    def _dtype(self) -> np.dtype:
        return np.dtype(self.dtype)

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    def check_vector(self, vector: np.ndarray) -> None:
        """Raise UsageError unless ``vector`` is (size,) of the layout's dtype."""
        if vector.shape != (self.size,) or vector.dtype != self._dtype:
            raise UsageError(
                f"Layout: a flat vector must have shape ({self.size},) and dtype {self.dtype}, "
                f"got {vector.shape} and {vector.dtype}"
            )

    def views(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Each parameter as a view of ``flat`` (size,), with the shape it had."""
        return {p.name: flat[p.offset : p.stop].reshape(p.shape) for p in self.parameters}

    def flatten(self, tensors: Mapping[str, np.ndarray], out: np.ndarray | None = None) -> np.ndarray:
        """Copy named tensors into one vector (size,) of the layout's dtype.

        Raises:
          UsageError: a tensor is missing, unknown or of another shape.
        """
        flat = np.empty(self.size, self.dtype) if out is None else out
        names = {parameter.name for parameter in self.parameters}
        if set(tensors) != names:
            raise UsageError(
                f"Layout: expected the parameters {', '.join(sorted(names))}; "
                f"missing: {', '.join(sorted(names - set(tensors))) or 'none'}, "
                f"unknown: {', '.join(sorted(set(tensors) - names)) or 'none'}"
            )
        for parameter in self.parameters:
            tensor = np.asarray(tensors[parameter.name])
            if tensor.shape != parameter.shape:
                raise UsageError(f"Layout: {parameter.name!r} must have shape {parameter.shape}, got {tensor.shape}")
            flat[parameter.offset : parameter.stop] = tensor.reshape(-1)
        return flat

    def shards(self, count: int) -> tuple[Range, ...]:
        """Cut the vector into ``count`` ranges of equal bytes; a row of a sparse table is never cut.

        Raises:
          UsageError: ``count`` < 1, or more shards than the vector can be cut into.
        """
        if count < 1:
            raise UsageError(f"shards: count must be >= 1, got {count}")
        ranges: tuple[Range, ...] = ()
        if count <= self.size:  # of absurdly many, not even the list is made
            cuts = [0, *(self._cut(round(self.size * k / count)) for k in range(1, count)), self.size]
            ranges = tuple(Range(start, stop) for start, stop in zip(cuts, cuts[1:]))
        if not ranges or any(part.size <= 0 for part in ranges):
            raise UsageError(
                f"shards: count must be small enough to give each shard at least one row, got {count} for "
                f"{self.size} elements; set [shards] count lower"
            )
        return ranges

    def _cut(self, at: int) -> int:
        """``at``, moved to the nearest row boundary where it falls inside a row of a sparse table."""
        for parameter in self.tables:
            if parameter.offset < at < parameter.stop:
                rows = round((at - parameter.offset) / parameter.width)
                return parameter.offset + rows * parameter.width
        return at

    def to_json(self) -> dict[str, Any]:
        """As plain values, for a checkpoint's manifest."""
        return {
            "dtype": self.dtype,
            "parameters": [
                {"name": p.name, "shape": list(p.shape), "averaged": p.averaged, "sparse": p.sparse}
                for p in self.parameters
            ],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Layout:
        """The layout that ``to_json`` wrote."""
        parameters, offset = [], 0
        entries: Sequence[Mapping[str, Any]] = value["parameters"]
        for entry in entries:
            parameter = Parameter(
                str(entry["name"]),
                tuple(map(int, entry["shape"])),
                offset,
                bool(entry["averaged"]),
                bool(entry["sparse"]),
            )
            parameters.append(parameter)
            offset = parameter.stop
        return Layout(tuple(parameters), str(value["dtype"]))
