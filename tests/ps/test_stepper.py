"""Payloads: split over ranges and applied there, they do what the whole does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.errors import UsageError
from ps.layout import Layout, Range
from ps.rows import Rows
from ps.rules import SGD, Adagrad, Adam, AdaptiveRevision, AveragedCenter, GradientNoise
from ps.rules.base import Context
from ps.stepper import Stepper, split_payload
from ps.transport.direct import DirectLink

from .building import private_state, tensors

SHAPES = {"bias": (3,), "table": (7, 2), "mean": (4,), "weight": (5,)}
RULES = [
    SGD(lr=0.1),
    Adagrad(lr=0.1),
    Adam(lr=0.1),
    AdaptiveRevision(lr=0.1),
    AveragedCenter(SGD(lr=0.1)),
    GradientNoise(SGD(lr=0.1), eta=1.0),
]


@st.composite
def payloads(draw):
    """A dense vector, or some of the parts of which the table's may be rows, in any order and more than once."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    dense = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    if draw(st.booleans()):
        return np.concatenate([dense[name].reshape(-1) for name in ("bias", "table", "weight", "mean")])
    parts = {name: dense[name] for name in draw(st.sets(st.sampled_from(sorted(SHAPES)), min_size=1))}
    if "table" in parts and draw(st.booleans()):
        rows = np.array(draw(st.lists(st.integers(0, 6), max_size=10)), np.int64)
        parts["table"] = Rows(rows, rng.normal(size=(rows.size, 2)))
    return parts


def filled(payload):
    """With something for every shard, so that all count the same steps, as noise, bias corrections and averages go by them."""
    if isinstance(payload, np.ndarray):
        return payload
    parts = {name: np.zeros(shape) for name, shape in SHAPES.items()} | payload
    if isinstance(table := parts["table"], Rows):
        rows = np.concatenate([table.rows, np.arange(7)])
        parts["table"] = Rows(rows, np.concatenate([table.values, np.ones((7, 2))]))
    return parts


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@settings(max_examples=30)
@given(pushes=st.lists(payloads(), min_size=1, max_size=4), count=st.integers(2, 7))
def test_split_over_shards_equals_whole(rule, pushes, count):
    states = [
        private_state(tensors(**SHAPES), rule, shards, averaged=("mean",), sparse=("table",), replicas=2)
        for shards in (1, count)
    ]
    for state in states:
        link = DirectLink(state)
        for number, payload in enumerate(pushes):
            versions = link.pull(np.zeros(state.layout.size)) if number % 2 == 0 else link.versions()
            link.push(filled(payload), versions, count=2, gradient_norm=1.0)
    for name in states[0].arrays:
        if name == "center" or name.startswith(("slot.", "row_steps.")):
            np.testing.assert_array_equal(states[0].arrays[name], states[1].arrays[name], err_msg=name)


def pieces_of(payload, layout, ranges):
    return [split_payload(payload, layout, part) for part in ranges]


@given(payload=payloads(), count=st.integers(1, 7))
def test_the_parts_of_a_payload_join_to_the_whole(payload, count):
    layout = Layout.of(tensors(**SHAPES), averaged=("mean",), sparse=("table",))
    ranges = layout.shards(count)
    joined = np.zeros(layout.size)
    for part, piece in zip(ranges, pieces_of(payload, layout, ranges)):
        target = part.of(joined)
        if isinstance(piece, np.ndarray):
            target += piece
            continue
        for name, values in (piece or {}).items():
            start = max(layout[name].offset - part.start, 0)
            if isinstance(values, Rows):
                for row, value in zip(values.rows, values.values):
                    target[start + 2 * row : start + 2 * row + 2] += value
            else:
                target[start : start + values.size] += values
    expected = np.zeros(layout.size)
    if isinstance(payload, np.ndarray):
        expected += payload
    else:
        views = layout.views(expected)
        for name, values in payload.items():
            if isinstance(values, Rows):
                np.add.at(views[name], values.rows, values.values)
            else:
                views[name] += values
    np.testing.assert_allclose(joined, expected, rtol=1e-13, atol=1e-13)


def test_rows_are_counted_from_the_first_row_of_the_range():
    layout = Layout.of({"table": np.zeros((6, 2))}, sparse=("table",))
    rows = Rows(np.array([5, 0, 3, 2]), np.arange(8.0).reshape(4, 2))
    first, second = pieces_of({"table": rows}, layout, layout.shards(2))
    assert first["table"].rows.tolist() == [0, 2] and second["table"].rows.tolist() == [2, 0]
    np.testing.assert_array_equal(second["table"].values, [[0, 1], [4, 5]])
    third = split_payload({"table": Rows(np.array([4]), np.ones((1, 2)))}, layout, Range(0, 6))
    assert third is None


def test_each_row_has_a_step_count_of_its_own():
    state = private_state({"table": np.zeros((6, 2))}, Adam(lr=0.1), 3, sparse=("table",))
    link = DirectLink(state)
    for rows in ([0, 5], [5], [5, 2, 5]):
        link.push({"table": Rows(np.array(rows), np.ones((len(rows), 2)))}, link.versions())
    assert state.arrays["row_steps.table"].tolist() == [1, 0, 1, 0, 0, 4]
    np.testing.assert_allclose(state.center.reshape(6, 2)[[0, 2]], -0.1, rtol=1e-6)  # Adam's first step is lr


def test_rows_of_width_one_may_be_flat():
    state = private_state({"w": np.zeros(5)}, SGD(lr=1.0), 2, sparse=("w",))
    link = DirectLink(state)
    link.push({"w": Rows(np.array([4, 1]), np.array([1.0, 2.0]))}, link.versions())
    np.testing.assert_array_equal(state.center, [0.0, -2.0, 0.0, 0.0, -1.0])


def test_rows_that_disagree_are_refused():
    for rows, values in (((3,), (2, 4)), ((3, 1), (3, 1)), ((2,), ())):
        with pytest.raises(UsageError, match=r"rows must be \(k,\)"):
            Rows(np.zeros(rows, np.int64), np.zeros(values))


def test_a_local_stepper_works_on_the_whole_vector():
    layout = Layout.of({"w": np.zeros(3), "mean": np.zeros(2)}, averaged=("mean",))
    vector = np.zeros(5)
    stepper = Stepper(layout, Range(0, 5), SGD(lr=1.0), 0.5, vector, {}, {})
    stepper.apply(np.ones(5), Context())
    np.testing.assert_array_equal(vector, [-1.0, -1.0, -1.0, 0.5, 0.5])
