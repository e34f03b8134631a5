"""One shard: stamps, staleness, what delay-aware rules are told, averaged parameters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.errors import TransportError, UsageError
from ps.rows import Rows
from ps.rules import DCASGD, SGD, Adagrad, AdaptiveRevision, Add, DynSGD
from ps.rules.base import Context, UpdateRule
from ps.shard import DUPLICATES, FALLBACKS, STEPS, ShardOptions
from ps.stepper import split_payload
from ps.transport.direct import DirectLink

from .building import private_state, push, stamp

MODES = pytest.mark.parametrize("options", [{}, {"lock_free": True}], ids=["locked", "lock-free"])


# -- stamps -----------------------------------------------------------------------------------------------------------


@MODES
def test_a_retried_push_is_applied_once(options):
    (shard,) = private_state({"w": np.zeros(3)}, Add(), **options).shards
    first = push(shard, np.ones(3), 1)
    again = push(shard, np.full(3, 100.0), 1)
    assert (first.version, first.duplicate) == (1, False)
    assert (again.version, again.duplicate) == (1, True)
    np.testing.assert_array_equal(shard.center, np.ones(3))
    assert shard.header[STEPS] == 1 and shard.header[DUPLICATES] == 1
    push(shard, np.ones(3), 5)
    assert push(shard, np.ones(3), 4).duplicate  # overtaken by a later one: too late
    assert not push(shard, np.ones(3), 6).duplicate


@MODES
def test_a_retried_exchange_is_applied_once(options):
    (shard,) = private_state({"w": np.zeros(3)}, Add(), **options).shards
    x = np.full(3, 8.0)
    shard.exchange(x, 0.5, stamp(1), version=0)
    again = shard.exchange(x, 0.5, stamp(1), version=0)
    assert again.duplicate and again.version == 1
    np.testing.assert_array_equal(x, np.full(3, 4.0))
    np.testing.assert_array_equal(shard.center, np.full(3, 4.0))


def test_stamps_are_told_apart_by_replica_and_incarnation():
    (shard,) = private_state({"w": np.zeros(1)}, Add(), replicas=2).shards
    for replica, incarnation in ((0, 1), (1, 1), (0, 2), (1, 4)):  # each a first push
        assert not shard.push(np.ones(1), stamp(1, replica, incarnation), version=0).duplicate
    with pytest.raises(
        TransportError, match="shard 0: replica 1 was replaced: incarnation 3 pushed after incarnation 4"
    ) as e:
        shard.push(np.ones(1), stamp(9, 1, 3), version=0)
    assert (e.value.shard, e.value.replica, e.value.version) == (0, 1, 4)
    assert shard.center[0] == 4.0


def test_a_push_that_is_refused_does_not_count_as_applied():
    (shard,) = private_state({"w": np.zeros(3)}, SGD()).shards
    for wrong in (np.ones(2), np.ones(4), np.ones((3, 1)), np.ones(3, np.float32)):
        with pytest.raises(UsageError):
            shard.push(wrong, stamp(1), version=0)
        with pytest.raises(UsageError):
            shard.exchange(wrong, 0.5, stamp(1), version=0)
    assert not shard.center.any()
    assert shard.version == 0 and not shard.lock.locked()
    assert not push(shard, np.ones(3), 1).duplicate


@pytest.mark.parametrize("options, message", [({"replicas": 0}, "replicas must be >= 1, got 0"),
                                              ({"memory_bytes": -1}, "memory_bytes must be >= 0, got -1")])  # fmt: skip
def test_options_out_of_bounds_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ShardOptions(**options)


# -- staleness --------------------------------------------------------------------------------------------------------


@MODES
def test_staleness_is_what_others_applied_since_the_pull_and_reaches_the_rule(options):
    (shard,) = private_state({"w": np.zeros(1)}, DynSGD(), replicas=2, **options).shards
    out = np.zeros(1)
    read = shard.pull(out)
    for sequence in (1, 2, 3):
        push(shard, [0.0], sequence, replica=1, version=shard.version)
    applied = push(shard, [1.0], 1, version=read)
    assert (applied.version, applied.staleness) == (4, 3)
    assert shard.center[0] == 1.0 / 4
    assert (
        push(shard, [1.0], 2, version=99).staleness == 0
    )  # a version from before a restore is never negative staleness


class Recorder(UpdateRule):
    """Keeps the contexts that it is applied with."""

    def __init__(self):
        self.seen = []

    def apply(self, center, slots, gradient, context):
        self.seen.append((context, center.copy()))


def test_the_rule_is_told_of_the_push_and_where_its_part_lies():
    rule = Recorder()
    state = private_state({"w": np.arange(10.0)}, rule, 2, seed=7)
    state.shards[1].push(np.ones(5), stamp(1), version=0, count=3, gradient_norm=2.5, epoch=4)
    state.shards[1].push(np.ones(5), stamp(2), version=0)
    (first, center), (second, _) = rule.seen
    assert (first.step, first.epoch, first.staleness, first.offset, first.count) == (1, 4, 0, 5, 3)
    assert (first.gradient_norm, first.seed, first.remembered, first.row_steps) == (2.5, 7, None, None)
    np.testing.assert_array_equal(center, np.arange(5.0, 10.0))
    assert (second.step, second.staleness, second.count, second.gradient_norm) == (2, 1, 1, None)


# -- exchange ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    values=st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 2), min_size=1, max_size=20),
    alpha=st.floats(0.001, 0.999),
    count=st.integers(1, 4),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_an_exchange_conserves_the_sum_of_both_sides(values, alpha, count, dtype):
    x, center = np.array(values, dtype).T.copy()
    state = private_state({"w": center}, Add(), min(count, center.size))
    link, old_x = DirectLink(state), x.copy()
    link.exchange(x, alpha, link.versions())
    unit = np.finfo(dtype).eps * (np.abs(old_x) + np.abs(center) + np.finfo(dtype).tiny)
    assert (np.abs((x.astype(float) + state.center) - (old_x.astype(float) + center)) <= 2 * unit).all()
    expected = old_x - alpha * (old_x.astype(float) - center)
    np.testing.assert_allclose(x, expected, rtol=0, atol=8 * unit.max())


# -- reader memory ----------------------------------------------------------------------------------------------------


class Revision:
    """McMahan and Streeter's Algorithm 2 in plain floats, one coordinate; ``read`` is what the reader was given."""

    def __init__(self, x, lr):
        self.x, self.lr = x, lr
        self.total, self.z, self.z_max = 0.0, 1.0, 1.0

    def update(self, g, read):
        back = 0.0 if read is None else self.total - read
        old = self.lr / math.sqrt(self.z_max)
        self.z += g * g + 2 * g * back
        self.z_max = max(self.z_max, self.z)
        new = self.lr / math.sqrt(self.z_max)
        self.x += -new * g + (old - new) * back
        self.total += g


