"""A port that goes where its shard goes: the owner dies, another one serves, on this host or elsewhere."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from ps.host import Place, ShardHost
from ps.rules import SGD
from ps.segment import sweep
from ps.shard import Applied
from ps.transport.following import FollowingPort, Whereabouts

from ..building import forked, shard_plans, stamp

(PLAN,) = shard_plans({"w": np.zeros(4)}, SGD(lr=1.0), 1, replicas=2)
NOWHERE = Place("hogshead-nowhere", "hogshead-nowhere", 1, "0")


class Told:
    """A directory that gives what it was given, in order; ``GaveUp`` when there is nothing more to wait for."""

    def __init__(self, *known: Whereabouts):
        self.known, self.asked = list(known), []

    def current(self, index):
        return [entry for entry in self.known if entry.index == index][-1]

    def newer(self, index, generation):
        self.asked.append(generation)
        newer = [entry for entry in self.known if entry.index == index and entry.generation > generation]
        if not newer:
            raise GaveUp
        return newer[0]


class GaveUp(Exception):
    pass


class Far:
    """Stands for a remote port: notes what it is asked."""

    remote = True

    def __init__(self, plan):
        self.plan, self.calls, self.closed = plan, [], False

    def __getattr__(self, name):
        def call(*args, **options):
            self.calls.append(name)
            if not name.startswith("start_"):
                return Applied(1, 0)
            done = Future()
            done.set_result(len(self.calls))
            return done

        return call

    version, rounds = 41, 3

    def close(self):
        self.closed = True


def here(generation, place, node="n1"):
    return Whereabouts(0, node, "10.0.0.4:1", generation, place)


def owning(connection):
    """A process that owns the shard until it is killed."""
    connection.send(ShardHost(PLAN).place())
    connection.recv()


def port_of(directory, node="n1", made=None):
    def connect(plan):
        far = Far(plan)
        if made is not None:
            made.append(far)
        return far

    return FollowingPort(PLAN, node, directory, connect)


@pytest.fixture(autouse=True)
def swept():
    yield
    sweep()


def test_on_the_same_node_it_is_mapped_elsewhere_remote():
    host = ShardHost(PLAN)
    try:
        near = port_of(Told(here(1, host.place())))
        far = port_of(Told(here(1, host.place(), node="n2")))
        assert not near.remote and near.transport == "shared memory" and near.mapped is near.inner
        assert far.remote and far.transport == "gRPC" and far.mapped is None and far.center is None
        near.push(np.ones(4), stamp(1), version=0)
        np.testing.assert_array_equal(near.center, np.full(4, -1.0))
        assert near.version == 1 and near.rounds == 0 and near.note_updates(2) == 1
        assert (near.generation, near.index, near.range.size) == (1, 0, 4)
        near.close()
    finally:
        host.close()


def test_a_remote_port_is_asked_for_everything():
    made = []
    port = port_of(Told(here(1, NOWHERE, node="n2"), here(2, NOWHERE, node="n3")), made=made)
    port.pull(np.empty(4)), port.push(np.ones(4), stamp(1), version=0)
    port.exchange(np.ones(4), 0.5, stamp(2), version=0), port.contribute(np.ones(4), stamp(3), version=0)
    assert [port.start_pull().result(), port.start_push().result(), port.start_exchange().result()] == [5, 6, 7]
    assert port.start_contribute().result() == 8 and port.version == 41 and port.rounds == 3
    port.await_round(3, lambda: None)
    assert made[0].calls[:4] == ["pull", "push", "exchange", "contribute"] and made[0].calls[-1] == "await_round"
    assert port.generation == 2, "a remote port finds the newest owner by itself"
    port.close()
    assert made[0].closed


def test_the_next_owner_is_waited_for_and_the_push_is_made_there_once():
    with forked(owning, owning) as (first, second):
        directory = Told(here(1, first.connection.recv()))
        port = port_of(directory)
        port.push(np.ones(4), stamp(1), version=0)
        first.kill()
        directory.known.append(here(2, second.connection.recv()))
        applied = port.push(np.ones(4), stamp(2), version=1)
        assert (applied.version, applied.duplicate) == (1, False)
        np.testing.assert_array_equal(port.center, np.full(4, -1.0))
        assert port.generation == 2 and directory.asked == [0, 1]
        port.close()


def test_the_next_owner_may_be_elsewhere():
    made = []
    with forked(owning) as (first,):
        directory = Told(here(1, first.connection.recv()))
        port = port_of(directory, made=made)
        first.kill()
        directory.known.append(here(2, NOWHERE, node="n2"))
        assert port.version == 41 and port.remote and len(made) == 1 and port.generation == 2


def test_owners_that_are_dead_by_the_time_they_are_found_are_passed_over():
    with forked(owning, owning) as (first, second):
        dead, living = first.connection.recv(), second.connection.recv()
        first.kill()
        port = port_of(Told(here(1, dead), here(2, dead), here(3, living)))
        assert port.generation == 3 and port.version == 0
        port.close()


def test_waiting_for_an_owner_can_be_given_up():
    with forked(owning) as (first,):
        port = port_of(Told(here(1, first.connection.recv())))
        first.kill()
        for _ in range(2):  # and asked again later
            with pytest.raises(GaveUp):
                port.pull(np.empty(4))
