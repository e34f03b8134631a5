"""The generators of ``np.random`` and ``random`` that a whole process shares, seeded for what tasks draw from them.

Forked workers would otherwise all draw the same numbers, and others in each run. A task that draws from its ``rng`` needs none of
this.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

_SALT = 0x5EED  # so that a task's own generators of the same seed give other numbers
OF_EVALUATOR, OF_SIMULATION = (0, 0, 1), (0, 0, 2)  # incarnations of replicas begin with 1
_NUMPY, _PYTHON = "random.numpy", "random.python"


def seed_globals(*words: int) -> None:
    """Seed both from words >= 0, such as the job's seed and the replica."""
    found = np.random.SeedSequence([_SALT, *words]).generate_state(8)
    np.random.seed(found[:4])
    random.seed(found[4:].tobytes())


def global_arrays() -> dict[str, np.ndarray]:
    """Where both are, to go on from there with ``restore_globals``."""
    state = np.random.get_state(legacy=False)
    words = [state["state"]["pos"], state["has_gauss"], np.float64(state["gauss"]).view(np.uint64)]
    _, python, gauss = random.getstate()
    return {
        _NUMPY: np.concatenate([np.array(words, np.uint64), state["state"]["key"].astype(np.uint64)]),
        _PYTHON: np.array([*python, *(() if gauss is None else [gauss])], np.float64),  # exact below 2**53
    }


def restore_globals(arrays: Mapping[str, np.ndarray]) -> None:
    """Go on from ``global_arrays``; what an older checkpoint lacks stays as it was seeded."""
    if _NUMPY in arrays:
        position, has_gauss, gauss = arrays[_NUMPY][:3]
        key = arrays[_NUMPY][3:].astype(np.uint32)
        np.random.set_state(("MT19937", key, int(position), int(has_gauss), float(gauss.view(np.float64))))
    if _PYTHON in arrays:
        version, words, _ = random.getstate()
        found = arrays[_PYTHON].tolist()
        gauss = found[len(words)] if len(found) > len(words) else None
        random.setstate((version, tuple(int(word) for word in found[: len(words)]), gauss))


@contextmanager
def seeded(*words: int) -> Iterator[None]:
    """Both seeded inside, and as they were outside."""
    outside = np.random.get_state(), random.getstate()
    seed_globals(*words)
    try:
        yield
    finally:
        np.random.set_state(outside[0])
        random.setstate(outside[1])
