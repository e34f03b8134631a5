"""The run directory: its lock, what it refuses, what it writes, and what is left after a kill or on a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace

import numpy as np
import pytest

from deploy.job import load_job
from deploy.run_directory import RunDirectory, plain, read_metrics, read_summary, require_run, to_json, write_atomically
from ps.errors import RunDirectoryError

HOLDER = """
import sys
from deploy.job import load_job
from deploy.run_directory import RunDirectory
directory = RunDirectory.create(load_job(sys.argv[1]).with_run(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def job(job_file, tmp_path):
    return load_job(job_file).with_run(tmp_path / "run")


@pytest.fixture
def held(job_file, tmp_path):
    """A process that holds the run directory."""
    command = [sys.executable, "-c", HOLDER, str(job_file), str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_saves_the_resolved_job_with_versions(job):
    with RunDirectory.create(job) as directory:
        text = (directory.path / "job.toml").read_text()
    assert text.startswith("# resolved") and "numpy" in text.splitlines()[0] and "hogshead" in text.splitlines()[0]
    assert tomllib.loads(text) == job.to_dict()
    assert load_job(directory.path / "job.toml") == job


def test_default_directories_are_numbered(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "try-7").mkdir(parents=True)
    (tmp_path / "runs" / "try-x").mkdir()
    names = []
    for _ in range(2):
        with RunDirectory.create(replace(job, run=None)) as directory:
            names.append(directory.path.relative_to(tmp_path).as_posix())
    assert names == ["runs/try-8", "runs/try-9"]


def test_records_are_whole_lines_at_once(job):
    with RunDirectory.create(job) as directory:
        directory.record({"kind": "progress", "loss": np.float32(0.5), "steps": np.int64(3)})
        assert read_metrics(directory.path) == [{"kind": "progress", "loss": 0.5, "steps": 3}]
        directory.record({"kind": "event", "event": "x"})
        assert [entry["kind"] for entry in read_metrics(directory.path)] == ["progress", "event"]


def test_finish_writes_the_summary(job):
    with RunDirectory.create(job) as directory:
        assert read_summary(directory.path) == {}
        directory.finish({"status": "done", "train_loss": float("nan"), "evaluation": {"test_rmse": np.float64(0.9)}})
    assert read_summary(directory.path) == {"status": "done", "train_loss": None, "evaluation": {"test_rmse": 0.9}}
    left = {entry.name for entry in directory.path.iterdir()}
    assert left == {".lock", "job.toml", "metrics.jsonl", "summary.json"}


def test_in_use_names_the_process(job, held):
    with pytest.raises(RunDirectoryError, match=f"in use by process {held.pid}"):
        RunDirectory.create(job)
    with pytest.raises(RunDirectoryError, match=f"in use by process {held.pid}"):
        RunDirectory.create(replace(job, resume=True))


def test_a_killed_holder_leaves_no_lock(job, held):
    os.makedirs(f"{job.run}/checkpoint/0001")
    held.send_signal(signal.SIGKILL)
    held.wait()
    with RunDirectory.create(replace(job, resume=True)) as again:
        assert again.resumed


def test_a_refused_create_releases_the_lock(job):
    RunDirectory.create(job).close()
    for _ in range(2):
        with pytest.raises(RunDirectoryError, match="holds a run already; --resume"):
            RunDirectory.create(job)


def test_an_error_before_anything_was_recorded_takes_the_directory_back(job):
    with pytest.raises(ZeroDivisionError), RunDirectory.create(job) as directory:
        raise ZeroDivisionError
    assert not directory.path.exists()
    with pytest.raises(ZeroDivisionError), RunDirectory.create(job) as directory:
        directory.record({"kind": "event"})
        raise ZeroDivisionError
    assert read_metrics(directory.path) == [{"kind": "event"}]


def test_an_error_on_resuming_takes_nothing_back(job):
    with RunDirectory.create(job) as directory:
        directory.checkpoint.mkdir()
        (directory.checkpoint / "manifest.json").write_text("{}")
    with pytest.raises(ZeroDivisionError), RunDirectory.create(replace(job, resume=True)):
        raise ZeroDivisionError
    assert (directory.checkpoint / "manifest.json").exists() and (directory.path / "job.toml").exists()


def test_refuses_folders_of_others(job, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(RunDirectoryError, match=r"not empty \(it has thesis\.tex\)"):
        RunDirectory.create(job)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


def test_refuses_what_cannot_be_made(job, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot make the run directory"):
        RunDirectory.create(job.with_run(tmp_path / "file" / "run"))


def test_resume_needs_a_run_with_a_checkpoint(job, tmp_path):
    job = replace(job, resume=True)
    with pytest.raises(RunDirectoryError, match="no such run directory"):
        RunDirectory.create(job)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(RunDirectoryError, match=r"no job\.toml"):
        RunDirectory.create(job)
    (tmp_path / "run" / "job.toml").write_text(job.to_toml())
    with pytest.raises(RunDirectoryError, match="nothing to resume"):
        RunDirectory.create(job)


def test_resume_appends_after_the_last_whole_line(job):
    with RunDirectory.create(job) as directory:
        directory.record({"kind": "progress", "examples": 1})
    directory.checkpoint.mkdir()
    (directory.checkpoint / "manifest.json").write_text("{}")
    with open(directory.path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "progre')  # killed while writing
    assert len(read_metrics(directory.path)) == 1
    with RunDirectory.create(replace(job, resume=True)) as again:
        again.record({"kind": "progress", "examples": 2})
    assert [entry["examples"] for entry in read_metrics(directory.path)] == [1, 2]


def test_forget_after_drops_what_will_be_repeated(job):
    with RunDirectory.create(job) as directory:
        for examples in (10, 20, 30):
            directory.record({"kind": "progress", "examples": examples})
            directory.record({"kind": "evaluation", "examples": examples})
        directory.record({"kind": "event", "event": "worker_died"})
        directory.forget_after(20)
        directory.record({"kind": "progress", "examples": 25})
    kept = [(entry["kind"], entry.get("examples")) for entry in read_metrics(directory.path)]
    expected = [
        ("progress", 10),
        ("evaluation", 10),
        ("progress", 20),
        ("evaluation", 20),
        ("event", None),
        ("progress", 25),
    ]
    assert kept == expected


def test_a_damaged_line_is_named(job):
    with RunDirectory.create(job) as directory:
        directory.record({"kind": "event"})
    (directory.path / "metrics.jsonl").write_text('{"kind": "event"}\n{"kind\n{"kind": "event"}\n')
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl, line 2: not JSON"):
        read_metrics(directory.path)
    (directory.path / "summary.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"summary\.json: not JSON"):
        read_summary(directory.path)


def test_a_full_disk_is_an_error_that_names_the_file(job):
    with RunDirectory.create(job) as directory:
        directory._metrics.close()
        directory._metrics = open("/dev/full", "wb")
        with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl: cannot be written: No space left"):
            directory.record({"kind": "event"})
        with pytest.raises(OSError):
            directory._metrics.close()


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new" * 100_000 + "\ud800")
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_json_has_no_nan(tmp_path):
    values = {"a": float("inf"), "b": [np.nan, 1], "c": np.arange(2), "d": (True, None), 3: tmp_path}
    assert json.loads(to_json(values)) == {
        "a": None,
        "b": [None, 1],
        "c": [0, 1],
        "d": [True, None],
        "3": str(tmp_path),
    }
    assert plain(np.float32("nan")) is None


def test_require_run(tmp_path):
    with pytest.raises(RunDirectoryError, match="no such run directory"):
        require_run(tmp_path / "none")
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        require_run(tmp_path)


class Told:
    """A sink that has news of its own when a checkpoint comes."""

    def __init__(self, name, news=()):
        self.name, self.news, self.seen = name, list(news), []

    def record(self, record):
        self.seen.append(record["event"])
        return self.news if record["event"] == "checkpoint" else []

    def close(self):
        return []


def test_what_a_sink_says_of_itself_the_others_hear(job):
    mirror = Told("mirror", [{"event": "mirror_failed", "message": "no room"}])
    metrics = Told("metrics")
    with RunDirectory.create(job) as directory:
        directory.sinks[:] = [mirror, metrics]
        directory.record({"kind": "event", "event": "checkpoint", "seconds": 1.0})
        assert [record["event"] for record in read_metrics(directory.path)] == ["checkpoint", "mirror_failed"]
    assert sorted(metrics.seen) == ["checkpoint", "mirror_failed"] and mirror.seen == ["checkpoint"]
