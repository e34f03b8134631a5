"""Jobs in which something goes wrong: workers die, tasks fail, gradients are not finite, disks are full, runs are resumed."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hogshead
from deploy.cli import main
from deploy.progress import Observer
from deploy.run_directory import read_metrics
from ps import checkpoint, segment
from tests.deploy.conftest import DRAWING, LEAST_SQUARES, evaluated

LONG = {"epochs": 100_000}


class EndWhen(Observer):
    """Ends the run, as ^C does, once ``enough`` of the records so far holds: however long that takes."""

    def __init__(self, enough):
        self.enough = enough
        self.seen = []

    def _note(self, record):
        self.seen.append(record)
        if self.enough and self.enough(self.seen):
            self.enough = None
            os.kill(os.getpid(), signal.SIGINT)

    progress = evaluation = event = _note


class AtEvaluation(Observer):
    """Calls ``action`` at the first evaluation."""

    def __init__(self, action):
        self.action = action

    def evaluation(self, record):
        action, self.action = self.action, lambda: None
        action()


@pytest.mark.parametrize("fault", ["kill", "raise"])
@pytest.mark.parametrize("strategy", ["downpour", "easgd", "synchronous", "hogwild"])
def test_a_dead_worker_is_replaced_and_the_job_goes_on(fault, strategy, train, tmp_path):
    once = str(tmp_path / "happened")
    sections = {"rule": None} if strategy == "easgd" else {}
    result = train(task={"fault": fault, "once": once}, strategy=strategy, stop={"epochs": 10}, **sections)
    assert result.summary["status"] == "done" and result.summary["worker_deaths"] == 1
    assert result.summary["examples"] >= 10 * 512 and min(evaluated(result, "rmse")) < 1.0
    events = [record["event"] for record in read_metrics(result.run) if record["kind"] == "event"]
    assert events[:2] == ["worker_died", "worker_replaced"]


def test_sigkill_from_outside_in_the_middle_of_a_sweep(tmp_path):
    """Hogwild! with locks per variable: a killed worker's locks are freed."""
    killed = []

    def trained_on_after_a_kill(seen):
        if not killed and seen[-1]["kind"] == "progress":
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            killed.append(int(children[-1]))  # the evaluator was forked first
            os.kill(killed[0], signal.SIGKILL)
        replaced = any(record.get("event") == "worker_replaced" for record in seen)
        return replaced and seen[-1].get("evaluation", {}).get("test_accuracy", 0) > 0.83

    result = hogshead.train(
        task="sparse_linear", data={"train": "hogshead:a9a", "test": "hogshead:a9a.t"}, rule={"name": "sgd", "lr": 0.05},
        strategy={"name": "hogwild", "locking": "per_variable"}, stop=LONG, run=tmp_path / "run",
        observer=EndWhen(trained_on_after_a_kill),
    )  # fmt: skip
    assert killed and result.summary["worker_deaths"] == 1 and result.summary["status"] == "interrupted"


@pytest.mark.parametrize(
    ("fault", "message"),
    [("raise", "RuntimeError: a bug of my own"), ("kill", "SIGKILL"), ("shape", r"must have shape \(5,\)")],
)
def test_a_worker_that_keeps_dying_stops_the_job(fault, message, train):
    with pytest.raises(hogshead.WorkerError, match=message) as error:
        train(task={"fault": fault}, workers={"max_restarts": 1})
    assert "2 times in a row" in str(error.value)
    if fault == "raise":  # the user's own frames, and none of ours
        assert "least_squares.py" in str(error.value) and "driver.py" not in str(error.value)


def test_finishing_a_range_now_and_then_is_no_progress(train):
    """A bug that shows after some steps of every process must not be restarted for ever."""
    with pytest.raises(hogshead.WorkerError, match="4 times in a row"):
        train(task={"fault": "raise", "after": 14, "n": 2048}, stop={"epochs": 1000})


def test_a_failed_run_says_so_in_its_summary(train, tmp_path):
    with pytest.raises(hogshead.TaskError, match="evaluate raised KeyError"):
        train(task={"fault": "evaluate"})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed" and "nothing here" in summary["error"]
    assert (tmp_path / "run" / "report.html").exists()


def test_a_failed_run_is_saved_and_can_go_on_once_the_bug_is_mended(train, tmp_path):
    with pytest.raises(hogshead.WorkerError):
        train(task={"fault": "raise", "after": 10}, workers={"count": 1, "max_restarts": 0}, stop={"epochs": 3})
    reached = json.loads((tmp_path / "run" / "summary.json").read_text())["examples"]
    result = train(stop={"epochs": 3}, workers={"count": 1}, options={"resume": True})
    assert reached < 3 * 512 <= result.summary["examples"] and result.summary["status"] == "done"


