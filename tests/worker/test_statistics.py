"""Counters in shared words, and the histogram of staleness."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.statistics import (
    BUCKETS,
    COUNTERS,
    SUMS,
    Statistics,
    bucket_of,
    statistics_specs,
    summarise_staleness,
    value_of,
)


def test_every_counter_is_a_word_of_its_own_seen_by_others():
    arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in statistics_specs(3).items()}
    mine, reader, other = Statistics.of(arrays, 1), Statistics.of(arrays, 1), Statistics.of(arrays, 2)
    for number, name in enumerate((*COUNTERS, *SUMS), start=1):
        setattr(mine, name, getattr(mine, name) + number)
    assert [getattr(reader, name) for name in (*COUNTERS, *SUMS)] == list(range(1, 1 + len(COUNTERS) + len(SUMS)))
    assert not any(getattr(other, name) for name in (*COUNTERS, *SUMS))
    assert all(type(getattr(reader, name)) is int for name in COUNTERS)
    assert all(type(getattr(reader, name)) is float for name in SUMS)
    json.dumps({name: getattr(reader, name) for name in COUNTERS})


def test_unknown_counters_are_refused():
    statistics = Statistics.private()
    with pytest.raises(AttributeError):
        statistics.stpes = 3
    with pytest.raises(AttributeError):
        statistics.stpes  # noqa: B018


def test_staleness_is_counted():
    statistics = Statistics.private()
    for staleness, times in [(0, 1), (3, 2), (700, 1), (3, 1)]:
        statistics.note_staleness(staleness, times)
    assert (statistics.staleness_sum, statistics.staleness_count, statistics.staleness_max) == (709, 5, 700)
    assert statistics.histogram[3] == 3 and statistics.histogram[bucket_of(700)] == 1


@pytest.mark.parametrize("staleness", range(512))
def test_small_staleness_is_exact(staleness):
    assert bucket_of(staleness) == staleness and value_of(staleness) == staleness


def test_buckets_are_contiguous():
    """Every bucket begins one after the last value of the one before."""
    for bucket in range(1, BUCKETS):
        first = value_of(bucket)
        assert bucket_of(first) == bucket and bucket_of(first - 1) == bucket - 1


@given(st.integers(0, 2**25 - 1))
def test_buckets_are_narrow(staleness):
    bucket = bucket_of(staleness)
    assert value_of(bucket) <= staleness
    assert staleness - value_of(bucket) <= staleness / 32


def test_the_ends():
    assert bucket_of(-3) == 0 and bucket_of(2**25 - 1) == BUCKETS - 1
    assert bucket_of(2**25) == bucket_of(2**60) == BUCKETS - 1


@given(st.lists(st.integers(0, 511), min_size=1, max_size=200))
def test_summary_of_small_values_is_exact(values):
    statistics = Statistics.private()
    for value in values:
        statistics.note_staleness(value)
    summary = summarise_staleness(statistics.histogram, statistics.staleness_sum, statistics.staleness_max)
    ordered = sorted(values)
    assert summary["mean"] == pytest.approx(sum(values) / len(values))
    assert summary["p50"] == ordered[(len(values) + 1) // 2 - 1]
    assert summary["p95"] == ordered[-(-95 * len(values) // 100) - 1]
    assert summary["max"] == ordered[-1]
    assert summary["histogram"] == [[value, values.count(value)] for value in sorted(set(values))]
    json.dumps(summary)


def test_nothing_counted():
    empty = {"mean": None, "p50": None, "p95": None, "max": None, "histogram": []}
    assert summarise_staleness(np.zeros(BUCKETS, np.int64), 0, 0) == empty