def interleaving(readers: int, length: int, seed: int):
    """Pulls and pushes in some order: ("pull" | "push", reader)."""
    rng = np.random.default_rng(seed)
    pulled: set[int] = set()
    for _ in range(length):
        reader = int(rng.integers(readers))
        if reader in pulled and rng.random() < 0.6:
            yield "push", reader
        else:
            pulled.add(reader)
            yield "pull", reader


@MODES
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "rows"])
def test_adaptive_revision_through_the_shards_is_its_definition(options, count, sparse):
    """With readers that pull and push in any order, each told how far the gradients had summed up when it read."""
    rng = np.random.default_rng(3)
    start = rng.normal(size=(6, 2))
    names = ("table",) if sparse else ()
    state = private_state({"table": start}, AdaptiveRevision(lr=0.3), count, sparse=names, replicas=3, **options)
    oracle = [Revision(x, 0.3) for x in start.reshape(-1)]
    links = [DirectLink(state, reader) for reader in range(3)]
    read: dict[int, list[float]] = {}
    versions: dict[int, np.ndarray] = {}
    staleness = 0
    for what, reader in interleaving(3, 120, seed=4):
        if what == "pull":
            out = np.zeros(12)
            versions[reader] = links[reader].pull(out)
            read[reader] = [one.total for one in oracle]
            np.testing.assert_allclose(out, [one.x for one in oracle], rtol=1e-12, atol=1e-12)
            continue
        rows = np.sort(rng.choice(6, size=3, replace=False)) if sparse else np.arange(6)
        values = rng.normal(size=(rows.size, 2))
        payload = {"table": Rows(rows, values)} if sparse else values.reshape(-1)
        staleness = max(staleness, links[reader].push(payload, versions[reader]).max())
        for row, gradient in zip(rows, values):
            for column in range(2):
                oracle[2 * row + column].update(gradient[column], read[reader][2 * row + column])
    np.testing.assert_allclose(state.center, [one.x for one in oracle], rtol=1e-12, atol=1e-12)
    assert staleness >= 3 and all(shard.header[FALLBACKS] == 0 for shard in state.shards)