def test_nonfinite_gradients_stop_or_are_skipped(train, tmp_path):
    with pytest.raises(hogshead.NonFiniteError, match="clip_norm"):
        train("a", task={"fault": "nan"})
    once = str(tmp_path / "happened")
    result = train("b", task={"fault": "nan", "once": once}, stop={"epochs": 4, "on_nonfinite": "skip"})
    assert result.summary["skipped_nonfinite"] == 1 and np.isfinite(result.parameters["w"]).all()


def test_a_diverging_sweep_stops(tmp_path):
    with pytest.raises(hogshead.NonFiniteError, match="lr"):
        hogshead.train(
            task={"name": "sparse_linear", "loss": "squared"}, data={"train": "hogshead:a9a"}, strategy="hogwild",
            rule={"name": "sgd", "lr": 1e4}, stop={"epochs": 5}, run=tmp_path / "run", quiet=True,
        )  # fmt: skip


@pytest.mark.parametrize("strategy", ["sequential", "downpour", "easgd", "eamsgd"])
def test_a_resumed_run_equals_one_that_was_never_interrupted(strategy, train):
    elastic = strategy in ("easgd", "eamsgd")
    rules = {"rule": None} if elastic else {"rule": {"name": "adam", "lr": 0.01}}
    options = {"name": strategy, "tau": 3} if elastic else {"name": strategy}
    job = {"strategy": options, "workers": {"count": 1}, **rules}
    whole = train("whole", stop={"epochs": 4}, **job)
    train("parts", stop={"epochs": 2}, **job)
    resumed = train("parts", stop={"epochs": 4}, options={"resume": True}, **job)
    assert np.array_equal(whole.parameters["w"], resumed.parameters["w"])
    assert resumed.summary["steps"] == whole.summary["steps"] == 64
    assert [r["epoch"] for r in resumed.metrics if r["kind"] == "evaluation"] == [1, 2, 3, 4]


ADAM, ADAGRAD = {"name": "adam", "lr": 0.01}, {"name": "adagrad", "lr": 0.1}


@pytest.mark.parametrize("rule", [{"name": "sgd", "lr": 0.01}, ADAM, ADAGRAD], ids=lambda rule: rule["name"])
@pytest.mark.parametrize(
    "options",
    [{"n_push": 3}, {"n_push": 5, "n_fetch": 2}, {"n_push": 5, "average": "running"}, {"push": "update", "n_push": 4}],
    ids=str,
)
def test_what_is_accrued_at_the_end_is_part_of_a_run_that_goes_on(options, rule, train):
    """The result has the last push, a longer run makes it where it would have been anyway."""
    update = options.get("push") == "update"
    rules = {"rule": None, "local_rule": rule} if update else {"rule": rule}
    job = {"strategy": {"name": "downpour", **options}, "workers": {"count": 1}, "evaluation": {"every_epochs": 0}}
    whole = train("whole", stop={"steps": 29}, **job, **rules)
    half = train("parts", stop={"steps": 17}, **job, **rules)
    assert np.array_equal(hogshead.load_parameters(half.run)["w"], half.parameters["w"])
    longer = train("parts", stop={"steps": 29}, options={"resume": True}, **job, **rules)
    assert np.array_equal(whole.parameters["w"], longer.parameters["w"])
    assert longer.summary["updates"] == whole.summary["updates"]


def test_draws_from_the_shared_generators_go_on_where_they_were(train):
    """A number of normal draws that leaves one kept for later, so that it is part of what goes on."""
    job = {"task": {"name": DRAWING}, "workers": {"count": 1}, "data": {"batch_size": 8}}
    whole = train("whole", stop={"steps": 15}, **job)
    train("parts", stop={"steps": 7}, **job)
    resumed = train("parts", stop={"steps": 15}, options={"resume": True}, **job)
    assert np.array_equal(whole.parameters["w"], resumed.parameters["w"])


