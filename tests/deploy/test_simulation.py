"""The simulation as a launcher: its run directory, its clock, its ends; and that it trains as processes do."""

from __future__ import annotations

import json

import numpy as np
import pytest

import hogshead
from deploy.job import Job
from deploy.progress import Observer
from deploy.simulation import TRACE_FILE, simulate
from deploy.simulation import run as run_in_directory
from deploy.timeline import write_timeline
from deploy.words import number
from ps.errors import CheckpointError, JobError, UsageError
from tests.deploy.conftest import LEAST_SQUARES
from worker.trace import Trace

SIMULATED = {"backend": "simulation", "simulation": {"step_seconds": {"distribution": "lognormal", "sigma": 0.3}}}
ONE = {"workers": {"count": 1}}


def job(**sections):
    described = {"name": LEAST_SQUARES, "worker_only": False, **sections.pop("task", {})}
    sections = {"strategy": "downpour", "rule": {"name": "sgd", "lr": 0.1}, "stop": {"epochs": 2}} | sections
    return hogshead.load(task=described, **{**SIMULATED, **sections})


def test_it_leaves_a_run_directory_like_any_other(train):
    result = train(**SIMULATED, workers={"count": 3}, evaluation={"every_epochs": 1})
    assert {"job.toml", "metrics.jsonl", "summary.json", "report.html", "checkpoint", TRACE_FILE} <= {
        entry.name for entry in result.run.iterdir()
    }
    summary = json.loads((result.run / "summary.json").read_text())
    assert summary["status"] == "done" and summary["backend"] == "simulation" and summary["workers"] == 3
    # 2 epochs of 16 steps by three workers, each step about a virtual second.
    assert summary["virtual_seconds"] == pytest.approx(32 / 3, rel=0.3)
    assert summary["examples_per_second"] == pytest.approx(1024 / summary["virtual_seconds"], rel=0.1)
    assert 0.9 * summary["virtual_seconds"] < summary["rate_seconds"] <= summary["virtual_seconds"]
    evaluations = [record for record in result.metrics if record["kind"] == "evaluation"]
    assert [record["epoch"] for record in evaluations][:2] == [1, 2]
    assert all(record["virtual_seconds"] > 0 for record in evaluations)
    assert result.evaluation["rmse"] < 0.2
    loaded = hogshead.load_parameters(result.run)
    assert np.array_equal(loaded["w"], result.parameters["w"])
    assert len(Trace.load(result.run / TRACE_FILE)) > 32


def test_rates_are_of_the_time_in_which_there_was_work_for_all():
    """One straggler goes on long after the others have nothing more to do."""
    outcome = simulate(
        job(
            workers={"count": 8},
            simulation={"step_seconds": 1.0, "speeds": [1.0] * 7 + [0.02]},
            evaluation={"every_seconds": 1.0},
        )
    )
    summary = outcome.summary
    assert summary["virtual_seconds"] > 40 and summary["rate_seconds"] < 10
    assert summary["examples_per_second"] == pytest.approx(7 * 32, rel=0.25)  # batches of 32
    epochs = [record["epoch"] for record in outcome.evaluations]
    assert epochs == sorted(epochs) and epochs[-1] == 2


class InterruptsAtStart(Observer):
    """^C before anything has happened."""

    def started(self, info):
        raise KeyboardInterrupt


def test_an_interrupt_at_the_start_leaves_a_report(tmp_path):
    run = tmp_path / "run"
    result = run_in_directory(job(workers={"count": 3}).with_run(run), InterruptsAtStart())
    assert result.summary["status"] == "interrupted" and (run / "report.html").exists()
    with pytest.raises(UsageError, match="stopped before anything had happened"):
        write_timeline(run, tmp_path / "timeline.svg")


def test_a_simulated_run_keeps_no_state_to_resume_from(train):
    result = train(**SIMULATED, workers={"count": 3})
    (manifest,) = (result.run / "checkpoint").glob("*/manifest.json")
    assert "coordinator" not in json.loads(manifest.read_text())
    with pytest.raises(CheckpointError, match="holds the parameters of a simulated run"):
        hogshead.train(result.run / "job.toml", resume=True, run=result.run, set={"backend": "processes"})


def test_of_many_workers_the_trace_keeps_the_first_from_end_to_end(tmp_path):
    run = tmp_path / "run"
    run_in_directory(job(workers={"count": 100}, stop={"epochs": 40}).with_run(run))
    whole = Trace.load(run / TRACE_FILE)
    columns = whole.columns()
    assert set(columns["replica"]) == set(range(64)) and not whole.is_whole
    drawn = write_timeline(run, tmp_path / "timeline.html", start=0.0, stop=1e9).read_text()
    assert f"virtual seconds of {number(whole.facts['seconds'])}" in drawn and "64 workers of 100" in drawn
    with pytest.raises(UsageError, match="the trace has only replicas 0 to 63, got 70"):
        write_timeline(run, tmp_path / "timeline.html", replicas="70")


