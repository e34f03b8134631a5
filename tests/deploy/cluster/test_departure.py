"""Nodes that leave: nothing changes the center from the checkpoint that is made for them until they have left."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'hogshead[ray]'")

from deploy.cluster import conduct  # noqa: E402
from deploy.cluster.conduct import Cluster  # noqa: E402
from deploy.cluster.departure import STAY_S, Departures, Rest  # noqa: E402
from deploy.cluster.facts import RunFacts  # noqa: E402
from deploy.cluster.shards import Shards  # noqa: E402
from ps.errors import TransportError  # noqa: E402
from ps.host import Place  # noqa: E402
from ps.transport.following import Whereabouts  # noqa: E402

A_MINUTE = 60.0  # for what another thread does at once


@pytest.fixture
def now():
    return SimpleNamespace(time=0.0)


def test_a_node_is_leaving_until_it_has_left(now):
    departures = Departures(lambda: now.time)
    assert not departures.under_way
    departures.announce("one")
    departures.announce("two")
    departures.settle({"one", "two", "three"})
    assert departures.under_way
    departures.settle({"two", "three"})
    assert departures.under_way
    departures.settle({"three"})
    assert not departures.under_way


def test_a_node_that_stays_after_all_does_not_hold_the_run_up(now):
    departures = Departures(lambda: now.time)
    departures.announce("one")
    now.time = STAY_S / 2
    departures.settle({"one"})
    assert departures.under_way
    now.time = STAY_S
    departures.settle({"one"})
    assert not departures.under_way


# -- the loop of a worker ---------------------------------------------------------------------------------------------


def test_a_loop_rests_between_steps_and_has_nothing_under_way_then():
    rest, order, over = Rest(), [], threading.Event()

    def loop():
        while not over.is_set():
            rest.between_steps(lambda: order.append("settled"))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        assert rest.begin(A_MINUTE) and order == ["settled"]
        assert rest.begin(A_MINUTE) and order == ["settled"], "it rests already"
        rest.end()
    finally:
        over.set()
        rest.end()
        thread.join()


def test_a_loop_in_a_long_step_is_not_waited_for():
    assert not Rest().begin(0.01)


def test_a_loop_that_waits_for_work_rests_and_takes_none_meanwhile():
    rest, mail, taken = Rest(), threading.Event(), []

    def wait():
        mail.wait()
        return {"kind": "work"}

    thread = threading.Thread(target=lambda: taken.append(rest.while_idle(wait)))
    thread.start()
    assert rest.begin(A_MINUTE)
    mail.set()
    assert taken == []
    rest.end()
    thread.join()
    assert taken == [{"kind": "work"}]


# -- the coordinator --------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(monkeypatch):
    """A run whose worker 1 starts while a node is leaving; ``nodes`` are those that live."""
    cluster = Cluster.__new__(Cluster)
    cluster.nodes, cluster.released, cluster.arrived = {"one": {}, "two": {}}, [], []
    monkeypatch.setattr(conduct, "alive_nodes", lambda: cluster.nodes)
    cluster.departures, cluster._late = Departures(), []
    cluster.coordinator = SimpleNamespace(finished=None)
    cluster.setup = SimpleNamespace(rounds=False)
    cluster.saving = SimpleNamespace(release=lambda: cluster.released.append(True))
    cluster._arrive = cluster.arrived.append
    return cluster


def test_a_worker_that_starts_while_a_node_leaves_begins_afterwards(cluster):
    cluster.departures.announce("one")
    cluster._handle(1, {"kind": "joined"})
    cluster._look_after_departures()
    assert cluster.arrived == [] and cluster.released == []
    del cluster.nodes["one"]
    cluster._look_after_departures()
    assert cluster.arrived == [1] and cluster.released == [True]


def test_the_end_of_the_training_is_not_held_up(cluster):
    cluster.departures.announce("one")
    cluster.coordinator.finished = "interrupted"
    cluster._look_after_departures()
    assert cluster.released == [True]


def test_a_checkpoint_that_was_cut_before_a_node_leaves_is_not_enough(cluster):
    cluster._saved_count, cluster._not_saved_count, cluster._writing, hastened = 3, 0, 1, threading.Event()
    cluster._timetable = SimpleNamespace(hasten=lambda occasion: hastened.set())
    asked = []
    thread = threading.Thread(target=lambda: asked.append(cluster.save_soon(A_MINUTE, "one")))
    thread.start()
    assert not hastened.is_set()
    cluster._saved_count, cluster._writing = 4, 0  # the one that was being written
    assert hastened.wait(A_MINUTE) and cluster.departures.under_way
    cluster._saved_count = 5
    thread.join()
    assert asked == [True]


# -- how much is lost -------------------------------------------------------------------------------------------------


def served(index, node="one", pid=1):
    return Whereabouts(index, node, "10.0.0.1:1", 0, Place("segment", "locks", pid, "now"))


@pytest.fixture
def shards():
    layout = SimpleNamespace(shards=lambda count: [None] * count)
    setup = SimpleNamespace(job=SimpleNamespace(shards=SimpleNamespace(count=2)), layout=layout)
    shards = Shards(RunFacts("uid", {}, "token"), setup, None)
    assert [shards.serves(served(index), 0) for index in range(2)] == [None, None]
    return shards


def test_lost_is_all_that_anybody_has_seen(shards):
    shards.saw(0, 10)
    shards.saw_all([(1, 21), (1, 15)])
    assert shards.serves(served(0, "two", 2), 6) == 15 and shards.lost == 15
    assert shards.serves(served(1, "two", 3), 15) == 0 and shards.lost == 15


def test_what_is_told_late_of_an_owner_that_is_gone_counts_once_as_lost(shards):
    shards.saw(0, 15)
    assert shards.serves(served(0, "two", 2), 0) == 15
    shards.saw_all([(1, 21), (1, 0)])
    shards.saw_all([(1, 21), (1, 0)])
    assert shards.lost == 21 and shards.seen[0] == 0, "the owner of now has not come so far"
    shards.saw_all([(2, 4), (1, 0)])
    assert shards.serves(served(0, "one", 4), 0) == 4 and shards.lost == 25


def test_a_coordinator_that_takes_over_does_not_count_what_was_lost_before(shards):
    shards.places = {0: Whereabouts(0, "two", "10.0.0.1:1", 5, Place("segment", "locks", 2, "now"))}
    shards.saw_all([(4, 1000)])
    assert shards.lost == 0 and shards.seen[0] == 0


def test_a_shard_that_dies_before_it_gets_further_ends_the_run(shards):
    for death in range(4):
        shards.saw(0, 100)
        shards.serves(served(0, pid=death + 2), 40)
        shards.require_progress(0, 3, "out of memory")
    shards.saw(0, 101)
    shards.serves(served(0, pid=7), 40)
    shards.require_progress(0, 3, "out of memory")
    for death in range(4):
        shards.serves(served(0, pid=death + 8), 40)
    with pytest.raises(TransportError, match="^shard 0 died 4 times in a row without getting further: out of memory$"):
        shards.require_progress(0, 3, "out of memory")
