"""The page of made-up comparisons: axes, groups, what is drawn and what is only named."""

from __future__ import annotations

import json
import re

import pytest

from deploy import charts
from deploy.charts import FAINT, Series, color_class, line_chart
from deploy.compare.comparison import compared
from deploy.compare.grid import Cell
from deploy.compare.page import groups, render, x_key
from deploy.compare.running import Run
from tests.deploy.compare.making import cell
from tests.deploy.test_report import Checker


def run(*losses):
    evaluations = [
        {"virtual_seconds": float(i + 1), "examples": 10 * (i + 1), "evaluation": {"test_loss": loss}}
        for i, loss in enumerate(losses)
    ]
    return Run("done", "", None, evaluations, {"steps": 40, "examples_per_second": 10.0})


def comparison(varied=("strategy", "workers")):
    cells = [cell("sequential", 1), cell("easgd", 2), cell("easgd", 16), cell("downpour", 2), cell("downpour", 16)]
    curves = [
        (1.0, 0.4, 0.1, 0.05),
        (1.0, 0.1, 0.1, 0.05),
        (0.9, 0.1, 0.1, 0.05),
        (1.0, 0.1, 0.1, 0.05),
        (1.0, 50.0, 9.0, 9.0),
    ]
    runs = {one: [run(*values)] for one, values in zip(cells, curves, strict=True)}
    return compared("try", varied, cells, runs, target=("test_loss", 0.2))


def figure(page, caption):
    return re.search(rf"<figure[^>]*><figcaption>{re.escape(caption)}</figcaption>.*?</figure>", page, re.DOTALL)[0]


def numbers(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])


def test_scaling_has_a_line_per_strategy_over_the_workers():
    found = comparison()
    assert x_key(found) == "workers"
    assert {name: len(cells) for name, cells in groups(found, "workers").items()} == {
        "sequential": 1,
        "easgd": 2,
        "downpour": 2,
    }
    page = render(found)
    Checker(page)
    drawn = numbers(figure(page, "Time to the target over workers"))
    assert [(line["name"], line["x"]) for line in drawn["series"]] == [
        ("sequential", [1]),
        ("easgd", [2, 16]),
        ("downpour", [2]),
    ]
    assert drawn["x"]["log"]
    speed = numbers(figure(page, "Speed-up over workers"))
    assert speed["series"][-1]["name"] == "ideal" and speed["series"][-1]["x"] == speed["series"][-1]["y"]


def test_cells_without_a_point_are_named_below():
    page = render(comparison())
    note = figure(page, "Time to the target over workers")
    assert "diverged: downpour with 16 workers" in note
    assert "What went wrong" in page


def test_values_that_blew_up_are_left_out_and_that_is_said():
    page = render(comparison())
    lines = {line["name"]: line["y"] for line in numbers(figure(page, "downpour"))["series"]}
    assert lines["workers 16"] == [1.0, None, None, None] and lines["target"] == [0.2, 0.2]
    assert "are not drawn" in page


def test_another_number_can_be_the_axis():
    cells = [Cell(f"tau{tau}", {"strategy.tau": tau}, "easgd", 4, cell("easgd", 4, tau=tau).jobs) for tau in (1, 4)]
    found = compared("try", ["strategy.tau"], cells, {one: [run(1.0, 0.1)] for one in cells}, target=(None, 0.2))
    assert x_key(found) == "strategy.tau"
    page = render(found)
    assert numbers(figure(page, "Time to the target over strategy.tau"))["series"][0]["x"] == [1, 4]
    assert "By strategy.tau" in page


def test_words_have_no_axis():
    cells = [Cell(name, {"task.loss": name}, "easgd", 4, cell("easgd", 4).jobs) for name in ("hinge", "logistic")]
    found = compared("try", ["task.loss"], cells, {one: [run(1.0, 0.1)] for one in cells})
    assert x_key(found) is None
    assert len(numbers(figure(render(found), "all cells"))["series"]) == 3


def test_the_suggested_cell_is_marked_and_its_job_shown():
    found = comparison()
    assert found.suggested is not None and found.suggested.cell.strategy == found.advice.settings["strategy.name"]
    page = render(found)
    assert page.count('<tr class="chosen">') == 1 and "The suggested job, resolved" in page


def test_a_logarithmic_x_axis():
    drawn = line_chart("t", [Series("a", [1, 10, 100], [1.0, 2.0, 3.0])], "n", "y", log_x=True, x_ticks=[1, 10, 100])
    marks = [float(x) for x in re.findall(r'<circle[^>]*cx="([\d.]+)"', drawn)]
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    assert marks == pytest.approx([left, (left + right) / 2, right], abs=0.1)
    assert "n (log)" in drawn and all(f">{tick}</text>" in drawn for tick in (1, 10, 100))
    assert color_class(FAINT) == "faint"