def test_delay_compensation_is_told_the_center_as_it_was_read():
    (shard,) = private_state({"w": np.array([1.0, -2.0])}, DCASGD(lr=0.1, strength=0.5), replicas=2).shards
    out = np.zeros(2)
    shard.pull(out, 0)
    shard.pull(out, 1)
    push(shard, [1.0, 1.0], 1, replica=1)
    np.testing.assert_allclose(shard.center, [0.9, -2.1], rtol=1e-15)
    push(shard, [2.0, -1.0], 1, replica=0)
    expected = np.array([0.9, -2.1]) - 0.1 * (
        np.array([2.0, -1.0]) + 0.5 * np.array([4.0, 1.0]) * np.array([-0.1, -0.1])
    )
    np.testing.assert_allclose(shard.center, expected, rtol=1e-14)


@MODES
def test_a_reader_without_room_falls_back_and_is_counted(options):
    state = private_state({"w": np.zeros(4)}, AdaptiveRevision(lr=0.1), replicas=2, memory_bytes=4 * 8 + 7, **options)
    (shard,) = state.shards
    assert shard.memory.rows.shape == (1, 4)
    oracle, out = Revision(0.0, 0.1), np.zeros(4)
    shard.pull(out, 0)
    shard.pull(out, 1)
    shard.pull(out, 1)
    assert shard.header[FALLBACKS] == 2
    for replica, gradient, read in (
        (0, 1.0, 0.0),
        (1, 2.0, None),
        (0, -1.5, 0.0),
    ):  # replica 1: as if nobody had pushed
        push(shard, np.full(4, gradient), 2 if gradient < 0 else 1, replica)
        oracle.update(gradient, read)
    np.testing.assert_allclose(shard.center, np.full(4, oracle.x), rtol=1e-14)


def test_no_room_at_all_is_the_rule_without_delay():
    told, untold = AdaptiveRevision(lr=0.1), private_state({"w": np.zeros(2)}, AdaptiveRevision(lr=0.1), memory_bytes=0)
    (shard,) = untold.shards
    slots, center = told.allocate(2, "float64"), np.zeros(2)
    for sequence, gradient in enumerate(np.random.default_rng(5).normal(size=(10, 2)), start=1):
        shard.pull(np.zeros(2), 0)
        push(shard, gradient, sequence)
        told.apply(center, slots, gradient, Context())
    np.testing.assert_array_equal(shard.center, center)
    assert shard.header[FALLBACKS] == 10


