"""The command line: exit codes, messages, and what each command hands on. The launcher is a stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import types

import numpy as np
import pytest

from deploy.cli import main
from ps.errors import WorkerError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def launcher(monkeypatch):
    """Stands in for deploy.processes; ``outcome`` is the status to return, or an exception to raise."""
    module = types.ModuleType("deploy.processes")
    module.outcome, module.jobs = "done", []

    def run(job, observer):
        module.jobs.append(job)
        if isinstance(module.outcome, BaseException):
            raise module.outcome
        summary = {"status": module.outcome, "error": "a reason", "evaluation": {"test_accuracy": 0.5}}
        observer.started({"workers": job.workers.count})
        observer.evaluation({"kind": "evaluation", "seconds": 1.0, "epoch": 1, "evaluation": {"test_accuracy": 0.5}})
        observer.finished(summary)
        return types.SimpleNamespace(summary=summary)

    module.run = run
    monkeypatch.setitem(sys.modules, "deploy.processes", module)
    return module


@pytest.mark.parametrize(("status", "code"), [("done", 0), ("failed", 1), ("interrupted", 130)])
def test_train_returns_the_status(launcher, job_file, status, code, capsys):
    launcher.outcome = status
    assert main(["train", str(job_file)]) == code
    assert "test_accuracy 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (WorkerError("worker 1 kept dying"), 1, "hogshead: worker 1 kept dying\n"),
        (KeyboardInterrupt(), 130, "hogshead: interrupted\n"),
        (MemoryError(), 1, "out of memory"),
        (ZeroDivisionError("oops"), 1, "ZeroDivisionError: oops; --debug shows where\n"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(launcher, job_file, capsys, error, code, message):
    launcher.outcome = error
    assert main(["train", str(job_file)]) == code
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert main(["train", str(job_file), "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_names_of_files_that_are_not_utf8(launcher, job_file, tmp_path, capsys):
    """A run may lie under one; what a job names may not, as the job is written beside the run."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    assert main(["train", str(job_file), "--run", str(folder)]) == 0
    assert launcher.jobs[0].run == str(folder)
    for key in (f"data.train={folder}/points.csv", f"task.name={folder}/points.py:Points"):
        folder.mkdir(exist_ok=True)
        (folder / "points.py").write_text((job_file.parent / "points.py").read_text())
        assert main(["train", str(job_file), "--set", key]) == 2
        assert "is not UTF-8, as a job must be; rename" in capsys.readouterr().err


def test_options_reach_the_job(launcher, job_file, tmp_path):
    options = ["--set", "strategy.tau=16", "--workers", "3", "--seed", "5", "--run", str(tmp_path / "out")]
    assert main(["train", str(job_file), *options]) == 0
    job = launcher.jobs[0]
    assert (job.strategy.options["tau"], job.workers.count, job.seed, job.run) == (16, 3, 5, str(tmp_path / "out"))
    assert not job.resume


