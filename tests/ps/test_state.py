"""All shards of a host over one set of arrays."""

from __future__ import annotations

import numpy as np
import pytest

from ps.rules import SGD, Adagrad, AdaptiveRevision, AveragedCenter
from ps.segment import SharedArrays
from ps.shard import ShardOptions
from ps.state import build_state, private_arrays, state_specs

from .building import SharedHost, private_state, shared_state, tensors


def test_every_shard_sees_its_range_of_the_whole_center_and_slots():
    state = private_state(tensors(w=(4, 2), v=(3,)), AdaptiveRevision(), 3)
    assert [(shard.index, shard.range.start, shard.range.stop) for shard in state.shards] == [
        (0, 0, 4),
        (1, 4, 7),
        (2, 7, 11),
    ]
    for shard in state.shards:
        assert np.shares_memory(shard.center, state.center) and shard.center.size == shard.range.size
        assert set(shard.slots) == {"gradient_sum", "z", "z_max"}
        shard.center[:] = shard.index
        shard.slots["z"][:] = -shard.index
    np.testing.assert_array_equal(state.center, [0] * 4 + [1] * 3 + [2] * 4)
    np.testing.assert_array_equal(state.arrays["slot.z"], -state.center)


def test_the_rows_of_a_table_are_counted_on_the_shard_that_has_them():
    state = private_state(tensors(bias=(3,), table=(6, 2), w=(4,)), SGD(), 3, sparse=("table",))
    for shard in state.shards:
        shard.row_steps["table"] += shard.index + 1
    assert [shard.row_steps["table"].size for shard in state.shards] == [2, 3, 1]
    assert state.arrays["row_steps.table"].tolist() == [1, 1, 2, 2, 2, 3]


def test_initial_values_reach_the_center_and_the_slots():
    parameters = tensors(w=(5,), v=(2,))
    state = private_state(parameters, AveragedCenter(Adagrad(initial=0.25)), 2)
    np.testing.assert_array_equal(state.center, np.concatenate([parameters["w"], parameters["v"]]))
    np.testing.assert_array_equal(state.arrays["slot.sum_squares"], np.full(7, 0.25))
    np.testing.assert_array_equal(state.arrays["slot.average"], state.center)  # an average starts at the center
    assert all(shard.version == 0 and not shard.watermarks.any() for shard in state.shards)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_of_the_vectors_size_has_its_dtype(dtype):
    state = private_state(tensors(dtype, w=(5,)), AdaptiveRevision(), 2, rounds=True, replicas=2)
    words = {"header", "watermarks", "owners", "laid", "members"}
    for name, array in state.arrays.items():
        assert array.dtype == ("int64" if name.split(".")[-1] in words else dtype), name


def test_private_and_shared_arrays_make_the_same_shards():
    arguments = (private_state(tensors(w=(5,))).layout, 2, Adagrad(), ShardOptions(replicas=2, rounds=True))
    specs = state_specs(*arguments)
    private = build_state(*arguments, private_arrays(specs))
    with SharedArrays.create(specs) as arrays:
        shared = build_state(*arguments, arrays)
        assert {name: array.shape for name, array in private.arrays.items()} == {k: v.shape for k, v in arrays.items()}
        shared.shards[1].center[:] = 3.0
        np.testing.assert_array_equal(shared.center, [0, 0, 3, 3, 3])


def test_shards_have_locks_of_their_own():
    with shared_state(tensors(w=(4,)), SGD(), 2) as state, state.shards[0].lock, state.shards[1].lock:
        pass
    first, second = private_state(tensors(w=(4,)), SGD(), 2).shards
    with first.lock:
        assert not second.lock.locked()


def test_who_attaches_sees_the_others_updates():
    host = SharedHost(tensors(w=(4,)), SGD(lr=1.0), 2)
    try:
        again = host.attach()
        host.state.center[:] = 8.0
        assert (again.center == 8.0).all()
        again.shards[1].header[0] = 5
        assert host.state.shards[1].version == 5
    finally:
        host.close()
