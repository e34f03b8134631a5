"""``compare.html``: the answer, the table, and what each cell did, on one self-contained page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from deploy import charts
from deploy.charts import FAINT, Series
from deploy.compare import table
from deploy.compare.advice import is_sound
from deploy.compare.comparison import Comparison
from deploy.compare.grid import shown
from deploy.compare.measure import Figures
from deploy.report import page, section
from deploy.report import table as html_table
from deploy.run_directory import write_atomically
from deploy.words import plural

WIDE = 10.0  # a ratio of largest to smallest from which an axis of workers or time is logarithmic
OFF_SCALE = 1.5  # values beyond this many times the worst first one are of cells that blow up, and are not drawn

Groups = dict[str, list[Figures]]


def write_page(comparison: Comparison, out: Path) -> Path:
    """Write the page; returns its path."""
    write_atomically(out, render(comparison, out.parent))
    return out


def render(comparison: Comparison, folder: Path | None = None) -> str:
    """The page as HTML text; links to the runs' reports are relative to ``folder``."""
    body = [_head(comparison), _answer(comparison), _table(comparison, folder)]
    key = x_key(comparison)
    if key is not None:
        body.append(section("Scaling" if key == "workers" else f"By {key}", _scaling_charts(comparison, key)))
    if comparison.target is not None:
        body.append(section(f"{comparison.target.metric} over time", _curves(comparison, key)))
    body.append(_messages(comparison))
    body.append(_commands(comparison))
    return page(f"{comparison.name} compared", "".join(body) + "<footer>Hogshead</footer>")


def x_key(comparison: Comparison) -> str | None:
    """What the x axis of the scaling charts is: the workers if they differ, else the first varied number, else nothing."""
    if len({one.cell.workers for one in comparison.figures}) > 1:
        return "workers"
    for key in comparison.varied:
        values = {one.cell.settings.get(key) for one in comparison.figures} - {None}
        if len(values) > 1 and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            return table.SHORT_OF.get(key, key)
    return None


def x_of(one: Figures, key: str) -> float | None:
    """Where a cell stands on that axis."""
    if key == "workers":
        return one.cell.workers
    return next((value for name, value in one.cell.settings.items() if table.SHORT_OF.get(name, name) == key), None)


def groups(comparison: Comparison, key: str | None) -> Groups:
    """Cells that differ only in where they stand on the x axis, by what they have in common."""
    found: Groups = {}
    for one in comparison.figures:
        parts = [one.cell.strategy]
        if key is None:
            parts.append(plural(one.cell.workers, "worker"))
        for name, value in one.cell.settings.items():
            short = table.SHORT_OF.get(name, name)
            if short not in ("strategy", "workers", key) and value is not None:
                parts.append(f"{short} {shown(value)}")
        found.setdefault(", ".join(parts), []).append(one)
    return found


def _head(comparison: Comparison) -> str:
    time = "virtual time" if comparison.simulated else "wall-clock time"
    sizes = [plural(len(comparison.figures), "cell")]
    sizes += [plural(comparison.repeats, "run") + " each"] if comparison.repeats > 1 else []
    varied = ", ".join(table.SHORT_OF.get(key, key) for key in comparison.varied)
    what = f"by {varied}: {', '.join(sizes)}, {time}"
    return f'<h1>{escape(comparison.name)} compared</h1><p class="sub">{escape(what)}</p>'


def _answer(comparison: Comparison) -> str:
    advice, target = comparison.advice, comparison.target
    kind = {"yes": "yes", "no": "no"}.get(advice.helps, "partly")
    parts = [f'<div class="answer {kind}"><p class="sub">Is asynchrony helping?</p>']
    parts.append(f'<p><b class="head">{escape(advice.headline)}</b></p>')
    if advice.suggestion:
        parts.append(f"<p>Suggested: <b>{escape(advice.suggestion)}</b></p>")
    parts.append(_list([*advice.reasons]))
    parts.append("</div>")
    if target is not None:
        parts.append(f'<p class="note">Target: {escape(target.text)}; {escape(target.why)}.</p>')
    if advice.strategies:
        parts.append(f"<h2>What scales, and where it breaks</h2>{_list(advice.strategies)}")
    parts += [f'<p class="note">{escape(caution)}</p>' for caution in advice.cautions]
    return "".join(parts)


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in sentences)}</ul>" if sentences else ""


