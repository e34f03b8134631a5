"""``hogshead timeline``: one lane per replica, with its gradients as bars and what it did at the shards as ticks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from deploy.charts import linear_ticks, tick_text
from deploy.lanes import Bar, Lane, Tick, Window, lanes_of
from deploy.report import in_own_time, page
from deploy.run_directory import read_metrics, require_run, write_atomically
from deploy.words import number, plural
from ps.errors import UsageError, meant
from worker import trace
from worker.trace import Trace

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1080, 78, 16, 40, 36
TALLEST_LANE, LOWEST_LANE, LANES_HEIGHT = 30.0, 11.0, 560.0
NAMED_LANE = 14.0  # lower ones have only their number
STEPS, STEPS_IN_REPORT = 16, 12  # of a replica, that a picture shows where nothing was asked for
REPLICAS, REPLICAS_IN_REPORT = 64, 12
GAP = 0.8  # between one bar and the next
SHADES = 6  # classes tl-0 (fresh) to tl-5 (stale) of the style sheet
_MARKS = {trace.PULL: "pull", trace.PUSH: "push", trace.EXCHANGE: "exchange", trace.CONTRIBUTE: "push"}


def write_timeline(
    run: str | Path,
    out: str | Path,
    start: float | None = None,
    stop: float | None = None,
    replicas: str | Sequence[int] | None = None,
) -> Path:
    """Draw a part of a run's trace.

    Args:
      run: a run directory with a trace.
      out: file to write, .svg or .html.
      start, stop: seconds since the run's start, virtual ones of a simulation; by default its beginning, as long as steps can
        be told apart.
      replicas: ``"0-7"``, ``"0,3"`` or their numbers; by default the first 64.

    Returns:
      The path written.

    Raises:
      RunDirectoryError: not a run directory, or it has no trace. UsageError: an argument is wrong.
    """
    out = Path(out)
    if out.suffix not in (".svg", ".html"):
        raise UsageError(f"--out must end in .svg or .html, got {str(out)!r}{meant(out.suffix, ['.svg', '.html'])}")
    path = require_run(run)
    whole = Trace.load(path / trace.TRACE_FILE)
    chosen = _chosen(replicas, int(whole.facts["workers"]), int(whole.facts.get("lanes", whole.facts["workers"])))
    window = _window(whole, chosen, start, stop, STEPS)
    drawn = draw(whole, window, lanes_of(whole, window, _deaths(path)))
    name = path.resolve().name
    if out.suffix == ".html":
        scrolling = f"<div class='scroll' style='margin-top: 14px'>{drawn}</div>"
        drawn = page(
            f"{name}, timeline",
            f"<h1>{escape(name)}</h1>{_about(whole, window)}{scrolling}",
        )
    write_atomically(out, drawn)
    return out


def beginning(run: Path) -> str:
    """The first steps of a run as a figure for its report; "" for one without a trace."""
    if not (run / trace.TRACE_FILE).is_file():
        return ""
    whole = Trace.load(run / trace.TRACE_FILE)
    chosen = range(min(int(whole.facts["workers"]), REPLICAS_IN_REPORT))
    window = Window.of(whole, chosen, None, None, STEPS_IN_REPORT)
    if not window.start < window.stop:  # it was stopped before anything had happened
        return ""
    lanes = lanes_of(whole, window, _deaths(run))
    if not any(lane.bars for lane in lanes):
        return ""
    note = f'<p class="note">The beginning; <code>hogshead timeline {escape(run.name)}</code> draws more.</p>'
    return f'<div class="scroll">{draw(whole, window, lanes)}</div>{note}'


def draw(whole: Trace, window: Window, lanes: Sequence[Lane]) -> str:
    """The picture as SVG text, with its style inside."""
    height = min(max(LANES_HEIGHT / len(lanes), LOWEST_LANE), TALLEST_LANE)
    stale = [bar.staleness for lane in lanes for bar in lane.bars if bar.staleness is not None]
    shades = _Shades(sorted(stale) or [0])
    total = TOP + height * len(lanes) + BOTTOM
    parts = [] if height >= NAMED_LANE else [_text(LEFT - 8, TOP - 8, "worker", "end")]
    parts += [_legend(shades), _grid(window, whole, TOP + height * len(lanes))]
    parts += [_lane(lane, window, TOP + height * index, height, shades) for index, lane in enumerate(lanes)]
    style = (resources.files("deploy") / "page" / "timeline.css").read_text(encoding="utf-8")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="timeline" viewBox="0 0 {WIDTH} {total:.0f}" role="img" '
        f'aria-label="timeline"><style>{style}</style>{"".join(parts)}</svg>'
    )


def _chosen(asked: str | Sequence[int] | None, workers: int, kept: int) -> list[int]:
    """The replicas to draw, of so many ``workers``; the trace has the first ``kept`` of them."""
    if asked is None:
        return list(range(min(kept, REPLICAS)))
    chosen = _parsed(asked, workers) if isinstance(asked, str) else list(asked)
    for replica in chosen:
        _require_replica(replica, workers)
        if replica >= kept:
            raise UsageError(
                f"--replicas: the trace has only replicas 0 to {kept - 1}, got {replica}; record = true keeps all"
            )
    return chosen


def _require_replica(replica: int, workers: int) -> None:
    if not 0 <= replica < workers:
        raise UsageError(f"--replicas: there is no replica {replica}; the run has {workers}, from 0 to {workers - 1}")


def _parsed(text: str, workers: int) -> list[int]:
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            low = int(first)
            found = range(low, (int(last) if dash else low) + 1)
        except ValueError:
            raise UsageError(f"--replicas must be numbers or ranges, e.g. 0-7 or 0,3,5, got {text!r}") from None
        if len(found):  # looked at before it is made a list
            _require_replica(found[0], workers)
            _require_replica(min(found[-1], workers), workers)
        chosen += [replica for replica in found if replica not in chosen]
    if not chosen:
        raise UsageError(f"--replicas must name at least one replica, e.g. 0-7, got {text!r}")
    return chosen


def _window(whole: Trace, replicas: Sequence[int], start: float | None, stop: float | None, steps: int) -> Window:
    window = Window.of(whole, replicas, start, stop, steps)
    if window.kept <= 0:
        raise UsageError("the run was stopped before anything had happened; there is nothing to draw")
    if window.start >= window.kept:
        raise UsageError(f"--from must be before the end of the trace at {window.kept:g} s, got {window.start:g}")
    if not window.start < window.stop:
        raise UsageError(f"--from must be before --to, got {window.start:g} and {window.stop:g}")
    return window


def _deaths(run: Path) -> list[tuple[int, float, str]]:
    """Replica, time and message of those who died or left."""
    events = [in_own_time(record) for record in read_metrics(run) if record.get("kind") == "event"]
    return [
        (event["worker"], event["seconds"], str(event.get("message", "")))
        for event in events
        if event.get("event") in ("worker_died", "worker_left")
    ]


def _about(whole: Trace, window: Window) -> str:
    simulated = whole.facts["backend"] == "simulation"
    unit = "virtual seconds" if simulated else "seconds"
    facts = [f"{number(window.start)} to {number(window.stop)} {unit} of {number(window.end)}"]
    facts.append(f"{plural(len(window.replicas), 'worker')} of {int(whole.facts['workers']):,}")
    if not whole.is_whole:
        facts.append(f"{len(whole):,} operations were kept, until {number(window.kept)} s; record = true keeps all")
    return f'<p class="sub">{escape(" · ".join(facts))}</p>'


# -- parts of the picture ---------------------------------------------------------------------------------------------


class _Shades:
    """Staleness to colour: as many even steps as there are shades, or one for each value where these are few.

    Args:
      values: of all bars, ascending. The largest tenth may share the last shade: stragglers must not make the rest look alike.
    """

    def __init__(self, values: Sequence[int]):
        largest, usual = values[-1], values[(len(values) - 1) * 9 // 10]
        self.is_open = largest > 2 * max(usual, SHADES)
        top = usual if self.is_open else largest
        self.width = -(-(top + 1) // (SHADES - self.is_open))
        self.count = top // self.width + 1 + self.is_open

    def of(self, staleness: int | None) -> str:
        if staleness is None:
            return "tl-none"
        return f"tl-{self._spread(min(staleness // self.width, self.count - 1))}"

    def names(self) -> list[tuple[str, str]]:
        """Class and text of each."""
        lows = [index * self.width for index in range(self.count)]
        texts = [str(low) if self.width == 1 else f"{low}–{low + self.width - 1}" for low in lows]
        if self.is_open:
            texts[-1] = f"{lows[-1]}–"
        return [(f"tl-{self._spread(index)}", text) for index, text in enumerate(texts)]

    def _spread(self, index: int) -> int:
        """Few shades lie far apart."""
        return index if self.count > SHADES // 2 else index * 2


def _legend(shades: _Shades) -> str:
    x, parts = float(LEFT), [_text(LEFT, 15, "gradient, by the staleness of its update:", "start")]
    x += 236
    for style, text in [*shades.names(), ("tl-none", "none")]:
        parts.append(
            f'<rect class="{style}" x="{x:.0f}" y="6" width="14" height="10"/>{_text(x + 18, 15, text, "start")}'
        )
        x += 28 + 7 * len(text)
    x += 10
    for kind, text in ((trace.PULL, "pull"), (trace.PUSH, "push"), (trace.EXCHANGE, "exchange")):
        parts.append(_mark(kind, x, 4.0, 15.0, "") + _text(x + 8, 15, text, "start"))
        x += 22 + 7 * len(text)
    parts.append(_cross(x + 4, 11.0, "") + _text(x + 14, 15, "crash", "start"))
    return "".join(parts)


def _grid(window: Window, whole: Trace, bottom: float) -> str:
    short = window.stop - window.start < 0.2
    scale, unit = (1e3, "milliseconds") if short else (1.0, "seconds")
    parts = []
    for tick in linear_ticks(window.start * scale, window.stop * scale, 10):
        x = _x(window, tick / scale)
        parts.append(f'<line class="tl-grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom:.1f}"/>')
        parts.append(_text(x, bottom + 14, tick_text(tick), "middle"))
    virtual = "virtual " if whole.facts["backend"] == "simulation" else ""
    return "".join([*parts, _text((LEFT + WIDTH - RIGHT) / 2, bottom + 29, virtual + unit, "middle")])


def _lane(lane: Lane, window: Window, top: float, height: float, shades: _Shades) -> str:
    gap = min(3.0, height / 6)
    upper, inner = top + gap, height - 2 * gap
    name = f"worker {lane.replica}" if height >= NAMED_LANE else str(lane.replica)
    parts = [_text(LEFT - 8, top + height / 2 + 4, name, "end")]
    for start, stop in lane.alive:
        left, right = _x(window, start), _x(window, stop)
        parts.append(
            f'<rect class="tl-lane" x="{left:.1f}" y="{upper:.1f}" width="{max(right - left, 0):.1f}" height="{inner:.1f}"/>'
        )
    parts += [_bar(bar, lane, window, upper + inner * 0.18, inner * 0.64, shades) for bar in lane.bars]
    parts += [_mark(tick.kind, _x(window, tick.time), upper, inner, _tick_text(tick)) for tick in lane.ticks]
    parts += [_cross(_x(window, time), top + height / 2, message) for time, message in lane.deaths]
    return "".join(parts)


def _bar(bar: Bar, lane: Lane, window: Window, y: float, height: float, shades: _Shades) -> str:
    left, right = _x(window, max(bar.start, window.start)), _x(window, min(bar.stop, window.stop))
    applied = "no update ends it" if bar.staleness is None else f"its update was applied at staleness {bar.staleness}"
    text = (
        f"worker {lane.replica}, step {bar.clock}: {number(bar.start)} s to {number(bar.stop)} s, loss {number(bar.loss)}; "
        f"{applied}"
    )
    return (
        f'<rect class="{shades.of(bar.staleness)}" x="{left:.1f}" y="{y:.1f}" width="{max(right - left - GAP, 1.0):.1f}" '
        f'height="{height:.1f}" rx="1"><title>{escape(text)}</title></rect>'
    )


def _mark(kind: int, x: float, y: float, height: float, text: str) -> str:
    """A pull hangs from above with an open dot, a push stands below with a full one, an exchange goes through."""
    name, title = _MARKS[kind], f"<title>{escape(text)}</title>" if text else ""
    dot = min(2.4, height / 5)
    top, bottom = {
        "pull": (y, y + height * 0.45),
        "push": (y + height * 0.55, y + height),
        "exchange": (y, y + height),
    }[name]
    dots = {"pull": [top], "push": [bottom], "exchange": [top, bottom]}[name]
    drawn = f'<line class="tl-{name}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
    for end in dots:
        drawn += f'<circle class="tl-dot tl-{name}" cx="{x:.1f}" cy="{end:.1f}" r="{dot:.1f}"/>'
    return f"<g>{title}{drawn}</g>"


def _tick_text(tick: Tick) -> str:
    where = ", ".join(f"shard {shard} {version}" for shard, version in tick.versions)
    what = {trace.PULL: "reads version", trace.CONTRIBUTE: "takes part in the step to version"}.get(
        tick.kind, "makes version"
    )
    staleness = f", staleness {tick.staleness}" if tick.staleness >= 0 else ""
    return f"{trace.KINDS[tick.kind]} at {number(tick.time)} s: {what} ({where}){staleness}"


def _cross(x: float, y: float, text: str) -> str:
    title = f"<title>{escape(text)}</title>" if text else ""
    lines = "".join(
        f'<line class="tl-crash" x1="{x - 4:.1f}" x2="{x + 4:.1f}" y1="{y - 4 * s:.1f}" y2="{y + 4 * s:.1f}"/>'
        for s in (1, -1)
    )
    return f"<g>{title}{lines}</g>"


def _x(window: Window, time: float) -> float:
    return LEFT + (WIDTH - RIGHT - LEFT) * (time - window.start) / (window.stop - window.start)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