def test_what_was_accrued_is_not_lost_where_other_workers_go_on(train):
    job = {"strategy": {"name": "downpour", "n_push": 5}, "rule": {"name": "sgd", "lr": 1e-30}}
    first = train("run", workers={"count": 1}, stop={"steps": 17}, **{**job, "rule": {"name": "sgd", "lr": 0.1}})
    second = train("run", workers={"count": 2}, stop={"steps": 18}, options={"resume": True}, **job)
    assert np.array_equal(first.parameters["w"], second.parameters["w"])


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    """^C in the middle of an epoch: the accrued gradients and the place in the epoch are kept."""
    sections = {
        "task": LEAST_SQUARES,
        "strategy": {"name": "downpour", "n_push": 5},
        "rule": {"name": "sgd", "lr": 0.01},
        "data": {"batch_size": 1},
        "workers": {"count": 1},
        "run": tmp_path / "run",
    }
    stop_once = AtEvaluation(lambda: os.kill(os.getpid(), signal.SIGINT))
    first = hogshead.train(**sections, stop={"epochs": 12}, observer=stop_once)
    assert first.summary["status"] == "interrupted" and 1 <= first.summary["epochs"] < 12
    resumed = hogshead.train(**sections, stop={"epochs": 12}, resume=True, quiet=True)
    whole = hogshead.train(**{**sections, "run": tmp_path / "whole"}, stop={"epochs": 12}, quiet=True)
    assert resumed.summary["examples"] == 12 * 512
    assert np.array_equal(resumed.parameters["w"], whole.parameters["w"])


def test_resume_on_other_workers_and_shards(train):
    job = {"strategy": {"name": "downpour"}, "rule": {"name": "adaptive_revision", "lr": 0.5}}
    train("run", workers={"count": 2}, shards={"count": 2}, stop={"epochs": 2}, **job)
    result = train(
        "run", workers={"count": 3}, shards={"count": 1}, stop={"epochs": 6}, options={"resume": True}, **job
    )
    assert result.summary["epochs"] == 6 and result.summary["examples"] == 6 * 512
    assert min(evaluated(result, "rmse", after_epoch=2)) < 1.5  # it begins at 5.5


def test_resume_refuses_another_model_and_keeps_the_run(train, tmp_path):
    train("run")
    before = (tmp_path / "run" / "job.toml").read_text()
    with pytest.raises(hogshead.CheckpointError, match="another rule"):
        train("run", rule={"name": "adam", "lr": 0.1}, options={"resume": True}, stop={"epochs": 3})
    assert (tmp_path / "run" / "job.toml").read_text() == before


