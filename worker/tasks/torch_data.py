"""Data sets of PyTorch as ours: tensors become shared arrays, other data sets are asked for their items batch by batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ps.errors import DataError, UsageError
from worker.data.dataset import Dataset, as_dataset

_PRELOAD = 4096  # examples collated at a time


def as_examples(
    source: Any, collate: Callable[[list], Any] | None, preload: bool, draw: Callable[[], int], what: str
) -> Dataset:
    """A data set of whatever holds examples.

    Args:
      source: a tensor or array, a tuple or dict of them, a TensorDataset, or any map-style data set.
      collate: makes a batch of a list of items; by default torch's.
      preload: read every item now, into arrays.
      draw: gives a seed for what the items draw at random; called once per batch.
      what: for messages, "dataset" or "test".

    Raises:
      UsageError: a data set without a length or without items. DataError: tensors that cannot become arrays.
    """
    import torch
    from torch.utils.data import IterableDataset, TensorDataset

    if isinstance(source, Dataset):
        return source
    if isinstance(source, TensorDataset):
        source = source.tensors
    if isinstance(source, list) and source and all(isinstance(entry, (torch.Tensor, np.ndarray)) for entry in source):
        source = tuple(source)
    if isinstance(source, (torch.Tensor, np.ndarray, tuple, Mapping)):
        return as_dataset(to_arrays(source, what))
    if isinstance(source, IterableDataset) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise UsageError(
            f"torch_task: {what} must be a map-style data set (with __len__ and __getitem__), tensors or arrays, got "
            f"{type(source).__name__}; workers take examples by their number"
        )
    if len(source) == 0:
        raise UsageError(f"torch_task: {what} must hold at least one example, got none")
    items = Items(source, collate, draw)
    return as_dataset(_preloaded(items, what)) if preload else items


def to_arrays(value: Any, what: str) -> Any:
    """Tensors as arrays over the same memory, in the same structure.

    Raises:
      DataError: a tensor that is no plain CPU tensor of numbers that numpy knows.
    """
    import torch

    if isinstance(value, Mapping):
        return {name: to_arrays(entry, what) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(to_arrays(entry, what) for entry in value)
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    try:
        return value.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:
        raise DataError(
            f"torch_task: {what}: a tensor of {value.dtype} cannot be shared as an array: {error}"
        ) from None


class Items:
    """A map-style data set: every process asks its own copy for items."""

    def __init__(self, source: Any, collate: Callable[[list], Any] | None, draw: Callable[[], int]):
        self._source, self._draw, self._collate = source, draw, collate

    def __len__(self) -> int:
        return len(self._source)

    def take(self, indices: np.ndarray) -> Any:
        """The collated batch of the items ``indices``; what they draw at random is seeded by the replica."""
        import torch
        from torch.utils.data import default_collate

        seed = self._draw()
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % (1 << 32))
        together = getattr(self._source, "__getitems__", None)
        chosen = indices.tolist()
        items = together(chosen) if together is not None else [self._source[index] for index in chosen]
        return (self._collate or default_collate)(items)

    def arrays(self) -> dict[str, np.ndarray]:
        """None to share."""
        return {}

    def replace(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Nothing to replace."""
        if arrays:
            raise UsageError(f"data set: there are no arrays to replace, got {sorted(arrays)}")


def _preloaded(items: Items, what: str) -> Any:
    """All items as arrays, in the structure of a batch."""
    count = len(items)
    parts = [
        to_arrays(items.take(np.arange(start, min(start + _PRELOAD, count))), what)
        for start in range(0, count, _PRELOAD)
    ]
    if isinstance(parts[0], Mapping):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    return np.concatenate(parts)
