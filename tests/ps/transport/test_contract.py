"""The contract of a link, on every transport."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ps.errors import TransportError, UsageError
from ps.rows import Rows
from ps.rules import SGD, Adagrad, Add

from ..building import tensors, until
from .transports import Grpc, Mapped

SHARDS = pytest.mark.parametrize("count", [1, 3])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def pulled(link) -> np.ndarray:
    out = np.full(link.layout.size, np.nan, link.layout.dtype)
    link.pull(out)
    return out


@SHARDS
def test_a_pull_sees_ones_own_acknowledged_push(host, count):
    shards = host({"w": np.zeros(10)}, Add(), count)
    link, out = shards.link(), np.zeros(10)
    expected = np.zeros(10)
    for step in range(5):
        versions = link.pull(out)
        update = np.arange(10.0) * (step + 1)
        assert link.push(update, versions).tolist() == [0] * count
        expected += update
        np.testing.assert_array_equal(pulled(link), expected)
        assert link.versions().tolist() == [step + 1] * count


@SHARDS
def test_a_pull_sees_the_others_push_and_its_age_is_the_staleness(host, count):
    shards = host({"w": np.zeros(10)}, Add(), count, replicas=2)
    mine, theirs = shards.link(0), shards.link(1)
    read = mine.pull(np.zeros(10))
    for _ in range(3):
        theirs.push(np.ones(10), theirs.versions())
    assert mine.push(np.ones(10), read).tolist() == [3] * count
    np.testing.assert_array_equal(pulled(theirs), np.full(10, 4.0))


@DTYPES
@SHARDS
def test_bytes_come_back_as_they_were(host, dtype, count):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 256, size=7 * np.dtype(dtype).itemsize, dtype=np.uint8)
    values = np.concatenate([bits.view(dtype), np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, 5e-324], dtype)])
    link = host({"w": values}, Add(), count).link()
    assert pulled(link).tobytes() == values.tobytes()


@DTYPES
@SHARDS
def test_pushed_bytes_arrive_as_they_were(host, dtype, count):
    bounds = np.finfo(dtype)  # what is not finite is refused over a network, see test_refusals
    values = np.array([1e-38, -3.5, bounds.max, -bounds.max, bounds.tiny, 16777217.0, 0.1, 1 / 3], dtype)
    link = host({"w": np.zeros(8, dtype)}, Add(), count).link()
    link.push(values, link.versions())
    np.testing.assert_array_equal(pulled(link), values)


@SHARDS
def test_versions_only_rise(host, count):
    shards = host({"w": np.zeros(9)}, SGD(lr=0.1), count, replicas=2)
    links = [shards.link(0), shards.link(1)]
    seen, x = [np.zeros(count, np.int64)], np.ones(9)
    for step in range(12):
        link = links[step % 2]
        versions = link.pull(np.zeros(9))
        seen.append(versions)
        if step % 3 == 0:
            link.exchange(x, 0.1, versions)
        elif step % 3 == 1:
            link.push(np.ones(9), versions)
        else:
            link.note_updates(5)
        seen.append(link.versions())
    changes = np.diff(seen, axis=0)
    assert (changes >= 0).all() and changes.sum() == count * (4 + 4 + 4 * 5)


@SHARDS
def test_named_parts_and_rows_step_what_they_name(host, count):
    start = tensors(bias=(3,), table=(6, 2), weight=(2, 2))
    shards = host(start, SGD(lr=0.5), count, sparse=("table",))
    link = shards.link()
    rows, values = np.array([5, 0, 5]), np.arange(6.0).reshape(3, 2)
    payload = {"table": Rows(rows, values), "weight": np.full((2, 2), 4.0)}
    link.push(payload, link.versions())
    expected = {name: array.copy() for name, array in start.items()}
    expected["weight"] -= 2.0
    for row, value in zip(rows, values):  # a row that stands twice is stepped twice
        expected["table"][row] -= 0.5 * value
    for name, view in link.layout.views(pulled(link)).items():
        np.testing.assert_allclose(view, expected[name], rtol=1e-15)


def test_a_shard_without_a_part_of_the_payload_is_not_touched(host):
    shards = host({"table": np.zeros((6, 2))}, SGD(lr=1.0), 3, sparse=("table",))
    link = shards.link()
    staleness = link.push({"table": Rows(np.array([2, 3]), np.ones((2, 2)))}, link.versions())
    assert staleness.tolist() == [-1, 0, -1]
    assert link.versions().tolist() == [0, 1, 0]
    assert link.push({"table": Rows(np.zeros(0, np.int64), np.zeros((0, 2)))}, link.versions()).tolist() == [-1, -1, -1]


@SHARDS
@pytest.mark.parametrize("row", [-1, 6])
def test_a_row_outside_the_table_is_refused(host, count, row):
    link = host({"table": np.zeros((6, 2))}, SGD(lr=1.0), count, sparse=("table",)).link()
    with pytest.raises(UsageError, match="rows must lie in"):
        link.push({"table": Rows(np.array([row]), np.ones((1, 2)))}, link.versions())
    assert not pulled(link).any()


@pytest.mark.parametrize(
    "payload, message",
    [
        (np.ones(11), r"shape \(10,\) and dtype float64, got \(11,\)"),
        (np.ones(10, np.float32), "got .* float32"),
        ({"w": np.ones(9)}, "'w' has 10 elements, got 9"),
        ({"w": Rows(np.array([0]), np.ones(1))}, "'w' is not declared sparse"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused(host, payload, message):
    link = host({"w": np.zeros(10)}, Add(), 3).link()
    with pytest.raises(UsageError, match=message):
        link.push(payload, link.versions())
    assert not pulled(link).any() and link.versions().tolist() == [0, 0, 0]


def test_vectors_that_do_not_fit_are_refused(host):
    link = host({"w": np.zeros(10)}, Add(), 3, rounds=True).link()
    wrong, versions = np.zeros(9), link.versions()
    for call in (
        lambda: link.pull(wrong),
        lambda: link.exchange(wrong, 0.5, versions),
        lambda: link.push_together(wrong, versions),
    ):
        with pytest.raises(UsageError, match=r"must have shape \(10,\)"):
            call()


def test_an_older_incarnation_is_refused(host):
    shards = host({"w": np.zeros(4)}, Add(), 2, replicas=2)
    old, new = shards.link(1, incarnation=1), shards.link(1, incarnation=2)
    old.push(np.ones(4), old.versions())
    new.push(np.ones(4), new.versions())
    with pytest.raises(TransportError, match="replica 1 was replaced") as refused:
        old.push(np.ones(4), old.versions())
    with pytest.raises(TransportError):
        old.exchange(np.ones(4), 0.5, old.versions())
    np.testing.assert_array_equal(pulled(new), np.full(4, 2.0))
    if "ForkedLink" not in type(old).__name__:  # pickling an exception keeps its message only
        assert (refused.value.shard, refused.value.replica, refused.value.version) == (0, 1, 2)
    new.push(np.ones(4), new.versions())  # the lock was given back
    np.testing.assert_array_equal(pulled(new), np.full(4, 3.0))


@SHARDS
def test_an_exchange_moves_both_sides_and_says_the_new_versions(host, count):
    shards = host({"w": np.zeros(8)}, Add(), count, replicas=2)
    mine, theirs = shards.link(0), shards.link(1)
    x, versions = np.full(8, 4.0), mine.versions()
    assert mine.exchange(x, 0.25, versions).tolist() == [0] * count
    assert versions.tolist() == [1] * count
    np.testing.assert_array_equal(x, np.full(8, 3.0))
    np.testing.assert_array_equal(pulled(theirs), np.full(8, 1.0))
    theirs.exchange(np.zeros(8), 0.5, theirs.versions())
    assert mine.exchange(x, 0.5, versions).tolist() == [1] * count
    assert versions.tolist() == [3] * count
    np.testing.assert_array_equal(x, np.full(8, 1.75))


def test_any_number_of_shards_steps_as_one(host):
    rng = np.random.default_rng(1)
    pushes = rng.normal(size=(6, 11))
    centers = []
    for count in (1, 2, 5, 11):
        link = host({"a": np.ones(4), "b": np.ones((7, 1))}, Adagrad(lr=0.1), count).link()
        x = np.zeros(11)
        for gradient in pushes:
            link.push(gradient, link.versions(), count=2, epoch=1)
            link.exchange(x, 0.3, link.versions())
        centers.append(np.concatenate([pulled(link), x]))
    for center in centers[1:]:
        np.testing.assert_array_equal(center, centers[0])


@SHARDS
def test_a_synchronous_step_is_made_with_the_mean_once_all_have_come(host, count):
    shards = host({"w": np.zeros(7)}, SGD(lr=1.0), count, replicas=3, rounds=True)
    links = [shards.link(replica) for replica in range(3)]
    for replica in range(3):
        for shard in shards.state.shards:
            shard.join(replica)
    contributions = np.random.default_rng(2).normal(size=(4, 3, 7))
    expected = np.zeros(7)
    with ThreadPoolExecutor(3) as pool:
        for step, vectors in enumerate(contributions):
            asked = [pool.submit(link.push_together, v, link.versions()) for link, v in zip(links, vectors)]
            assert [answer.result().tolist() for answer in asked] == [[0] * count] * 3
            expected -= (vectors[0] + vectors[1] + vectors[2]) * (1.0 / 3)
            for link in links:
                np.testing.assert_array_equal(pulled(link), expected)
                assert link.versions().tolist() == [step + 1] * count


def test_a_synchronous_step_waits_for_every_member(host):
    shards = host({"w": np.zeros(2)}, SGD(lr=1.0), 2, replicas=2, rounds=True)
    first, second = shards.link(0), shards.link(1)
    for shard in shards.state.shards:
        shard.join(0)
        shard.join(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.push_together, np.ones(2), np.zeros(2, np.int64))
        until(lambda: all(shard.round.laid[0] for shard in shards.state.shards))
        assert not waiting.done() and second.versions().tolist() == [0, 0]
        second.push_together(np.full(2, 3.0), np.zeros(2, np.int64))
        waiting.result()
    np.testing.assert_array_equal(pulled(second), np.full(2, -2.0))


def test_a_member_that_leaves_is_not_waited_for(host):
    shards = host({"w": np.zeros(2)}, SGD(lr=1.0), 2, replicas=2, rounds=True)
    first = shards.link(0)
    for shard in shards.state.shards:
        shard.join(0)
        shard.join(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.push_together, np.ones(2), np.zeros(2, np.int64))
        until(lambda: all(shard.round.laid[0] for shard in shards.state.shards))
        for shard in shards.state.shards:
            shard.leave(1)
        waiting.result()
    np.testing.assert_array_equal(pulled(first), np.full(2, -1.0))


def test_updates_made_in_place_are_counted_on_every_shard(host):
    shards = host({"w": np.zeros(6)}, SGD(lr=1.0), 3, replicas=2)
    first, second = shards.link(0), shards.link(1)
    assert first.note_updates(10) == 0
    assert second.note_updates(0) == 10
    assert first.versions().tolist() == [10, 10, 10]
    assert second.push(np.zeros(6), np.zeros(3, np.int64)).tolist() == [10, 10, 10]


def test_the_mapped_center_is_the_center(host):
    shards = host({"w": np.zeros(6)}, Add(), 2)
    link = shards.link()
    link.push(np.arange(6.0), link.versions())
    if isinstance(shards, (Grpc, Mapped)):
        assert link.center is None  # it lies elsewhere, or in pieces
    else:
        np.testing.assert_array_equal(link.center, np.arange(6.0))
