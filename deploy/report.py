"""``report.html``: one self-contained page about a run, or several runs overlaid. No network, no other file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from deploy import charts
from deploy.charts import Series
from deploy.run_directory import read_metrics, read_summary, require_run, write_atomically
from deploy.words import clock, number, si

MOST_WORKER_LINES = charts.COLORS
SMOOTH_POINTS = 120  # rates are noisy: fewer, averaged points


@dataclass(frozen=True)
class Run:
    """What a run directory recorded; records are as in ``metrics.jsonl``, but ``seconds`` of a simulated run are virtual."""

    name: str
    path: Path
    job: str
    summary: Mapping[str, Any]
    progress: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> str:
        """``done``, ``failed``, ``interrupted``, or ``running`` while there is no summary."""
        return str(self.summary.get("status") or "running")

    @property
    def simulated(self) -> bool:
        """Its time is virtual."""
        records = [self.summary, *self.progress[:1], *self.evaluations[:1]]
        return any(record.get("virtual_seconds") is not None for record in records)

    def metric_names(self) -> list[str]:
        """Names of all evaluation metrics, in the order they first stood in."""
        return list(dict.fromkeys(name for record in self.evaluations for name in record.get("evaluation") or {}))


def read_run(path: str | Path) -> Run:
    """Read a run directory, finished or not.

    Raises:
      RunDirectoryError: not a run directory, or a damaged one.
    """
    path = require_run(path)
    records = [in_own_time(record) for record in read_metrics(path)]
    of_kind = {
        kind: [record for record in records if record.get("kind") == kind]
        for kind in ("progress", "evaluation", "event")
    }
    job = (path / "job.toml").read_text(encoding="utf-8", errors="replace")
    name = path.resolve().name
    return Run(name, path, job, read_summary(path), of_kind["progress"], of_kind["evaluation"], of_kind["event"])


def in_own_time(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose ``seconds`` are virtual if it is of a simulation."""
    virtual = record.get("virtual_seconds")
    return record if virtual is None else {**record, "seconds": virtual}


