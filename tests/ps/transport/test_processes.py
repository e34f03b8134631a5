"""Several processes at one shard at once, and processes that are killed there."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

import numpy as np
import pytest

from ps.layout import Layout
from ps.rules import SGD, AveragedCenter
from ps.shard import DUPLICATES, TORN, UPDATING
from ps.transport.direct import DirectLink

from ..building import POISON, DiesInside, forked, push, shared_state, stamp, until

PUSHES = 600


def pusher(state, replica, values, times):
    def run(_connection):
        link = DirectLink(state, replica)
        for _ in range(times):
            link.push(values, link.versions())

    return run


@pytest.mark.parametrize("lock_free", [False, True])
def test_concurrent_pushes_lose_no_version(lock_free):
    with shared_state({"w": np.zeros(64)}, SGD(lr=1.0), 2, replicas=3, lock_free=lock_free) as state:
        ones = np.ones(64)
        with forked(*(pusher(state, replica, ones, PUSHES) for replica in (1, 2))) as children:
            pusher(state, 0, ones, PUSHES)(None)
            for child in children:
                child.join()
        assert [shard.version for shard in state.shards] == [3 * PUSHES] * 2
        if not lock_free:  # lock-free additions may overwrite each other, locked ones never
            np.testing.assert_array_equal(state.center, np.full(64, -3.0 * PUSHES))
        for shard in state.shards:
            assert shard.watermarks[:, 1].tolist() == [PUSHES] * 3 and shard.header[TORN] == 0


def test_concurrent_exchanges_conserve_the_sum():
    with shared_state({"w": np.zeros(32)}, SGD(), 2, replicas=2) as state:
        with forked(lambda connection: _exchange(state, connection)) as (child,):
            mine = _exchange(state, None)
            theirs = child.connection.recv()
            child.join()
        np.testing.assert_allclose(mine + theirs + state.center, np.full(32, 3.0), rtol=1e-11)
        assert [shard.version for shard in state.shards] == [2 * PUSHES] * 2


def _exchange(state, connection):
    """Exchange a vector that starts with 1 (2 in the child) with the center, which starts with 0."""
    x = np.full(32, 1.0 if connection is None else 2.0)
    link = DirectLink(state, 0 if connection is None else 1)
    for _ in range(PUSHES):
        link.exchange(x, 0.3, link.versions())
    if connection is not None:
        connection.send(x)
    return x


@pytest.mark.parametrize("rule", [SGD(lr=1.0), AveragedCenter(SGD(lr=1.0), rate=1.0)], ids=["sgd", "averaged"])
def test_consistent_pulls_never_tear(rule):
    """The pusher keeps all elements equal; a torn read would show two values, as an inconsistent one soon does."""
    with shared_state({"w": np.zeros(100_000, np.float32)}, rule, 2, replicas=2) as state:

        def push_until_told(connection):
            link, ones = DirectLink(state, 1), np.ones(100_000, np.float32)
            link.push(ones, link.versions())
            connection.send("started")
            while not connection.poll():
                link.push(ones, link.versions())

        with forked(push_until_told) as (child,):
            assert child.connection.recv() == "started"
            link, out = DirectLink(state, 0, consistent=True), np.zeros(100_000, np.float32)
            seen, pulls = [-1, -1], 0
            while pulls < 300 or min(seen) < 20:  # the pusher may not run for a while
                versions, pulls = link.pull(out), pulls + 1
                for index, shard in enumerate(state.shards):
                    part = shard.range.of(out)
                    assert part.min() == part.max() == -versions[index]
                    assert versions[index] >= seen[index]
                    seen[index] = versions[index]
            child.connection.send("enough")
            child.join()


@dataclass(frozen=True)
class StopsInside(SGD):
    """Writes half of the center, says so, and goes on when told to."""

    ends: tuple = ()

    def apply(self, center, slots, gradient, context):
        center[: center.size // 2] += gradient[: center.size // 2]
        ours, theirs = self.ends
        os.write(ours, b".")
        os.read(theirs, 1)
        center[center.size // 2 :] += gradient[center.size // 2 :]


def test_the_lock_is_held_during_an_update_and_a_torn_pull_does_not_wait_for_it():
    inside, go_on = os.pipe(), os.pipe()
    rule = StopsInside(ends=(inside[1], go_on[0]))
    with shared_state({"w": np.zeros(4)}, rule) as state:
        shard, out = state.shards[0], np.zeros(4)
        with forked(lambda _connection: push(shard, np.ones(4), 1)) as (child,):
            os.read(inside[0], 1)
            assert shard.pull(out) == 0
            np.testing.assert_array_equal(out, [1.0, 1.0, 0.0, 0.0])
            with pytest.raises(BlockingIOError):
                fcntl.lockf(shard.lock._file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
            assert shard.header[UPDATING] == 1
            os.write(go_on[1], b".")
            assert shard.pull(out, consistent=True) in (0, 1)
            child.join()
        assert shard.pull(out, consistent=True) == 1 and shard.header[UPDATING] == 0
        np.testing.assert_array_equal(out, np.ones(4))
    for end in (*inside, *go_on):
        os.close(end)


def poisoned(size: int) -> np.ndarray:
    values = np.ones(size)
    values[0] = POISON
    return values


def test_a_process_killed_inside_an_update_leaves_no_lock_held_and_is_counted():
    with shared_state({"w": np.zeros(8)}, DiesInside(lr=1.0), replicas=2) as state:
        shard = state.shards[0]
        with forked(lambda _connection: push(shard, poisoned(8), 1, replica=1)) as (child,):
            assert child.killed()
        assert shard.header[UPDATING] == 2 and shard.version == 0
        np.testing.assert_array_equal(shard.center, [POISON] * 4 + [0.0] * 4)
        push(shard, np.ones(8), 1)  # would wait for ever for a lock that is still held
        assert (shard.header[TORN], shard.header[UPDATING], shard.version) == (1, 0, 1)
        push(shard, np.ones(8), 2)
        assert shard.header[TORN] == 1  # counted once
        # The push did not count as applied: the one that replaces the dead process may send it again.
        assert not shard.push(np.ones(8), stamp(1, 1, incarnation=2), version=0).duplicate
        assert shard.header[DUPLICATES] == 0


def test_the_torn_update_of_the_last_to_push_is_counted_when_it_leaves():
    with shared_state({"w": np.zeros(8)}, DiesInside(lr=1.0), replicas=2) as state:
        shard = state.shards[0]
        with forked(lambda _connection: push(shard, poisoned(8), 1, replica=1)) as (child,):
            assert child.killed()
        shard.leave(1)
        assert (shard.header[TORN], shard.header[UPDATING]) == (1, 0)
        shard.leave(0)
        assert shard.header[TORN] == 1


def test_a_process_killed_while_it_waits_for_a_lock_does_not_disturb_its_holder():
    with shared_state({"w": np.zeros(2)}, SGD(lr=1.0)) as state:
        shard = state.shards[0]

        def wait(connection):
            connection.send("waiting")
            push(shard, np.ones(2), 1)

        with shard.lock, forked(wait) as (child,):
            assert child.connection.recv() == "waiting"
            child.kill()
            with forked(lambda _connection: _assert_locked(shard)) as (other,):
                other.join()
        push(shard, np.ones(2), 1)
        assert shard.version == 1


def _assert_locked(shard) -> None:
    with pytest.raises(BlockingIOError):
        fcntl.lockf(shard.lock._file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)


@pytest.mark.parametrize("count", [1, 2])
def test_a_member_killed_while_it_makes_the_synchronous_step_does_not_hang_it(count):
    """The last to contribute is killed inside the step; when it is declared dead, the step is made without it."""
    with shared_state({"w": np.zeros(8)}, DiesInside(lr=1.0), count, replicas=3, rounds=True) as state:
        for shard in state.shards:
            for replica in range(3):
                shard.join(replica)

        def contribute(replica, values, incarnation=1):
            def run(_connection):
                DirectLink(state, replica, incarnation).push_together(values, np.zeros(count, np.int64))

            return run

        last = np.ones(8)
        last[0] = 3 * POISON - 2.0  # so that the mean is what kills its maker
        with forked(contribute(0, np.ones(8)), contribute(1, np.ones(8))) as waiting:
            until(lambda: all(shard.round.laid[:2].all() for shard in state.shards))
            with forked(contribute(2, last)) as (killed,):
                assert killed.killed()
            assert [shard.version for shard in state.shards] == [0] * count
            state.shards[0].round.rows[:, 0] = 1.0  # the poison is only for that process
            for shard in state.shards:
                shard.leave(2)
            for child in waiting:
                child.join()
        assert [shard.version for shard in state.shards] == [1] * count
        assert sum(shard.header[TORN] for shard in state.shards) == 1
        np.testing.assert_array_equal(state.shards[-1].center[-2:], [-1.0, -1.0])
        with forked(contribute(0, np.ones(8), 2)) as (first,):  # the next round is a new one
            until(lambda: all(shard.round.laid[0] == 2 for shard in state.shards))
            DirectLink(state, 1, incarnation=2).push_together(np.full(8, 3.0), np.ones(count, np.int64))
            first.join()
        assert [shard.version for shard in state.shards] == [2] * count
        np.testing.assert_array_equal(state.shards[-1].center[-2:], [-3.0, -3.0])


def test_a_waiting_member_can_be_called_away():
    class CalledAway(Exception):
        pass

    def call_away():
        raise CalledAway

    with shared_state({"w": np.zeros(2)}, SGD(lr=1.0), replicas=2, rounds=True) as state:
        state.shards[0].join(1)
        link = DirectLink(state, 0, abandoned=call_away)
        with pytest.raises(CalledAway):
            link.push_together(np.ones(2), link.versions())
        state.shards[0].leave(1)  # what it laid down still counts
        np.testing.assert_array_equal(state.center, [-1.0, -1.0])


def test_a_forked_process_and_its_parent_see_one_layout():
    parameters = {"a": np.arange(3.0), "b": np.arange(4.0).reshape(2, 2)}
    with shared_state(parameters, SGD(lr=1.0), 2) as state:
        with forked(lambda _connection: state.layout.views(state.center)["b"].fill(7.0)) as (child,):
            child.join()
        views = Layout.of(parameters).views(state.center)
        np.testing.assert_array_equal(views["b"], np.full((2, 2), 7.0))
        np.testing.assert_array_equal(views["a"], np.arange(3.0))