@MODES
def test_leaving_frees_the_room_for_another_reader(options):
    (shard,) = private_state({"w": np.zeros(2)}, DCASGD(), replicas=3, memory_bytes=2 * 8 * 2, **options).shards
    out = np.zeros(2)
    for reader in (0, 1, 2):
        shard.pull(out, reader)
    assert shard.memory.owners.tolist() == [1, 2]
    assert shard.memory.recall(2) is None and shard.header[FALLBACKS] == 1
    shard.leave(0)
    shard.center[:] = 5.0
    shard.pull(out, 2)
    assert shard.memory.recall(0) is None and shard.header[FALLBACKS] == 1
    np.testing.assert_array_equal(shard.memory.recall(2), [5.0, 5.0])
    np.testing.assert_array_equal(shard.memory.recall(1), [0.0, 0.0])


def test_a_reader_that_is_not_named_is_not_remembered():
    (shard,) = private_state({"w": np.zeros(2)}, DCASGD(), replicas=2).shards
    shard.pull(np.zeros(2))
    assert not shard.memory.owners.any()


@MODES
def test_two_readers_are_never_given_the_same_row(options, monkeypatch):
    """A row is claimed under the lock also on a lock-free shard, where two may read for the first time at once."""
    (shard,) = private_state({"w": np.zeros(8)}, DCASGD(), replicas=4, **options).shards
    claim, held = shard.memory.claim, []

    def watched(reader):
        held.append(shard.lock.locked())
        return claim(reader)

    monkeypatch.setattr(shard.memory, "claim", watched)
    for reader in (2, 0, 3, 1):
        shard.pull(np.zeros(8), reader)
    assert held == [True] * 4 and not shard.lock.locked()
    assert shard.memory.owners.tolist() == [1, 2, 3, 4]


# -- averaged parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 9])
@pytest.mark.parametrize("named", [False, True], ids=["vector", "named parts"])
def test_averaged_parameters_are_averaged_on_whichever_shard_they_lie(count, named):
    """Three shards of 3: the second holds the last trained element and the first averaged ones."""
    rng = np.random.default_rng(6)
    start = {"mean": rng.normal(size=3), "w": rng.normal(size=4), "var": rng.normal(size=2)}
    state = private_state(start, SGD(lr=0.5), count, averaged=("mean", "var"), averaging=0.2)
    assert [p.name for p in state.layout.parameters] == ["w", "mean", "var"]
    link = DirectLink(state)
    expected = {name: array.copy() for name, array in start.items()}
    for pushed in (1, 3):  # gradients summed in one push
        sums = {name: rng.normal(size=array.shape) for name, array in start.items()}
        payload = sums if named else state.layout.flatten(sums)
        link.push(payload, link.versions(), count=pushed)
        expected["w"] -= 0.5 * sums["w"]
        for name in ("mean", "var"):
            for _ in range(pushed):  # as `pushed` observations of their mean, one after the other
                expected[name] += 0.2 * (sums[name] / pushed - expected[name])
    for name, view in state.layout.views(state.center).items():
        np.testing.assert_allclose(view, expected[name], rtol=1e-13)


def test_averaged_parameters_keep_out_of_the_rules_slots():
    state = private_state({"w": np.zeros(2), "mean": np.zeros(2)}, Adagrad(), averaged=("mean",))
    link = DirectLink(state)
    link.push(np.ones(4), link.versions())
    np.testing.assert_array_equal(state.arrays["slot.sum_squares"], [1.0, 1.0, 0.0, 0.0])


def test_a_push_does_not_change_the_payload():
    state = private_state({"t": np.zeros((4, 2)), "w": np.zeros(3)}, SGD(), 2, sparse=("t",))
    payload = {"t": Rows(np.array([3, 1]), np.ones((2, 2))), "w": np.ones(3)}
    vector = np.ones(11)
    for array in (payload["t"].rows, payload["t"].values, payload["w"], vector):
        array.flags.writeable = False
    link = DirectLink(state)
    link.push(payload, link.versions())
    link.push(vector, link.versions())
    assert split_payload(vector, state.layout, state.shards[1].range).base is vector
