"""A shard by itself in shared memory: what its owner keeps, saves and takes back."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ps.checkpoint import shard_arrays
from ps.host import ShardHost
from ps.rules import Adagrad
from ps.segment import FOLDER, start_time
from ps.shard import ShardOptions

from .building import push, shard_plans, tensors

VALUES = tensors(w=(9,))


@pytest.fixture
def host():
    """``host(count, index, …)`` owns a shard until the end of the test."""
    made = []

    def make(count=1, index=0, rule=None, **options):
        plan = shard_plans(VALUES, rule, count, **options)[index]
        made.append(ShardHost(plan))
        made[-1].begin(made[-1].shard.range.of(plan.layout.flatten(VALUES)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_shard_has_its_part_of_the_vector(host):
    first, second = host(2, 0), host(2, 1)
    np.testing.assert_array_equal(np.concatenate([first.shard.center, second.shard.center]), VALUES["w"])
    assert (first.shard.index, second.shard.index) == (0, 1)
    assert first.shard.range.stop == second.shard.range.start


def test_the_clocks_lie_at_the_first_shard_alone(host):
    first, second = host(2, 0, replicas=3), host(2, 1, replicas=3)
    assert second.clocks is None
    first.clocks.join(1)
    first.clocks.advance(1, 7)
    assert first.clocks.minimum() == 7 and first.clocks.clocks.size == 3


def test_further_arrays_share_the_segment(host):
    made = host(more={"locking.owners": ((5,), "int64")})
    assert made.arrays["locking.owners"].shape == (5,)


def test_a_rule_begins_with_its_slots(host):
    made = host(rule=Adagrad(lr=0.1, initial=0.25))
    assert set(made.shard.slots) == {"sum_squares"} and (made.shard.slots["sum_squares"] == 0.25).all()


def test_a_place_names_memory_and_owner(host):
    place = host().place()
    assert (FOLDER / place.segment).exists() and (FOLDER / place.locks).exists()
    assert place.pid == os.getpid() and place.started == start_time(os.getpid())
    assert place.to_json() == {
        "segment": place.segment,
        "locks": place.locks,
        "pid": place.pid,
        "started": place.started,
    }


def test_nothing_is_left_after_closing(host):
    made = host()
    place = made.place()
    made.close()
    assert not (FOLDER / place.segment).exists() and not (FOLDER / place.locks).exists()


def test_a_cut_is_a_copy_from_which_another_owner_goes_on(host):
    first = host(2, 1, Adagrad(lr=0.1), replicas=2)
    push(first.shard, np.ones(first.shard.center.size), 1, replica=1)
    cut = first.cut()
    push(first.shard, np.ones(first.shard.center.size), 2, replica=1)
    second = host(2, 1, Adagrad(lr=0.1), replicas=2)
    second.load(cut)
    assert first.shard.version == 2 and second.shard.version == 1
    again = push(second.shard, np.ones(first.shard.center.size), 1, replica=1)
    assert again.duplicate and second.shard.counts()["duplicate_pushes"] == 1
    assert not push(second.shard, np.ones(first.shard.center.size), 2, replica=1).duplicate
    for name, array in shard_arrays(first.shard).items():
        if name != "header":  # which counts the duplicate
            np.testing.assert_array_equal(array, shard_arrays(second.shard)[name])


def test_a_plan_of_more_shards_than_elements_is_refused():
    with pytest.raises(ValueError, match=r"\[shards\] count"):
        ShardHost(shard_plans({"w": np.zeros(2)}, count=3)[2])
    assert ShardOptions().replicas == 1
