"""A sparse support vector machine on generated examples in the shape of RCV1, as a task in a file.

RCV1 has 781 265 examples of 47 236 features, about 75 of them nonzero, a few features in very many examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from ps.rows import Rows
from worker.data.dataset import CsrBatch, CsrDataset
from worker.locking import Locking
from worker.tasks import sparse_kernels
from worker.tasks.sparse_kernels import LOSSES, NO_BIAS

TASK = f"{Path(__file__).resolve()}:GeneratedSVM"  # as a job names it
CHUNK = 50_000  # examples drawn at once, to bound the memory
SKEW = 3.0  # feature = features * u^SKEW for uniform u: the smaller the index, the more frequent


@lru_cache(maxsize=1)  # several hundred MB
def generate(examples: int, features: int, nonzeros: int, seed: int) -> tuple[np.ndarray, ...]:
    """Examples whose labels come from a random hyperplane; the last are kept, as many runs use the same.

    Returns:
      (indptr int64 (n + 1,), indices int32 (nnz,), values float32 (nnz,), labels float32 (n,)); rows have unit norm and
      ``nonzeros`` entries before those drawn twice are dropped.
    """
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(features).astype(np.float32)
    lengths, indices, values, labels = [], [], [], []
    for start in range(0, examples, CHUNK):
        rows = min(CHUNK, examples - start)
        drawn = np.sort((features * rng.random((rows, nonzeros), np.float32) ** SKEW).astype(np.int32), axis=1)
        drawn = np.minimum(drawn, features - 1)
        new = np.ones(drawn.shape, bool)
        new[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
        weights = np.where(new, rng.exponential(size=drawn.shape), 0).astype(np.float32)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        scores = np.einsum("ij,ij->i", weights, truth[drawn])
        lengths.append(new.sum(1))
        indices.append(drawn[new])
        values.append(weights[new])
        labels.append(np.where(scores >= 0, 1, -1).astype(np.float32))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return indptr, np.concatenate(indices), np.concatenate(values), np.concatenate(labels)


class GeneratedSVM:
    """Hinge loss with degree-weighted L2 on generated examples; nothing is evaluated.

    Args:
      examples, features, nonzeros, seed: see ``generate``.
      l2: weight of the regulariser.
    """

    sparse = ("weights",)

    def __init__(
        self, examples: int = 200_000, features: int = 47_236, nonzeros: int = 80, seed: int = 0, l2: float = 1.0
    ):
        self._data = CsrDataset(*generate(examples, features, nonzeros, seed))
        degrees = np.bincount(self._data.indices, minlength=features)
        self._inverse_degrees = (1 / np.maximum(degrees, 1)).astype(np.float32)
        self.lockables, self.l2 = features, np.float32(l2)

    def parameters(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """``weights`` (features,), zeros."""
        return {"weights": np.zeros(self.lockables, np.float32)}

    def dataset(self) -> CsrDataset:
        """The examples."""
        return self._data

    def loss_and_gradient(self, parameters: Mapping[str, np.ndarray], batch: CsrBatch) -> tuple[float, dict[str, Rows]]:
        """Mean of the objective over the batch, and its gradient."""
        rows, places = np.unique(batch.indices, return_inverse=True)
        gradient, one = np.zeros(rows.size, np.float32), np.float32(1)
        loss = sparse_kernels.batch_gradient(
            parameters["weights"], self._inverse_degrees, NO_BIAS, batch.indptr, batch.indices, batch.values, batch.labels,
            places, LOSSES["hinge"], self.l2, one, np.float32(1 / len(batch)), gradient,
        )  # fmt: skip
        return loss, {"weights": Rows(rows.astype(np.int64), gradient.reshape(-1, 1))}

    def sweep(
        self, parameters: Mapping[str, np.ndarray], examples: np.ndarray, step_size: float, locking: Locking
    ) -> float:
        """The loop that is measured: the same kernel as the task sparse_linear has."""
        data = self._data
        return sparse_kernels.sweep(
            parameters["weights"], self._inverse_degrees, NO_BIAS, data.indptr, data.indices, data.values, data.labels,
            examples, LOSSES["hinge"], np.float32(step_size), self.l2, np.float32(1), *locking.words,
        )  # fmt: skip

    def evaluate(self, parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing."""
        return {}
