"""Bounds on work, and metrics that are watched."""

from __future__ import annotations

import json
import math

import pytest

from ps.errors import UsageError
from worker.stopping import Goal, StopRule


@pytest.mark.parametrize(
    ("rule", "done", "reason", "left"),
    [
        (StopRule(), (10**6, 10**9, 10**9), None, 1 << 62),
        (StopRule(epochs=3), (2, 99, 99), None, 1 << 62),
        (StopRule(epochs=3), (3, 99, 99), "3 epochs", 1 << 62),
        (StopRule(steps=10), (0, 70, 9), None, 8),
        (StopRule(steps=10), (0, 70, 10), "10 steps", 0),
        (StopRule(examples=100), (0, 99, 13), None, 1),
        (StopRule(examples=100), (0, 100, 13), "100 examples", 0),
        (StopRule(steps=10, examples=75), (0, 70, 9), None, 5),
        (StopRule(epochs=1, steps=10, examples=75), (0, 75, 10), "10 steps", 0),
        (StopRule(examples=50), (0, 80, 10), "80 examples", -30),  # gone on with a lower bound
    ],
)
def test_bounds(rule, done, reason, left):
    epochs, examples, steps = done
    assert rule.reached(epochs, examples, steps) == reason
    assert rule.examples_left(examples, steps, batch_size=8) == left


def observed(goal: Goal, name: str, values) -> list[str | None]:
    return [goal.observe(epoch, {name: value}) for epoch, value in enumerate(values)]


def test_patience_counts_evaluations_without_a_better_value():
    goal = Goal("loss", patience=2)
    assert observed(goal, "loss", [3, 2, 2, 1, 5, 1]) == [None] * 5 + ["loss was not better for 2 evaluations"]
    assert (goal.best, goal.best_epoch) == (1, 3)


def test_larger_is_better_for_other_metrics():
    goal = Goal("accuracy", patience=1)
    assert observed(goal, "accuracy", [0.5, 0.6, 0.6])[-1] == "accuracy was not better for 1 evaluation"
    assert goal.best == 0.6 and goal.best_epoch == 1


@pytest.mark.parametrize(
    ("name", "smaller"),
    [("test_loss", True), ("validation_rmse", True), ("test_error", True), ("objective", True), ("cut", True),
     ("test_accuracy", False), ("f1", False), ("auc", False), ("regret", True), ("cumulativeRegret", True), ("wer", True),
     ("test_wer", True), ("validationWER", True), ("RMSLE", True), ("test_rmsle", True), ("Loss", True), ("cut_value", True),
     ("brier", True), ("cross_entropy", True), ("power", False), ("answered", False), ("execution_accuracy", False),
     ("lower_bound", False), ("bleu", False), ("neg_log_loss", False), ("negative_log_likelihood", True)],
)  # fmt: skip
def test_automatic_mode_goes_by_the_name(name, smaller):
    assert Goal(name).smaller == smaller
    assert Goal(name, mode="min").smaller and not Goal(name, mode="max").smaller


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patience": 2}, 'smaller test_wer is better, by its name; if not so, set [stop] mode = "max"'),
        ({"target": 0.1}, 'smaller test_wer is better, by its name; if not so, set [stop] mode = "max"'),
        ({"patience": 2, "mode": "min"}, None),
        ({}, None),
    ],
)
def test_a_guess_that_decides_is_told_once(options, said):
    goal = Goal(**options)
    assert goal.guess() is None  # the metric is not known yet
    goal.observe(0, {"test_wer": 0.5})
    assert [goal.guess(), goal.guess()] == [said, None]
    upward = Goal(patience=1)
    upward.observe(0, {"f1": 0.5})
    assert upward.guess() == 'larger f1 is better, by its name; if not so, set [stop] mode = "min"'


def test_targets():
    assert observed(Goal("loss", target=0.5), "loss", [1, 0.5]) == [None, "loss reached 0.5"]
    assert observed(Goal("accuracy", target=0.9), "accuracy", [0.8, 0.95]) == [None, "accuracy reached 0.9"]
    assert observed(Goal("accuracy", mode="min", target=0.1), "accuracy", [0.8, 0.05])[-1] == "accuracy reached 0.1"


def test_values_that_are_not_finite_are_never_the_best():
    goal = Goal("loss", patience=3, target=-math.inf)
    assert observed(goal, "loss", [math.nan, 1.0, math.nan, math.nan]) == [None] * 4
    assert goal.best == 1.0 and goal.waited == 2
    upward = Goal("accuracy")
    observed(upward, "accuracy", [math.inf, 0.3])
    assert upward.best == 0.3


def test_the_metric_is_chosen_once():
    goal = Goal()
    assert goal.observe(0, {}) is None and goal.metric is None
    goal.observe(1, {"test_accuracy": 0.3, "validation_loss": 2.0})
    assert goal.metric == "validation_loss" and goal.best == 2.0
    other = Goal()
    other.observe(0, {"test_accuracy": 0.3, "test_loss": 2.0})
    assert other.metric == "test_accuracy"


def test_an_unknown_metric_is_named_with_those_there_are():
    with pytest.raises(UsageError, match=r"\[stop\] metric = 'acc' is not evaluated; there are: accuracy, loss"):
        Goal("acc").observe(0, {"accuracy": 1.0, "loss": 1.0})
    with pytest.raises(UsageError, match="there are: none"):
        Goal("acc").observe(0, {})


def test_restored_goes_on_waiting():
    goal = Goal(patience=2)
    observed(goal, "validation_loss", [1.0, 2.0])
    again = Goal(patience=2)
    again.restore(json.loads(json.dumps(goal.state())))
    assert again.observe(2, {"validation_loss": 1.5}) == "validation_loss was not better for 2 evaluations"
    assert (again.best, again.best_epoch) == (1.0, 0)
