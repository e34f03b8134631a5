"""A replica saved and restored."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from ps.layout import Layout
from ps.rows import Rows
from ps.rules import NAG, Adam
from worker.replica import Replica

LAYOUT = Layout.of({"table": np.zeros((4, 2), np.float32), "w": np.zeros(3, np.float32)}, sparse=["table"])


def worked(gradients) -> Replica:
    replica = Replica(LAYOUT, id=2, peers=3, incarnation=4, local_rule=Adam(lr=0.1), seed=9)
    replica.parameters[:] = np.arange(11)
    for gradient in gradients:
        replica.accrued.add(gradient)
        replica.step_locally(gradient)
        replica.clock += 1
    replica.epoch, replica.versions = 5, np.array([3, 4])
    replica.rng.random(7)
    return replica


def sparse(rows, value):
    return {
        "table": Rows(np.array(rows, dtype=np.int64), np.full((len(rows), 2), value, np.float32)),
        "w": np.ones(3, np.float32),
    }


def saved_and_restored(replica: Replica) -> Replica:
    """Through the bytes and the JSON of a checkpoint."""
    arrays, scalars = load(save(replica.arrays())), json.loads(json.dumps(replica.scalars()))
    other = Replica(LAYOUT, id=2, peers=3, incarnation=5, local_rule=Adam(lr=0.1), seed=9)
    other.restore(arrays, scalars)
    return other


@pytest.mark.parametrize(
    "gradients",
    [
        [],
        [np.full(11, 0.5, np.float32)] * 2,
        [sparse([1, 3], 1.0), sparse([3], -1.0)],  # row 3 sums to zero and is touched nevertheless
        [sparse([], 0.0)],
        [sparse([0], 1.0), np.full(11, 0.5, np.float32)],
    ],
)
def test_restored_goes_on_alike(gradients):
    replica = worked(gradients)
    other = saved_and_restored(replica)
    assert (other.clock, other.epoch, other.local.steps) == (replica.clock, 5, len(gradients))
    assert other.versions.tolist() == [3, 4]
    assert replica.rng.random(5).tolist() == other.rng.random(5).tolist()
    for one in (replica, other):
        one.accrued.add(sparse([2], 4.0))
        one.step_locally(sparse([1], 2.0))
    assert np.array_equal(replica.parameters, other.parameters)
    payload, count = replica.accrued.take()
    again, counted = other.accrued.take()
    assert counted == count == len(gradients) + 1
    assert set(payload) == set(again)
    for name, part in payload.items():
        if isinstance(part, Rows):
            assert part.rows.tolist() == again[name].rows.tolist()
            part, again[name] = part.values, again[name].values
        assert np.array_equal(part, again[name])
    for name, array in replica.arrays().items():
        assert np.array_equal(array, other.arrays()[name])


def test_every_slot_and_count_is_saved():
    names = set(worked([sparse([1, 3], 1.0)]).arrays())
    assert names == {
        "parameters", "accrued", "touched.table", "row_steps.table",
        *(f"slot.{name}" for name in Adam().slots),
    }  # fmt: skip


def test_each_process_draws_its_own_numbers():
    draws = {Replica(LAYOUT, id=k, incarnation=i, seed=s).rng.random() for k in (0, 1) for i in (1, 2) for s in (0, 1)}
    assert len(draws) == 8
    assert Replica(LAYOUT, id=1, seed=3).rng.random() == Replica(LAYOUT, id=1, seed=3).rng.random()


def test_buffers_are_made_once_and_a_snapshot_is_a_copy():
    replica = Replica(LAYOUT, local_rule=NAG(lr=0.1, form="lookahead"))
    snapshot = replica.snapshot()
    replica.parameters += 1
    assert not snapshot.any() and replica.snapshot() is snapshot and snapshot.all()
    point = replica.gradient_point(replica.parameters)
    assert point is replica.buffer("look-ahead") and np.array_equal(point, replica.parameters)  # no velocity yet
