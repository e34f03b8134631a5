"""Clocks at shard 0, seen from wherever a replica is, and after the shard has moved."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.cluster.clocks import FollowingClocks
from ps.admission import Clocks
from ps.host import ShardHost
from ps.rules import SGD
from ps.segment import sweep
from ps.transport.following import FollowingPort, Whereabouts
from ps.transport.remote import RemoteOptions, RemoteShard
from ps.transport.server import ShardServer
from ps.transport.service import ServiceOptions
from tests.ps.building import forked, shard_plans

(PLAN,) = shard_plans({"w": np.zeros(4)}, SGD(lr=1.0), replicas=3)


class Known:
    """Directory of the newest owner."""

    def __init__(self):
        self.place = None

    def current(self, _index):
        return self.place

    def newer(self, _index, _generation):
        return self.place


@pytest.fixture
def world():
    """A shard with clocks behind a server, and clocks of a replica beside it and of one elsewhere."""
    host, known, closed = ShardHost(PLAN), Known(), []
    options = ServiceOptions(clocks=host.clocks)
    server = ShardServer(host.shard, token=None, bind="127.0.0.1", options=options)
    server.start()
    known.place = Whereabouts(0, "n1", server.address, 1, host.place())

    def far(plan):
        return RemoteShard(
            0, host.shard.range, plan.layout, lambda: server.address, token=None, options=RemoteOptions(replica=1)
        )

    def clocks(replica, node):
        closed.append(FollowingPort(PLAN, node, known, far))
        return FollowingClocks(closed[-1], replica)

    yield host, clocks
    for port in closed:
        port.close()
    server.stop(0.0)
    host.close()


def test_near_and_far_see_the_same_clocks(world):
    host, clocks = world
    host.clocks.join(0), host.clocks.join(1)
    near, far = clocks(0, "n1"), clocks(1, "n2")
    near.advance(0, 4)
    assert far.lag(1) == 0 and near.lag(0) == 4 and far.minimum() == 0
    far.advance(1, 2)
    assert near.lag(0) == 2 and near.clock(1) == 2 and far.clock(1) == 2
    near.note_waiting(True), far.note_waiting(True)
    host.clocks.leave(1)
    assert near.lag(0) == 0 and far.lag(1) == 0 and near.minimum() == 4


def test_clocks_move_on_with_their_shard(world):
    """What is still mapped of a dead owner's clocks would stand still for ever."""
    host, _ = world

    def own(connection):
        connection.send(ShardHost(PLAN).place())
        connection.recv()

    with forked(own) as (first,):
        known = Known()
        known.place = Whereabouts(0, "n1", "", 1, first.connection.recv())
        port = FollowingPort(PLAN, "n1", known, lambda plan: None)
        clocks = FollowingClocks(port, 0)
        clocks.advance(0, 3)
        first.kill()
        host.clocks.join(0), host.clocks.join(1)
        known.place = Whereabouts(0, "n1", "", 2, host.place())
        assert clocks.clock(0) == 0
        clocks.advance(0, 5)
        assert host.clocks.clock(0) == 5 and clocks.lag(0) == 5
        port.close()
    sweep()


def test_one_that_is_not_waited_for_does_not_lag(world):
    host, clocks = world
    host.clocks.join(0)
    far = clocks(1, "n2")
    far.advance(1, 9)
    assert far.lag(1) == 0
    assert isinstance(host.clocks, Clocks) and host.clocks.clock(1) == 9
