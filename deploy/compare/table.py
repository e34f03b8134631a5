"""The table of a comparison: on the terminal while it grows and at the end, and the same rows on the page."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from deploy.compare.comparison import Comparison
from deploy.compare.grid import SHORT, Cell, shown
from deploy.compare.measure import Figures
from deploy.compare.running import Run, Trial, Watcher, seconds_of
from deploy.progress import Record, bar_text
from deploy.run_directory import to_json
from deploy.words import clock, number, plural, si

REFRESH_S = 0.25
MESSAGE = 60


def headings(comparison: Comparison) -> list[str]:
    """The columns."""
    unit = "virtual s" if comparison.simulated else "seconds"
    metric = comparison.target.metric if comparison.target else "metric"
    return [*setting_columns(comparison), "status", unit, "examples", "speed-up", metric, "staleness", "examples/s"]


def setting_columns(comparison: Comparison) -> list[str]:
    """The varied keys, short; always with the strategy and the workers."""
    keys = [SHORT_OF.get(key, key) for key in comparison.varied]
    return [*(key for key in ("strategy", "workers") if key not in keys), *keys]


SHORT_OF = {long: short for short, long in SHORT.items()}


def row(one: Figures, comparison: Comparison) -> list[str]:
    """The texts of one cell's row; seconds and examples are those to the target."""
    settings = {SHORT_OF.get(key, key): shown(value) for key, value in one.cell.settings.items()}
    settings |= {"strategy": one.cell.strategy, "workers": str(one.cell.workers)}
    share = "" if one.reached in (0.0, 1.0) else f" ({one.reached:.0%})"
    return [
        *(settings.get(key, "–") for key in setting_columns(comparison)),
        status_text(one),
        "–" if one.seconds is None else f"{number(one.seconds)}{share}",
        "–" if one.examples is None else f"{one.examples:,.0f}",
        "–" if one.speed_up is None else f"{one.speed_up:.3g}x",
        number(one.final),
        number(one.staleness),
        "–" if one.examples_per_second is None else si(one.examples_per_second),
    ]


def status_text(one: Figures) -> str:
    """The status, and whether the target was reached."""
    if one.status != "done":
        return one.status
    if one.seconds is None:
        return "target not reached"
    return "done" if one.holds else "target not kept"


def lines(comparison: Comparison) -> list[str]:
    """Table and answer as plain text."""
    heads = headings(comparison)
    rows = [row(one, comparison) for one in comparison.figures]
    words = {index for index, head in enumerate(heads) if head == "status" or head in setting_columns(comparison)}
    text = [*_aligned([heads, *rows], words)]
    messages = [
        f"{one.cell.title}: {one.status}: {_first_line(one.message)}" for one in comparison.figures if one.message
    ]
    text += ["", *messages] if messages else []
    return text + ["", *answer_lines(comparison)]


def answer_lines(comparison: Comparison) -> list[str]:
    """Target and answer, in words."""
    advice, target = comparison.advice, comparison.target
    text = [f"target  {target.text} ({target.why})"] if target else []
    text += ["Is asynchrony helping? " + advice.headline]
    text += [f"  {reason}" for reason in advice.reasons]
    text += [f"suggested  {advice.suggestion}"] if advice.suggestion else []
    text += ["", *(f"- {line}" for line in advice.strategies)] if advice.strategies else []
    return text + [f"note: {caution}" for caution in advice.cautions]


