"""The order of examples: from the seed alone, complete, and easy first where asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.errors import UsageError
from worker.order import Curriculum, Order, split_validation

EXAMPLES = np.arange(100, 300)
HARD = np.random.default_rng(5).permutation(200).astype(float)  # of the k-th example


def test_a_shuffle_is_a_permutation_from_seed_and_epoch():
    order = Order(EXAMPLES, seed=3)
    first = order.of(0)
    assert sorted(first) == EXAMPLES.tolist() and first.tolist() != EXAMPLES.tolist()
    assert np.array_equal(first, Order(EXAMPLES, seed=3).of(0))
    assert not np.array_equal(first, order.of(1)) and not np.array_equal(first, Order(EXAMPLES, seed=4).of(0))
    assert np.array_equal(order.of(7), order.of(7)) and order.size(7) == 200


def test_without_a_shuffle():
    assert Order(EXAMPLES, shuffle=False).of(3).tolist() == EXAMPLES.tolist()


def test_replacement():
    order = Order(EXAMPLES, seed=1, replacement=True)
    drawn = order.of(0)
    assert drawn.size == 200 == order.size(0) and set(drawn) <= set(EXAMPLES.tolist())
    assert 90 < len(set(drawn.tolist())) < 160  # about 200·(1 − 1/e) = 126
    assert not np.array_equal(drawn, order.of(1))


@given(st.integers(0, 10), st.integers(1, 8), st.floats(0.05, 1.0))
def test_sorted_uses_only_the_easiest_share(epoch, epochs, start):
    order = Order(EXAMPLES, curriculum=Curriculum("sorted", epochs=epochs, start=start), difficulty=HARD)
    used = order.of(epoch)
    share = min(1.0, start + (1 - start) * epoch / epochs)
    assert used.size == order.size(epoch) == max(1, round(share * 200))
    easiest = EXAMPLES[np.argsort(HARD)[: used.size]]
    assert sorted(used) == sorted(easiest)
    unshuffled = Order(EXAMPLES, shuffle=False, curriculum=order.curriculum, difficulty=HARD).of(epoch)
    assert unshuffled.tolist() == easiest.tolist()


def test_mixed_draws_part_from_all():
    curriculum = Curriculum("mixed", epochs=10, start=0.1, mix=0.3)
    order = Order(EXAMPLES, curriculum=curriculum, difficulty=HARD)
    easiest = set(EXAMPLES[np.argsort(HARD)[:20]].tolist())
    drawn = np.concatenate([Order(EXAMPLES, seed=s, curriculum=curriculum, difficulty=HARD).of(0) for s in range(20)])
    inside = np.mean([example in easiest for example in drawn])
    assert order.size(0) == order.of(0).size == 200
    assert inside == pytest.approx(0.7 + 0.3 * 0.1, abs=0.03)  # of 4000 draws
    assert set(drawn.tolist()) > easiest


def test_mixed_ends_as_an_ordinary_epoch():
    curriculum = Curriculum("mixed", epochs=3)
    assert sorted(Order(EXAMPLES, curriculum=curriculum, difficulty=HARD).of(3)) == EXAMPLES.tolist()
    plain = Order(EXAMPLES, shuffle=False, curriculum=curriculum, difficulty=HARD)
    assert plain.of(3).tolist() == EXAMPLES.tolist()


def test_a_curriculum_needs_difficulties():
    with pytest.raises(UsageError, match=r"\[data\] curriculum: the task gives no difficulty\(\)"):
        Order(EXAMPLES, curriculum=Curriculum())
    with pytest.raises(UsageError, match=r"one finite number per example, \(200,\), got \(3,\)"):
        Order(EXAMPLES, curriculum=Curriculum(), difficulty=np.zeros(3))
    with pytest.raises(UsageError, match="one finite number per example"):
        Order(EXAMPLES, curriculum=Curriculum(), difficulty=np.where(HARD == 7, np.nan, HARD))


@given(st.integers(2, 500), st.floats(0.0, 0.99), st.integers(0, 5))
def test_validation_split(n, fraction, seed):
    if fraction and not 0 < round(n * fraction) < n:
        with pytest.raises(UsageError, match=rf"\[data\] validation = {fraction} of {n} examples leaves"):
            split_validation(n, fraction, seed)
        return
    training, validation = split_validation(n, fraction, seed)
    assert sorted([*training, *validation]) == list(range(n))
    assert validation.size == round(n * fraction)
    again = split_validation(n, fraction, seed)
    assert np.array_equal(again[0], training) and np.array_equal(again[1], validation)


def test_the_split_is_random():
    _, first = split_validation(1000, 0.2, 0)
    _, second = split_validation(1000, 0.2, 1)
    assert not np.array_equal(first, second) and 300 < first.mean() < 700
