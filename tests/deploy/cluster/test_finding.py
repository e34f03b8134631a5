"""Who looks for a coordinator while Ray's head is away does not take it for gone."""

from __future__ import annotations

import pytest

from deploy.cluster import facts
from deploy.cluster.facts import COORDINATOR, Away, Gone, RunFacts, find_coordinator


class Ray:
    """Attributes:
    lookups: what looking up the actor comes to, one after another; the last for ever. lists: the same for all named actors.
    """

    def __init__(self, monkeypatch, lookups, lists):
        self.lookups, self.lists, self.asked = lookups, lists, 0
        monkeypatch.setattr(facts, "_LOOK_S", 0.0)
        monkeypatch.setattr(facts.ray, "get_actor", lambda *_, **__: self._next(self.lookups))
        monkeypatch.setattr(facts.ray.util, "list_named_actors", lambda **_: self._next(self.lists))

    def _next(self, script):
        self.asked += 1
        assert self.asked < 1000, "asked for ever"
        found = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(found, Exception):
            raise found
        return found


UNKNOWN = ValueError("Failed to look up actor with name 'coordinator'")
MINE, ANOTHER = {"name": COORDINATOR, "namespace": "run-1"}, {"name": COORDINATOR, "namespace": "run-2"}


def test_one_that_is_there_is_found_at_once(monkeypatch):
    ray = Ray(monkeypatch, ["handle"], [[]])
    assert find_coordinator("run-1") == "handle" and ray.asked == 1


def test_one_that_is_listed_is_looked_up_again(monkeypatch):
    Ray(monkeypatch, [UNKNOWN] * 8 + ["handle"], [[MINE]])
    assert find_coordinator("run-1") == "handle"


def test_a_head_that_does_not_answer_says_nothing(monkeypatch):
    Ray(monkeypatch, [UNKNOWN] * 8 + ["handle"], [RuntimeError("the head is away")])
    assert find_coordinator("run-1") == "handle"


def test_a_head_that_stays_away_is_not_waited_for_for_ever(monkeypatch):
    """But nobody concludes that the run is over, and begins another."""
    Ray(monkeypatch, [UNKNOWN], [RuntimeError("the head is away")])
    with pytest.raises(Away, match="does not answer"):
        find_coordinator("run-1", patience_s=0.0)


def test_a_head_that_has_just_come_back_may_not_know_yet(monkeypatch):
    Ray(monkeypatch, [UNKNOWN] * 3 + ["handle"], [[ANOTHER], [MINE], [ANOTHER]])
    assert find_coordinator("run-1") == "handle"


def test_one_that_is_neither_found_nor_listed_is_gone(monkeypatch):
    Ray(monkeypatch, [UNKNOWN], [[ANOTHER]])
    assert find_coordinator("run-1") is None
    with pytest.raises(Gone):
        RunFacts("run-1", {}, "token").coordinator()
