"""Two classes out of a file's labels: which of them is positive, and which is more frequent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ps.errors import DataError
from worker.data.svmlight import SvmlightFile

_SHOWN = 6  # label values named in a message


@dataclass(frozen=True)
class Classes:
    """The two label values of a training file.

    Attributes:
      positive: value of the class that is learned as +1.
      negative: value of the other, learned as -1.
    """

    positive: float
    negative: float

    def signs(self, labels: np.ndarray) -> np.ndarray:
        """+1 and -1 for labels (n,), which must be of the two values; same dtype."""
        return np.where(labels == labels.dtype.type(self.positive), 1, -1).astype(labels.dtype)

    def values(self, signs: np.ndarray) -> np.ndarray:
        """The file's own labels (n,) for signs: int64, or float64 if one of the two is not a whole number."""
        found = np.where(signs > 0, self.positive, self.negative)
        return (
            found.astype(np.int64) if float(self.positive).is_integer() and float(self.negative).is_integer() else found
        )


def classes_of(read: SvmlightFile, name: str, positive: float | None, task: str) -> Classes:
    """The classes of a training file.

    Args:
      read: the file.
      name: what the user calls it.
      positive: label of the positive class; None takes the larger.
      task: for messages.

    Raises:
      DataError: the file has another number of label values than two, or ``positive`` is none of them.
    """
    values, first = np.unique(read.data.labels, return_index=True)
    if values.size > 2:
        row = int(np.sort(first)[2])
        raise DataError(
            f"{task}: {name}, line {read.lines[row]}: a classifier needs labels of two values, got a third one, "
            f"{_plain(read.data.labels[row]):g} (labels are {_listed(values)}); for real targets set loss = 'squared'"
        )
    if values.size < 2:
        raise DataError(
            f"{task}: {name}: every example has the label {_plain(values[0]):g}; a classifier needs examples of two labels"
        )
    low, high = (_plain(value) for value in values)
    if positive is None or positive == high:
        return Classes(high, low)
    if positive == low:
        return Classes(low, high)
    raise DataError(f"{task}: positive must be one of the labels of {name}, {low:g} and {high:g}, got {positive:g}")


def require_known(read: SvmlightFile, name: str, classes: Classes, train: str, task: str) -> None:
    """Refuse a test file with a label that the training file has not.

    Raises:
      DataError: names the test file and the line.
    """
    labels = read.data.labels
    known = np.array([classes.negative, classes.positive], labels.dtype)
    strange = np.flatnonzero(~np.isin(labels, known))
    if strange.size:
        row = strange[0]
        raise DataError(
            f"{task}: {name}, line {read.lines[row]}: the label must be {classes.negative:g} or {classes.positive:g}, as in "
            f"{train}, got {_plain(labels[row]):g}"
        )


def _plain(value: np.floating) -> float:
    """The decimal number that stands in the file: 0.1, not the float32 next to it."""
    return float(str(value))


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{_plain(value):g}" for value in values[:_SHOWN]) + (", …" if values.size > _SHOWN else "")
