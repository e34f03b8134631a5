"""The link over ports that lie apart: what overlaps, what is held for a checkpoint, and what happens when a shard moves."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from ps.errors import TransportError, UsageError
from ps.rules import SGD, Add
from ps.shard import Applied
from ps.transport.sharded import ShardedLink

from ..building import private_state, stamp, tensors, until


class Overlapped:
    """A shard of this process behind futures that are settled when the test says so."""

    remote = True

    def __init__(self, shard, log):
        self.shard, self.log = shard, log
        self.index, self.range = shard.index, shard.range
        self.open: list[tuple[Future, object]] = []

    def __getattr__(self, name):
        if not name.startswith("start_"):
            return getattr(self.shard, name)

        def start(*args, **facts):
            self.log.append(f"{name} {self.index}")
            future = Future()
            self.open.append((future, lambda: getattr(self.shard, name.removeprefix("start_"))(*args, **facts)))
            return future

        return start

    def settle(self, error=None):
        future, operation = self.open.pop(0)
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(operation())


class Logged:
    """A shard of this process, with a note of each operation."""

    def __init__(self, shard, log):
        self.shard, self.log = shard, log

    def __getattr__(self, name):
        if name in ("pull", "push", "exchange", "contribute"):
            self.log.append(f"{name} {self.shard.index}")
        return getattr(self.shard, name)


def linked(*kinds, rule=None, **options):
    """A link over one port of each kind, the shards and the log of what was called."""
    state = private_state(tensors(w=(3 * len(kinds),)), rule or Add(), len(kinds), **options)
    log: list[str] = []
    return ShardedLink(state.layout, [kind(shard, log) for kind, shard in zip(kinds, state.shards)]), state, log


def test_what_travels_is_started_before_what_is_mapped():
    link, state, log = linked(Logged, Overlapped, Logged, Overlapped)
    out = np.empty(12)
    with ThreadPoolExecutor(1) as pool:
        pulling = pool.submit(link.pull, out)
        until(lambda: len(log) == 4)
        assert log == ["start_pull 1", "start_pull 3", "pull 0", "pull 2"]
        for port in link.ports[1::2]:
            port.settle()
        assert pulling.result().tolist() == [0] * 4
    np.testing.assert_array_equal(out, state.center)


def test_an_error_waits_for_the_others():
    """They still read and write the caller's arrays."""
    link, state, _ = linked(Overlapped, Overlapped, Logged)
    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(link.push, np.ones(9), np.zeros(3, np.int64))
        until(lambda: all(port.open for port in link.ports[:2]))
        link.ports[0].settle(TransportError("shard 0 is away"))
        until(lambda: state.shards[2].version == 1)
        assert not pushing.done()
        link.ports[1].settle()
        with pytest.raises(TransportError, match="shard 0 is away"):
            pushing.result()
    assert [shard.version for shard in state.shards] == [0, 1, 1]
    assert link.hold(0), "nothing is under way any more"


def test_a_held_link_begins_nothing_until_it_is_released():
    link, state, _ = linked(Logged, Logged)
    assert link.hold(0)
    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(link.push, np.ones(6), np.zeros(2, np.int64))
        assert link.versions().tolist() == [0, 0] and not pushing.done()
        before = [shard.version for shard in state.shards]
        link.release()
        assert pushing.result().tolist() == [0, 0] and before == [0, 0]
    assert [shard.version for shard in state.shards] == [1, 1]


def test_holding_waits_for_the_transfer_under_way():
    link, _state, _ = linked(Overlapped, Logged)
    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(link.push, np.ones(6), np.zeros(2, np.int64))
        until(lambda: link.ports[0].open)
        assert not link.hold(0.01), "a push that has reached one shard only would be cut in two"
        link.ports[0].settle()
        pushing.result()
    assert link.hold(0)


def test_an_exchange_gives_the_versions_after_it():
    link, state, _ = linked(Logged, Overlapped)
    x, versions, before = np.full(6, 2.0), np.zeros(2, np.int64), state.center.copy()
    with ThreadPoolExecutor(1) as pool:
        exchanging = pool.submit(link.exchange, x, 0.5, versions)
        until(lambda: link.ports[1].open)
        link.ports[1].settle()
        assert exchanging.result().tolist() == [0, 0]
    assert versions.tolist() == [1, 1]
    np.testing.assert_allclose(x, (before + 2) / 2)
    np.testing.assert_allclose(state.center, (before + 2) / 2)


def test_the_center_is_there_where_it_is_whole():
    class Mapped(Logged):
        center = property(lambda self: self.shard.center)

    assert linked(Mapped)[0].center is not None
    assert linked(Mapped, Mapped)[0].center is None