def test_a_corrupt_checkpoint_names_the_older_one(train, tmp_path):
    result = train("run", stop={"epochs": 3}, checkpoint={"every_epochs": 1})
    newest, older = checkpoint.checkpoints(result.run / "checkpoint")[-1:-3:-1]
    content = bytearray((newest / "shard-0.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "shard-0.safetensors").write_bytes(content)
    with pytest.raises(hogshead.CheckpointError, match=older.name):
        train("run", stop={"epochs": 4}, options={"resume": True})
    shutil.rmtree(newest)
    assert train("run", stop={"epochs": 4}, options={"resume": True}).summary["examples"] == 4 * 512


def test_a_full_disk_keeps_the_old_checkpoint_and_the_run_goes_on(train, monkeypatch):
    import deploy.saving as saving

    saved = []

    def fail_after_the_first(path, arrays):
        saved.append(path)
        if len(saved) == 1 or len(saved) > 3:
            return checkpoint.save_arrays(path, arrays)
        raise hogshead.CheckpointError("No space left on device; older ones are intact")

    monkeypatch.setattr(saving, "save_arrays", fail_after_the_first)
    result = train(stop={"epochs": 5}, checkpoint={"every_epochs": 1})
    events = [record["event"] for record in result.metrics if record["kind"] == "event"]
    assert events.count("checkpoint_failed") == 2 and events.count("checkpoint") == 3
    assert not list((result.run / "checkpoint").glob(".partial*"))


@pytest.mark.parametrize("strategy", ["synchronous", "downpour"])
def test_checkpoints_by_the_clock(strategy, tmp_path):
    """Synchronous replicas save between epochs, others at the end of a step."""

    def saved_twice(seen):
        return sum(record.get("event") == "checkpoint" for record in seen) == 2

    result = hogshead.train(
        task=LEAST_SQUARES, strategy=strategy, rule={"name": "sgd", "lr": 0.1}, stop=LONG,
        checkpoint={"every_seconds": 0.1}, run=tmp_path / "run", observer=EndWhen(saved_twice),
    )  # fmt: skip
    assert result.summary["status"] == "interrupted" and result.summary["error"] is None


def test_too_little_shared_memory(train, monkeypatch, tmp_path):
    def no_room(_descriptor, _offset, _length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segment.os, "posix_fallocate", no_room)
    with pytest.raises(hogshead.MemoryShortage, match="--shm-size"):
        train()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_run_directory_in_use(train, tmp_path):
    refused = []

    def second():
        with pytest.raises(hogshead.RunDirectoryError, match=f"in use by process {os.getpid()}") as error:
            train("run")
        refused.append(error)

    hogshead.train(
        task=LEAST_SQUARES, strategy="easgd", stop={"epochs": 2}, run=tmp_path / "run", observer=AtEvaluation(second)
    )
    assert refused


@pytest.fixture
def endless(tmp_path):
    """A command that trains in a process group of its own, once it has evaluated for the first time."""
    job = tmp_path / "job.toml"
    job.write_text(f'task = "{LEAST_SQUARES}"\nstrategy = "easgd"\n[stop]\nepochs = {LONG["epochs"]}\n')
    command = [sys.executable, "-m", "deploy.cli", "train", str(job), "--run", str(tmp_path / "run"), "--json"]
    started = []

    def start(*, ignores=()):
        def ignore():
            for number in ignores:
                signal.signal(number, signal.SIG_IGN)

        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=ignore,
        )
        started.append(process)
        await_evaluation(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def await_evaluation(process):
    for line in process.stdout:
        if json.loads(line)["kind"] == "evaluation":
            return


@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_command_with_130_and_a_checkpoint(sign, to_group, endless, tmp_path):
    """Also those that go to its workers, too, as systemd, schedulers and shells send them."""
    process = endless()
    os.killpg(process.pid, sign) if to_group else process.send_signal(sign)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == ""
    assert json.loads(rest.splitlines()[-1])["status"] == "interrupted"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["worker_deaths"] == 0
    assert checkpoint.checkpoints(tmp_path / "run" / "checkpoint")
    assert not list(segment.FOLDER.glob(f"{segment.PREFIX}-{process.pid}-*"))


def test_a_command_under_nohup_outlives_its_terminal(endless, tmp_path):
    process = endless(ignores=[signal.SIGHUP])
    os.killpg(process.pid, signal.SIGHUP)
    await_evaluation(process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("place", ["importing", "loading data"])
def test_a_signal_before_training_leaves_nothing(place, sign, tmp_path, capsys):
    where = {"importing": ("os.kill(os.getpid(), SIGN)", ""), "loading data": ("", "os.kill(os.getpid(), SIGN)")}[place]
    text = Path(LEAST_SQUARES.rpartition(":")[0]).read_text()
    text = text.replace("class LeastSquares", f"{where[0]}\n\nclass LeastSquares", 1)
    text = text.replace("    def dataset(self):\n", f"    def dataset(self):\n        {where[1]}\n", 1)
    (tmp_path / "task.py").write_text(text.replace("SIGN", str(int(sign))))
    (tmp_path / "job.toml").write_text('task = "task.py:LeastSquares"\nstrategy = "easgd"\n')
    assert main(["train", str(tmp_path / "job.toml"), "--run", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "hogshead: interrupted\n"
    assert not (tmp_path / "run").exists()


def test_a_long_error_is_cut_once(train, tmp_path):
    text = "first words " + "x" * 200_000 + " last words"
    with pytest.raises(hogshead.WorkerError, match="first words .*characters left out .* last words") as error:
        train(task={"fault": "raise", "text": text}, workers={"max_restarts": 1})
    assert len(str(error.value)) < 6000 and "least_squares.py" in str(error.value)
    said = [record["message"] for record in read_metrics(tmp_path / "run") if record.get("event") == "worker_died"]
    assert len(said) >= 2 and all(len(message) < 500 for message in said)


def test_a_long_error_of_the_evaluation_or_of_the_start_is_cut(train, tmp_path):
    for place in ("evaluate", "dataset", "parameters"):
        (tmp_path / f"{place}.py").write_text(
            Path(LEAST_SQUARES.rpartition(":")[0]).read_text().replace("class LeastSquares", "class Base")
            + f"\n\nclass LeastSquares(Base):\n    def {place}(self, *args):\n        raise ValueError('y' * 200_000)\n"
        )
        with pytest.raises(hogshead.TaskError, match=f"{place} raised ValueError") as error:
            train(place, task={"name": f"{tmp_path / place}.py:LeastSquares"})
        assert len(str(error.value)) < 6000


def test_a_killed_launcher_takes_its_workers_with_it(tmp_path):
    """Nothing goes on without its launcher, and the next run sweeps its shared memory away."""
    job = tmp_path / "job.toml"
    job.write_text(f'task = "{LEAST_SQUARES}"\nstrategy = "easgd"\n[stop]\nepochs = {LONG["epochs"]}\n')
    command = [sys.executable, "-m", "deploy.cli", "train", str(job), "--run", str(tmp_path / "run"), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if json.loads(line)["kind"] == "evaluation":
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 3
        watched = [os.pidfd_open(int(pid)) for pid in children]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    for descriptor in watched:
        gone, _, _ = select.select([descriptor], [], [], 60)
        os.close(descriptor)
        assert gone
    segment.sweep()
    assert not list(segment.FOLDER.glob(f"{segment.PREFIX}-{process.pid}-*"))
