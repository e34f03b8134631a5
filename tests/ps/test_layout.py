"""The layout: tensors as one vector, and the vector as shards."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.errors import UsageError
from ps.layout import Layout, Parameter

from .building import tensors


def test_trained_parameters_stand_first_in_the_tasks_order_and_averaged_ones_last():
    layout = Layout.of(tensors(mean=(3,), w=(2, 4), var=(3,), b=()), averaged=("var", "mean"))
    assert [(p.name, p.offset, p.stop, p.width) for p in layout.parameters] == [
        ("w", 0, 8, 4), ("b", 8, 9, 1), ("mean", 9, 12, 1), ("var", 12, 15, 1)
    ]  # fmt: skip
    assert (layout.size, layout.trained_size, layout.nbytes) == (15, 9, 120)
    assert layout["var"].averaged and not layout["w"].averaged
    with pytest.raises(KeyError):
        layout["bias"]


def test_the_dtype_is_float64_only_if_all_tensors_are():
    wide, narrow = np.zeros(2), np.zeros(2, np.float32)
    assert Layout.of({"a": wide}).dtype == "float64"
    assert Layout.of({"a": wide, "b": narrow}).dtype == Layout.of({"a": np.zeros(2, int)}).dtype == "float32"
    assert Layout.of({"a": wide}, dtype="float32").dtype == "float32"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"tensors": {}}, "at least one parameter, got none"),
        ({"tensors": {"w": np.zeros((2, 0))}}, r"'w' has shape \(2, 0\) and no element"),
        (
            {"tensors": {"w": np.zeros(2)}, "averaged": ("mean",)},
            "'mean' is declared but is no parameter; there are: w",
        ),
        ({"tensors": {"w": np.zeros(2)}, "sparse": ("v",)}, "'v' is declared but is no parameter"),
        (
            {"tensors": {"w": np.zeros(2)}, "sparse": ("w",), "averaged": ("w",)},
            r"'w' of shape \(2,\), which is averaged",
        ),
        ({"tensors": {"w": np.zeros(())}, "sparse": ("w",)}, r"a table that is trained, got 'w' of shape \(\)"),
        ({"tensors": {"w": np.zeros(2)}, "dtype": "float16"}, "must be float32 or float64, got float16"),
    ],
)
def test_what_makes_no_layout_is_refused(arguments, message):
    given = dict(arguments)
    with pytest.raises(UsageError, match=message):
        Layout.of(given.pop("tensors"), **given)


def test_views_are_of_the_vector_and_flatten_is_their_inverse():
    parameters = tensors(a=(2, 3), b=(), c=(4,))
    layout = Layout.of(parameters)
    flat = layout.flatten(parameters)
    views = layout.views(flat)
    for name, array in parameters.items():
        np.testing.assert_array_equal(views[name], array)
        assert views[name].shape == array.shape and np.shares_memory(views[name], flat)
    views["a"][1, 2] = 9.0
    assert flat[5] == 9.0
    out = np.zeros(11)
    assert layout.flatten(parameters, out=out) is out and out[0] == parameters["a"][0, 0]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"a": np.zeros(2)}, "missing: b, unknown: none"),
        ({"a": np.zeros(2), "b": np.zeros(3), "c": np.zeros(1)}, "missing: none, unknown: c"),
        ({"a": np.zeros(2), "b": np.zeros((3, 1))}, r"'b' must have shape \(3,\), got \(3, 1\)"),
    ],
)
def test_tensors_of_another_layout_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        Layout.of({"a": np.zeros(2), "b": np.zeros(3)}).flatten(given)


@pytest.mark.parametrize("vector", [np.zeros(4), np.zeros((5, 1)), np.zeros(5, np.float32), np.zeros(5, int)])
def test_a_vector_of_another_shape_or_dtype_is_refused(vector):
    layout = Layout.of({"a": np.zeros(5)})
    layout.check_vector(np.zeros(5))
    with pytest.raises(UsageError, match=r"must have shape \(5,\) and dtype float64"):
        layout.check_vector(vector)


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6), count=st.integers(1, 20))
def test_shards_cover_the_vector_in_balanced_ranges(sizes, count):
    layout = Layout.of({str(index): np.zeros(size) for index, size in enumerate(sizes)})
    if count > layout.size:
        with pytest.raises(UsageError, match=f"got {count} for {layout.size} elements"):
            layout.shards(count)
        return
    ranges = layout.shards(count)
    assert len(ranges) == count
    assert [part.start for part in ranges] == [0, *(part.stop for part in ranges[:-1])] and ranges[
        -1
    ].stop == layout.size
    assert max(part.size for part in ranges) - min(part.size for part in ranges) <= 1
    vector = np.arange(layout.size)
    np.testing.assert_array_equal(np.concatenate([part.of(vector) for part in ranges]), vector)


@settings(max_examples=200)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9), st.booleans()), min_size=1, max_size=5),
    count=st.integers(1, 8),
)
def test_no_row_of_a_sparse_table_is_cut(shapes, count):
    layout = Layout.of(
        {str(index): np.zeros((rows, width)) for index, (rows, width, _) in enumerate(shapes)},
        sparse=[str(index) for index, (_, _, sparse) in enumerate(shapes) if sparse],
    )
    try:
        ranges = layout.shards(count)
    except UsageError:
        assert count > 1
        return
    widest = max(table.width for table in layout.tables) if layout.tables else 1
    for index, part in enumerate(ranges[:-1], start=1):
        assert abs(part.stop - layout.size * index / count) <= (widest + 1) / 2
        for table in layout.tables:
            if table.offset < part.stop < table.stop:
                assert (part.stop - table.offset) % table.width == 0


def test_a_large_tensor_is_split():
    ranges = Layout.of({"small": np.zeros(10), "large": np.zeros((1000, 3))}).shards(3)
    assert [(part.start, part.stop) for part in ranges] == [(0, 1003), (1003, 2007), (2007, 3010)]


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_shard_is_refused(count):
    with pytest.raises(UsageError, match=f"count must be >= 1, got {count}"):
        Layout.of({"w": np.zeros(4)}).shards(count)


def test_json_brings_the_same_layout_back():
    layout = Layout.of(tensors("float32", e=(5, 2), w=(3,), mean=()), averaged=("mean",), sparse=("e",))
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    assert Layout.from_json(layout.to_json()) != Layout.of(tensors(e=(5, 2), w=(3,), mean=()), averaged=("mean",))


def test_a_parameters_width_is_that_of_its_rows():
    assert [Parameter("p", shape, 0).width for shape in ((), (7,), (7, 2), (7, 2, 3))] == [1, 1, 2, 6]