def _table(comparison: Comparison, folder: Path | None) -> str:
    heads = table.headings(comparison)
    words = {*table.setting_columns(comparison), "status"} - {"workers"}
    row_texts = []
    suggested = comparison.suggested
    for one in comparison.figures:
        cells = [
            f'<td class="{_class(head, words, one)}">{_linked(text, one, folder) if index == 0 else escape(text)}</td>'
            for index, (head, text) in enumerate(zip(heads, table.row(one, comparison), strict=True))
        ]
        opened = '<tr class="chosen">' if one is suggested else "<tr>"
        row_texts.append(f"{opened}{''.join(cells)}</tr>")
    head = "".join(f'<th class="{"left" if name in words else ""}">{escape(name)}</th>' for name in heads)
    note = "Time and examples are those to the target; the metric is the one at the end. Bold: suggested."
    return f'<h2>All cells</h2>{html_table(head, row_texts)}<p class="note">{note}</p>'


def _class(head: str, words: set[str], one: Figures) -> str:
    if head == "status":
        status = one.status if one.status != "done" or is_sound(one) else "interrupted"  # in the colour of a warning
        return f"left {status}"
    return "left" if head in words else ""


def _linked(text: str, one: Figures, folder: Path | None) -> str:
    """The first column leads to the report of the (first) run."""
    if not one.runs or folder is None:
        return escape(text)
    report = Path(one.runs[0]) / "report.html"
    try:
        return f'<a href="{escape(report.relative_to(folder.resolve()).as_posix())}">{escape(text)}</a>'
    except ValueError:
        return escape(text)


def _scaling_charts(comparison: Comparison, key: str) -> list[str]:
    """Time and speed-up to the target, final metric, staleness and throughput over the x axis, a line per group."""
    virtual = "virtual seconds" if comparison.simulated else "seconds"
    metric = comparison.target.metric if comparison.target else "metric"
    wanted: list[tuple[str, str, Callable[[Figures], float | None], dict]] = [
        ("Time to the target", virtual, lambda one: one.seconds if is_sound(one) else None, {}),
        ("Speed-up", "times", lambda one: one.speed_up if is_sound(one) else None, {}),
        ("Examples to the target", "examples", lambda one: one.examples if is_sound(one) else None, {}),
        (f"Final {metric}", metric, lambda one: one.final, {}),
        ("Mean staleness", "versions", lambda one: one.staleness, {"from_zero": True}),
        ("Throughput", "examples/s", lambda one: one.examples_per_second, {}),
    ]
    figures = []
    for title, unit, value, options in wanted:
        figure = _over(comparison, key, title, unit, value, options)
        if title in ("Time to the target", "Speed-up"):
            figure = _with_note(figure, _missing(comparison))
        figures.append(figure)
    return figures


def _over(
    comparison: Comparison, key: str, title: str, unit: str, value: Callable[[Figures], float | None], options: dict
) -> str:
    lines = []
    for color, (name, cells) in enumerate(groups(comparison, key).items()):
        points = sorted((x, value(one)) for one in cells if (x := x_of(one, key)) is not None)
        points = [(x, y) for x, y in points if y is not None]
        lines.append(Series(name, [x for x, _ in points], [y for _, y in points], color))
    lines = [line for line in lines if line.x]
    ticks = sorted({x for line in lines for x in line.x})
    log = len(ticks) > 1 and ticks[0] > 0 and ticks[-1] / ticks[0] >= WIDE
    name = f"{title} over {key}"
    if title == "Speed-up" and key == "workers" and lines and len(ticks) > 1:
        lines.append(Series("ideal", ticks, ticks, FAINT))
    if title in ("Time to the target", "Speed-up") and log:
        options = {**options, "log": True}
    return charts.line_chart(name, lines, key, unit, log_x=log, x_ticks=_spread(ticks, log), **options)


