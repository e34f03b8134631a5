"""The accuracies that the examples must reach, two workers, seed 0. Data that do not ship are looked for beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

import hogshead

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def train(job: str, run: Path, metric: str, best=max, **data: Path) -> float:
    """Run an example as it is but for its data; the best that was seen of a metric.

    Not what was seen last: a worker that a busy machine had stopped for some seconds adds what it had computed long before.
    """
    overrides = {f"data.{name}": str(path) for name, path in data.items()}
    result = hogshead.train(EXAMPLES / f"{job}.toml", set={"seed": 0, **overrides}, run=run, quiet=True)
    assert result.summary["status"] == "done" and result.summary["workers"] == 2
    assert result.summary["stop_reason"] and result.summary["epochs"] <= 20
    return best(record["evaluation"][metric] for record in result.metrics if record["kind"] == "evaluation")


def test_adult_by_hogwild(tmp_path):
    assert train("adult_hogwild", tmp_path / "run", "test_accuracy") >= 0.845


def test_reuters_by_hogwild(tmp_path, shared_data):
    data = {part: shared_data(f"reuters_corp.{part}.libsvm.xz") for part in ("train", "test")}
    assert train("reuters_hogwild", tmp_path / "run", "test_accuracy", **data) >= 0.980


def test_movielens_by_hogwild(tmp_path, shared_data):
    data = {"train": shared_data("ml-100k_u.data.xz")}
    assert train("movielens", tmp_path / "run", "test_rmse", min, **data) <= 0.915


@pytest.mark.parametrize("strategy", ["downpour", "easgd", "eamsgd"])
def test_fashion(strategy, tmp_path, shared_data):
    folder = shared_data("fashion-mnist")
    data = {"train": folder, "test": folder}
    assert train(f"fashion_{strategy}", tmp_path / "run", "test_accuracy", **data) >= 0.85
