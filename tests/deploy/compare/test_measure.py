"""Figures of runs: targets, when they are reached, repeats, and runs that learn nothing."""

from __future__ import annotations

import math

import pytest

from deploy.compare.measure import (
    Point,
    Target,
    choose_target,
    curve_of,
    figures_of,
    first_reach,
    metric_for,
    with_speed_ups,
)
from deploy.compare.running import Run
from ps.errors import UsageError
from tests.deploy.compare.making import TARGET, cell, missed, reached


def run(*losses, status="done", message="", name="test_loss", **summary):
    """A run with an evaluation every 10 virtual seconds."""
    evaluations = [
        {
            "virtual_seconds": 10.0 * (i + 1),
            "seconds": 0.1,
            "examples": 100 * (i + 1),
            "evaluation": {"test_accuracy": 0.5, name: loss},
        }
        for i, loss in enumerate(losses)
    ]
    return Run(status, message, None, evaluations, summary)


def test_time_to_the_target_is_linear_between_evaluations():
    points = curve_of(run(1.0, 0.4, 0.1, 0.3), "test_loss", True)
    assert first_reach(points, TARGET) == pytest.approx((20 + 10 * 2 / 3, 200 + 100 * 2 / 3))
    assert first_reach(points[:2], TARGET) is None
    assert first_reach(points[2:], TARGET) == (30.0, 300.0)
    assert first_reach([Point(1.0, 1, None), Point(2.0, 2, 0.1)], TARGET) == (2.0, 2.0)


def test_virtual_and_real_time():
    real = curve_of(run(1.0), "test_loss", False)
    assert (real[0].seconds, curve_of(run(1.0), "test_loss", True)[0].seconds) == (0.1, 10.0)


def test_the_metric_is_a_loss_unless_asked_otherwise():
    runs = [run(1.0)]
    assert metric_for(None, runs) == metric_for("loss", runs) == "test_loss"
    assert metric_for("test_accuracy", runs) == "test_accuracy"
    assert metric_for(None, [run(1.0, name="test_f1")]) == "test_accuracy"
    assert metric_for(None, []) == metric_for("loss", [run(1.0, name="f1")]) == "train_loss"
    with pytest.raises(UsageError, match="'test_acuracy' is not evaluated; there are: test_accuracy, test_loss"):
        metric_for("test_acuracy", runs)


def test_the_target_is_chosen_from_the_best_cell_with_the_fewest_workers():
    curves = {
        cell("downpour", 4): [[Point(1, 1, 2.0), Point(2, 2, 0.01)]],
        cell("sequential", 1): [[Point(1, 1, 1.0), Point(2, 2, 0.1), Point(3, 3, 0.2)]],
        cell("downpour", 1): [[Point(1, 1, 1.0), Point(2, 2, 0.3)]],
    }
    target = choose_target("test_loss", curves, start=2.1)
    assert (
        target.value == pytest.approx(0.1 + 0.05 * 2.0) and target.smaller and "sequential with 1 worker" in target.why
    )
    assert choose_target("test_loss", curves).value == pytest.approx(0.1 + 0.05 * 0.9)
    assert choose_target("test_accuracy", curves, start=0.1).value < 1.0
    assert choose_target("test_loss", {cell("easgd", 1): [[Point(1, 1, None)]]}) is None
    assert choose_target("test_loss", {}, 0.25).value == 0.25


def test_a_chosen_target_is_reached_by_the_cell_it_comes_from():
    for best in (0.0123456, 0.99999, 3.0):
        curve = [Point(1, 1, 2 * best), Point(2, 2, best)]
        target = choose_target("test_loss", {cell("easgd", 1): [curve]}, start=best)
        assert first_reach(curve, target) is not None
        target = choose_target("test_accuracy", {cell("easgd", 1): [curve[::-1]]}, start=best)
        assert first_reach(curve, target) is not None


def test_figures_of_repeats_are_medians():
    one = cell("easgd", 2)
    runs = [run(1.0, 0.1, 0.15, steps=100), run(1.0, 0.2, 0.1, steps=100), run(1.0, 0.9, 0.5, steps=100)]
    found = figures_of(one, runs, TARGET)
    assert (found.status, found.reached, found.final, found.steps_per_worker) == (
        "done",
        pytest.approx(2 / 3),
        0.15,
        50,
    )
    assert found.seconds == pytest.approx((10 + 10 * 0.8 / 0.9 + 20) / 2) and found.holds
    assert figures_of(one, [runs[2], runs[2], runs[0]], TARGET).seconds is None


def test_what_went_wrong_is_said():
    one = cell("easgd", 2)
    assert figures_of(one, [], TARGET).status == "waiting"
    failed = figures_of(one, [run(status="failed", message="oops"), run(1.0, 0.1)], TARGET)
    assert (failed.status, failed.message) == ("failed", "1 of 2 repeats: oops")
    nothing = figures_of(one, [run(2.3, 2.2, 2.4, 2.5)], TARGET)
    assert nothing.status == "diverged" and "no better than where it began, 2.3" in nothing.message
    stuck = figures_of(one, [run(2.0, 1.9, 2.0, 1.9, 2.0)], TARGET)
    assert stuck.status == "diverged" and "stuck" in stuck.message
    blown = figures_of(one, [run(2.0, 1.0, 0.9, math.inf)], TARGET)
    assert blown.status == "diverged"
    # Evaluations by the clock go on while the last stragglers finish; that is no second half of the training.
    trained = run(1.95, 1.8, 1.6, 1.6, 1.6, 1.6)
    for record, examples in zip(trained.evaluations, (10, 50, 100, 105, 105, 105), strict=True):
        record["examples"] = examples
    tail = figures_of(one, [trained], TARGET)
    assert (tail.status, tail.seconds) == ("done", None)
    slow = figures_of(one, [run(2.25, 2.2, 2.1, 2.0)], TARGET)
    assert (slow.status, slow.seconds) == ("done", None)


def test_a_metric_that_rises_is_treated_alike():
    target = Target("test_accuracy", 0.9, False, "", 0.1)
    rising = [Point(i, i, value) for i, value in enumerate((0.1, 0.5, 0.95))]
    assert first_reach(rising, target) == pytest.approx((1 + 0.4 / 0.45, 1 + 0.4 / 0.45))
    runs = [run(0.1, 0.11, 0.1, 0.1, name="f1")]
    assert figures_of(cell("easgd", 2), runs, Target("f1", 0.9, False, "", 0.1)).status == "diverged"


def test_speed_ups_refer_to_the_fastest_single_worker():
    figures, baseline = with_speed_ups(
        [reached("easgd", 1, 500.0), reached("sequential", 1, 400.0), reached("easgd", 4, 100.0), missed("easgd", 16)]
    )
    assert baseline is figures[1]
    assert [one.speed_up for one in figures] == [0.8, 1.0, 4.0, None]


def test_without_one_worker_speed_ups_refer_to_the_fewest():
    figures, baseline = with_speed_ups([missed("easgd", 1), reached("easgd", 16, 1.0), reached("easgd", 4, 2.0)])
    assert baseline is figures[2]
    assert [one.speed_up for one in figures] == [None, 2.0, 1.0]
