"""Backup workers: the first contributions make the step, late ones are dropped and counted, and nothing waits for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.rules import SGD
from ps.transport.direct import DirectLink
from ps.transport.link import LATE

from .building import private_state, stamp


def group(replicas: int, backups: int, count: int = 1):
    """Shards of zeros that subtract means of gradients, with every replica joined."""
    state = private_state(
        {"w": np.zeros(4 * count)}, SGD(lr=1.0), count, replicas=replicas, rounds=True, backups=backups
    )
    for shard in state.shards:
        for replica in range(replicas):
            shard.join(replica)
    return state


def contribute(shard, replica: int, value: float, sequence: int = 1, version: int = 0):
    return shard.contribute(np.full(shard.range.size, value), stamp(sequence, replica), version=version)


def test_the_first_make_the_step_and_the_late_one_is_dropped():
    (shard,) = group(3, 1).shards
    assert not contribute(shard, 2, 4.0).dropped and shard.rounds == 0
    assert not contribute(shard, 0, 2.0).dropped
    assert (shard.rounds, shard.version) == (1, 1)
    late = contribute(shard, 1, 100.0)
    assert late.dropped and late.staleness == 1 and not late.duplicate
    assert (shard.rounds, shard.version, shard.dropped) == (1, 1, 1)
    np.testing.assert_array_equal(shard.center, np.full(4, -3.0))
    again = contribute(shard, 1, 7.0, sequence=2, version=1)
    assert (again.dropped, again.round) == (False, 2)
    contribute(shard, 2, 5.0, sequence=2, version=1)
    np.testing.assert_array_equal(shard.center, np.full(4, -9.0))


def test_a_late_one_that_is_retried_is_dropped_once():
    (shard,) = group(2, 1).shards
    contribute(shard, 0, 1.0)
    contribute(shard, 1, 1.0)
    assert contribute(shard, 1, 1.0).duplicate
    assert shard.dropped == 1


def test_fewer_than_the_quorum_are_enough_when_no_more_are_there():
    (shard,) = group(4, 1).shards
    contribute(shard, 0, 1.0)
    contribute(shard, 1, 3.0)
    shard.leave(2)
    assert shard.rounds == 0
    shard.leave(3)
    assert shard.rounds == 1
    np.testing.assert_array_equal(shard.center, np.full(4, -2.0))


@pytest.mark.parametrize("stale", [0, 1])
def test_without_backups_nothing_is_dropped(stale):
    (shard,) = group(2, 0).shards
    for sequence in (1, 2):
        for replica in (0, 1):
            assert not contribute(shard, replica, 1.0, sequence, version=(sequence - 1) * (1 - stale)).dropped
    assert (shard.rounds, shard.dropped) == (2, 0)


def waits():
    raise AssertionError("waits, for ever")


def test_who_is_late_at_one_shard_waits_at_none():
    """Four replicas, two shards, three to make a step: two lack at each shard, and all would wait for each other."""
    state = group(4, 1, count=2)
    first, second = state.shards
    for replica in range(3):  # the first step, at the first shard only
        contribute(first, replica, 1.0)
    links = [DirectLink(state, replica, incarnation=2, abandoned=waits) for replica in range(4)]
    answers = [links[replica].push_together(np.ones(8), np.array([0, 0])).tolist() for replica in (0, 1)]
    assert answers == [[LATE, 0], [LATE, 0]]
    links[2].push_together(np.ones(8), np.array([0, 0]))
    assert (first.rounds, second.rounds) == (1, 1)
    assert links[3].push_together(np.ones(8), np.array([0, 0])).tolist() == [LATE, LATE]
    assert (first.dropped, second.dropped) == (4, 1)


class Replicas:
    """What replicas do on shards as through ``DirectLink``: pull, contribute and wait, at one shard after the other."""

    def __init__(self, replicas: int, backups: int, count: int):
        self.state = group(replicas, backups, count)
        self.taken = [0] * count  # contributions laid down
        self.dropped = [0] * count
        self.alive = [True] * replicas
        self.incarnations = [0] * replicas
        self.lives = [iter(()) for _ in range(replicas)]
        self.waits: list[list[int] | None] = [None] * replicas
        for replica in range(replicas):
            self.restart(replica)

    def restart(self, replica: int) -> None:
        for shard in self.state.shards:
            shard.join(replica)
        self.alive[replica], self.waits[replica] = True, None
        self.incarnations[replica] += 1
        self.lives[replica] = self.live(replica, self.incarnations[replica])

    def kill(self, replica: int) -> None:
        self.alive[replica] = False
        for shard in self.state.shards:
            shard.leave(replica)

    def live(self, replica: int, incarnation: int):
        shards, sequence = self.state.shards, 0
        while True:
            versions = []
            for shard in shards:
                versions.append(shard.pull(np.zeros(4), replica))
                yield
            sequence, answers = sequence + 1, []
            for k, (shard, version) in enumerate(zip(shards, versions)):
                late = shard.version > version
                answer = shard.contribute(np.ones(4), stamp(sequence, replica, incarnation), version=version)
                if shard.options.backups:
                    assert answer.dropped == late
                self.dropped[k] += answer.dropped
                self.taken[k] += not answer.dropped
                answers.append(answer)
                yield
            if not any(answer.dropped for answer in answers):
                self.waits[replica] = [answer.round for answer in answers]
                yield

    def able(self) -> list[int]:
        rounds = [shard.rounds for shard in self.state.shards]
        for replica, waits in enumerate(self.waits):
            if waits is not None and all(made >= asked for made, asked in zip(rounds, waits)):
                self.waits[replica] = None
        return [replica for replica, waits in enumerate(self.waits) if self.alive[replica] and waits is None]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(0, 5),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 999)), max_size=200),
)
def test_in_any_interleaving_counts_are_exact_and_somebody_can_go_on(replicas, backups, count, choices):
    backups = min(backups, replicas - 1)
    replicas_ = Replicas(replicas, backups, count)
    for what, choice in choices:
        able, dead = replicas_.able(), [k for k in range(replicas) if not replicas_.alive[k]]
        if what == 0 and len(dead) < replicas:
            replicas_.kill(choice % replicas)
        elif what == 1 and dead:
            replicas_.restart(dead[choice % len(dead)])
        elif able:
            next(replicas_.lives[able[choice % len(able)]])
        assert replicas_.able() or not any(replicas_.alive)
    for k, shard in enumerate(replicas_.state.shards):
        assert shard.dropped == replicas_.dropped[k]
        assert shard.version == shard.rounds
        if backups == 0:
            assert shard.dropped == 0
        if count == 1 and not any(what == 0 for what, _ in choices):
            # Without deaths each step has taken just so many contributions, and all others were dropped or are laid down.
            waiting = int((shard.round.laid == shard.rounds + 1).sum())
            assert replicas_.taken[k] == shard.rounds * (replicas - backups) + waiting