@pytest.mark.parametrize(
    "strategy", ["sequential", "hogwild", "downpour", "mdownpour", "easgd", "eamsgd", "synchronous"]
)
@pytest.mark.parametrize("shards", [1, 2])
def test_one_worker_trains_bit_for_bit_as_in_a_process(train, strategy, shards):
    sections = {"strategy": strategy, "rule": None, "shards": {"count": shards}, "task": {"worker_only": False}, **ONE}
    process = train("process", **sections)
    virtual = train("virtual", **SIMULATED, **sections)
    assert np.array_equal(process.parameters["w"], virtual.parameters["w"])
    assert process.summary["updates"] == virtual.summary["updates"]
    assert process.evaluation == virtual.evaluation


def test_seconds_are_virtual():
    outcome = simulate(
        job(
            simulation={"step_seconds": 1.0},
            stop={"seconds": 25.5},
            evaluation={"every_seconds": 10.0, "every_epochs": 0},
        )
    )
    assert [record["virtual_seconds"] for record in outcome.evaluations[:2]] == [10.0, 20.0]
    assert outcome.summary["stop_reason"] == "25.5 seconds"
    assert outcome.virtual_seconds == pytest.approx(26.0)  # the step under way is finished
    assert outcome.summary["steps"] == 2 * 26


def test_a_target_ends_it():
    outcome = simulate(
        job(stop={"metric": "rmse", "target": 0.5, "epochs": 100}, evaluation={"every_seconds": 1.0, "every_epochs": 0})
    )
    assert outcome.summary["stop_reason"] == "rmse reached 0.5"
    reached = [record["evaluation"]["rmse"] <= 0.5 for record in outcome.evaluations]
    assert reached.index(True) in (len(reached) - 2, len(reached) - 1)  # and once more at the end


def test_a_simulated_run_is_not_resumed(train):
    result = train(**SIMULATED)
    with pytest.raises(JobError, match="the same seed gives the same run"):
        hogshead.train(result.run / "job.toml", run=result.run, resume=True, quiet=True)


def test_a_task_that_fails_ends_it_with_its_words():
    outcome = simulate(job(task={"fault": "raise", "after": 20, "worker_only": False}))
    assert outcome.summary["status"] == "failed"
    assert "raised RuntimeError: a bug of my own" in str(outcome.error)
    assert "own_bug" in str(outcome.error)


def test_numbers_that_are_not_finite_end_it():
    outcome = simulate(job(task={"fault": "nan", "after": 20}))
    assert outcome.summary["status"] == "failed" and isinstance(outcome.error, hogshead.NonFiniteError)


def test_time_that_never_comes_is_refused():
    with pytest.raises(JobError, match="nothing in .simulation. takes time; set step_seconds > 0"):
        simulate(job(simulation={"step_seconds": 0}, stop={"seconds": 5}))


def test_interrupted(tmp_path):
    class Impatient(Observer):
        def evaluation(self, record):
            raise KeyboardInterrupt

    outcome = simulate(job(), observer=Impatient())
    assert outcome.summary["status"] == "interrupted"
    assert outcome.error is None


def test_bounded_replicas_stay_within_their_bound():
    outcome = simulate(
        job(
            strategy="mdownpour",
            rule={"name": "sgd", "lr": 0.01},
            workers={"count": 5},
            stop={"epochs": 8},
            admission={"policy": "bounded", "max_clock_lag": 2},
            simulation={"step_seconds": {"distribution": "exponential"}, "speeds": [1, 1, 1, 1, 0.2]},
        )
    )
    assert outcome.summary["status"] == "done"
    # Everybody makes at most two steps more than the slowest one between a read and its update.
    assert outcome.summary["staleness"]["max"] <= 4 * (2 * 2 + 1)


def test_backup_workers_drop_the_late_ones():
    sections = {"strategy": "synchronous", "workers": {"count": 5}, "stop": {"epochs": 1}, "data": {"batch_size": 1}}
    simulation = {"step_seconds": 1.0, "speeds": [1, 1, 1, 1, 0.25]}
    waiting = simulate(job(**sections, simulation=simulation))
    backed = simulate(job(**sections, simulation=simulation, admission={"policy": "backup", "backups": 1}))
    assert backed.virtual_seconds < 0.5 * waiting.virtual_seconds
    assert backed.summary["dropped"] > 0 and waiting.summary["dropped"] == 0
    assert backed.summary["updates"] + backed.summary["dropped"] == backed.summary["steps"]


def test_its_backend_can_be_chosen_for_any_job():
    given = job(backend="processes")
    assert isinstance(given, Job) and given.backend == "processes"
    assert simulate(given).summary["backend"] == "simulation"
