"""Arrays in a safetensors file without their zeros.

Much of what a replica carries from one step to the next is zero at a checkpoint: of a sum that has just been pushed all of it, of
a table's sum all but the rows touched since. An array of which at most half the blocks hold anything is written as these blocks
and their places; the file's metadata say its shape and dtype. A zero is eight, four or two zero bytes: -0.0 is none, so what is
read back is what was written, bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

BLOCK = 1024  # elements
_LEAST_BYTES = 64 << 10  # of smaller arrays nothing is left out
_BLOCKS, _PLACES, _KEY = "#blocks", "#places", "without_zeros"


def without_zeros(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What to write in place of ``arrays``: tensors by name, and the metadata of the file."""
    tensors: dict[str, np.ndarray] = {}
    shapes: dict[str, Any] = {}
    for name, array in arrays.items():
        array = np.asarray(array, order="C")
        taken = any(name + ending in arrays for ending in (_BLOCKS, _PLACES))
        places = None if taken or array.nbytes < _LEAST_BYTES else _places(array)
        if places is None or 2 * places.size > math.ceil(array.size / BLOCK):
            tensors[name] = array
            continue
        shapes[name] = {"shape": array.shape, "dtype": array.dtype.str}
        tensors[name + _PLACES] = places
        tensors[name + _BLOCKS] = _blocks(array.reshape(-1), places)
    return tensors, {_KEY: json.dumps(shapes)} if shapes else {}


def names(file: Any) -> list[str]:
    """Names of the arrays in an open safetensors file."""
    left_out = _shapes(file)
    parts = {name + ending for name in left_out for ending in (_BLOCKS, _PLACES)}
    return [*(name for name in file.keys() if name not in parts), *left_out]


def read(file: Any, name: str) -> np.ndarray:
    """One array of an open safetensors file, as it was before its zeros were left out."""
    described = _shapes(file).get(name)
    if described is None:
        return file.get_tensor(name)
    array = np.zeros(described["shape"], described["dtype"])
    flat, whole = array.reshape(-1), array.size // BLOCK
    places, blocks = file.get_tensor(name + _PLACES), file.get_tensor(name + _BLOCKS)
    inner = places < whole
    flat[: whole * BLOCK].reshape(whole, BLOCK)[places[inner]] = blocks[inner]
    if not inner.all():
        flat[whole * BLOCK :] = blocks[-1, : array.size - whole * BLOCK]
    return array


def _shapes(file: Any) -> dict[str, Any]:
    return json.loads((file.metadata() or {}).get(_KEY, "{}"))


def _places(array: np.ndarray) -> np.ndarray:
    """int64 (k,), sorted: which blocks have a byte that is not zero. The last one may be shorter."""
    words = array.reshape(-1).view(f"u{array.itemsize}")
    whole = words.size // BLOCK
    places = np.flatnonzero(words[: whole * BLOCK].reshape(whole, BLOCK).any(axis=1))
    return np.append(places, whole) if words[whole * BLOCK :].any() else places


def _blocks(flat: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(k, BLOCK): the blocks at ``places``, the last one filled up with zeros."""
    whole = flat.size // BLOCK
    blocks = np.zeros((places.size, BLOCK), flat.dtype)
    inner = places < whole
    blocks[inner] = flat[: whole * BLOCK].reshape(whole, BLOCK)[places[inner]]
    if not inner.all():
        blocks[-1, : flat.size - whole * BLOCK] = flat[whole * BLOCK :]
    return blocks
