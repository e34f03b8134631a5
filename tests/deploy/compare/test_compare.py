"""The command, end to end: grids of tiny simulations and processes, failures among them, and what is written."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from deploy.cli import main
from deploy.compare.command import in_folder
from deploy.compare.comparison import compared, parse_target
from deploy.compare.grid import build_grid, parse_vary
from deploy.compare.pace import paced
from deploy.compare.page import render
from deploy.compare.running import Run, Trial, Watcher, run_all, untrained
from deploy.compare.table import Live, lines
from ps.errors import UsageError
from tests.deploy.conftest import LEAST_SQUARES
from tests.deploy.test_report import Checker

JOB = f"""
backend = "simulation"

[task]
name = "{LEAST_SQUARES}"
n = 128

[data]
batch_size = 8

[strategy]
name = "easgd"
tau = 2

[local_rule]
name = "sgd"
lr = 0.1

[stop]
epochs = 4
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """The job file, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "squares.toml"
    path.write_text(JOB)
    return path


def compare(job, out, *options):
    code = main(["compare", str(job), "--out", str(out), *options])
    return code, json.loads((out / "compare.json").read_text()), (out / "compare.html").read_text()


def test_a_grid_with_cells_that_go_wrong(job, tmp_path, capsys):
    out = tmp_path / "out"
    options = [
        "--vary",
        "strategy=sequential,downpour,easgd",
        "--vary",
        "workers=1,2",
        "--vary",
        "task.fault=none,'nan'",
    ]
    options += ["--set", "task.worker_only=false"]
    code, found, page = compare(job, out, *options, "--target", "rmse=0.5")
    cells = {cell["name"]: cell for cell in found["cells"]}
    assert code == 0 and len(cells) == 10
    assert all(
        cell["status"] == ("done" if cell["settings"]["task.fault"] == "none" else "diverged")
        for cell in cells.values()
    )
    alone, two = cells["sequential-workers1-none"], cells["downpour-workers2-none"]
    assert alone["speed_up"] is not None and 0 < two["seconds"] < alone["seconds"] and two["holds"]
    assert two["total_seconds"] == pytest.approx(alone["total_seconds"] / 2, rel=0.2)
    assert found["baseline"] and found["target"]["value"] == 0.5 and found["target"]["start"] > 1
    texts = Checker(page).texts
    assert "Time to the target over workers" in texts["figcaption"] and "diverged" in texts["td"]
    for run in alone["runs"]:
        assert json.loads(Path(run, "summary.json").read_text())["status"] == "done"
    said = capsys.readouterr().out
    assert "10 cells, 10 runs" in said and "Is asynchrony helping?" in said and said.count("diverged") >= 5


def test_the_same_seed_gives_the_same_comparison(job, tmp_path):
    options = ["--vary", "workers=1,2", "--quiet", "--repeats", "2"]
    (_, first, _), (_, second, _) = (compare(job, tmp_path / name, *options) for name in "ab")
    for cell in (*first["cells"], *second["cells"]):
        assert len(cell["curves"]) == len(cell.pop("runs")) == 2
    assert first == second


def test_processes_run_one_after_another(job, tmp_path, capsys):
    options = ["--vary", "strategy=sequential,downpour", "--set", "workers.count=2", "--backend", "processes"]
    code, found, page = compare(job, tmp_path / "out", *options)
    assert code == 0 and [cell["time"] for cell in found["cells"]] == ["wall", "wall"]
    assert "wall-clock time" in page
    assert [cell["workers"] for cell in found["cells"]] == [1, 2]


def test_failures_are_shown_and_all_failing_is_a_failure(job, tmp_path, capsys):
    options = ["--set", "task.fault=raise", "--set", "task.worker_only=false", "--vary", "workers=1,2"]
    code, found, page = compare(job, tmp_path / "out", *options)
    assert code == 1 and {cell["status"] for cell in found["cells"]} == {"failed"}
    assert "a bug of my own" in found["cells"][0]["message"] and "a bug of my own" in page
    assert "failed" in capsys.readouterr().out


def test_a_simulation_whose_process_dies_is_a_failed_cell(job, tmp_path):
    out = tmp_path / "out"
    options = [
        "--set",
        "task.fault=kill",
        "--set",
        "task.worker_only=false",
        "--set",
        f"task.once={tmp_path / 'once'}",
        "--vary",
        "workers=1,2",
        "--jobs",
        "1",
    ]
    code, found, _ = compare(job, out, *options, "--quiet")
    assert code == 0 and [cell["status"] for cell in found["cells"]] == ["failed", "done"]
    assert "its process died (exit code -9)" in found["cells"][0]["message"]


def test_json_lines(job, tmp_path, capsys):
    compare(job, tmp_path / "out", "--vary", "workers=1,2", "--json")
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["kind"] for record in records] == ["run", "run", "comparison"]


def test_dry_run_lists_the_cells(job, tmp_path, capsys):
    assert main(["compare", str(job), "--vary", "strategy=sequential,easgd", "--vary", "workers=1,0", "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["sequential with 1 worker", "easgd with 1 worker"] and "refused" in said[2]
    assert not (tmp_path / "comparisons").exists()


def test_default_folders_are_numbered(job, tmp_path):
    for _ in range(2):
        assert main(["compare", str(job), "--vary", "workers=1", "--quiet", "--set", "stop.epochs=1"]) == 0
    assert sorted(path.name for path in (tmp_path / "comparisons").iterdir()) == ["squares-1", "squares-2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "something to vary"),
        (["--vary", "strategy=easdg"], "did you mean 'easgd'"),
        (["--vary", "workers=1", "--repeats", "0"], "--repeats must be >= 1"),
        (["--vary", "workers=1", "--repeats", "10000000000"], "--repeats must be >= 1 and <= 1000, got 10000000000"),
        (["--vary", "workers=1", "--target", "rmse=low"], "METRIC=NUMBER"),
        (["--vary", "workers=1", "--backend", "cloud"], "backend"),
        (["--vary", "workers=1", "--out", "."], "not empty"),
    ],
)
def test_wrong_usage(job, capsys, options, message):
    assert main(["compare", str(job), *options]) == 2
    assert message in capsys.readouterr().err


def test_targets_are_read():
    assert parse_target(None) == (None, None)
    assert parse_target("loss") == ("loss", None)
    assert parse_target("0.5") == (None, 0.5)
    assert parse_target("test_loss = 1e-2") == ("test_loss", 0.01)
    with pytest.raises(UsageError):
        parse_target("a=b")


def test_an_interrupted_comparison_shows_what_there_is(job, tmp_path):
    cells = build_grid(job, parse_vary(["workers=1,2,4"]), ["stop.epochs=100000"])
    cells = [in_folder(cell, tmp_path / "out") for cell in cells]
    began = threading.Event()
    runs = {}

    class Interrupting(Watcher):
        """Presses ^C once a simulation reports progress."""

        def progress(self, trial, record):
            if not began.is_set():
                began.set()
                os.kill(os.getpid(), signal.SIGINT)

        def ended(self, trial, run):
            runs.setdefault(cells[trial.cell], []).append(run)

    trials = [Trial(index, cell.jobs[0], True) for index, cell in enumerate(cells)]
    assert run_all(trials, Interrupting(), 1) is False
    assert [run.status for several in runs.values() for run in several] == ["interrupted"]
    comparison = compared("squares", ["workers"], cells, runs)
    assert [one.status for one in comparison.figures] == ["interrupted", "waiting", "waiting"]
    assert "3 of 3 cells did not run to their end" in "\n".join(lines(comparison))
    Checker(render(comparison))


def test_a_page_of_nothing_is_a_page(job):
    cells = build_grid(job, parse_vary(["workers=1,2"]))
    comparison = compared("squares", ["workers"], cells, {})
    assert comparison.target is None and comparison.advice.helps == "unknown"
    Checker(render(comparison))
    json.dumps(comparison.to_dict()["advice"])


def test_text_of_others_is_escaped(job):
    cells = build_grid(job, parse_vary(["workers=1,2"]))
    page = render(compared("<b>squares", ["workers"], cells, {cells[0]: [Run("failed", "<script>alert(1)")]}))
    assert "<script>alert" not in page and "<b>squares" not in page


def test_runs_are_evaluated_often_enough(job):
    def evaluation(*overrides):
        (cell,) = build_grid(job, parse_vary(["workers=4"]), overrides)
        return paced(cell.jobs[0], lambda: 128).evaluation

    assert evaluation("stop.epochs=300").every_epochs == 1
    assert evaluation("stop.epochs=300", "evaluation.every_epochs=20").every_epochs == 3
    assert evaluation("stop.epochs=300", "evaluation.every_epochs=2").every_epochs == 2
    few = evaluation("stop.epochs=4")
    assert few.every_epochs == 1 and few.every_seconds == pytest.approx(4 * 128 / 8 / 4 / 100)
    slow = evaluation("stop.epochs=4", "simulation.step_seconds=3.0", "simulation.speeds=[1.0, 0.5]")
    assert slow.every_seconds == pytest.approx(few.every_seconds * 3 / 0.75)
    assert evaluation("stop.epochs=", "stop.seconds=50.0").every_seconds == pytest.approx(0.5)
    assert evaluation("stop.epochs=", "stop.steps=40").every_seconds == pytest.approx(0.1)


def test_the_untrained_model_is_measured(job):
    (cell,) = build_grid(job, parse_vary(["workers=4"]))
    assert untrained(cell.jobs[0])["rmse"] > 1
    (cell,) = build_grid(job, parse_vary(["workers=4"]), ["task.fault=evaluate"])
    assert untrained(cell.jobs[0]) == {}


def test_the_live_table(job):
    cells = build_grid(job, parse_vary(["workers=1,2,0"]))
    stream = io.StringIO()
    with Live(cells, 1, stream) as live:
        trial = Trial(0, cells[0].jobs[0])
        live.started(trial)
        live.progress(trial, {"epoch": 2.0, "loss": 0.5, "examples": 256})
        record = {"virtual_seconds": 3.0, "seconds": 1.0, "evaluation": {"rmse": 0.25}}
        live.ended(trial, Run("done", "", None, [record], {}))
    said = stream.getvalue()
    assert "3 cells, 2 runs; 1 refused" in said
