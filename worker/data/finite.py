"""Where data hold a NaN or an infinity: said when a loss or the parameters are not finite, because then the data may be why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from worker.data.dataset import CsrBatch, Dataset


def not_finite_in_batch(batch: Any, examples: np.ndarray) -> str | None:
    """The first value of a batch that is not finite, in words, or None.

    Args:
      batch: what ``Dataset.take(examples)`` returned.
      examples: int64 (k,), 0-based.
    """
    return _first(batch, examples)


def not_finite_in(dataset: Dataset) -> str | None:
    """The first value of a data set's arrays that is not finite, in words, or None; None too if it shows no arrays."""
    if isinstance(dataset, CsrBatch):
        return _first(dataset, np.arange(len(dataset)))
    return _first(dict(dataset.arrays()), np.arange(len(dataset)))


def blame(message: str, found: str | None, otherwise: str) -> str:
    """``message`` with what to do: mend the data if they hold what is not finite, else ``otherwise``."""
    if found is None:
        return f"{message}; {otherwise}"
    return f"{message}: {found}; mend the data, or if the task copes with it, {otherwise}"


def _first(source: Any, examples: np.ndarray) -> str | None:
    for name, array in _arrays(source):
        bad = np.flatnonzero(~np.isfinite(array.reshape(-1)))
        if not bad.size:
            continue
        place = np.unravel_index(bad[0], array.shape)
        value = array[place]
        if isinstance(source, CsrBatch) and name == "values":
            row = int(np.searchsorted(source.indptr, bad[0], side="right")) - 1
            return (
                f"example {examples[row]} of the data (from 0) has {value} as value of feature {source.indices[bad[0]]}"
            )
        if len(array) != len(examples):
            return f"the data have {value} in array {name!r}"
        where = f" at [{', '.join(map(str, place[1:]))}]" if len(place) > 1 else ""
        return f"example {examples[place[0]]} of the data (from 0) has {value} in array {name!r}{where}"
    return None


def _arrays(source: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of real numbers in a batch, with a name each."""
    if isinstance(source, CsrBatch):
        named = {"values": source.values, "labels": source.labels}
    elif isinstance(source, Mapping):
        named = source
    elif isinstance(source, (tuple, list)):
        named = {f"item{number}": part for number, part in enumerate(source)}
    else:
        named = {"examples": source}
    for name, part in named.items():
        if isinstance(part, np.ndarray) and part.dtype.kind in "fc" and part.ndim:
            yield str(name), part
