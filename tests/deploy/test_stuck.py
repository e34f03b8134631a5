"""Processes that hang: workers are named and replaced, bounds hold, ^C saves without them; the evaluator dies and hangs, too."""

from __future__ import annotations

import json
import os
import signal

import pytest

import hogshead
from deploy import launcher, watchdog
from deploy.run_directory import read_metrics
from ps import checkpoint
from ps.locks import RobustLock
from tests.deploy.conftest import LEAST_SQUARES
from tests.deploy.test_faults import LONG, EndWhen

# On a busy machine a healthy worker may seem to be stuck: then it is replaced as well, and the job goes on.
REPLACED = {"stuck_seconds": 2.0, "max_restarts": 1000}


def events(run, kind):
    return [record for record in read_metrics(run) if record.get("event") == kind]


@pytest.fixture
def hasty(monkeypatch):
    """The end does not wait long for a worker that hangs."""
    monkeypatch.setattr(launcher, "STOP_S", 0.5)
    monkeypatch.setattr(launcher, "STEPS_S", 0.0)


@pytest.mark.parametrize("strategy", ["downpour", "synchronous"])
def test_a_worker_that_hangs_is_replaced(strategy, train, tmp_path):
    once = str(tmp_path / "happened")
    result = train(task={"fault": "stop", "once": once}, strategy=strategy, workers=REPLACED)
    assert result.summary["status"] == "done" and result.summary["examples"] >= 2 * 512
    died = events(result.run, "worker_died")
    assert any("did not move for" in event["message"] and "stuck_seconds = 2" in event["message"] for event in died)


def test_a_worker_that_hangs_with_a_lock_is_replaced(train, tmp_path, monkeypatch):
    """The others wait for its lock and do not move either."""
    launching, once, enter = os.getpid(), tmp_path / "happened", RobustLock.__enter__

    def hang_once(lock):
        entered = enter(lock)
        if os.getpid() != launching:
            try:
                once.touch(exist_ok=False)
            except FileExistsError:
                return entered
            os.kill(os.getpid(), signal.SIGSTOP)
        return entered

    monkeypatch.setattr(RobustLock, "__enter__", hang_once)
    result = train(workers={"count": 3, **REPLACED})
    assert once.exists() and result.summary["status"] == "done" and result.summary["worker_deaths"] >= 1


def test_a_worker_that_always_hangs_ends_the_job(train):
    with pytest.raises(hogshead.WorkerError, match=r"2 times in a row: did not move for \d+ s"):
        train(task={"fault": "stop"}, workers={"stuck_seconds": 1.0, "max_restarts": 1})


@pytest.mark.parametrize("strategy", ["downpour", "synchronous"])
def test_a_bound_on_time_holds_though_a_worker_hangs(strategy, train, tmp_path, hasty):
    once = tmp_path / "happened"
    task = {"fault": "stop", "after": 1, "once": str(once)}
    result = train(task=task, strategy=strategy, stop={**LONG, "seconds": 1.0})
    assert result.summary["status"] == "done" and result.summary["stop_reason"] == "1 second"
    assert result.summary["worker_deaths"] >= once.exists()  # on a busy machine none may have begun by then
    assert checkpoint.checkpoints(result.run / "checkpoint")


def test_ctrl_c_saves_without_a_worker_that_hangs(train, tmp_path, hasty):
    once = tmp_path / "happened"
    job = {"task": {"name": LEAST_SQUARES, "fault": "stop", "once": str(once)}, "strategy": "easgd"}
    stop_once = EndWhen(lambda seen: once.exists())
    first = hogshead.train(**job, stop=LONG, run=tmp_path / "run", observer=stop_once)
    assert first.summary["status"] == "interrupted" and first.summary["error"] is None
    epochs = int(first.summary["epochs"]) + 2
    resumed = hogshead.train(**job, stop={"epochs": epochs}, run=tmp_path / "run", resume=True, quiet=True)
    assert resumed.summary["status"] == "done" and resumed.summary["epochs"] == epochs


def test_checkpoints_do_not_wait_for_a_worker_that_hangs(tmp_path, hasty):
    def saved_without(seen):
        return any("without worker" in record.get("message", "") for record in seen)

    result = hogshead.train(
        task={"name": LEAST_SQUARES, "fault": "stop", "once": str(tmp_path / "happened")}, strategy="easgd", stop=LONG,
        checkpoint={"every_seconds": 0.3}, run=tmp_path / "run", observer=EndWhen(saved_without),
    )  # fmt: skip
    assert result.summary["status"] == "interrupted"


def test_a_worker_that_hangs_is_named(tmp_path, monkeypatch, hasty):
    monkeypatch.setattr(watchdog, "WARN_S", 0.5)
    result = hogshead.train(
        task={"name": LEAST_SQUARES, "fault": "stop"}, workers={"count": 1}, strategy="downpour", stop=LONG,
        rule={"name": "sgd", "lr": 0.1}, run=tmp_path / "run",
        observer=EndWhen(lambda seen: any(record.get("event") == "stuck" for record in seen)),
    )  # fmt: skip
    said = events(result.run, "stuck")[0]
    assert said["message"].startswith("worker 0 has not moved for") and "stuck_seconds" in said["message"]


@pytest.mark.parametrize("fault", ["kill evaluator", "stop evaluator"])
def test_an_evaluator_that_dies_or_hangs_is_replaced(fault, train, tmp_path):
    once = str(tmp_path / "happened")
    result = train(task={"fault": fault, "once": once, "after": 2}, stop={"epochs": 4}, workers=REPLACED)
    assert result.summary["status"] == "done" and "rmse" in result.evaluation
    assert events(result.run, "evaluator_died")
    epochs = [record["epoch"] for record in result.metrics if record["kind"] == "evaluation"]
    assert epochs == sorted(epochs) and epochs[-1] == 4


def test_an_evaluator_that_keeps_dying_ends_the_job_and_the_result_is_saved(train, tmp_path):
    with pytest.raises(hogshead.WorkerError, match=r"the evaluator died 2 times in a row: killed by SIGKILL"):
        train(task={"fault": "kill evaluator", "after": 1}, workers={"max_restarts": 1}, evaluation={"every_epochs": 0})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed" and summary["examples"] == 2 * 512
    assert checkpoint.checkpoints(tmp_path / "run" / "checkpoint")