class Lines(Watcher):
    """A line per run that ended, for a log."""

    def __init__(self, cells: Sequence[Cell], repeats: int, stream: TextIO | None = None):
        self.cells, self.stream = cells, stream or sys.stdout
        self._left = sum(len(cell.jobs) for cell in cells)
        self._total, self._repeats = self._left, repeats

    def __enter__(self) -> Lines:
        refused = [cell for cell in self.cells if cell.refused]
        what = f"{plural(len(self.cells), 'cell')}, {plural(self._total, 'run')}"
        self.say(what + (f"; {len(refused)} refused" if refused else ""))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back."""

    def ended(self, trial: Trial, run: Run) -> None:
        self._left -= 1
        self.say(self._ended_line(trial, run))

    def say(self, line: str) -> None:
        """Print one line."""
        print(line, file=self.stream, flush=True)

    def _ended_line(self, trial: Trial, run: Run) -> str:
        cell = self.cells[trial.cell]
        seed = f", seed {trial.job.seed}" if self._repeats > 1 else ""
        facts = []
        if run.evaluations:
            last = run.evaluations[-1]
            facts.append(f"{seconds_of(last, cell.simulated):.3g} {'virtual s' if cell.simulated else 's'}")
            facts += [f"{name} {number(value)}" for name, value in (last.get("evaluation") or {}).items()]
        facts += [_first_line(run.message)] if run.message else []
        done = self._total - self._left
        return f"[{done}/{self._total}] {cell.title}{seed}: {run.status}  {'  '.join(facts)}".rstrip()


class JsonLines(Lines):
    """``--json``: one object per run that ended; the comparison follows at the end."""

    def __enter__(self) -> Lines:
        return self

    def ended(self, trial: Trial, run: Run) -> None:
        cell = self.cells[trial.cell]
        record = {
            "kind": "run",
            "cell": cell.name,
            "seed": trial.job.seed,
            "status": run.status,
            "message": run.message,
        }
        self.say(to_json({**record, "run": None if run.path is None else str(run.path), "summary": run.summary}))


class Quiet(Lines):
    """``--quiet``: nothing."""

    def say(self, line: str) -> None:
        return


class Live(Lines):
    """A table that is rewritten in place: what waits, runs and has ended. No thread redraws it, as runs are forked."""

    def __init__(self, cells: Sequence[Cell], repeats: int, stream: TextIO | None = None):
        from rich.console import Console
        from rich.live import Live as RichLive

        super().__init__(cells, repeats, stream)
        self._console = Console(file=self.stream, highlight=False, markup=False)
        self._live = RichLive(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._states: dict[int, tuple[str, str, str]] = {
            index: ("refused", "", _first_line(cell.refused)) if cell.refused else ("waiting", "", "")
            for index, cell in enumerate(cells)
        }
        self._order: list[int] = []  # of what has begun, the latest last
        self._began = self._drawn = time.monotonic()

    def __enter__(self) -> Lines:
        super().__enter__()
        self._live.start()
        self._draw()
        return self

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()

    def started(self, trial: Trial) -> None:
        self._order = [*(cell for cell in self._order if cell != trial.cell), trial.cell]
        self._states[trial.cell] = ("running", bar_text(0.0, 12), "")
        self._draw()

    def progress(self, trial: Trial, record: Record) -> None:
        stop = trial.job.stop
        shares = [
            (record.get(name) or 0.0) / bound
            for name, bound in (("epoch", stop.epochs), ("examples", stop.examples), ("virtual_seconds", stop.seconds))
            if bound
        ]
        bar = bar_text(min(1.0, max(shares, default=0.0)), 12)
        self._states[trial.cell] = (
            "running",
            bar,
            f"epoch {record.get('epoch') or 0:.1f}  loss {number(record.get('loss'))}",
        )
        self.idle()

    def ended(self, trial: Trial, run: Run) -> None:
        self._left -= 1
        evaluation = (run.evaluations[-1].get("evaluation") or {}) if run.evaluations else {}
        facts = "  ".join(f"{name} {number(value)}" for name, value in evaluation.items())
        self._states[trial.cell] = (run.status, "", _first_line(run.message) or facts)
        self._draw()

    def idle(self) -> None:
        if time.monotonic() - self._drawn >= REFRESH_S:
            self._draw()

    def _draw(self) -> None:
        from rich.table import Table
        from rich.text import Text

        self._drawn = time.monotonic()
        table = Table(box=None, pad_edge=False, show_edge=False)
        for heading in ("cell", "status", "", ""):
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
        visible = self._visible(max(3, self._console.height - 4))
        for index in visible:
            status, bar, facts = self._states[index]
            cells = (self.cells[index].title, Text(status, style=_STYLES.get(status, "")), bar, facts)
            table.add_row(*cells)
        done, elapsed = self._total - self._left, clock(time.monotonic() - self._began)
        hidden = len(self.cells) - len(visible)
        table.caption = f"{done} of {plural(self._total, 'run')}, {elapsed}" + (
            f"; {hidden} cells not shown" if hidden else ""
        )
        table.caption_justify = "left"
        if self._live.is_started:
            self._live.update(table, refresh=True)

    def _visible(self, most: int) -> list[int]:
        """All cells if there is room; else those that began last, in the grid's order."""
        if len(self.cells) <= most:
            return list(range(len(self.cells)))
        waiting = [index for index in range(len(self.cells)) if index not in self._order]
        return sorted([*self._order[-most:], *waiting][:most])


_STYLES = {"done": "green", "failed": "red", "diverged": "red", "refused": "red", "running": "bold", "waiting": "dim"}


def watcher_for(cells: Sequence[Cell], repeats: int, *, quiet: bool = False, json: bool = False) -> Lines:
    """The watcher that suits the options and standard output."""
    if json:
        return JsonLines(cells, repeats)
    if quiet:
        return Quiet(cells, repeats)
    return (Live if sys.stdout.isatty() else Lines)(cells, repeats)


def _aligned(rows: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    widths = [max(len(line[column]) for line in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            f"{text:{'<' if column in left else '>'}{widths[column]}}" for column, text in enumerate(line)
        ).rstrip()
        for line in rows
    ]


def _first_line(message: str) -> str:
    found = message.strip().splitlines()
    return "" if not found else found[0] if len(found[0]) <= 160 else found[0][:157] + "..."


def as_json(comparison: Comparison) -> Mapping[str, Any]:
    """The last line of ``--json``."""
    return {"kind": "comparison", **comparison.to_dict()}
