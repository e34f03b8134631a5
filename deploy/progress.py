"""What a user sees while a job runs. An observer gets the run's records; which observer
depends on the terminal and the options.

An observer has five methods, called in the launcher's process:
  ``started(info)``       run (path), parameters, examples, workers, shards, epoch (if resumed), notes (of the task, lines);
                          all may be missing
  ``progress(record)``    a ``"progress"`` record of ``metrics.jsonl``
  ``evaluation(record)``  an ``"evaluation"`` record
  ``event(record)``       an ``"event"`` record
  ``finished(summary)``   what stands in ``summary.json``; ``run`` names the directory
and is a context manager, so that the terminal is left in order also when the launcher raises.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from deploy.run_directory import to_json
from deploy.words import clock, number, plural, short_path, si
from worker.stopping import counted

if TYPE_CHECKING:
    from deploy.job import Job

Record = Mapping[str, Any]


class Observer:
    """Base of the observers: sees everything and says nothing."""

    def started(self, info: Record) -> None:
        """The workers are about to start."""

    def progress(self, record: Record) -> None:
        """Some training was done."""

    def evaluation(self, record: Record) -> None:
        """The center was evaluated."""

    def event(self, record: Record) -> None:
        """Something happened: a worker died, a checkpoint was written, ..."""

    def finished(self, summary: Record) -> None:
        """The run ended, well or not."""

    def close(self) -> None:
        """Give the terminal back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Quiet(Observer):
    """``--quiet``: only the end of a run that failed."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr

    def finished(self, summary: Record) -> None:
        if summary.get("status") == "failed":
            print(f"hogshead: {summary.get('error') or 'the run failed'}", file=self.stream)


class JsonLines(Observer):
    """``--json``: the records as they stand in ``metrics.jsonl``, then the summary with ``"kind": "summary"``."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout

    def progress(self, record: Record) -> None:
        print(to_json(record), file=self.stream, flush=True)

    evaluation = event = progress

    def finished(self, summary: Record) -> None:
        print(to_json({"kind": "summary", **summary}), file=self.stream, flush=True)


class Bursts:
    """Events to be said: the first few of a kind one by one, the rest of a burst of them in one line.

    A burst ends with ``flush``, before the next line of another sort.
    """

    MOST = 5  # of a kind that are said one by one

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._last: dict[str, str] = {}

    def add(self, event: str, message: str) -> str | None:
        """The line for an event, or None if it is to be said with others."""
        self._count[event] = self._count.get(event, 0) + 1
        if self._count[event] <= self.MOST:
            return f"{event.replace('_', ' ')}: {message}"
        self._last[event] = message
        return None

    def flush(self) -> list[str]:
        """A line for each kind of which some are unsaid."""
        lines = [
            f"{event.replace('_', ' ')}: {self._count[event] - self.MOST} more, the last: {message}"
            for event, message in self._last.items()
        ]
        self._count, self._last = {}, {}
        return lines


class Lines(Observer):
    """Plain lines, for a log: one per evaluation and event, progress at most every ``every_s`` seconds of training."""

    def __init__(self, job: Job, stream: TextIO | None = None, every_s: float = 5.0):
        self.stream, self.every_s = stream or sys.stdout, every_s
        self._time_left = TimeLeft(job)
        self._last = 0.0
        self._bursts = Bursts()
        self._run: str | None = None

    def started(self, info: Record) -> None:
        self._run = info.get("run")
        self._say(start_line(info))
        for note in info.get("notes") or []:
            self._say(note)

    def progress(self, record: Record) -> None:
        left = self._time_left.update(record)
        if self._is_due(record):
            self._say(progress_line(record, left))

    def evaluation(self, record: Record) -> None:
        self._end_burst()
        self._say(evaluation_line(record))

    def event(self, record: Record) -> None:
        if record["event"] not in ("checkpoint", "mirrored"):
            line = self._bursts.add(record["event"], record.get("message", ""))
            if line is not None:
                self._say(line)

    def finished(self, summary: Record) -> None:
        self._end_burst()
        for line in summary_lines(summary, self._run):
            self._say(line)

    def _is_due(self, record: Record) -> bool:
        """Another ``every_s`` seconds have passed; what has happened in them is said."""
        if record["seconds"] - self._last < self.every_s:
            return False
        self._last = record["seconds"]
        self._end_burst()
        return True

    def _end_burst(self) -> None:
        for line in self._bursts.flush():
            self._say(line)

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class Terminal(Lines):
    """Lines, and below them one that is rewritten in place with a bar.

    No thread redraws it: a launcher that forks must not have one.
    """

    def __init__(self, job: Job, stream: TextIO | None = None):
        from rich.console import Console
        from rich.live import Live

        super().__init__(job, stream)
        self.console = Console(file=self.stream, highlight=False, markup=False)
        self._live = Live(
            console=self.console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def started(self, info: Record) -> None:
        super().started(info)
        self._live.start()

    def progress(self, record: Record) -> None:
        left = self._time_left.update(record)
        self._is_due(record)
        if self._live.is_started:
            bar = bar_text(self._time_left.fraction, 20 if self.console.width >= 80 else 8)
            self._live.update(_one_row(f"{bar} {progress_line(record, left)}", self.console.width), refresh=True)

    def finished(self, summary: Record) -> None:
        self.close()
        super().finished(summary)

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)


