"""The generators that a process shares: seeded by words, kept and restored whole, and left alone outside."""

from __future__ import annotations

import random

import numpy as np
import pytest

from worker.randomness import OF_EVALUATOR, OF_SIMULATION, global_arrays, restore_globals, seed_globals, seeded


@pytest.fixture(autouse=True)
def as_before():
    with seeded(0):
        yield


def draw() -> list[float]:
    """An odd number of normal numbers, so that each generator keeps one for later."""
    return [*np.random.randn(3), np.random.rand(), *(random.gauss(0, 1) for _ in range(3)), random.random()]


def test_words_decide_what_is_drawn():
    def after(*words: int) -> list[float]:
        seed_globals(*words)
        return draw()

    assert after(7, 1, 1) == after(7, 1, 1)
    each = [(7,), (8,), (7, 0, 1), (7, 1, 1), (7, 0, 2), (7, *OF_EVALUATOR), (7, *OF_SIMULATION)]
    assert len({tuple(after(*words)) for words in each}) == len(each)


@pytest.mark.parametrize("draws", [0, 1, 200])
def test_restored_goes_on(draws):
    seed_globals(5)
    for _ in range(draws):
        draw()
    kept = global_arrays()
    expected = draw()
    seed_globals(6)
    restore_globals(kept)
    assert draw() == expected


def test_an_older_checkpoint_has_none():
    seed_globals(5)
    expected = draw()
    seed_globals(5)
    restore_globals({})
    assert draw() == expected


def test_outside_nothing_changes():
    expected = draw()
    seed_globals(1)
    kept = draw()
    seed_globals(1)
    with seeded(2):
        assert draw() != kept
    assert draw() == kept != expected