def write_report(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Write the page about these run directories to ``out``; returns its path.

    Raises:
      RunDirectoryError: a path is not a run directory, or a damaged one.
    """
    out = Path(out)
    write_atomically(out, render(with_distinct_names([read_run(path) for path in runs])))
    return out


def with_distinct_names(runs: Sequence[Run]) -> list[Run]:
    """Runs whose folders share a name are told apart by the folder above, then by a number."""
    names: list[str] = []
    for run in runs:
        shared = sum(other.name == run.name for other in runs) > 1
        name = f"{run.path.resolve().parent.name}/{run.name}" if shared else run.name
        same = sum(taken == name or taken.startswith(f"{name} (") for taken in names)
        names.append(f"{name} ({same + 1})" if same else name)
    return [Run(**{**vars(run), "name": name}) for run, name in zip(runs, names, strict=True)]


def render(runs: Sequence[Run]) -> str:
    """The page as HTML text."""
    alone = runs[0] if len(runs) == 1 else None
    title = alone.name if alone else f"{len(runs)} runs"
    body = [_head_of(alone) if alone else _head_of_many(runs)]
    body += [section("Training loss", _loss_charts(runs)), section("Evaluation", _metric_charts(runs))]
    body += [section("Staleness and throughput", [*_staleness_charts(runs), *_throughput_charts(runs)])]
    body += [_timeline(alone) if alone else ""]
    body += [_events_table(runs), _evaluation_table(alone) if alone else "", *(_job_details(run) for run in runs)]
    return page(title, "".join([*body, _footer(runs)]))


def page(title: str, body: str) -> str:
    """A self-contained page, style and script inside, around the HTML ``body``."""
    folder = resources.files("deploy") / "page"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Hogshead</title>\n<style>{style}</style></head>\n"
        f"<body><main>{body}</main>\n"
        f"<script>{script}</script></body></html>\n"
    )


def _head_of(run: Run) -> str:
    summary = run.summary
    what = [str(summary[name]) for name in ("strategy", "task") if summary.get(name)]
    rules = [
        f"{word} {summary[name]}"
        for name, word in (("rule", "rule"), ("local_rule", "local rule"))
        if summary.get(name)
    ]
    reason = f" · {summary['stop_reason']}" if summary.get("stop_reason") else ""
    head = f'<h1>{escape(run.name)}<span class="status {escape(run.status)}">{escape(run.status)}</span></h1>'
    simulated = ", simulated: time and rates are virtual" if run.simulated else ""
    about = " on ".join(what) + "".join(f", {rule}" for rule in rules) + simulated + reason
    head += f'<p class="sub">{escape(about)}</p>'
    if summary.get("error"):
        head += f'<p class="error">{escape(str(summary["error"]))}</p>'
    tiles = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in _tiles(run)
    )
    return head + (f'<div class="tiles">{tiles}</div>' if tiles else "")


def _head_of_many(runs: Sequence[Run]) -> str:
    """A table with one row per run and one column per fact that any of them has."""
    names = list(dict.fromkeys(name for run in runs for name, _ in _tiles(run)))
    rows = []
    for index, run in enumerate(runs):
        facts = dict(_tiles(run))
        cells = "".join(f"<td>{escape(facts.get(name, '–'))}</td>" for name in names)
        key = f'<i class="key {charts.color_class(index)}"></i>'
        what = escape(
            " on ".join(str(run.summary[name]) for name in ("strategy", "task") if run.summary.get(name)) or "–"
        )
        status = f'<td class="left {escape(run.status)}">{escape(run.status)}</td>'
        rows.append(f'<tr><td>{key}{escape(run.name)}</td><td class="left">{what}</td>{status}{cells}</tr>')
    heads = "".join(f'<th class="left">{name}</th>' for name in ("run", "what", "status"))
    heads += "".join(f"<th>{escape(name)}</th>" for name in names)
    return f"<h1>{len(runs)} runs</h1><h2>Summary</h2>{table(heads, rows)}"


def _tiles(run: Run) -> list[tuple[str, str]]:
    """``(name, text)`` of the facts that stand on top of the page."""
    summary, unit = run.summary, "virtual s" if run.simulated else "s"
    admission = summary.get("admission")
    facts: list[tuple[str, Any, Callable[[Any], str]]] = [
        *((name, value, number) for name, value in (summary.get("evaluation") or {}).items()),
        ("train loss", summary.get("train_loss"), number),
        ("virtual time", summary.get("virtual_seconds"), lambda s: f"{s:.4g} s" if s < 1e4 else f"{s:,.0f} s"),
        ("wall time", summary.get("wall_seconds"), lambda s: f"{s:.1f} s" if s < 60 else clock(s)),
        ("epochs", summary.get("epochs"), lambda n: f"{n:g}"),
        (f"examples/{unit}", summary.get("examples_per_second"), si),
        (f"updates/{unit}", summary.get("updates_per_second"), si),
        ("mean staleness", (summary.get("staleness") or {}).get("mean"), number),
        ("workers", summary.get("workers"), str),
        ("shards", summary.get("shards"), str),
        ("busiest shard", max(utilisation(summary), default=0.0) or None, lambda share: f"{100 * share:.3g} %"),
        ("admission", admission if admission != "asynchronous" else None, str),
        ("gradients dropped", summary.get("dropped") or None, si),
        ("seed", summary.get("seed"), str),
        ("non-finite skipped", summary.get("skipped_nonfinite") or None, str),
        ("worker deaths", summary.get("worker_deaths") or None, str),
    ]
    tiles = [(name, text(value)) for name, value, text in facts if value is not None]
    best = summary.get("best")
    if best and best.get("value") is not None:
        tiles.insert(0, (f"best {best.get('metric')}", number(best["value"])))
        tiles.insert(1, ("best epoch", f"{best.get('epoch'):g}"))
    return tiles


def _loss_charts(runs: Sequence[Run]) -> list[str]:
    return _over_time_and_examples("Training loss", "loss", runs, measured, lambda record: record.get("loss"))


def _metric_charts(runs: Sequence[Run]) -> list[str]:
    names = dict.fromkeys(name for run in runs for name in run.metric_names())
    figures = []
    for name in names:
        figures += _over_time_and_examples(
            name,
            name,
            runs,
            lambda run: run.evaluations,
            lambda record, name=name: (record.get("evaluation") or {}).get(name),
        )
    return figures


def _over_time_and_examples(
    title: str,
    y_label: str,
    runs: Sequence[Run],
    records: Callable[[Run], list[dict[str, Any]]],
    value: Callable[[dict[str, Any]], float | None],
) -> list[str]:
    """Two figures of one quantity, on the same y axis: against seconds and against examples."""
    figures = []
    for axis, x_label in (("seconds", seconds_label(runs)), ("examples", "training examples")):
        series = [
            Series(
                run.name, [record[axis] for record in records(run)], [value(record) for record in records(run)], index
            )
            for index, run in enumerate(runs)
        ]
        time = f"{'virtual ' if _all_simulated(runs) else ''}time"
        figures.append(
            charts.line_chart(f"{title} over {time if axis == 'seconds' else 'examples'}", series, x_label, y_label)
        )
    return figures


def _all_simulated(runs: Sequence[Run]) -> bool:
    return all(run.simulated for run in runs)


def seconds_label(runs: Sequence[Run]) -> str:
    """What a time axis of these runs shows."""
    if _all_simulated(runs):
        return "virtual seconds"
    return "seconds (virtual where simulated)" if any(run.simulated for run in runs) else "seconds"


def utilisation(summary: Mapping[str, Any]) -> list[float]:
    """Share of the time that each shard of a simulated run was serving."""
    seconds = summary.get("virtual_seconds") or 0.0
    return [busy / seconds for busy in summary.get("shard_busy_seconds") or []] if seconds > 0 else []


def _staleness_charts(runs: Sequence[Run]) -> list[str]:
    found = [(run, index, run.summary.get("staleness") or {}) for index, run in enumerate(runs)]
    figure = charts.histogram(
        "Staleness at apply",
        [(run.name, entry.get("histogram") or [], index) for run, index, entry in found],
        "staleness, versions",
    )
    notes = []
    for run, _, entry in found:
        facts = [f"{name} {number(entry[key])}" for key, name in _STALENESS_WORDS if entry.get(key) is not None]
        if facts:
            notes.append((f"{run.name}: " if len(runs) > 1 else "") + ", ".join(facts))
    note = "".join(f'<p class="note">{escape(text)}</p>' for text in notes)
    over_time = [
        Series(run.name, [r["seconds"] for r in measured(run)], [r.get("staleness") for r in measured(run)], index)
        for index, run in enumerate(runs)
    ]
    return [
        figure.replace("</figure>", f"{note}</figure>"),
        charts.line_chart(
            "Mean staleness over time",
            over_time,
            seconds_label(runs),
            "versions",
            from_zero=True,
            most_points=SMOOTH_POINTS,
        ),
    ]


_STALENESS_WORDS = (("mean", "mean"), ("p50", "median"), ("p95", "95 %"), ("max", "max"))


def _throughput_charts(runs: Sequence[Run]) -> list[str]:
    """Examples per second over time (per worker for one run, in total for several) and the mean of each worker."""
    if len(runs) == 1:
        lines = worker_series(runs[0])
        title = "Throughput per worker over time"
    else:
        title = "Throughput of all workers over time"
        lines = [_progress_series(run.name, run, index, "examples_per_second") for index, run in enumerate(runs)]
    rates = [(index, *rate) for index, run in enumerate(runs) for rate in mean_rates(run)]
    own_colors = len(runs) == 1 and len(rates) <= MOST_WORKER_LINES
    bars = [(str(worker), rate, worker if own_colors else index) for index, worker, rate in rates]
    keys = [(run.name, index) for index, run in enumerate(runs)]
    rate = "examples/virtual s" if _all_simulated(runs) else "examples/s"
    return [
        charts.line_chart(title, lines, seconds_label(runs), rate, from_zero=True, most_points=SMOOTH_POINTS),
        charts.bar_chart("Mean throughput of each worker", bars, "worker", rate, keys),
    ]


def worker_series(run: Run) -> list[Series]:
    """Throughput of each worker over time; slowest, mean and fastest where there are too many to tell apart."""
    rates: dict[int, dict[float, float]] = {}
    for record in run.progress:
        for entry in record.get("workers") or []:
            if entry.get("examples_per_second") is not None:
                rates.setdefault(entry["worker"], {})[record["seconds"]] = entry["examples_per_second"]
    times = sorted({second for by_time in rates.values() for second in by_time})
    if len(rates) <= MOST_WORKER_LINES:
        return [Series(f"worker {w}", times, [rates[w].get(t) for t in times], w) for w in sorted(rates)]
    together = [[by_time[t] for by_time in rates.values() if t in by_time] for t in times]
    mean = [sum(values) / len(values) for values in together]
    spread = (("slowest", [min(v) for v in together]), ("mean", mean), ("fastest", [max(v) for v in together]))
    return [
        Series(f"{name} of {len(rates)} workers", times, values, color) for color, (name, values) in enumerate(spread)
    ]


def mean_rates(run: Run) -> list[tuple[int, float]]:
    """``(worker, examples per second)`` over the whole run, from the last progress record that names the worker."""
    last: dict[int, tuple[float, int]] = {}
    for record in run.progress:
        for entry in record.get("workers") or []:
            last[entry["worker"]] = (record["seconds"], entry.get("examples") or 0)
    return [(worker, examples / seconds) for worker, (seconds, examples) in sorted(last.items()) if seconds > 0]


def measured(run: Run) -> list[dict[str, Any]]:
    """Progress records of intervals in which examples were finished; in others there is no loss and no staleness."""
    before = [0, *(record["examples"] for record in run.progress)]
    return [record for record, earlier in zip(run.progress, before, strict=False) if record["examples"] > earlier]


def _progress_series(name: str, run: Run, color: int, key: str) -> Series:
    return Series(
        name, [record["seconds"] for record in run.progress], [record.get(key) for record in run.progress], color
    )


def _timeline(run: Run) -> str:
    """The beginning of a run whose operations were kept."""
    from deploy.timeline import beginning

    drawn = beginning(run.path)
    return f"<h2>Timeline</h2>{drawn}" if drawn else ""


def _events_table(runs: Sequence[Run]) -> str:
    """All events but checkpoints, which are only counted."""
    rows = []
    for run in runs:
        name = f"<td>{escape(run.name)}</td>" if len(runs) > 1 else ""
        for event in run.events:
            if event.get("event") != "checkpoint":
                what = escape(str(event.get("event")).replace("_", " "))
                cells = f'<td>{event.get("seconds", 0):.1f} s</td><td class="left">{what}</td>'
                rows.append(f'<tr>{name}{cells}<td class="text">{escape(str(event.get("message", "")))}</td></tr>')
    saved = sum(event.get("event") == "checkpoint" for run in runs for event in run.events)
    note = f'<p class="note">{saved} checkpoint{"" if saved == 1 else "s"} written</p>' if saved else ""
    if not rows:
        return f"<h2>Events</h2><p class='empty'>nothing unusual</p>{note}"
    heads = (
        "<th>run</th>" if len(runs) > 1 else ""
    ) + "<th>at</th><th class='left'>event</th><th class='text'>message</th>"
    return f"<h2>Events</h2>{table(heads, rows)}{note}"


def _evaluation_table(run: Run) -> str:
    if not run.evaluations:
        return ""
    names = run.metric_names()
    rows = []
    for record in run.evaluations:
        values = [record.get("train_loss"), *((record.get("evaluation") or {}).get(name) for name in names)]
        cells = [
            f"{record['epoch']:g}",
            f"{record['seconds']:.1f}",
            f"{record['examples']:,}",
            *(number(value) for value in values),
        ]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    seconds = seconds_label([run])
    heads = "".join(f"<th>{escape(name)}</th>" for name in ["epoch", seconds, "examples", "train loss", *names])
    return f"<details><summary>All evaluations ({len(rows)})</summary>{table(heads, rows)}</details>"


def _job_details(run: Run) -> str:
    return f"<details><summary>Job of {escape(run.name)}, resolved</summary><pre>{escape(run.job)}</pre></details>"


def section(title: str, figures: Sequence[str]) -> str:
    """A heading with figures below it."""
    content = f'<div class="charts">{"".join(figures)}</div>' if figures else '<p class="empty">none recorded</p>'
    return f"<h2>{escape(title)}</h2>{content}"


def table(heads: str, rows: Sequence[str]) -> str:
    """A table that scrolls by itself where it is too wide; ``heads`` are th elements, ``rows`` tr elements."""
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _footer(runs: Sequence[Run]) -> str:
    found = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in (run.summary.get("versions") or {}).items()) for run in runs
    )
    facts = [text for text in found if text] + [str(run.summary["time"]) for run in runs if run.summary.get("time")]
    return f"<footer>Hogshead{' · ' if facts else ''}{escape(' · '.join(facts))}</footer>"
