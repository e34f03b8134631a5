"""Admission policies in processes: what is refused, that bounds hold between workers, and that nothing waits for ever."""

from __future__ import annotations

import os
import re
import signal

import numpy as np
import pytest

import hogshead
from deploy.run_directory import read_metrics
from deploy.setup import prepare
from tests.deploy.conftest import LEAST_SQUARES, evaluated
from tests.deploy.test_faults import LONG, AtEvaluation, EndWhen
from worker.gate import Gate

POLICIES = {
    "bounded": {"policy": "bounded", "max_clock_lag": 1},
    "synchronous": {"policy": "synchronous"},
    "backup": {"policy": "backup", "backups": 1},
}
EVERY = pytest.mark.parametrize("policy", POLICIES)


@pytest.mark.parametrize(
    ("strategy", "admission", "message"),
    [
        ("synchronous", {"policy": "bounded"}, "synchronous makes synchronous steps here; leave policy out"),
        ("synchronous", {"policy": "asynchronous"}, 'choose another [strategy], e.g. "downpour"'),
        ({"name": "easgd", "mode": "synchronous"}, {"policy": "backup"}, 'choose strategy "synchronous"'),
        ("easgd", {"policy": "synchronous"}, 'set [strategy] mode = "synchronous" and leave policy out'),
        ({"name": "downpour", "push": "update"}, {"policy": "backup"}, 'set [strategy] push = "gradient", got "update"'),
        ({"name": "downpour", "n_push": 4}, {"policy": "synchronous"}, "n_fetch and n_push to 1, got n_fetch = 1, n_push = 4"),
        ({"name": "downpour", "warmstart": 4}, {"policy": "synchronous"}, "set [strategy] warmstart to 0, got 4"),
        ({"name": "downpour", "n_push": 4}, {"policy": "bounded", "max_clock_lag": 2}, "max_clock_lag must be >= 3"),
        ({"name": "downpour", "push": "update"}, {"policy": "bounded", "max_clock_lag": 0}, "max_clock_lag must be >= 1"),
        ("downpour", {"policy": "backup", "backups": 2}, "backups must be < [workers] count = 2, got 2"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_the_remedy(strategy, admission, message, tmp_path):
    with pytest.raises(hogshead.UsageError, match=re.escape(message)):
        hogshead.train(task=LEAST_SQUARES, strategy=strategy, admission=admission, run=tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("strategy", "policy", "shards"),
    [
        ("hogwild", "bounded", 1),
        ("easgd", "bounded", 2),
        ({"name": "downpour", "n_push": 2, "n_fetch": 2}, "bounded", 3),
        ("hogwild", "synchronous", 1),
        ("mdownpour", "synchronous", 2),
        ("downpour", "backup", 2),
        ("synchronous", "backup", 1),
    ],
)
def test_every_example_is_used_under_every_policy(strategy, policy, shards, train):
    rule = {"rule": None} if strategy == "easgd" else {}
    result = train(strategy=strategy, admission=POLICIES[policy], workers={"count": 3}, shards={"count": shards},
                   stop={"epochs": 3}, **rule)  # fmt: skip
    summary = result.summary
    assert summary["admission"] == policy and summary["status"] == "done" and summary["examples"] == 3 * 512
    if policy != "backup":
        assert summary["dropped"] == 0
    elif shards == 1:
        assert summary["updates"] + summary["dropped"] == summary["steps"]


def test_a_policy_of_rounds_makes_the_steps_of_the_synchronous_strategy(train):
    """Bit for bit."""
    options = {"workers": {"count": 3}, "shards": {"count": 2}, "rule": {"name": "adam", "lr": 0.05}}
    ours = train("a", strategy="mdownpour", admission={"policy": "synchronous"}, **options)
    theirs = train("b", strategy="synchronous", **options)
    np.testing.assert_array_equal(ours.parameters["w"], theirs.parameters["w"])
    assert ours.parameters["w"].any() and theirs.summary["admission"] == "synchronous"


@pytest.mark.parametrize(("policy", "sweeps"), [("asynchronous", True), ("bounded", True), ("synchronous", False)])
def test_a_synchronous_step_takes_a_gradient_where_others_sweep(policy, sweeps):
    """And nothing is carried in the background where somebody waits for it to be applied."""
    job = hogshead.load(
        task="sparse_linear", data={"train": "hogshead:a9a"}, strategy="hogwild", admission={"policy": policy},
        workers={"transfers": "background"},
    )  # fmt: skip
    setup = prepare(job, shared=False)
    assert setup.sweeps == sweeps and setup.batch_size == (1 if sweeps else 32)
    assert setup.driver_options().background == (policy == "asynchronous")


def test_a_sweep_makes_no_more_examples_than_the_bound_allows(tmp_path, monkeypatch):
    """In which each example is a step."""
    stepped, most = Gate.stepped, 5

    def checked(gate, steps, *rest):
        assert steps <= most + 1
        stepped(gate, steps, *rest)

    monkeypatch.setattr(Gate, "stepped", checked)
    result = hogshead.train(
        task="sparse_linear", data={"train": "hogshead:a9a"}, strategy="hogwild", run=tmp_path / "run", quiet=True,
        admission={"policy": "bounded", "max_clock_lag": most}, stop={"examples": 6000}, workers={"max_restarts": 0},
    )  # fmt: skip
    assert result.summary["examples"] == 6000


@pytest.mark.parametrize("lag", [0, 2])
def test_nobody_gets_further_ahead_of_a_slow_worker_than_the_bound(lag, monkeypatch, tmp_path):
    """Worker 0 looks around for long before it ends a step. Checkpoints are taken while the others wait.

    It goes on until all of this has been seen, however long that takes on a busy machine.
    """
    stepped, reached = Gate.stepped, tmp_path / "reached"

    def slow(gate, *arguments):
        clocks, clock = gate._clocks, gate._clocks.clock(gate._replica)
        if gate._replica == 0:
            # Not until all have come so far: they hold still for a checkpoint that waits for this one.
            for _ in range(3000):
                others = furthest(clocks)
                if not others or min(others) >= clock + lag + 1:
                    break
                os.sched_yield()
            assert max(others, default=0) <= clock + lag + 1, "beyond the bound"
            if others and min(others) == clock + lag + 1:
                reached.touch()
        stepped(gate, *arguments)

    def furthest(clocks):
        return [clocks.clock(k) for k in range(1, clocks.clocks.size) if clocks.members[k]]

    def all_seen(seen):
        return reached.exists() and sum(record.get("event") == "checkpoint" for record in seen) >= 3

    monkeypatch.setattr(Gate, "stepped", slow)
    result = hogshead.train(
        task=LEAST_SQUARES, strategy="mdownpour", rule={"name": "sgd", "lr": 0.1}, stop=LONG, run=tmp_path / "run",
        admission={"policy": "bounded", "max_clock_lag": lag}, workers={"count": 3, "max_restarts": 0},
        checkpoint={"every_seconds": 0.02}, observer=EndWhen(all_seen),
    )  # fmt: skip
    assert result.summary["status"] == "interrupted" and result.summary["error"] is None


@EVERY
@pytest.mark.parametrize("fault", ["kill", "raise"])
def test_nobody_waits_for_a_dead_worker(policy, fault, train, tmp_path):
    once = str(tmp_path / "happened")
    result = train(
        task={"fault": fault, "once": once}, strategy="mdownpour", admission=POLICIES[policy], workers={"count": 3},
        stop={"epochs": 4},
    )  # fmt: skip
    assert result.summary["status"] == "done" and result.summary["worker_deaths"] == 1
    assert result.summary["examples"] >= 4 * 512 and min(evaluated(result, "rmse")) < 1.0
    events = [record["event"] for record in read_metrics(result.run) if record["kind"] == "event"]
    assert events[:2] == ["worker_died", "worker_replaced"]


@EVERY
def test_an_interrupted_run_goes_on(policy, tmp_path):
    sections = {
        "task": {"name": LEAST_SQUARES, "n": 256},
        "strategy": "mdownpour",
        "admission": POLICIES[policy],
        "data": {"batch_size": 1},
        "workers": {"count": 3},
        "stop": {"epochs": 6},
        "run": tmp_path / "run",
    }
    interrupt = AtEvaluation(lambda: os.kill(os.getpid(), signal.SIGINT))
    first = hogshead.train(**sections, observer=interrupt)
    assert first.summary["status"] == "interrupted" and first.summary["epochs"] < 6
    resumed = hogshead.train(**sections, resume=True, quiet=True)
    assert resumed.summary["status"] == "done" and resumed.summary["epochs"] == 6
    assert resumed.summary["dropped"] >= first.summary["dropped"]