def _spread(ticks: Sequence[float], log: bool) -> Sequence[float] | None:
    """Every value as a tick where there is room for all."""
    return ticks if len(ticks) <= (8 if log else 5) else None


def _missing(comparison: Comparison) -> list[str]:
    """Cells that have no point, by why."""
    notes: dict[str, list[str]] = {}
    for one in comparison.figures:
        if not is_sound(one):
            notes.setdefault(table.status_text(one), []).append(one.cell.title)
    return [f"{status}: {'; '.join(titles)}" for status, titles in notes.items()]


def _curves(comparison: Comparison, key: str | None) -> list[str]:
    """The metric over time: a chart per group with a line per x, or one chart with all cells."""
    target = comparison.target
    assert target is not None
    every = groups(comparison, key) if key is not None else {"all cells": list(comparison.figures)}
    limit = _limit(comparison)
    xs = sorted({x for one in comparison.figures if key and (x := x_of(one, key)) is not None})
    figures, cut = [], False
    for name, cells in every.items():
        lines, times = [], []
        for index, one in enumerate(cells):
            color = xs.index(x_of(one, key)) if key and x_of(one, key) in xs else index
            label = f"{key} {x_of(one, key):g}" if key and x_of(one, key) is not None else one.cell.title
            curve = one.curves[0] if one.curves else ()
            values = [point.value if _is_drawn(point.value, limit, target.smaller) else None for point in curve]
            cut = cut or any(
                value is None and point.value is not None for value, point in zip(values, curve, strict=True)
            )
            if any(value is not None for value in values):
                lines.append(Series(label, [point.seconds for point in curve], values, color))
                times += [point.seconds for point in curve]
        if not lines:
            figures.append(charts.line_chart(name, [], "", ""))
            continue
        log = min(times) > 0 and max(times) / min(times) >= 5 * WIDE
        lines.append(Series("target", [min(times) if log else 0.0, max(times)], [target.value] * 2, FAINT))
        unit = "virtual seconds" if cells[0].cell.simulated else "seconds"
        falls = target.smaller and all(value > 0 for line in lines for value in line.y if value is not None)
        figures.append(charts.line_chart(name, lines, unit, target.metric, log=falls, log_x=log))
    if cut and figures:
        figures[-1] = _with_note(figures[-1], [f"Values beyond {limit:.3g} are not drawn, here and above."])
    return figures


def _limit(comparison: Comparison) -> float:
    """How bad a value may be and still be drawn."""
    firsts = [
        curve[0].value for one in comparison.figures for curve in one.curves if curve and curve[0].value is not None
    ]
    sound = [
        curve[0].value
        for one in comparison.figures
        if is_sound(one)
        for curve in one.curves
        if curve and curve[0].value
    ]
    return OFF_SCALE * max(sound or firsts or [1.0])


def _is_drawn(value: float | None, limit: float, smaller: bool) -> bool:
    return value is not None and (not smaller or value <= limit)


def _with_note(figure: str, notes: Sequence[str]) -> str:
    text = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    return figure.replace("</figure>", f"{text}</figure>")


def _messages(comparison: Comparison) -> str:
    rows = [
        f'<tr><td>{escape(one.cell.title)}</td><td class="left {one.status}">{one.status}</td>'
        f'<td class="text">{escape(one.message)}</td></tr>'
        for one in comparison.figures
        if one.message
    ]
    heads = "<th>cell</th><th class='left'>status</th><th class='text'>why</th>"
    return f"<h2>What went wrong</h2>{html_table(heads, rows)}" if rows else ""


def _commands(comparison: Comparison) -> str:
    """How to run what is suggested."""
    if not comparison.advice.settings or comparison.suggested is None or not comparison.suggested.cell.jobs:
        return ""
    job = comparison.suggested.cell.jobs[0]
    summary = f"The suggested job, resolved ({escape(comparison.suggested.cell.title)})"
    return f"<details><summary>{summary}</summary><pre>{escape(job.to_toml())}</pre></details>"
