"""Workers that come and go with their nodes, runs that are stopped, and jobs that are refused."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest

import hogshead
from tests.deploy.cluster.stage import LONG, Script, applied, events, happened, training, wait_until

STRATEGY = {"strategy": {"name": "easgd", "tau": 4}, "rule": None, "local_rule": {"name": "sgd", "lr": 0.01}}


def test_workers_come_and_go_with_their_nodes(stage):
    nodes = []

    def peers(expected):
        """alpha = beta / p of every replica follows."""
        wait_until(lambda: stage.ask("replica-0-1", lambda actor: actor._worker.replica.peers) == expected)

    def more_room():
        peers(2)
        origin = stage.ask("replica-0-1", lambda actor: sys.modules["bookkeeping"].__file__)
        assert "hogshead-files" in origin, "the task's sibling has travelled"
        nodes.append(stage.add_node(4))

    def less_room():
        peers(3)
        assert stage.node_of("replica-2-1") == nodes[0].node_id
        stage.remove_node(nodes[0])

    def as_before():
        peers(2)
        stage.go()

    script = Script(
        (training, more_room),
        (lambda record: record.get("workers_alive") == 3, less_room),
        (happened("worker_left"), as_before),
    )
    result = stage.ledger(script, {"free": 60}, workers={"min": 2, "max": 3}, shards={"count": 1}, **STRATEGY)
    assert result.summary["status"] == "done" and stage.computed().min() >= 2
    assert {facts["worker"] for facts in result.summary["nodes"]} == {0, 1, 2}


@LONG
def test_a_stopped_run_is_saved_and_goes_on_later(stage):
    script = Script((training, lambda: os.kill(os.getpid(), signal.SIGINT)))
    first = stage.ledger(script, stop={"epochs": 200})
    assert first.summary["status"] == "interrupted" and 0 < first.summary["examples"] < 200 * 512
    again = stage.ledger(run=first.run, resume=True, stop={"epochs": first.summary["epochs"] + 1})
    assert again.summary["status"] == "done" and again.summary["examples"] >= first.summary["examples"]
    assert (applied(again) >= first.summary["epochs"] + 1).all()


@LONG
def test_a_bug_in_a_task_ends_the_run_in_its_own_words(stage):
    with pytest.raises(hogshead.HogsheadError, match="ZeroDivisionError: a bug in the ledger") as error:
        stage.ledger(task={"fault_at": 20}, workers={"count": 2, "max_restarts": 1})
    assert "2 times in a row" in str(error.value) and "ledger.py" in str(error.value)
    summary = stage.await_summary()
    assert summary["status"] == "failed" and "a bug in the ledger" in summary["error"]


@LONG
def test_hogwild_on_two_shards_is_refused_with_the_remedy(stage):
    with pytest.raises(hogshead.JobError, match=r"\[shards\] count is 2; set it to 1, or between_nodes"):
        stage.train(task="sparse_linear", data={"train": "hogshead:a9a"}, strategy="hogwild", shards={"count": 2})
    assert not (stage.folder / "run").exists()


def test_recording_is_refused(stage):
    with pytest.raises(hogshead.JobError, match="record = true needs backend"):
        stage.ledger(record=True)
    assert not (stage.folder / "run").exists() and not stage.actors()


@LONG
def test_too_little_room_is_said_once(stage):
    script = Script((happened("waiting_for_room"), lambda: os.kill(os.getpid(), signal.SIGINT)))
    result = stage.ledger(script, workers={"count": 1}, cluster={"replica_cpus": 100})
    assert result.summary["status"] == "interrupted" and events(result)["waiting_for_room"] == 1
    assert np.array_equal(stage.computed(), np.zeros(512))
