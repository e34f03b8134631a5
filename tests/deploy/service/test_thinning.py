"""Thinned rows: bounded however many come, every row counted once, means and bounds right, against a plain computation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.service.thinning import MOST_COLUMNS, Thinned

value = st.one_of(st.none(), st.floats(-1e6, 1e6))


@given(st.lists(value, max_size=300), st.sampled_from([2, 4, 16]))
def test_groups_are_of_neighbours_and_of_one_size(values, most):
    thinned = Thinned(("x",), most)
    for x, y in enumerate(values):
        thinned.add((x,), {"y": y})
    lines = thinned.lines()
    kept = [(x, y) for x, y in enumerate(values) if y is not None]
    size = lines["rows_per_point"]
    groups = [kept[start : start + size] for start in range(0, len(kept), size)]
    assert len(groups) <= most
    assert lines["x"] == [group[-1][0] for group in groups]
    if kept:
        means = [math.fsum(y for _, y in group) / len(group) for group in groups]
        assert lines["columns"]["y"]["mean"] == pytest.approx(means, rel=1e-5, abs=1e-3)
        assert thinned.last("y") == pytest.approx(means[-1], rel=1e-9, abs=1e-6)
    if size > 1:
        for name, of in (("low", min), ("high", max)):
            bounds = [of(y for _, y in group) for group in groups]
            assert lines["columns"]["y"][name] == pytest.approx(bounds, rel=1e-5, abs=1e-5)


def test_few_rows_stand_as_they_came():
    thinned = Thinned(("seconds", "examples"), 4)
    thinned.add((1.0, 10), {"loss": 2.0, "staleness": None})
    thinned.add((2.0, 20), {"loss": None, "staleness": 3.0})
    thinned.add((3.0, 30), {"loss": math.nan, "staleness": math.inf})
    assert thinned.lines() == {
        "seconds": [1.0, 2.0],
        "examples": [10.0, 20.0],
        "columns": {"loss": {"mean": [2.0, None]}, "staleness": {"mean": [None, 3.0]}},
        "rows_per_point": 1,
    }


def test_columns_are_bounded_too():
    thinned = Thinned(("x",), 4)
    for x in range(3 * MOST_COLUMNS):
        thinned.add((x,), {f"metric {x}": 1.0})
    assert len(thinned.lines()["columns"]) == MOST_COLUMNS