def test_vectors_of_another_model_are_refused_before_anything_is_sent():
    link, state, log = linked(Logged, Logged)
    for call in (
        lambda: link.pull(np.empty(5)),
        lambda: link.push(np.ones(7), np.zeros(2, np.int64)),
        lambda: link.exchange(np.ones(6, np.float32), 0.5, np.zeros(2, np.int64)),
        lambda: link.push_together(np.ones(5), np.zeros(2, np.int64)),
    ):
        with pytest.raises(UsageError):
            call()
    assert log == [] and [shard.version for shard in state.shards] == [0, 0]


# -- a shard that moves in the middle of a synchronous step -------------------------------------------------------------


class Moving:
    """A port whose shard is lost and begins anew elsewhere when the test says so."""

    def __init__(self, shard, log):
        self.shard, self.generation = shard, 1
        self.index, self.range = shard.index, shard.range
        self.laid: list[tuple[int, int]] = []  # generation and sequence of each contribution
        self.answered = threading.Event()

    def contribute(self, payload, stamp, **facts) -> Applied:
        applied = self.shard.contribute(payload, stamp, **facts)
        self.laid.append((self.generation, stamp.sequence))
        self.answered.set()
        return applied

    def __getattr__(self, name):
        return getattr(self.shard, name)

    def move(self, shard):
        self.shard = shard
        self.generation += 1


def synchronous():
    """A link of two replicas that take synchronous steps, the state, its center, and what shard 1 is when it begins anew."""
    link, state, _ = linked(Moving, Moving, rule=SGD(lr=1.0), replicas=2, rounds=True)
    start = state.center.copy()
    fresh = private_state({"w": start}, SGD(lr=1.0), 2, replicas=2, rounds=True).shards[1]
    for shard in (*state.shards, fresh):
        shard.join(0)
        shard.join(1)
    return link, state, start, fresh


def test_a_contribution_that_was_lost_with_a_shard_is_laid_down_again():
    link, state, start, fresh = synchronous()
    other = ShardedLink(state.layout, [state.shards[0], fresh], replica=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(link.push_together, np.full(6, 2.0), link.versions())
        until(lambda: all(port.laid for port in link.ports))
        link.ports[1].move(fresh)
        other.push_together(np.full(6, 4.0), np.zeros(2, np.int64))
        assert waiting.result().tolist() == [0, 0]
    assert [len(port.laid) for port in link.ports] == [1, 2], "only the one that was lost"
    (first, second) = link.ports[1].laid
    assert first[0] == 1 and second[0] == 2 and second[1] > first[1], "a stamp of its own: nothing is taken for a retry"
    assert [shard.rounds for shard in (state.shards[0], fresh)] == [1, 1]
    np.testing.assert_array_equal(state.shards[0].center, start[:3] - 3)
    np.testing.assert_array_equal(fresh.center, start[3:] - 3)


def test_a_contribution_that_was_sent_again_on_the_way_counts_once():
    link, state, start, fresh = synchronous()
    port = link.ports[1]
    at_the_first = port.contribute

    def lost_and_retried(payload, stamp, **facts):
        port.contribute = at_the_first
        port.move(fresh)
        return at_the_first(payload, stamp, **facts)

    port.contribute = lost_and_retried
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(link.push_together, np.full(6, 2.0), link.versions())
        until(lambda: all(port.laid for port in link.ports))
        ShardedLink(state.layout, [state.shards[0], fresh], replica=1).push_together(np.full(6, 4.0), np.zeros(2, int))
        assert waiting.result().tolist() == [0, 0]
    assert [generation for generation, _ in port.laid] == [2, 2], "nobody knows at which owner the first arrived"
    assert [shard.rounds for shard in (state.shards[0], fresh)] == [1, 1]
    np.testing.assert_array_equal(np.concatenate([state.shards[0].center, fresh.center]), start - 3)


def test_a_loss_is_noticed_while_another_shard_is_waited_for():
    """Else one replica waits at the first shard for another, and that one at the second for what was lost there."""
    link, state, _, fresh = synchronous()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(link.push_together, np.full(6, 2.0), link.versions())
        until(lambda: all(port.laid for port in link.ports))
        link.ports[1].move(fresh)
        until(lambda: len(link.ports[1].laid) == 2)  # though the first step has not been made yet
        assert state.shards[0].rounds == 0 and not waiting.done()
        for shard in (fresh, state.shards[0]):
            shard.contribute(np.full(3, 4.0), stamp(1, replica=1), version=0)
        waiting.result()
    assert [len(port.laid) for port in link.ports] == [1, 2]


def test_waiting_for_a_step_can_be_abandoned():
    class Ended(Exception):
        pass

    def ended():
        raise Ended

    state = private_state(tensors(w=(4,)), SGD(lr=1.0), 1, replicas=2, rounds=True)
    state.shards[0].join(0)
    state.shards[0].join(1)
    link = ShardedLink(state.layout, state.shards, abandoned=ended)
    with pytest.raises(Ended):
        link.push_together(np.ones(4), link.versions())
