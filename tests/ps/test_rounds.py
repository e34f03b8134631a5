"""Rounds: the mean of the members' contributions, whoever comes first, and whoever leaves or is killed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.rounds import Round
from ps.rules import SGD
from ps.shard import Shard

from .building import private_state, stamp


def fresh(replicas: int = 3, size: int = 4, dtype: str = "float32") -> Round:
    words = (np.zeros(replicas, np.int64), np.zeros(replicas, np.int64))
    return Round(np.zeros((replicas, size), dtype), np.zeros(size, dtype), *words)


def synchronous(replicas: int = 3, size: int = 4, **options) -> Shard:
    """A shard of zeros that subtracts means, with every replica joined."""
    (shard,) = private_state({"w": np.zeros(size)}, SGD(lr=1.0), replicas=replicas, rounds=True, **options).shards
    for replica in range(replicas):
        shard.join(replica)
    return shard


def contribute(shard: Shard, replica: int, value: float, sequence: int = 1, version: int = 0, incarnation: int = 1):
    values = np.full(shard.range.size, value)
    return shard.contribute(values, stamp(sequence, replica, incarnation), version=version)


@given(order=st.permutations(range(5)), seed=st.integers(0, 1000))
def test_the_mean_is_summed_in_the_order_of_the_replicas_whoever_comes_first(order, seed):
    vectors = np.random.default_rng(seed).normal(size=(5, 4)).astype(np.float32) * np.float32(
        [[1e8], [1], [-1e8], [3], [1e-3]]
    )
    round_ = fresh(5)
    for replica in order:
        round_.lay(replica, vectors[replica], 1)
    assert round_.complete(1)
    mean, _ = round_.mean(1)
    total = np.zeros(4, np.float32)
    for vector in vectors:
        total += vector
    assert mean.tobytes() == (total * np.float32(1 / 5)).tobytes()


def test_the_mean_is_of_those_who_contributed():
    round_ = fresh()
    round_.lay(2, np.full(4, 5.0), 1)
    round_.lay(0, np.full(4, 1.0), 1)
    mean, contributor = round_.mean(1)
    np.testing.assert_array_equal(mean, np.full(4, 3.0))
    assert contributor == 0
    np.testing.assert_array_equal(round_.rows[:, 0], [1.0, 0.0, 5.0])  # as they were: it can be made again


def test_a_round_is_complete_once_every_member_has_contributed():
    round_ = fresh()
    assert not round_.complete(1)
    for replica in (0, 1):
        round_.join(replica)
    round_.lay(1, np.ones(4), 1)
    assert not round_.complete(1)
    round_.lay(0, np.ones(4), 1)
    assert round_.complete(1) and not round_.complete(2)
    round_.join(2)
    assert not round_.complete(1)
    round_.leave(2)
    assert round_.complete(1)


def test_rounds_whose_members_have_all_left_are_not_made():
    shard = synchronous()
    for replica in range(3):
        shard.leave(replica)
    assert shard.version == shard.rounds == 0


def test_the_last_member_makes_the_step():
    shard = synchronous()
    for replica, value in ((2, 9.0), (0, 1.0)):
        answer = contribute(shard, replica, value)
        assert (answer.round, answer.duplicate, shard.rounds) == (1, False, 0)
    assert contribute(shard, 1, 2.0).round == 1
    assert (shard.rounds, shard.version) == (1, 1)
    np.testing.assert_array_equal(shard.center, np.full(4, -4.0))
    assert contribute(shard, 0, 1.0, sequence=2, version=0).staleness == 1


def test_leaving_completes_the_round_and_what_was_laid_down_still_counts():
    shard = synchronous()
    contribute(shard, 0, 3.0)
    contribute(shard, 1, 5.0)
    shard.leave(1)
    assert shard.rounds == 0
    shard.leave(2)
    assert shard.rounds == 1
    np.testing.assert_array_equal(shard.center, np.full(4, -4.0))
    contribute(shard, 0, 1.0, sequence=2)  # alone now
    assert shard.rounds == 2


def numbered(shard: Shard, replica: int, value: float, number: int, sequence: int):
    values = np.full(shard.range.size, value)
    return shard.contribute(values, stamp(sequence, replica), version=0, number=number)


def test_a_contribution_to_a_step_that_was_made_is_dropped():
    shard = synchronous(2)
    for number in (1, 2):
        for replica in (0, 1):
            assert numbered(shard, replica, 1.0, number, sequence=number).round == number
    for number in (1, 2):
        answer = numbered(shard, 0, 50.0, number, sequence=2 + number)
        assert (answer.dropped, answer.round) == (True, 2), "how many were made"
    assert (shard.rounds, shard.dropped) == (2, 0), "only what backup workers drop is counted"
    np.testing.assert_array_equal(shard.center, np.full(4, -2.0))
    assert numbered(shard, 0, 1.0, 3, sequence=5).round == 3


def test_a_contribution_to_a_later_step_ends_the_open_one_with_what_is_there():
    shard = synchronous(3)
    numbered(shard, 0, 3.0, 1, sequence=1)
    numbered(shard, 1, 5.0, 1, sequence=1)
    assert numbered(shard, 2, 9.0, 7, sequence=1).round == 7  # the shard has lost steps 1 to 6
    assert (shard.rounds, shard.version) == (6, 1)
    np.testing.assert_array_equal(shard.center, np.full(4, -4.0))
    numbered(shard, 0, 3.0, 7, sequence=2)
    numbered(shard, 1, 3.0, 7, sequence=2)
    assert shard.rounds == 7
    np.testing.assert_array_equal(shard.center, np.full(4, -9.0))
    numbered(shard, 0, 3.0, 9, sequence=3)
    assert (shard.rounds, shard.version) == (8, 2), "nobody had contributed to step 8: nothing was applied"


def test_who_contributes_again_after_leaving_is_a_member_again():
    shard = synchronous(2)
    shard.leave(1)
    contribute(shard, 1, 3.0, incarnation=2)
    assert shard.rounds == 0
    contribute(shard, 0, 1.0)
    assert shard.rounds == 1
    np.testing.assert_array_equal(shard.center, np.full(4, -2.0))
    contribute(shard, 0, 1.0, sequence=2)
    assert shard.rounds == 1  # waits for replica 1


def test_the_contribution_of_the_process_before_is_replaced_and_not_added():
    shard = synchronous(2)
    contribute(shard, 1, 100.0)
    contribute(shard, 1, 3.0, incarnation=2)
    contribute(shard, 0, 1.0)
    np.testing.assert_array_equal(shard.center, np.full(4, -2.0))


def test_a_contribution_that_was_only_half_laid_down_does_not_count():
    shard = synchronous(2)
    shard.round.rows[1, :2] = 7.0  # killed inside the copy
    contribute(shard, 0, 1.0)
    shard.leave(1)
    np.testing.assert_array_equal(shard.center, np.full(4, -1.0))


@pytest.mark.parametrize("done", [False, True], ids=["open", "over"])
def test_a_retried_contribution_counts_once_and_names_its_own_round(done):
    """Also when the round is over by then: who waits for a later one would wait for ever."""
    shard = synchronous(2)
    contribute(shard, 0, 1.0)
    if done:
        contribute(shard, 1, 3.0)
    again = contribute(shard, 0, 100.0)
    assert (again.duplicate, again.round) == (True, 1)
    if not done:
        contribute(shard, 1, 3.0)
    assert shard.rounds == 1
    np.testing.assert_array_equal(shard.center, np.full(4, -2.0))


def test_a_step_that_was_not_finished_is_made_by_somebody_else():
    """The last member raised the version, but was killed before it could say that the round is over."""
    shard = synchronous(2)
    contribute(shard, 0, 1.0)
    shard.round.lay(1, np.full(4, 3.0), 1)
    shard.header[0] += 1
    shard.leave(1)
    assert shard.rounds == 1
    np.testing.assert_array_equal(shard.center, np.full(4, -2.0))
    contribute(shard, 0, 5.0, sequence=2)
    np.testing.assert_array_equal(shard.center, np.full(4, -7.0))


def test_lock_free_shards_still_make_rounds_under_the_lock():
    shard = synchronous(2, lock_free=True)
    with shard.lock:
        assert shard._guard is shard.lock
    contribute(shard, 0, 1.0)
    contribute(shard, 1, 3.0)
    assert shard.rounds == 1


def test_averaged_parameters_take_the_mean_as_one_observation():
    state = private_state(
        {"w": np.zeros(2), "mean": np.zeros(2)},
        SGD(lr=1.0),
        2,
        averaged=("mean",),
        averaging=0.5,
        replicas=2,
        rounds=True,
    )
    for shard in state.shards:
        shard.join(0)
        shard.join(1)
        for replica, value in ((0, 1.0), (1, 3.0)):
            contribute(shard, replica, value)
    np.testing.assert_array_equal(state.center, [-2.0, -2.0, 1.0, 1.0])
