"""The jobs in examples/: all resolve; those whose data ship with the project run to the end."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from deploy.cli import main
from deploy.run_directory import read_metrics

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
JOBS = sorted(path.stem for path in EXAMPLES.glob("*.toml"))
FASHION = {f"fashion_{network}{strategy}" for network in ("", "cnn_") for strategy in ("downpour", "easgd", "eamsgd")}
NOT_SHIPPED = {"reuters_hogwild", "movielens"} | FASHION
NEEDED = {"fashion_cnn": "torch", "digits_cnn": "torch", "digits_jax": "optax"}  # beginnings of jobs' names -> package


@pytest.fixture(autouse=True)
def _skip_without_package(request):
    """Jobs whose library is not installed are skipped."""
    job = str(getattr(request.node, "callspec", None) and request.node.callspec.params.get("job", ""))
    for beginning, package in NEEDED.items():
        if job.startswith(beginning):
            pytest.importorskip(package, reason=f"{job} needs {package}")


def train(job: str, run: Path, *options: str) -> dict:
    """Run an example and return its summary."""
    assert main(["train", str(EXAMPLES / f"{job}.toml"), "--quiet", "--run", str(run), *options]) == 0
    return json.loads((run / "summary.json").read_text())


@pytest.mark.parametrize("job", JOBS)
def test_resolves(job, capsys):
    assert main(["train", str(EXAMPLES / f"{job}.toml"), "--dry-run"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["name"] == job


def test_messages_and_documentation_name_files_that_there_are():
    root = EXAMPLES.parent
    sources = [*root.glob("*.md"), *root.glob("*.py")]
    sources += [path for part in ("deploy", "worker", "ps") for path in (root / part).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"examples/\w+\.\w+", path.read_text(encoding="utf-8"))}
    assert len(named) > 3 and [name for name in sorted(named) if not (root / name).exists()] == []


@pytest.mark.parametrize("job", sorted(set(JOBS) - NOT_SHIPPED))
def test_runs_to_the_end(job, tmp_path):
    summary = train(job, tmp_path / "run", "--set", "stop.epochs=2")
    assert (summary["status"], summary["epochs"]) == ("done", 2)
    assert summary["evaluation"]


@pytest.mark.parametrize("job", sorted(NOT_SHIPPED))
def test_says_where_its_data_go(job, tmp_path, capsys):
    text = (EXAMPLES / f"{job}.toml").read_text()
    assert "Not bundled." in text and "--set data.train=" in text
    assert (
        main(["train", str(EXAMPLES / f"{job}.toml"), "--run", str(tmp_path / "run"), "--set", "data.train=absent"])
        == 2
    )
    assert "absent" in capsys.readouterr().err


def test_names_in_the_files_are_not_of_one_machine():
    for path in EXAMPLES.iterdir():
        if path.is_file():
            assert "../shared" not in path.read_text() and "/work/" not in path.read_text()


def test_karate_cut_finds_the_minimum(tmp_path):
    csgraph = pytest.importorskip("scipy.sparse.csgraph")
    sparse = pytest.importorskip("scipy.sparse")
    edges = np.loadtxt(EXAMPLES / "karate_edges.csv", delimiter=",", skiprows=1, dtype=np.int32)
    u, v, weight = edges.T
    ends = np.concatenate([u, v]) - 1, np.concatenate([v, u]) - 1
    capacities = sparse.csr_array((np.concatenate([weight, weight]), ends))
    minimum = csgraph.maximum_flow(sparse.csr_matrix(capacities), 0, 33).flow_value
    summary = train("karate_cut", tmp_path / "run")
    assert summary["evaluation"]["cut_value"] == pytest.approx(minimum)


def test_digits_reach_the_demo_accuracy(tmp_path):
    """At one of its evaluations: a worker that a busy machine had stopped for some seconds spoils the last one."""
    train("digits_easgd", tmp_path / "run")
    evaluations = [record for record in read_metrics(tmp_path / "run") if record["kind"] == "evaluation"]
    assert max(record["evaluation"]["test_accuracy"] for record in evaluations) >= 0.95


def test_linear_regression_reaches_the_noise(tmp_path):
    summary = train("linear_regression", tmp_path / "run")
    assert summary["evaluation"]["test_rmse"] < 0.12  # the noise is 0.1
