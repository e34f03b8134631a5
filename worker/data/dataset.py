"""Data sets: arrays with a length, from which batches are taken by index.

A data set says which arrays it holds (``arrays``) and lets them be swapped for equal ones (``replace``): so a launcher
puts them into shared memory once per host, and every replica reads the same pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ps.errors import UsageError
from ps.jit import njit


@runtime_checkable
class Dataset(Protocol):
    """What the framework asks of a data set; ``as_dataset`` makes one of most things."""

    def __len__(self) -> int:
        """Number of examples."""

    def take(self, indices: np.ndarray) -> Any:
        """The batch of the examples ``indices`` (int64 (k,)), in that order; what it is, the task knows."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays behind the examples, by name; empty if it has none to share."""

    def replace(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Use these arrays, of equal content, from now on (copies in shared memory)."""


def _check_replacements(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> None:
    if set(old) != set(new):
        raise UsageError(f"data set: replacements must be named {sorted(old)}, got {sorted(new)}")
    for name, array in new.items():
        if array.shape != old[name].shape or array.dtype != old[name].dtype:
            raise UsageError(
                f"data set: the replacement of {name!r} must have shape {old[name].shape} and dtype {old[name].dtype}, "
                f"got {array.shape} and {array.dtype}"
            )


def plain_array(array: Any, name: str) -> np.ndarray:
    """``array`` without a mask.

    Raises:
      UsageError: values are masked, and would be trained on.
    """
    if not isinstance(array, np.ma.MaskedArray):
        return np.asarray(array)
    masked = int(np.ma.count_masked(array))
    if masked:
        raise UsageError(
            f"data set: array {name!r} is a masked array, {masked} of its {array.size} values are masked and would be used all "
            "the same; fill them (array.filled(value)) or leave those examples out"
        )
    return array.data


class ArrayDataset:
    """Arrays of equal first dimension; a batch is a dict of the same names with the rows taken.

    Args:
      arrays: name to array, (n, ...) each, any numeric dtype.

    Raises:
      UsageError: no array, unequal first dimensions, or arrays of objects.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = {name: plain_array(array, name) for name, array in arrays.items()}
        if not self._arrays:
            raise UsageError("data set: it must hold at least one array, got none")
        for name, array in self._arrays.items():
            if array.dtype.hasobject or array.dtype.kind in "USV":
                raise UsageError(
                    f"data set: array {name!r} must be numeric, got dtype {array.dtype}; "
                    "numpy makes that of ragged or mixed rows"
                )
            if array.ndim == 0:
                raise UsageError(f"data set: array {name!r} must have a first dimension (the examples), got a scalar")
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            raise UsageError(f"data set: all arrays must have the same first dimension, got {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array[indices] for name, array in self._arrays.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        return dict(self._arrays)

    def replace(self, arrays: Mapping[str, np.ndarray]) -> None:
        _check_replacements(self._arrays, arrays)
        self._arrays = {name: arrays[name] for name in self._arrays}


class PairDataset(ArrayDataset):
    """``(x, y)``: as ``ArrayDataset``, but a batch is the tuple of the rows taken, as the user gave it."""

    def __init__(self, pair: tuple[np.ndarray, ...]):
        super().__init__({f"item{position}": array for position, array in enumerate(pair)})

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:  # type: ignore[override]
        return tuple(super().take(indices).values())


@dataclass
class CsrBatch:
    """Some sparse examples: row r has the features ``indices[indptr[r]:indptr[r + 1]]``, sorted and unique.

    Attributes:
      indptr: int64 (n + 1,), from 0.
      indices: int32 (nnz,), 0-based features.
      values: float32 or float64 (nnz,).
      labels: (n,), dtype of ``values``.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return self.labels.size


class CsrDataset(CsrBatch):
    """Sparse examples in compressed rows; a batch is a ``CsrBatch``."""

    def take(self, indices: np.ndarray) -> CsrBatch:
        indices = np.asarray(indices)
        if indices.size == 1:  # as they lie, without a copy
            start, stop = self.indptr[indices.item()], self.indptr[indices.item() + 1]
            indptr = np.array([0, stop - start], np.int64)
            return CsrBatch(indptr, self.indices[start:stop], self.values[start:stop], self.labels[indices])
        indptr = np.zeros(indices.size + 1, np.int64)
        np.cumsum(self.indptr[indices + 1] - self.indptr[indices], out=indptr[1:])
        features = np.empty(indptr[-1], self.indices.dtype)
        values = np.empty(indptr[-1], self.values.dtype)
        _gather_rows(self.indptr, self.indices, self.values, indices, indptr, features, values)
        return CsrBatch(indptr, features, values, self.labels[indices])

    def arrays(self) -> dict[str, np.ndarray]:
        return {"indptr": self.indptr, "indices": self.indices, "values": self.values, "labels": self.labels}

    def replace(self, arrays: Mapping[str, np.ndarray]) -> None:
        _check_replacements(self.arrays(), arrays)
        for name, array in arrays.items():
            setattr(self, name, array)


@njit(nogil=True, cache=True)
def _gather_rows(indptr, indices, values, wanted, new_indptr, new_indices, new_values):
    for position in range(wanted.size):
        start = indptr[wanted[position]]
        for offset in range(new_indptr[position + 1] - new_indptr[position]):
            new_indices[new_indptr[position] + offset] = indices[start + offset]
            new_values[new_indptr[position] + offset] = values[start + offset]


class _Single(ArrayDataset):
    """One array: a batch is the rows taken."""

    def __init__(self, array: np.ndarray):
        super().__init__({"examples": array})

    def take(self, indices: np.ndarray) -> np.ndarray:  # type: ignore[override]
        return self["examples"][indices]


class _Indexable:
    """A user's object with ``__len__`` and ``__getitem__(indices)``: shared by nobody, copied to every process."""

    def __init__(self, source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def take(self, indices):
        return self._source[indices]

    def arrays(self) -> dict[str, np.ndarray]:
        return {}

    def replace(self, arrays: Mapping[str, np.ndarray]) -> None:
        _check_replacements({}, arrays)


def as_dataset(source: Any) -> Dataset:
    """Make a ``Dataset`` of what a task's ``dataset()`` returned.

    Args:
      source: a ``Dataset``; a dict of arrays (a batch is a dict); a tuple of arrays such as ``(x, y)`` (a batch is a
        tuple); one array (a batch is an array); or any object with ``__len__`` and ``__getitem__(int64 array)``.

    Raises:
      UsageError: nothing of that, arrays of unequal length, or no example at all.
    """
    if isinstance(source, Dataset):
        dataset = source
    elif isinstance(source, Mapping):
        dataset = ArrayDataset(source)
    elif isinstance(source, tuple):
        dataset = PairDataset(source)
    elif isinstance(source, np.ndarray):
        dataset = _Single(source)
    elif isinstance(source, list):
        raise UsageError(
            "data set: a list cannot be indexed by an array of examples; return a tuple of arrays such as (x, y), "
            "a dict of arrays, or numpy.array(the list)"
        )
    elif hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        dataset = _Indexable(source)
    else:
        raise UsageError(
            "data set: dataset() must return a dict of arrays, a tuple of arrays or an object with __len__ and "
            f"__getitem__(indices), got {type(source).__name__}"
        )
    if len(dataset) == 0:
        raise UsageError("data set: it must hold at least one example, got none")
    return dataset
