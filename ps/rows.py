"""A gradient that touches only some rows of a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ps.errors import UsageError


@dataclass(frozen=True, slots=True)
class Rows:
    """Values for some rows of a table of shape (R, width).

    Attributes:
      rows: int64 (k,), indices into the table.
      values: (k, width), or (k,) for a table of width 1.

    Raises:
      UsageError: the two disagree on k.
    """

    rows: np.ndarray
    values: np.ndarray

    def __post_init__(self):
        if self.rows.ndim != 1 or self.values.shape[:1] != self.rows.shape:
            raise UsageError(
                f"Rows: rows must be (k,) and values (k, width), got {self.rows.shape} and {self.values.shape}"
            )

    @property
    def size(self) -> int:
        """Number of rows k."""
        return self.rows.size
