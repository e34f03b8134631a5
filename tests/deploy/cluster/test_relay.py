"""What whoever follows a run is told, from wherever it has come to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deploy.cluster import relay
from deploy.cluster.relay import Relay
from ps.errors import JobError


def since(told, position, timeout_s=0.0):
    """As a follower of this very relay asks."""
    return told.since(told.since("", 0, 0.0)["life"], position, timeout_s)


def numbers(news):
    return [record["number"] for record in news["records"]]


def test_records_come_in_order_and_once():
    told = Relay()
    told.progress({"number": 1, "loss": np.float32(0.5)})
    told.event({"number": 2})
    first = since(told, 0)
    assert numbers(first) == [1, 2] and first["position"] == 2 and first["records"][0]["loss"] == 0.5
    told.evaluation({"number": 3})
    second = since(told, first["position"])
    assert numbers(second) == [3] and since(told, second["position"])["records"] == []
    assert not second["over"] and second["summary"] is None


def test_a_follower_from_before_the_coordinator_was_replaced_misses_nothing():
    """Its position is that of the one that was killed."""
    told = Relay()
    before = Relay()
    before.progress({"number": 0})
    life = before.since("", 0, 0.0)["life"]
    told.progress({"number": 1})
    assert numbers(told.since(life, 40, 0.0)) == [1] and numbers(since(told, 40)) == []


def test_only_so_many_are_kept(monkeypatch):
    monkeypatch.setattr(relay, "_KEPT", 10)
    told = Relay()
    for number in range(1, 31):
        told.progress({"number": number})
        assert len(told._records) <= 10
    news = since(told, 0)
    assert numbers(news)[-1] == 30 and news["position"] == 30
    assert numbers(since(told, 28)) == [29, 30]


def test_a_follower_waits_for_news():
    told = Relay()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(since, told, 0, 60.0)
        told.progress({"number": 1})
        assert numbers(waiting.result()) == [1]
        waiting = pool.submit(since, told, 1, 60.0)
        told.started({"workers": 2})
        told.finished({"status": "done", "mean": np.float64("nan")})
        told.ended()
        news = waiting.result()
    assert news["over"] and news["info"] == {"workers": 2} and news["summary"] == {"status": "done", "mean": None}


def test_an_error_is_told_with_its_class():
    told = Relay()
    told.failed(JobError("[stop] epochs must be >= 1"))
    assert since(told, 0)["error"] == {"type": "JobError", "message": "[stop] epochs must be >= 1"}
