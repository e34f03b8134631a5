"""Small SVG charts for the report: lines, histograms, bars. Text in, text out; colours come from the style sheet.

The drawing is sized for a phone (420 units wide) and scales up; a chart carries its numbers as JSON for the page's
hover script.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 10, 40
COLORS = 8  # classes c0..c7 of the style sheet; beyond them lines are dashed
MOST_POINTS = 400
LOG_RATIO = 50.0  # a positive range at least this wide gets a logarithmic axis
MARKED_POINTS = 30
FAINT = -1  # color of a line that is there for comparison, like a target


@dataclass(frozen=True)
class Series:
    """One line: ``x`` ascending, ``y`` of the same length; None breaks the line. ``color`` counts from 0, or is ``FAINT``."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    color: int = 0


@dataclass(frozen=True)
class Axis:
    """A mapping of ``[low, high]`` onto ``[start, end]`` in drawing units."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Position of ``value``."""
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, count: int) -> list[float]:
        """About ``count`` round values inside the range."""
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high, count)


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    log: bool | None = None,
    from_zero: bool = False,
    log_x: bool = False,
    x_ticks: Sequence[float] | None = None,
    most_points: int = MOST_POINTS,
) -> str:
    """A figure with one line per series, a legend from two on, and hover values.

    Args:
      log: whether the y axis is logarithmic; None decides by the spread of the values.
      from_zero: the y axis starts at 0 (and is linear).
      log_x: the x axis is logarithmic; all ``x`` > 0.
      x_ticks: what the x axis names, instead of round values.
      most_points: lines with more are thinned to this many means.
    """
    series = [thinned(entry, most_points) for entry in series if any(value is not None for value in entry.y)]
    values = [value for entry in series for value in entry.y if value is not None]
    if not values:
        return _figure(title, "", '<p class="empty">no values recorded</p>')
    if log is None:
        log = not from_zero and min(values) > 0 and max(values) / min(values) >= LOG_RATIO
    xs = [x for entry in series for x, y in zip(entry.x, entry.y, strict=True) if y is not None]
    x_axis = _x_axis(xs, log_x)
    y_axis = value_axis(min(0.0, *values) if from_zero else min(values), max(values), log)
    ticks = x_axis.ticks(6) if x_ticks is None else x_ticks
    drawn = [_grid(x_axis, y_axis, ticks, x_label + (" (log)" if log_x else ""), y_label + (" (log)" if log else ""))]
    drawn += [_line(entry, x_axis, y_axis) for entry in series]
    numbers = {
        "x": _axis_numbers(x_axis),
        "y": _axis_numbers(y_axis),
        "xLabel": x_label,
        "series": [_points(s) for s in series],
    }
    return _figure(title, legend([(entry.name, entry.color) for entry in series]), _svg(title, drawn), numbers)


def bar_chart(
    title: str,
    bars: Sequence[tuple[str, float, int]],
    x_label: str,
    y_label: str,
    keys: Sequence[tuple[str, int]] = (),
) -> str:
    """A figure of upright bars ``(label, value, color)`` from zero; ``keys`` are the legend's ``(name, color)``."""
    if not bars:
        return _figure(title, "", '<p class="empty">no values recorded</p>')
    y_axis = value_axis(0.0, max(value for _, value, _ in bars) or 1.0, False)
    step = (WIDTH - RIGHT - LEFT) / len(bars)
    width = max(1.0, min(48.0, step - 2.0))
    every = math.ceil((max(len(name) for name, _, _ in bars) * 7.0 + 4.0) / step)
    drawn = [_y_grid(y_axis, y_label), _x_label(x_label)]
    for index, (name, value, color) in enumerate(bars):
        middle = LEFT + (index + 0.5) * step
        drawn.append(_bar(middle - width / 2, width, y_axis, value, color, f"{name}: {tick_text(value)}"))
        if index % every == 0:
            drawn.append(_text(middle, HEIGHT - BOTTOM + 15, name, "middle"))
    return _figure(title, legend(keys), _svg(title, drawn))