_MOST_MARKS = 1000


class TimeLeft:
    """Estimates how much of the run is done and how long the rest takes, from the job's bounds.

    The rate is that of the second half of the training so far, between two records that show some: the time before the first
    of them is start-up (workers that join, kernels that are compiled), and says nothing of the rest.

    Attributes:
      fraction: share of the run that is done, in [0, 1], or None if nothing bounds it.
    """

    def __init__(self, job: Job):
        stop = job.stop
        bounds = {"epoch": stop.epochs, "steps": stop.steps, "examples": stop.examples, "seconds": stop.seconds}
        self.bounds = {name: float(bound) for name, bound in bounds.items() if bound}
        self.fraction: float | None = None
        self._before: float | None = None  # what was done at the first record: a resumed run starts midway
        self._begun = 0.0
        self._marks: deque[tuple[float, float]] = deque(maxlen=_MOST_MARKS)  # seconds, and what was done then

    def update(self, record: Record) -> float | None:
        """Seconds left, or None while unknown."""
        # A bound is on the run's own time, virtual in a simulation.
        done = {**record, "seconds": record.get("virtual_seconds", record["seconds"])}
        shares = [min(1.0, (done.get(name) or 0.0) / bound) for name, bound in self.bounds.items()]
        if not shares:
            return None
        self.fraction = max(shares)
        if self._before is None:
            self._before = self.fraction
        if self.fraction <= self._before:
            return None
        seconds, fraction = self._since(record["seconds"], self.fraction)
        if seconds <= 0 or fraction <= 0:
            return None
        return seconds * (1.0 - self.fraction) / fraction

    def _since(self, seconds: float, fraction: float) -> tuple[float, float]:
        """How long the second half of the training so far took, and how much was done in it."""
        if not self._marks:
            self._begun = seconds
        self._marks.append((seconds, fraction))
        middle = (self._begun + seconds) / 2
        while len(self._marks) > 2 and self._marks[1][0] <= middle:
            self._marks.popleft()
        return seconds - self._marks[0][0], fraction - self._marks[0][1]


def observer_for(job: Job, *, quiet: bool = False, json: bool = False, stream: TextIO | None = None) -> Observer:
    """The observer that suits the options and ``stream`` (standard output if None)."""
    stream = stream or sys.stdout
    if json:
        return JsonLines(stream)
    if quiet:
        return Quiet()
    return Terminal(job, stream) if stream.isatty() else Lines(job, stream)


def start_line(info: Record) -> str:
    """``easgd on mlp: 2 workers, 1 shard, 235,146 parameters, 60,000 examples``."""
    parts = [
        plural(info[name], word)
        for name, word in (
            ("workers", "worker"),
            ("shards", "shard"),
            ("parameters", "parameter"),
            ("examples", "example"),
        )
        if info.get(name) is not None
    ]
    what = " on ".join(str(info[name]) for name in ("strategy", "task") if info.get(name))
    if what and info.get("backend") == "simulation":
        what += ", simulated"
    line = f"{what}: {', '.join(parts)}" if what and parts else what or ", ".join(parts) or "started"
    return f"{line}; resumed at epoch {info['epoch']:g}" if info.get("epoch") else line


