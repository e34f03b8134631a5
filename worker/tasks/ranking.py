"""How well scores rank examples of two classes."""

from __future__ import annotations

import numpy as np


def auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve: the part of all pairs of a positive and a negative example that the scores order
    rightly, where a pair of equal scores counts one half (Mann and Whitney's U, divided by the number of pairs).

    The pairs are counted in integers, so that ties cost no accuracy.

    Args:
      scores: (n,), any order.
      positive: bool (n,).

    Returns:
      A number in [0, 1], or None if the examples are of one class.

    Example:
      >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True]))
      0.875
    """
    _, level = np.unique(scores, return_inverse=True)
    counts = np.bincount(level)
    positives = np.bincount(level[positive], minlength=counts.size)
    negatives = counts - positives
    pairs = int(positives.sum()) * int(negatives.sum())
    if pairs == 0:
        return None
    below = np.cumsum(negatives) - negatives
    return int(np.dot(positives, 2 * below + negatives)) / (2 * pairs)
