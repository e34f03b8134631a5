"""How sparse a data set is, in the three numbers that say whether Hogwild! fits it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ps.jit import njit

_EXACT_WORK = 200_000_000  # pairs (example, neighbour) looked at before rho is sampled


@dataclass(frozen=True)
class Sparsity:
    """Omega, Delta and rho of Niu, Recht, Ré, Wright 2011, section 3.

    Attributes:
      omega: greatest number of variables in an example.
      delta: greatest part of the examples that share one variable, in (0, 1].
      rho: greatest part of the examples that share any variable with one example (itself included), in (0, 1].
      rho_sampled: examples that rho was computed from; if fewer than all, rho is a lower bound.
    """

    omega: int
    delta: float
    rho: float
    rho_sampled: int


def sparsity(indptr: np.ndarray, indices: np.ndarray, seed: int = 0) -> Sparsity:
    """Sparsity of the hypergraph whose edges are the rows ``indices[indptr[e]:indptr[e + 1]]``.

    Args:
      indptr: int64 (n + 1,).
      indices: int (nnz,), unique in each row, >= 0.
      seed: of the sample that rho is taken from where all would be too much work.

    Example:
      >>> sparsity(np.array([0, 2, 4, 5]), np.array([0, 1, 1, 2, 3]))
      Sparsity(omega=2, delta=0.6666666666666666, rho=0.6666666666666666, rho_sampled=3)
    """
    count = indptr.size - 1
    degrees = np.bincount(indices)
    work = int((degrees.astype(np.float64) ** 2).sum())
    sample = np.arange(count)
    if work > _EXACT_WORK:
        size = max(1, int(count * _EXACT_WORK / work))
        sample = np.random.default_rng(seed).choice(count, size, replace=False)
    order = np.argsort(indices, kind="stable")
    holders = np.repeat(np.arange(count), np.diff(indptr))[order]
    starts = np.concatenate([[0], np.cumsum(degrees)])
    neighbours = _most_neighbours(indptr, indices, starts, holders, sample)
    return Sparsity(int(np.diff(indptr).max()), float(degrees.max() / count), neighbours / count, sample.size)


def sparsity_of_pairs(first: np.ndarray, second: np.ndarray) -> Sparsity:
    """Sparsity where each example has two variables: ``first`` (n,) and ``second`` (n,), never equal."""
    return sparsity(np.arange(0, 2 * first.size + 1, 2), np.stack([first, second], axis=1).reshape(-1))


@njit(nogil=True, cache=True)
def _most_neighbours(indptr, indices, starts, holders, sample):
    """Greatest number of examples that share a variable with one of ``sample``, itself included."""
    seen = np.full(indptr.size - 1, -1, np.int64)
    most = 0
    for position in range(sample.size):
        e = sample[position]
        seen[e] = position
        found = 1
        for k in range(indptr[e], indptr[e + 1]):
            for at in range(starts[indices[k]], starts[indices[k] + 1]):
                if seen[holders[at]] != position:
                    seen[holders[at]] = position
                    found += 1
        most = max(most, found)
    return most
