"""Logistic regression on generated examples whose features have Zipf frequencies, as a task in a file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ps.rows import Rows
from worker.data.dataset import ArrayDataset

TASK = f"{Path(__file__).resolve()}:ZipfLogistic"  # as a job names it
EXAMPLES, FEATURES, NONZEROS = 40_000, 5_000, 15
EXPONENT = 1.1
_DRAWS = 8 * NONZEROS  # so many contain enough different features, but for one example in many millions
_CHUNK = 10_000


@lru_cache(maxsize=1)
def generate(examples: int, features: int, nonzeros: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples with labels drawn from a logistic model with standard normal weights.

    Returns:
      (features int64 (n, nonzeros), all different within a row, drawn one after the other with p(j) ~ 1/j^1.1;
      labels float64 (n,), +1 or -1).
    """
    rng = np.random.default_rng([seed, 0x21FF])
    cumulative = np.cumsum(1 / np.arange(1, features + 1) ** EXPONENT)
    truth = rng.standard_normal(features)
    chosen = np.concatenate(
        [
            _first_different(rng, cumulative / cumulative[-1], min(_CHUNK, examples - start), nonzeros)
            for start in range(0, examples, _CHUNK)
        ]
    )
    score = truth[chosen].sum(1)
    return chosen, np.where(rng.random(examples) < 1 / (1 + np.exp(-score)), 1.0, -1.0)


def _first_different(rng: np.random.Generator, cumulative: np.ndarray, rows: int, wanted: int) -> np.ndarray:
    """The first ``wanted`` different features of many draws with replacement: (rows, wanted)."""
    drawn = np.searchsorted(cumulative, rng.random((rows, _DRAWS)))
    order = np.argsort(drawn, axis=1, kind="stable")
    in_order = np.take_along_axis(drawn, order, 1)
    new = np.empty(drawn.shape, bool)
    np.put_along_axis(new, order, np.diff(in_order, axis=1, prepend=-1) != 0, 1)
    kept = new & (new.cumsum(1) <= wanted)
    assert (kept.sum(1) == wanted).all()
    return drawn[kept].reshape(rows, wanted)


class ZipfLogistic:
    """Binary features; one weight each; nothing is evaluated, the loss of each step's gradient is what counts.

    Args:
      examples, features, nonzeros, seed: see ``generate``.
    """

    sparse = ("weights",)

    def __init__(self, examples: int = EXAMPLES, features: int = FEATURES, nonzeros: int = NONZEROS, seed: int = 0):
        self._x, self._y = generate(examples, features, nonzeros, seed)
        self._features = features

    def parameters(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """``weights`` (features,), zeros."""
        return {"weights": np.zeros(self._features, np.float32)}

    def dataset(self) -> ArrayDataset:
        """The examples."""
        return ArrayDataset({"x": self._x, "y": self._y})

    def loss_and_gradient(self, parameters: Mapping[str, np.ndarray], batch: Any) -> tuple[float, dict[str, Rows]]:
        """Mean of log(1 + exp(-ys)) over the batch, and its gradient."""
        x, y = batch["x"], batch["y"]
        margin = y * parameters["weights"][x].sum(1)
        losses = np.logaddexp(0, -margin)
        slope = -y * np.exp(-margin - losses) / len(y)  # 1/(1 + exp(margin)) without overflow
        loss = float(losses.mean())
        if len(y) == 1:
            return loss, {"weights": Rows(x[0], np.full(x.shape[1], slope[0]))}
        rows, places = np.unique(x, return_inverse=True)
        return loss, {"weights": Rows(rows, np.bincount(places.ravel(), np.repeat(slope, x.shape[1])))}

    def evaluate(self, parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing."""
        return {}
