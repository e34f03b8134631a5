"""Norms, local steps and accruals of flat, sparse and averaged gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.layout import Layout
from ps.rows import Rows
from ps.rules import SGD, Momentum, build_rule
from worker.gradients import Accrual, LocalStep, is_finite, needs_norm, norm

LAYOUT = Layout.of(
    {"table": np.zeros((5, 2)), "w": np.zeros(3), "seen": np.zeros(2)}, averaged=["seen"], sparse=["table"]
)


def parts(rows, values, w=(0.0, 0.0, 0.0), seen=(0.0, 0.0)):
    return {
        "table": Rows(np.array(rows, dtype=np.int64), np.array(values, dtype=np.float64).reshape(-1, 2)),
        "w": np.array(w, dtype=np.float64),
        "seen": np.array(seen, dtype=np.float64),
    }


def flat_of(gradient) -> np.ndarray:
    """The same gradient as one vector; rows added up one by one."""
    if isinstance(gradient, np.ndarray):
        return gradient
    total = np.zeros(LAYOUT.size)
    for name, part in gradient.items():
        parameter = LAYOUT[name]
        if isinstance(part, Rows):
            for row, values in zip(part.rows.tolist(), part.values):
                start = parameter.offset + row * parameter.width
                total[start : start + parameter.width] += values
        else:
            total[parameter.offset : parameter.stop] += part.reshape(-1)
    return total


def test_norm_is_over_trained_parameters():
    gradient = parts([1, 3], [[3, 0], [0, 4]], w=(0, 12, 0), seen=(100, 100))
    assert norm(gradient, LAYOUT) == pytest.approx(13)
    assert norm(flat_of(gradient), LAYOUT) == pytest.approx(13)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["table", "w", "seen"])
def test_is_finite_sees_every_part(bad, where):
    gradient = parts([1, 3], [[3, 0], [0, 4]], w=(0, 12, 0), seen=(1, 1))
    assert is_finite(gradient) and is_finite(flat_of(gradient))
    (gradient[where].values if where == "table" else gradient[where])[..., 1] = bad
    assert not is_finite(gradient) and not is_finite(flat_of(gradient))


def test_no_rows_at_all_are_finite():
    assert is_finite(parts([], [])) and norm(parts([], []), LAYOUT) == 0


def test_who_needs_the_norm():
    assert needs_norm(build_rule({"name": "adam", "clip_norm": 1.0, "schedule": {"name": "constant"}}))
    assert not needs_norm(build_rule({"name": "adam", "clip_value": 1.0}))


def test_a_local_step_steps_averages_and_touches_only_rows():
    local = LocalStep(LAYOUT, Momentum(lr=1.0, momentum=0.5), averaging=0.25)
    x = np.arange(15.0)
    local.apply(x, parts([4, 0], [[1, 2], [3, 4]], w=(1, 0, 0), seen=(20, 30)))
    local.apply(x, parts([4], [[0, 0]], seen=(0, 0)))
    moved = x - np.arange(15.0)
    assert moved[:10].reshape(5, 2).tolist() == [
        [-3, -4],
        [0, 0],
        [0, 0],
        [0, 0],
        [-1.5, -3],
    ]  # row 4 twice, row 0 once
    assert moved[10:13].tolist() == [-1.5, 0, 0]
    assert x[13:].tolist() == pytest.approx([(13 * 0.75 + 5) * 0.75, (14 * 0.75 + 7.5) * 0.75])
    assert local.row_steps["table"].tolist() == [1, 0, 0, 0, 2] and local.steps == 2


def test_a_local_step_may_change_its_vector():
    local, x, y = LocalStep(LAYOUT, SGD(lr=1.0)), np.zeros(15), np.ones(15)
    for vector in (x, y, x):
        local.apply(vector, np.ones(15))
    assert x[:13].tolist() == [-2] * 13 and y[:13].tolist() == [0] * 13


def test_local_schedules_follow_the_epoch():
    local = LocalStep(LAYOUT, build_rule({"name": "sgd", "lr": 1.0, "schedule": {"name": "decay", "beta": 0.5}}))
    x = np.zeros(15)
    local.apply(x, np.ones(15), epoch=3)
    assert x[0] == -0.125


numbers = st.floats(-8, 8, width=32)
gradients = st.one_of(
    st.lists(numbers, min_size=15, max_size=15).map(np.array),
    st.integers(0, 6).flatmap(
        lambda k: st.builds(
            parts,
            st.lists(st.integers(0, 4), min_size=k, max_size=k),
            st.lists(st.tuples(numbers, numbers), min_size=k, max_size=k),
            st.tuples(numbers, numbers, numbers),
            st.tuples(numbers, numbers),
        )
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(gradients, st.just("take"), st.just("restore")), max_size=12))
def test_what_is_taken_is_the_sum_since_the_last_take(events):
    """Flat or in parts, in any order, saved and restored in between, and untouched by what is added next."""
    accrual, total, count, held = Accrual(LAYOUT), np.zeros(15), 0, None
    for event in events:
        if isinstance(event, str) and event == "restore":
            other = Accrual(LAYOUT)
            np.copyto(other.sum, accrual.sum)
            other.restore(accrual.count, sorted(accrual.dense), accrual.touched_rows())
            accrual = other
        elif isinstance(event, str):
            payload, taken = accrual.take()
            assert taken == count and flat_of(payload) == pytest.approx(total, abs=1e-12)
            held, total, count = (payload, flat_of(payload).copy()), np.zeros(15), 0
            assert accrual.count == 0 and not accrual.sum.any()
        else:
            accrual.add(event)
            total, count = total + flat_of(event), count + 1
            assert held is None or np.array_equal(flat_of(held[0]), held[1])
    payload, taken = accrual.take()
    assert taken == count and flat_of(payload) == pytest.approx(total, abs=1e-12)


def test_rows_taken_are_only_those_touched():
    accrual = Accrual(LAYOUT)
    accrual.add(parts([3, 1], [[1, 1], [2, 2]]))
    accrual.add(parts([3], [[-1, -1]]))
    payload, count = accrual.take()
    assert count == 2 and payload["table"].rows.tolist() == [1, 3]
    assert payload["table"].values.tolist() == [[2, 2], [0, 0]]
    assert list(payload) == ["seen", "w", "table"]


@pytest.mark.parametrize("flat", [True, False])
def test_an_update_is_the_change_of_trained_and_the_observation_of_averaged_parameters(flat):
    before = np.arange(15.0)
    gradient = parts([2, 2, 0], np.ones((3, 2)), w=(1, 1, 1), seen=(7, 8))
    after = before.copy()
    after[[0, 1, 4, 5]] += [0.5, 0.25, -1, -2]
    after[10:13] -= 3
    after[13:] = 99  # the replica's own running value says nothing
    accrual = Accrual(LAYOUT)
    for _ in range(2):
        accrual.add_change(before, after, flat_of(gradient) if flat else gradient)
    payload, count = accrual.take()
    expected = np.zeros(15)
    expected[[0, 1, 4, 5]] = [1, 0.5, -2, -4]
    expected[10:13], expected[13:] = -6, [14, 16]
    assert count == 2 and flat_of(payload).tolist() == expected.tolist()
    if not flat:
        assert payload["table"].rows.tolist() == [0, 2]
