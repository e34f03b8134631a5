"""Reader memory: its bound, its rows, and who has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.layout import Layout
from ps.reader_memory import ReaderMemory, capacity
from ps.rules import DCASGD, SGD
from ps.shard import ShardOptions
from ps.state import state_specs


@pytest.mark.parametrize(
    "memory_bytes, row_bytes, replicas, rows",
    [(100, 40, 8, 2), (120, 40, 8, 3), (119, 40, 8, 2), (1 << 30, 40, 8, 8), (39, 40, 8, 0), (0, 40, 8, 0)],
)
def test_capacity(memory_bytes, row_bytes, replicas, rows):
    assert capacity(memory_bytes, row_bytes, replicas) == rows


@given(size=st.integers(4, 200), count=st.integers(1, 4), replicas=st.integers(1, 9), memory_bytes=st.integers(0, 5000))
def test_all_shards_together_stay_within_the_bound(size, count, replicas, memory_bytes):
    layout = Layout.of({"w": np.zeros(size)})
    specs = state_specs(layout, count, DCASGD(), ShardOptions(replicas=replicas, memory_bytes=memory_bytes))
    used = sum(8 * shape[0] * shape[1] for name, (shape, _) in specs.items() if name.endswith(".memory"))
    assert used <= memory_bytes
    assert used == 8 * size * min(replicas, memory_bytes // (8 * size))


def test_rules_that_know_no_delay_have_none():
    specs = state_specs(Layout.of({"w": np.zeros(4)}), 2, SGD(), ShardOptions(replicas=3))
    assert not [name for name in specs if name.endswith((".memory", ".owners"))]


def test_a_row_belongs_to_its_reader_until_it_is_forgotten():
    memory = ReaderMemory(np.zeros((2, 3)), np.zeros(2, np.int64))
    assert memory.recall(0) is None
    memory.claim(7)[:] = 7.0
    memory.claim(0)[:] = 1.0
    assert memory.claim(4) is None
    memory.claim(7)[:] = 8.0  # its own again
    np.testing.assert_array_equal(memory.recall(7), np.full(3, 8.0))
    np.testing.assert_array_equal(memory.recall(0), np.ones(3))
    memory.forget(4)
    memory.forget(7)
    assert memory.recall(7) is None and memory.recall(0) is not None
    memory.claim(4)[:] = 4.0
    np.testing.assert_array_equal(memory.rows[0], np.full(3, 4.0))
    assert memory.owners.tolist() == [5, 1]


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["claim", "forget"]), st.integers(0, 6)), max_size=60),
)
def test_each_reader_has_one_row_at_most_and_its_own_where_there_is_one_for_each(rows, events):
    memory, held = ReaderMemory(np.zeros((rows, 1)), np.zeros(rows, np.int64)), {}
    for number, (what, reader) in enumerate(events, start=1):
        if what == "forget":
            memory.forget(reader)
            held.pop(reader, None)
        else:
            row = memory.claim(reader)
            assert (row is None) == (reader not in held and len(held) == rows)
            if row is not None:
                row[:] = held[reader] = number
        for known in range(7):
            seen = memory.recall(known)
            assert (None if seen is None else seen.item()) == held.get(known)
        if rows == 5 and all(known < 5 for known in held):
            owners = memory.owners.tolist()
            assert sorted(owner - 1 for owner in owners if owner) == sorted(held)


def test_where_there_is_a_row_for_each_reader_nobody_is_searched_for(monkeypatch):
    memory = ReaderMemory(np.zeros((4, 1)), np.zeros(4, np.int64))
    memory.claim(2)
    monkeypatch.setattr(memory, "_search", None)
    memory.claim(2)
    assert memory.recall(2) is not None and memory.owners.tolist() == [0, 0, 3, 0]
    memory.forget(2)
    assert not memory.owners.any()
