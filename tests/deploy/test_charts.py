"""Charts: ticks, axes, thinning, and drawings whose coordinates are checked against the data."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import charts
from deploy.charts import Axis, Series, bar_chart, histogram, line_chart, linear_ticks, log_ticks, thinned, value_axis

finite = st.floats(-1e9, 1e9)


def svg_of(figure: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", figure)[0])


def path_points(figure: str) -> list[tuple[float, float]]:
    drawn = svg_of(figure).find("path[@class]").get("d")
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn)]


def bars(figure: str) -> list[ElementTree.Element]:
    return svg_of(figure).findall("rect")


@given(finite, st.floats(1e-6, 1e9), st.integers(2, 8))
def test_linear_ticks_lie_inside_and_are_even(low, span, count):
    high = low + span
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        return
    ticks = linear_ticks(low, high, count)
    steps = [after - before for before, after in pairwise(ticks)]
    slack = 1e-6 * (high - low)
    assert 1 <= len(ticks) <= count + 1
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert all(math.isclose(step, steps[0], rel_tol=1e-4) for step in steps)


def test_ticks_are_round():
    assert linear_ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert [round(tick, 6) for tick in linear_ticks(0.61, 0.9, 5)] == [0.7, 0.8, 0.9]
    assert log_ticks(0.9, 110) == [1, 2, 5, 10, 20, 50, 100]
    assert log_ticks(1e-9, 1e9) == [10.0**power for power in (-9, -6, -3, 0, 3, 6, 9)]


@given(finite, st.floats(0, 1e9))
def test_a_value_axis_holds_its_range(low, span):
    axis = value_axis(low, low + span, False)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low <= low + slack and low + span <= axis.high + slack and axis.low < axis.high


def test_axis_positions():
    assert [Axis(0, 10, 100, 200).at(v) for v in (0, 5, 10)] == [100, 150, 200]
    assert Axis(1, 100, 200, 0, log=True).at(10) == pytest.approx(100)


def test_a_line_goes_through_its_points():
    figure = line_chart("loss", [Series("a", [0, 5, 10], [3.0, 2.0, 1.0])], "s", "loss")
    points = path_points(figure)
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    assert [x for x, _ in points] == pytest.approx([left, (left + right) / 2, right], abs=0.1)
    heights = [y for _, y in points]
    assert heights == sorted(heights) and heights[1] == pytest.approx((heights[0] + heights[2]) / 2, abs=0.1)


def test_a_missing_value_breaks_the_line():
    figure = line_chart("loss", [Series("a", [0, 1, 2, 3], [1.0, 2.0, None, 3.0])], "s", "loss")
    assert re.findall("[ML]", svg_of(figure).find("path[@class]").get("d")) == ["M", "L", "M"]


def test_wide_positive_ranges_get_a_log_axis():
    assert "loss (log)" in line_chart("t", [Series("a", [0, 1], [100.0, 1.0])], "s", "loss")
    assert "(log)" not in line_chart("t", [Series("a", [0, 1], [4.0, 1.0])], "s", "loss")
    assert "(log)" not in line_chart("t", [Series("a", [0, 1], [100.0, 0.0])], "s", "loss")
    assert "(log)" not in line_chart("t", [Series("a", [0, 1], [100.0, 1.0])], "s", "loss", from_zero=True)


def test_from_zero_starts_at_zero():
    values = json.loads(
        re.search(
            r"json\">(.*)</script>", line_chart("t", [Series("a", [0, 1], [90.0, 95.0])], "s", "y", from_zero=True)
        )[1]
    )
    assert values["y"]["low"] == 0


@pytest.mark.parametrize("y", [[2.0], [0.0, 0.0], [5.0, 5.0], [-1.0, -1.0], [1e-12, 1e-12], [1e300, 1.0]])
def test_degenerate_values_are_drawn(y):
    figure = line_chart("t", [Series("a", list(range(len(y))), y)], "s", "loss")
    assert len(path_points(figure)) == len(y) and "nan" not in figure.lower()


@pytest.mark.parametrize("series", [[], [Series("a", [], [])], [Series("a", [0, 1], [None, None])]])
def test_nothing_recorded_is_said(series):
    assert "no values recorded" in line_chart("t", series, "s", "loss")


def test_thinning_keeps_means_and_the_end():
    series = thinned(Series("a", list(range(1000)), [float(i) for i in range(1000)]), most=100)
    assert len(series.x) == 100 and series.x[-1] == 999
    assert series.y[0] == pytest.approx(4.5) and sum(series.y) / 100 == pytest.approx(499.5)
    assert thinned(Series("a", [0, 1, 2, 3], [None, None, None, 4.0]), most=2).y == [None, 4.0]


def test_legends_from_two_series_on():
    one, two = Series("first", [0], [1.0], 0), Series("<second>", [0], [2.0], 1)
    assert "legend" not in line_chart("t", [one], "s", "y")
    both = line_chart("t", [one, two], "s", "y")
    assert re.findall(r'<i class="key (c\d)"></i>([^<]*)<', both) == [("c0", "first"), ("c1", "&lt;second&gt;")]


def test_more_series_than_colors_are_dashed():
    assert charts.color_class(0) == "c0" and charts.color_class(charts.COLORS) == "c0 dashed"


def test_a_name_cannot_end_the_script():
    figure = line_chart("t", [Series("</script><b>", [0, 1], [1.0, 2.0])], "s", "y")
    inside = re.search(r'json">(.*?)</script>', figure)[1]
    assert json.loads(inside)["series"][0]["name"] == "</script><b>"


def test_bars_stand_for_their_values():
    heights = [
        float(bar.get("height"))
        for bar in bars(bar_chart("t", [("0", 10.0, 0), ("1", 5.0, 1), ("2", 0.0, 2)], "worker", "y"))
    ]
    assert heights[1] == pytest.approx(heights[0] / 2, abs=0.1) and heights[2] == 0


def test_histogram_shares():
    figure = histogram("t", [("a", [(0, 5), (1, 10), (3, 5)], 0)], "staleness")
    assert [bar.find("title").text for bar in bars(figure)] == ["0: 25 %", "1: 50 %", "2: 0 %", "3: 25 %"]


def test_histogram_with_a_long_tail():
    """Rare large values do not squeeze the rest: they share the last bin, and nothing is lost."""
    figure = histogram("t", [("a", [(v, 1000) for v in range(10)] + [(100_000, 1)], 0)], "staleness")
    tips = [bar.find("title").text for bar in bars(figure)]
    assert tips[0].startswith("0:") and tips[-1].startswith("≥10:") and len(tips) == 11
    assert sum(float(tip.split(": ")[1].rstrip(" %")) for tip in tips) == pytest.approx(100, abs=0.1)


def test_histogram_of_a_wide_range_has_few_bins():
    figure = histogram("t", [("a", [(v, 1) for v in range(1000)], 0)], "staleness")
    tips = [bar.find("title").text for bar in bars(figure)]
    assert len(tips) <= 41 and tips[0].startswith("0–24:")


def test_several_histograms_are_outlines():
    figure = histogram("t", [("a", [(0, 1)], 0), ("b", [(0, 1), (1, 1)], 1)], "staleness")
    assert not bars(figure) and len(svg_of(figure).findall("path")) == 2
    assert "no values recorded" in histogram("t", [("a", [], 0)], "staleness")