def test_resume_takes_the_job_from_the_run(launcher, job_file, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    main(["train", str(job_file), "--quiet"])
    (run / "job.toml").write_text(launcher.jobs[0].to_toml())
    assert main(["train", "--resume", str(run), "--set", "stop.epochs=9"]) == 0
    resumed = launcher.jobs[1]
    assert (resumed.resume, resumed.run, resumed.stop.epochs, resumed.name) == (True, str(run), 9, "try")
    assert resumed.task == launcher.jobs[0].task


def test_json_output_is_json_alone(launcher, job_file, capsys):
    assert main(["train", str(job_file), "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["kind"] for record in records] == ["evaluation", "summary"]


def test_quiet_says_nothing_unless_it_failed(launcher, job_file, capsys):
    assert main(["train", str(job_file), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    launcher.outcome = "failed"
    assert main(["train", str(job_file), "--quiet"]) == 1
    assert capsys.readouterr() == ("", "hogshead: a reason\n")


def test_dry_run_prints_the_resolved_job(job_file, capsys):
    assert main(["train", str(job_file), "--dry-run", "--workers", "4"]) == 0
    tables = tomllib.loads(capsys.readouterr().out)
    assert tables["workers"]["count"] == 4 and tables["strategy"]["mode"] == "asynchronous"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["trian"], "there is no command 'trian'; did you mean 'train'?"),
        (["train"], "train needs a job file"),
        (
            ["train", "{job}", "--worker", "2"],
            "unrecognized arguments: --worker 2; see `hogshead train --help`; did you mean '--workers'?",
        ),
        (["train", "{job}", "--workers", "two"], "--workers: invalid int value: 'two'"),
        (["train", "{job}", "--quiet", "--json"], "not allowed with"),
        (["train", "{job}", "--run", "a", "--resume", "b"], "--run and --resume exclude each other"),
        (["train", "{job}", "--set", "strategy.tua=1"], "[strategy] tua: unknown key; did you mean 'tau'?"),
        (["train", "{job}x"], "no such job file; did you mean 'try.toml'?"),
        (["rules", "adagrat"], "there is nothing called 'adagrat' among the rules; did you mean 'adagrad'?"),
        (["strategies", "easgdd"], "did you mean 'easgd'?"),
        (["tasks", "mpl"], "did you mean 'mlp'?"),
        (["keys", "stopp"], "did you mean 'stop'?"),
        (["predict", "run", "input", "--out", "x.pkl"], "--out must end in .npy, .csv or .txt, got 'x.pkl'"),
        (
            ["predict", "run", "input", "--output", "lable"],
            "--output must be one of label, score, probability, got 'lable'; did",
        ),
        (["report"], "the following arguments are required: RUN"),
    ],
)
def test_wrong_usage(launcher, job_file, capsys, argv, message):
    assert main([part.format(job=job_file) for part in argv]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("hogshead: ") and captured.out == ""
    assert launcher.jobs == []


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert "train" in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    assert "--resume" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hogshead")


def test_lists_and_descriptions(capsys):
    for kind, name in (("rules", "adagrad"), ("strategies", "downpour")):
        assert main([kind]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert any(line.startswith(f"{name} ") and len(line.split()) > 3 for line in lines)
        assert main([kind, name]) == 0
        assert len(capsys.readouterr().out.splitlines()) > 5
    assert main(["tasks", "sparse_linear"]) == 0
    assert "hinge" in capsys.readouterr().out


def test_describes_a_user_s_task(job_file, capsys):
    assert main(["tasks", f"{job_file.parent / 'points.py'}:Points"]) == 0
    assert "width = 3" in capsys.readouterr().out


def test_keys(capsys):
    assert main(["keys", "stop"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("[stop]\n") and "patience" in text and "[workers]" not in text
    assert main(["keys"]) == 0
    assert "batch_size" in (text := capsys.readouterr().out) and "shuffle" in text and "default true" in text


def test_report_command(recorded_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    one, two = recorded_run("one"), recorded_run("two")
    assert main(["report", str(one)]) == 0
    assert capsys.readouterr().out == "one/report.html\n" and (one / "report.html").exists()
    assert main(["report", "one", "two"]) == 0
    assert capsys.readouterr().out == "report.html\n" and "2 runs" in (tmp_path / "report.html").read_text()
    assert main(["report", "one", "--out", "no/such/folder.html"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["report", "nowhere"]) == 1
    assert "nowhere: no such run directory" in capsys.readouterr().err
    assert two.exists()


def test_predict(launcher, job_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("deploy.saving.load_parameters", lambda run: {"weight": np.full(2, 3.0)})
    task = job_file.parent / "points.py"
    main(["train", str(job_file), "--quiet"])
    run = tmp_path / "run"
    run.mkdir()
    (run / "job.toml").write_text(launcher.jobs[0].to_toml())
    assert main(["predict", str(run), "input"]) == 2
    assert "has no method predict" in capsys.readouterr().err
    task.write_text(
        task.read_text()
        + "\n    def load_inputs(self, path):\n        return path"
        + "\n\n    def predict(self, parameters, inputs):\n        return parameters['weight'] * len(inputs)\n"
    )
    assert main(["predict", str(run), "four"]) == 0
    assert capsys.readouterr().out == "12\n12\n"
    assert main(["predict", str(run), "four", "--out", str(tmp_path / "p.npy")]) == 0
    assert np.load(tmp_path / "p.npy").tolist() == [12.0, 12.0]
    assert main(["predict", str(run), "four", "--out", str(tmp_path / "no" / "p.csv")]) == 2
    capsys.readouterr()
    assert main(["predict", str(run), "four", "--output", "score"]) == 2
    assert "predicts one thing only, so that output = 'score' cannot be chosen" in capsys.readouterr().err
    task.write_text(task.read_text().replace("parameters, inputs):", "parameters, inputs, output=None):"))
    assert main(["predict", str(run), "four", "--output", "score"]) == 0
    assert capsys.readouterr().out == "12\n12\n"


def test_doctor_removes_what_the_dead_left(monkeypatch, tmp_path, capsys):
    from ps import segment

    monkeypatch.setattr(segment, "FOLDER", tmp_path)
    alive = f"{segment.PREFIX}-{os.getpid()}-{segment.start_time(os.getpid())}-alive"
    dead = f"{segment.PREFIX}-{os.getpid()}-1-dead"
    for name in (alive, dead):
        (tmp_path / name).write_text("")
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == "removed 1 stale segment, 1 segment in use\n"
    assert [entry.name for entry in tmp_path.iterdir()] == [alive]


def run_python(code: str, **environment: str) -> str:
    variables = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")} | environment
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True, check=True
    )
    return result.stdout


def test_threads_are_limited_before_numpy_is_imported():
    code = "import sys, os\nfrom deploy.cli import main\nassert 'numpy' not in sys.modules\nmain(['--version'])\n"
    code += "print(os.environ['OPENBLAS_NUM_THREADS'], os.environ['OMP_NUM_THREADS'])"
    assert run_python(code).splitlines()[-1] == "1 1"
    assert run_python(code, OMP_NUM_THREADS="4").splitlines()[-1] == "1 4"


def test_a_reader_that_goes_away_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "deploy.cli", "keys"]
    result = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


def test_the_backend_is_chosen_on_the_command_line(tmp_path, capsys, monkeypatch):
    from tests.deploy.conftest import LEAST_SQUARES

    monkeypatch.chdir(tmp_path)
    (tmp_path / "try.toml").write_text(f'task = "{LEAST_SQUARES}"\nstrategy = "downpour"\n[stop]\nepochs = 1\n')
    assert main(["train", "try.toml", "--backend", "simulation", "--run", "here"]) == 0
    assert "simulated" in capsys.readouterr().out
    assert main(["timeline", "here"]) == 0
    assert main(["train", "try.toml", "--backend", "simulatoin"]) == 2
    assert "backend must be one of 'processes', 'ray', 'simulation'" in capsys.readouterr().err
