"""The groups of a run as its coordinator knows them: their numbers and incarnations. No actor is started here."""

from __future__ import annotations

import queue
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'hogshead[ray]'")

from deploy.cluster import groups as module  # noqa: E402
from deploy.cluster.groups import GROUP, Groups  # noqa: E402


@pytest.fixture
def crew():
    return SimpleNamespace(events=queue.SimpleQueue(), told=[], tell_all=lambda kind, **fields: None)


@pytest.fixture
def living(monkeypatch):
    """Nodes that are there."""
    nodes = {"a": {}, "b": {}}
    monkeypatch.setattr(module, "alive_nodes", lambda: nodes)
    return nodes


@pytest.fixture
def groups(crew, living, monkeypatch):
    """Of three workers, whose numbers follow those of two guests."""
    monkeypatch.setattr(module, "first_group", lambda _setup: 5)
    return Groups(SimpleNamespace(uid="x"), SimpleNamespace(shard_options=SimpleNamespace(replicas=8)), crew)


def test_whoever_asks_first_has_the_launcher_begin_it(groups, crew):
    assert groups.place_of("a") is None
    assert crew.events.get_nowait() == (GROUP, {"kind": "wanted", "node": "a"})
    assert groups.reserve("a") and not groups.reserve("a")
    assert groups.place_of("a") is None and crew.events.empty(), "it is on its way"
    groups.serves(5, {"segment": "s"})
    assert groups.place_of("a") == {"segment": "s"}


def test_numbers_of_nodes_that_left_are_free_again(groups, living):
    assert groups.reserve("a") and groups.reserve("b")
    assert groups.state()["numbers"] == {"a": 5, "b": 6}
    groups.serves(5, {"segment": "s"})
    del living["a"]
    living["c"] = {}
    assert groups.reserve("c")
    assert groups.state()["numbers"] == {"b": 6, "c": 5} and groups.state()["places"] == {}


def test_none_for_a_node_that_has_left(groups, living):
    living.clear()
    assert not groups.reserve("a")
    groups.serves(5, {"segment": "s"})
    assert groups.state()["places"] == {}


def test_an_owner_is_newer_than_all_before_it(groups, monkeypatch):
    """Also than those that nobody has written down, and in a resumed run than whoever had its number."""
    monkeypatch.setattr(time, "time", lambda: 1000.5)
    assert [groups.begins(5), groups.begins(5), groups.begins(6)] == [1000, 1001, 1000]
    groups.come_after([1, 1, 1, 1, 1, 5000, 3])
    assert [groups.begins(5), groups.begins(6), groups.begins(7)] == [5001, 1000, 1000]
