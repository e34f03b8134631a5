"""A test set where only one file is given."""

from __future__ import annotations

import numpy as np

from ps.errors import DataError


def split(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut ``range(count)`` at random into training and test examples.

    Args:
      count: number of examples.
      fraction: part that goes to the test set, in (0, 1).
      seed: the same seed gives the same split.

    Returns:
      (train, test), int64, each ascending.

    Raises:
      DataError: one of the two would be empty.
    """
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        raise DataError(
            f"test_fraction {fraction} of {count} examples leaves a set empty; take another fraction or a test file"
        )
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
