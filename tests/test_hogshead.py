"""The public module: what it offers, what it refuses, and what it says when a user's file hides our package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hogshead

ROOT = Path(hogshead.__file__).parent
JOB = {
    "task": {"name": "mlp", "hidden": [8]},
    "data": {"train": "sklearn:iris", "test_fraction": 0.2},
    "strategy": "downpour",
    "stop": {"epochs": 1},
}


def test_train_from_sections_and_from_a_file_agree(tmp_path):
    settings = {"workers.count": 1, "seed": 3}
    first = hogshead.train(JOB, set=settings, run=tmp_path / "a", quiet=True)
    (tmp_path / "job.toml").write_text(hogshead.load(JOB).to_toml())
    second = hogshead.train(tmp_path / "job.toml", set=settings, run=tmp_path / "b", quiet=True)
    third = hogshead.train(**JOB, set=settings, run=tmp_path / "c", quiet=True)
    for other in (second, third):
        for name, values in first.parameters.items():
            assert np.array_equal(values, other.parameters[name])


def test_a_task_class_of_ones_own(tmp_path):
    from tests.deploy.tasks.least_squares import LeastSquares

    result = hogshead.train(
        task=LeastSquares, strategy="downpour", rule="adam", stop={"epochs": 1}, run=tmp_path / "run", quiet=True
    )
    assert set(result.parameters) == {"w"}


@pytest.mark.parametrize("backend", ["processes", "simulation"])
def test_a_task_class_without_a_file(backend, tmp_path):
    """As a notebook or a function makes it: forked workers have it, and so has the simulator."""

    class Mean:
        def __init__(self, *, around=2.0):
            self.x = around + np.arange(-4.0, 5.0)[:, None]

        def parameters(self, rng):
            return {"w": np.zeros(1)}

        def dataset(self):
            return {"x": self.x}

        def loss_and_gradient(self, parameters, batch):
            error = parameters["w"] - batch["x"].mean(axis=0)
            return float(error @ error), {"w": error}

        def evaluate(self, parameters):
            return {"w": float(parameters["w"][0])}

    result = hogshead.train(
        task={"name": Mean, "around": 3.0}, backend=backend, strategy="downpour", rule={"name": "sgd", "lr": 0.5},
        data={"batch_size": "all"}, workers={"count": 1}, stop={"steps": 30}, run=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert result.evaluation["w"] == pytest.approx(3.0)


def test_set_takes_values_of_every_kind():
    job = hogshead.load(JOB, set={"task.hidden": [3, 2], "strategy.n_push": 4, "rule": {"name": "adam", "lr": 0.5}})
    assert job.task.options["hidden"] == [3, 2]
    assert job.strategy.options["n_push"] == 4 and job.rule["lr"] == 0.5


def test_mistakes_are_usage_errors(tmp_path):
    with pytest.raises(hogshead.JobError, match="did you mean 'downpour'"):
        hogshead.train(**{**JOB, "strategy": "downpoor"})
    with pytest.raises(hogshead.UsageError, match="got both"):
        hogshead.train(tmp_path / "job.toml", task="mlp")
    with pytest.raises(hogshead.UsageError, match="resume = True needs"):
        hogshead.train(JOB, resume=True)
    with pytest.raises(hogshead.RunDirectoryError, match="no such run directory"):
        hogshead.train(JOB, run=tmp_path / "none", resume=True, quiet=True)


def test_resume_takes_a_run_directory(tmp_path):
    """Its own job goes on; with other bounds, or another job, if these are given."""
    run = tmp_path / "run"
    hogshead.train(JOB, run=run, quiet=True)
    assert hogshead.train(resume=run, set={"stop.epochs": 2}, quiet=True).summary["epochs"] == 2
    longer = {**JOB, "stop": {"epochs": 3}}
    assert hogshead.train(longer, resume=str(run), quiet=True).summary["epochs"] == 3
    with pytest.raises(hogshead.UsageError, match="a resumed run stays in its directory"):
        hogshead.train(resume=run, run=tmp_path / "other")
    with pytest.raises(hogshead.RunDirectoryError, match="none: no such run directory"):
        hogshead.train(resume=tmp_path / "none")


def test_public_names_exist():
    for name in hogshead.__all__:
        assert getattr(hogshead, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hogshead.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["worker.py", "ps.py", "deploy.py", "worker/__init__.py"])
def test_a_users_file_that_hides_a_package_is_named(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine = True\n")
    code = f"import sys; sys.path.append({str(ROOT)!r}); import hogshead"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: hogshead needs its own package") and str(tmp_path) in last and "rename" in last


def test_importing_is_light():
    """``import hogshead`` needs neither numba nor Ray nor torch nor sklearn; training imports what it uses."""
    code = (
        "import sys, hogshead; print(sorted({'numba', 'ray', 'torch', 'sklearn', 'scipy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_training_imports_only_what_it_uses(tmp_path):
    code = (
        "import sys, hogshead; "
        "hogshead.train(task='sparse_linear', data={'train': 'hogshead:a9a'}, strategy='hogwild', stop={'epochs': 1},"
        f" run={str(tmp_path / 'run')!r}, quiet=True); "
        "print(sorted({'ray', 'torch', 'sklearn', 'scipy.sparse', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "[]", done.stderr
