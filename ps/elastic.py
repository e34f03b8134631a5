"""The elastic step and the copies of a pull, compiled."""

from __future__ import annotations

import numpy as np

from ps.errors import UsageError
from ps.jit import njit


@njit(nogil=True, cache=True)
def exchange(x, center, alpha):
    """Both sides of EASGD's elastic step in one pass: x and center move towards each other by ``alpha`` of their difference.

    Args:
      x: (n,) the replica's parameters, changed in place.
      center: (n,) the same range of the center, changed in place.
      alpha: moving rate, of the dtype of ``x``.

    Conserves ``x + center``. Zhang, Choromanska, LeCun 2015, Algorithm 1, steps (a) and (b).
    """
    for i in range(x.size):
        step = alpha * (x[i] - center[i])
        x[i] -= step
        center[i] += step


@njit(nogil=True, cache=True)
def mean_rows(rows, taken, out):
    """``out[i] = mean over the taken rows k of rows[k, i]``, summed in the order of k whoever arrived first.

    Args:
      rows: (p, n). taken: int64 (p,), nonzero where row k counts, at least one. out: (n,).
    """
    count = 0
    for k in range(taken.size):
        if taken[k] != 0:
            count += 1
    scale = rows.dtype.type(1.0 / count)
    for i in range(out.size):
        total = rows.dtype.type(0)
        for k in range(taken.size):
            if taken[k] != 0:
                total += rows[k, i]
        out[i] = total * scale


def step(x: np.ndarray, center: np.ndarray, alpha: float) -> None:
    """``exchange`` with ``alpha`` cast to the dtype of the arrays, so that float32 stays float32.

    Raises:
      UsageError: ``x`` and ``center`` differ in shape or dtype.
    """
    if x.shape != center.shape or x.dtype != center.dtype:
        raise UsageError(
            f"exchange: both sides must have one shape and dtype, got {x.shape} of {x.dtype} and "
            f"{center.shape} of {center.dtype}"
        )
    exchange(x, center, x.dtype.type(alpha))


@njit(nogil=True, cache=True)
def _attract(x, old, center, alpha):
    for i in range(x.size):
        x[i] -= alpha * (old[i] - center[i])


def attract(x: np.ndarray, old: np.ndarray, center: np.ndarray, alpha: float) -> None:
    """``x -= alpha * (old - center)``, all (n,): the replica's side of a synchronous elastic step."""
    _attract(x, old, center, x.dtype.type(alpha))