def histogram(
    title: str, runs: Sequence[tuple[str, Sequence[tuple[int, int]], int]], x_label: str, most_bins: int = 40
) -> str:
    """A figure of the shares of whole numbers.

    Args:
      runs: ``(name, [(value, count), ...], color)``; one is drawn as bars, several as outlines.
      most_bins: values beyond the 99.5 % quantile share the last bin, and bins are as wide as it takes to have no more.
    """
    runs = [(name, [(int(v), int(n)) for v, n in counts if n > 0], color) for name, counts, color in runs]
    runs = [run for run in runs if run[1]]
    if not runs:
        return _figure(title, "", '<p class="empty">no values recorded</p>')
    low = min(0, min(value for _, counts, _ in runs for value, _ in counts))
    high = max(_quantile(counts, 0.995) for _, counts, _ in runs)
    width = max(1, math.ceil((high - low + 1) / most_bins))
    bins = max(1, math.ceil((high - low + 1) / width))
    overflow = max(value for _, counts, _ in runs for value, _ in counts) >= low + bins * width
    shares = [(name, _binned(counts, low, width, bins + overflow), color) for name, counts, color in runs]
    x_axis = Axis(low, low + (bins + overflow) * width, LEFT, WIDTH - RIGHT)
    y_axis = value_axis(0.0, max(max(share) for _, share, _ in shares), False)
    names = _bin_names(low, width, bins, overflow)
    every = math.ceil((max(map(len, names)) * 7.0 + 6.0) * len(names) / (WIDTH - RIGHT - LEFT))
    drawn = [_y_grid(y_axis, "share of pushes, %")]
    for index, name in enumerate(names):
        left, right = x_axis.at(low + index * width), x_axis.at(low + (index + 1) * width)
        if len(shares) == 1:
            share, color = shares[0][1][index], shares[0][2]
            gap = min(2.0, (right - left) / 4)
            drawn.append(_bar(left + gap / 2, right - left - gap, y_axis, share, color, f"{name}: {share:.3g} %"))
        last = index == bins + overflow - 1
        if (index % every == 0 and index + every // 2 < bins + overflow - 1) or last:
            drawn.append(_text((left + right) / 2, HEIGHT - BOTTOM + 15, name, "middle"))
    drawn.append(_x_label(x_label))
    if len(shares) > 1:
        drawn += [_outline(share, x_axis, y_axis, width, color) for _, share, color in shares]
    return _figure(title, legend([(name, color) for name, _, color in shares]), _svg(title, drawn))


def legend(entries: Sequence[tuple[str, int]]) -> str:
    """Names with their colours; nothing for a single entry, which the title names."""
    if len(entries) < 2:
        return ""
    keys = "".join(f'<li><i class="key {color_class(color)}"></i>{escape(name)}</li>' for name, color in entries)
    return f'<ul class="legend">{keys}</ul>'


def color_class(color: int) -> str:
    """Style classes of the ``color``-th series."""
    if color == FAINT:
        return "faint"
    return f"c{color % COLORS}" + (" dashed" if color // COLORS % 2 else "")


def value_axis(low: float, high: float, log: bool) -> Axis:
    """A y axis that holds ``[low, high]`` with round ends."""
    start, end = HEIGHT - BOTTOM, TOP
    if log:
        return Axis(low / 1.15, high * 1.15, start, end, True)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value, but for rounding
        low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
    ticks = linear_ticks(low, high, 5)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    return Axis(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten in ``[low, high]``, about ``count`` of them."""
    raw = (high - low) / max(1, count)
    if not raw > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    fitting = next(index for index, factor in enumerate((1, 2, 5, 10)) if factor * power >= raw * 0.999)
    for factor in (0.5, 1, 2, 5, 10)[
        fitting + 1 :: -1
    ]:  # a coarse step may have no multiple in the range, the next finer has
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if first <= last:
            return [index * step for index in range(first, last + 1)]
    return [low]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in ``[low, high]``, with 2 and 5 between them in a short range, and thinned in a long one."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if math.log10(high / low) <= 2.5 else (1,)
    every = max(1, math.ceil((last - first) / 7))
    ticks = [factor * 10.0**power for power in range(first, last + 1) if power % every == 0 for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def thinned(series: Series, most: int = MOST_POINTS) -> Series:
    """At most ``most`` points: means of equal groups of neighbours, placed at the last of each group."""
    if len(series.x) <= most:
        return series
    size = math.ceil(len(series.x) / most)
    xs, ys = [], []
    for start in range(0, len(series.x), size):
        group = [value for value in series.y[start : start + size] if value is not None]
        xs.append(series.x[min(start + size, len(series.x)) - 1])
        ys.append(sum(group) / len(group) if group else None)
    return Series(series.name, xs, ys, series.color)


def tick_text(value: float) -> str:
    """A short number: 0.25, 1.5k, 20M, 1e-05."""
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{value / bound:.4g}{letter}"
    return f"{value:.0e}" if 0 < abs(value) < 1e-4 else f"{value:.4g}"


def _figure(title: str, keys: str, body: str, numbers: dict | None = None) -> str:
    data = "" if numbers is None else f'<script type="application/json">{_script_json(numbers)}</script>'
    plot = f'{keys}<div class="plot">{body}</div>{data}'
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{plot}</figure>'


def _script_json(numbers: dict) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(numbers, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _svg(title: str, drawn: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(drawn)}</svg>'


def _x_axis(xs: Sequence[float], log: bool) -> Axis:
    if not log:
        return Axis(min(0.0, min(xs)), max(xs) or 1.0, LEFT, WIDTH - RIGHT)
    low, high = min(xs), max(xs)
    return Axis(low, high if high > low else 2.0 * low, LEFT, WIDTH - RIGHT, True)


def _grid(x_axis: Axis, y_axis: Axis, x_ticks: Sequence[float], x_label: str, y_label: str) -> str:
    parts = [_y_grid(y_axis, y_label)]
    for tick in x_ticks:
        parts.append(_text(x_axis.at(tick), HEIGHT - BOTTOM + 15, tick_text(tick), "middle"))
    return "".join([*parts, _x_label(x_label)])


def _x_label(text: str) -> str:
    return _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, text, "middle")


def _y_grid(axis: Axis, label: str) -> str:
    """Horizontal lines with their values, and the axis's name along the left edge."""
    parts = []
    for tick in axis.ticks(5):
        y = axis.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 5, y + 4, tick_text(tick), "end"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{axis.start}" y2="{axis.start}"/>')
    middle = (axis.start + axis.end) / 2
    parts.append(
        f'<text transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(label)}</text>'
    )
    return "".join(parts)


def _line(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    path, pen_down, marks = [], False, []
    marked = sum(value is not None for value in series.y) <= MARKED_POINTS
    for x, y in zip(series.x, series.y, strict=True):
        if y is not None:
            at = (x_axis.at(x), y_axis.at(y))
            path.append(f"{'L' if pen_down else 'M'}{at[0]:.1f} {at[1]:.1f}")
            if marked:
                marks.append(
                    f'<circle class="mark {color_class(series.color)}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3"/>'
                )
        pen_down = y is not None
    return f'<path class="line {color_class(series.color)}" d="{"".join(path)}"/>{"".join(marks)}'


def _outline(shares: Sequence[float], x_axis: Axis, y_axis: Axis, width: int, color: int) -> str:
    """The upper edge of a histogram, as steps."""
    path = f"M{x_axis.at(x_axis.low):.1f} {y_axis.at(0.0):.1f}"
    for index, share in enumerate(shares):
        right = x_axis.at(x_axis.low + (index + 1) * width)
        path += f"V{y_axis.at(share):.1f}H{right:.1f}"
    return f'<path class="line {color_class(color)}" d="{path}V{y_axis.at(0.0):.1f}"/>'


def _bar(left: float, width: float, axis: Axis, value: float, color: int, tip: str) -> str:
    top = axis.at(value)
    return (
        f'<rect class="bar {color_class(color)}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{max(0.0, axis.start - top):.1f}"><title>{escape(tip)}</title></rect>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _axis_numbers(axis: Axis) -> dict:
    return {"low": axis.low, "high": axis.high, "start": axis.start, "end": axis.end, "log": axis.log}


def _points(series: Series) -> dict:
    return {
        "name": series.name,
        "color": color_class(series.color),
        "x": [_rounded(x) for x in series.x],
        "y": [_rounded(y) for y in series.y],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _quantile(counts: Sequence[tuple[int, int]], share: float) -> int:
    """Smallest value that at least ``share`` of the counts do not exceed."""
    wanted, seen = share * sum(count for _, count in counts), 0
    for value, count in sorted(counts):
        seen += count
        if seen >= wanted:
            return value
    return max(value for value, _ in counts)


def _binned(counts: Sequence[tuple[int, int]], low: int, width: int, bins: int) -> list[float]:
    """Percent per bin; what lies beyond the last bin is counted in it."""
    shares, total = [0.0] * bins, sum(count for _, count in counts)
    for value, count in counts:
        shares[min((value - low) // width, bins - 1)] += 100.0 * count / total
    return shares


def _bin_names(low: int, width: int, bins: int, overflow: bool) -> list[str]:
    names = [
        str(low + i * width) if width == 1 else f"{low + i * width}–{low + (i + 1) * width - 1}" for i in range(bins)
    ]
    return [*names, f"≥{low + bins * width}"] if overflow else names