def progress_line(record: Record, seconds_left: float | None = None) -> str:
    """``epoch 3.20  loss 0.3411  1.24M examples/s  staleness 1.3  2 workers  0:12 left``."""
    parts = [f"epoch {record['epoch']:.2f}", f"loss {number(record.get('loss'))}"]
    virtual = record.get("virtual_seconds")
    unit = "s" if virtual is None else "virtual s"
    if record.get("examples_per_second") is not None:
        parts.append(f"{si(record['examples_per_second'])} examples/{unit}")
    if record.get("staleness") is not None:
        parts.append(f"staleness {record['staleness']:.1f}")
    if record.get("workers_alive") is not None:
        parts.append(plural(record["workers_alive"], "worker"))
    if virtual is not None:
        parts.append(f"{si(virtual)} virtual s")
    if seconds_left is not None:
        parts.append(f"{clock(seconds_left)} left")
    return "  ".join(parts)


def evaluation_line(record: Record) -> str:
    """``epoch 3  12.3 s  train loss 0.3411  test_accuracy 0.8461``."""
    virtual = record.get("virtual_seconds")
    time = f"{record['seconds']:.1f} s" if virtual is None else f"{si(virtual)} virtual s"
    parts = [f"epoch {record['epoch']:g}", time]
    if record.get("train_loss") is not None:
        parts.append(f"train loss {number(record['train_loss'])}")
    parts += [f"{name} {number(value)}" for name, value in (record.get("evaluation") or {}).items()]
    return "  ".join(parts)


def summary_lines(summary: Record, run: str | None = None) -> list[str]:
    """The lines at the end: status, metrics, where the run and its report are."""
    run = str(summary.get("run") or run or "")
    reason = summary.get("error") if summary.get("status") == "failed" else summary.get("stop_reason")
    status = summary.get("status", "ended")
    lines = [f"{status}: {reason}" if reason and reason != status else status]
    did = [counted(summary["epochs"], "epoch")] if summary.get("epochs") is not None else []
    did += [plural(summary[f"{unit}s"], unit) for unit in ("step", "example") if summary.get(f"{unit}s") is not None]
    virtual = summary.get("virtual_seconds")
    if virtual is not None:
        did.append(f"{si(virtual)} virtual s")
    if summary.get("wall_seconds") is not None:
        did.append(f"{summary['wall_seconds']:.1f} s{'' if virtual is None else ' of real time'}")
    if summary.get("examples_per_second"):
        did.append(f"{si(summary['examples_per_second'])} examples/{'s' if virtual is None else 'virtual s'}")
    lines.append("  ".join(did))
    busy = [seconds / virtual for seconds in summary.get("shard_busy_seconds") or []] if virtual else []
    if any(busy):
        lines.append(
            f"shards busy {', '.join(f'{100 * share:.3g} %' for share in busy[:8])}{' …' if len(busy) > 8 else ''}"
        )
    metrics = {"train_loss": summary.get("train_loss"), **(summary.get("evaluation") or {})}
    lines.append("  ".join(f"{name} {number(value)}" for name, value in metrics.items() if value is not None))
    faults = (
        ("worker_deaths", "worker death", ""),
        ("skipped_nonfinite", "non-finite gradient", " skipped"),
        ("dropped", "late gradient", " dropped"),
    )
    lines += [plural(summary[key], word) + rest for key, word, rest in faults if summary.get(key)]
    if run:
        lines += [f"run     {short_path(run)}", f"report  {short_path(Path(run) / 'report.html')}"]
    return [line for line in lines if line]


def bar_text(fraction: float | None, width: int) -> str:
    """A bar of ``width`` characters; all light while nothing bounds the run."""
    full = round((fraction or 0.0) * width)
    return "━" * full + "╌" * (width - full)


def _one_row(text: str, width: int) -> Any:
    """Text cut to the terminal's width, so that the rewritten line never wraps."""
    from rich.text import Text

    row = Text(text, no_wrap=True, overflow="ellipsis")
    row.truncate(max(8, width - 1), overflow="ellipsis")
    return row
