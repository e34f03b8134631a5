"""A model that is no better than one without features is named at the end of its run."""

import re

import pytest

import hogshead
from deploy.baseline import no_better_than_baseline

# Nearly all examples are negative, and the feature says nothing.
LINES = "".join(f"{1 if k % 10 == 0 else -1} {1 + k % 3}:1\n" for k in range(120))


class Model:
    def __init__(self, **baseline):
        self.values = baseline

    def baseline(self):
        return self.values


@pytest.mark.parametrize(
    ("baseline", "evaluation", "warned"),
    [
        (
            {"test_accuracy": 0.97},
            {"test_accuracy": 0.9014},
            "test_accuracy is 0.9014, no better than the most frequent class",
        ),
        ({"test_accuracy": 0.97}, {"test_accuracy": 0.97}, "no better than the most frequent class .*, 0.97"),
        ({"test_accuracy": 0.97}, {"test_accuracy": 0.98}, None),
        ({"test_rmse": 1.0}, {"test_rmse": 1.0}, "test_rmse is 1, no better than the mean"),
        ({"test_rmse": 1.0}, {"test_rmse": 0.9}, None),
        ({"wer": 0.5}, {"wer": 0.6}, "wer is 0.6, no better than the baseline, 0.5"),
        ({"test_accuracy": 0.97}, {}, None),
        ({}, {"test_accuracy": 0.1}, None),
    ],
)
def test_only_a_model_that_beats_the_baseline_is_not_warned_of(baseline, evaluation, warned):
    found = no_better_than_baseline(Model(**baseline), evaluation)
    assert found is None if warned is None else re.search(warned, found)


def test_a_task_without_a_baseline_or_with_a_broken_one_ends_its_run():
    class Broken:
        def baseline(self):
            raise KeyError("oops")

    assert no_better_than_baseline(object(), {"loss": 1.0}) is None
    assert "the task's baseline raised KeyError" in no_better_than_baseline(Broken(), {"loss": 1.0})


@pytest.mark.parametrize("backend", ["processes", "simulation"])
def test_a_run_warns_once_before_its_summary(backend, tmp_path, capsys):
    (tmp_path / "d.svm").write_text(LINES)
    files = {"train": str(tmp_path / "d.svm"), "test": str(tmp_path / "d.svm")}
    result = hogshead.train(
        task="sparse_linear", data=files, strategy="hogwild", rule={"name": "sgd", "lr": 1e-3}, backend=backend,
        stop={"epochs": 2}, workers={"count": 1}, run=tmp_path / "run",
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert "test_accuracy is 0.9, no better than" in warning
    assert lines[1] == "labels: 1 is positive (10 % of the training examples), -1 is negative"
    assert lines.index(warning) + 1 == next(k for k, line in enumerate(lines) if line.startswith("done"))
    assert [record["event"] for record in result.metrics if record["kind"] == "event"].count("warning") == 1
