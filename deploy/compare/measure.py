"""From the records of runs to the figures of a cell: when it reached the target, where it ended, how stale it was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from deploy.compare.grid import Cell
from deploy.compare.running import Run, seconds_of
from ps.errors import UsageError
from worker.stopping import Goal

MARGIN = 0.05  # of the way from the untrained model to the best, that the chosen target stays short of the best
LEARNED = 0.02  # of the way from the untrained model to the target, that a run must have made to have learned anything
HALF_WAY = 0.5  # a run that is not even half way there, and no better in the second half of its examples, is stuck
MIN_POINTS = 4
TRAIN_LOSS = "train_loss"
ENDED = ("done", "diverged")


@dataclass(frozen=True)
class Target:
    """The value of a metric that counts as trained.

    Attributes:
      metric, value: what is to be reached. smaller: smaller is better.
      why: how it was chosen, in words.
      start: the metric's value before training, or None if not known.
    """

    metric: str
    value: float
    smaller: bool
    why: str
    start: float | None = None

    def met(self, value: float | None) -> bool:
        """Whether ``value`` is good enough."""
        if value is None or not math.isfinite(value):
            return False
        return value <= self.value if self.smaller else value >= self.value

    @property
    def text(self) -> str:
        """``test_loss <= 0.12``."""
        return f"{self.metric} {'<=' if self.smaller else '>='} {self.value:.4g}"


@dataclass(frozen=True)
class Point:
    """One evaluation: seconds (virtual in a simulation), examples, and the metric's value or None."""

    seconds: float
    examples: int
    value: float | None


@dataclass(frozen=True)
class Figures:
    """What a cell came to; of several repeats the median. None: not known, or never reached.

    Attributes:
      cell: which.
      status: "done", "diverged", "failed", "refused", "interrupted" or "waiting".
      message: why not done.
      final: the metric at the end. best: the best of all evaluations.
      seconds, examples: to the target. reached: share of the repeats that reached it.
      holds: the final value is still as good as the target.
      total_seconds: of the whole run. steps_per_worker: local steps that each worker made. updates: of the center.
      staleness, staleness_max: mean and largest, in versions.
      examples_per_second: throughput.
      speed_up: seconds to the target of the cell it is compared with (see ``with_speed_ups``) over this cell's.
      curves: of each repeat.
      runs: the run directories.
    """

    cell: Cell
    status: str
    message: str = ""
    final: float | None = None
    best: float | None = None
    seconds: float | None = None
    examples: float | None = None
    reached: float = 0.0
    holds: bool = False
    total_seconds: float | None = None
    steps_per_worker: float | None = None
    updates: float | None = None
    staleness: float | None = None
    staleness_max: float | None = None
    examples_per_second: float | None = None
    speed_up: float | None = None
    curves: tuple[tuple[Point, ...], ...] = ()
    runs: tuple[str, ...] = field(default=())

    @property
    def ended(self) -> bool:
        """It ran to its end, with whatever result."""
        return self.status in ENDED


def curve_of(run: Run, metric: str, simulated: bool) -> tuple[Point, ...]:
    """The evaluations of a run, in order; a value that is not finite is None."""
    points = []
    for record in run.evaluations:
        value = record.get(TRAIN_LOSS) if metric == TRAIN_LOSS else (record.get("evaluation") or {}).get(metric)
        value = None if value is None or not math.isfinite(value) else float(value)
        points.append(Point(seconds_of(record, simulated), int(record.get("examples") or 0), value))
    return tuple(points)


def metric_for(asked: str | None, runs: Sequence[Run]) -> str:
    """The metric to compare by: the one asked for (``loss``: the first that is a loss), else the first loss, else the first.

    A loss of held-out data is preferred to the training loss, which replicas measure on their own parameters.

    Raises:
      UsageError: no run has evaluated what was asked for.
    """
    names = list(
        dict.fromkeys(name for run in runs for record in run.evaluations for name in record.get("evaluation") or {})
    )
    if asked and asked not in ("loss", TRAIN_LOSS):
        if names and asked not in names:
            raise UsageError(f"--target: {asked!r} is not evaluated; there are: {', '.join([*names, TRAIN_LOSS])}")
        return asked
    if asked == TRAIN_LOSS:
        return TRAIN_LOSS
    losses = [name for name in names if Goal(name).smaller]
    if losses:
        return losses[0]
    return names[0] if names and asked is None else TRAIN_LOSS


def choose_target(
    metric: str,
    curves: Mapping[Cell, Sequence[Sequence[Point]]],
    value: float | None = None,
    *,
    mode: str = "auto",
    start: float | None = None,
) -> Target | None:
    """The target: ``value`` if given, else what the best cell of the fewest workers reaches, less a margin.

    Args:
      metric: its name. curves: of the repeats of each cell that ran.
      mode: of ``[stop]``.
      start: the untrained model's value; the first evaluation stands in for it.

    Returns:
      None if nothing was evaluated that it could be chosen from.
    """
    smaller = Goal(metric, mode).smaller
    if value is not None:
        return Target(metric, value, smaller, "as asked for", start)
    known = {cell: [values for curve in repeats if (values := _values(curve))] for cell, repeats in curves.items()}
    known = {cell: repeats for cell, repeats in known.items() if repeats}
    if not known:
        return None
    fewest = min(cell.workers for cell in known)
    best_of = min if smaller else max
    candidates = {cell: median(best_of(values) for values in known[cell]) for cell in known if cell.workers == fewest}
    cell = best_of(candidates, key=lambda cell: candidates[cell])
    best = candidates[cell]
    begin = median(values[0] for values in known[cell]) if start is None else start
    chosen = _rounded(best + MARGIN * (begin - best), up=smaller)
    where = f"{'its first value' if start is None else 'the untrained model'}, {begin:.4g}"
    why = f"{cell.title} came to {best:.4g} at best; {1 - MARGIN:.0%} of the way there from {where}, counts as trained"
    return Target(metric, chosen, smaller, why, start)


def first_reach(points: Sequence[Point], target: Target) -> tuple[float, float] | None:
    """(seconds, examples) when a curve first meets the target, linear between evaluations; None if it never does."""
    before: Point | None = None
    for point in points:
        if target.met(point.value):
            if before is None or before.value is None or before.value == point.value:
                return point.seconds, float(point.examples)
            share = (target.value - before.value) / (point.value - before.value)
            seconds = before.seconds + share * (point.seconds - before.seconds)
            return seconds, before.examples + share * (point.examples - before.examples)
        before = point
    return None


def figures_of(cell: Cell, runs: Sequence[Run], target: Target | None) -> Figures:
    """The figures of one cell; ``runs`` are those of its repeats that have ended."""
    if cell.refused:
        return Figures(cell, "refused", cell.refused)
    if not runs:
        return Figures(cell, "waiting")
    curves = tuple(curve_of(run, target.metric, cell.simulated) if target else () for run in runs)
    reaches = [first_reach(curve, target) if target else None for curve in curves]
    statuses = [_status(run, curve, target, reach) for run, curve, reach in zip(runs, curves, reaches, strict=True)]
    (status, message) = max(statuses, key=lambda one: _GRAVITY.index(one[0]))
    if len(runs) > 1 and status != "done":
        message = f"{sum(one[0] == status for one in statuses)} of {len(runs)} repeats: {message}"
    fine = [run for run, one in zip(runs, statuses, strict=True) if one[0] in ENDED] or list(runs)
    many = len(runs)
    reached = [reach for reach in reaches if reach is not None]
    enough = 2 * len(reached) > many
    finals = [curve[-1].value for curve in curves if curve and curve[-1].value is not None]
    best = min if target and target.smaller else max
    final = median(finals) if finals and status != "failed" else None
    return Figures(
        cell,
        status,
        message,
        final=final,
        best=median(best(values) for curve in curves if (values := _values(curve))) if finals else None,
        seconds=median(reach[0] for reach in reached) if enough else None,
        examples=median(reach[1] for reach in reached) if enough else None,
        reached=len(reached) / many,
        holds=status == "done" and target is not None and target.met(final),
        total_seconds=_median(fine, "virtual_seconds" if cell.simulated else "wall_seconds"),
        steps_per_worker=_per_worker(_median(fine, "steps"), cell.workers),
        updates=_median(fine, "updates"),
        staleness=_median_staleness(fine, "mean"),
        staleness_max=_median_staleness(fine, "max"),
        examples_per_second=_median(fine, "examples_per_second"),
        curves=curves,
        runs=tuple(str(run.path) for run in runs if run.path),
    )


_GRAVITY = ("done", "interrupted", "diverged", "failed")  # what a cell of several repeats is called by


def _status(run: Run, curve: Sequence[Point], target: Target | None, reach: Any) -> tuple[str, str]:
    """A run's own status and message, but for one that went on to its end and lost what it had, or got stuck far off."""
    values = _values(curve)
    if run.status != "done" or target is None or reach is not None or not values:
        return run.status, run.message
    start = values[0] if target.start is None else target.start
    way = (start - target.value) or 1.0
    if curve[-1].value is None:
        return "diverged", f"{target.metric} is no longer finite"
    if len(values) < MIN_POINTS:
        return run.status, run.message
    if (start - values[-1]) / way < LEARNED:
        return "diverged", f"{target.metric} ended at {values[-1]:.4g}, no better than where it began, {start:.4g}"
    best = min if target.smaller else max
    # By examples, not by evaluations: those by the clock go on while stragglers finish and little is trained.
    middle = curve[-1].examples / 2
    early = [point.value for point in curve if point.value is not None and point.examples <= middle] or values[:1]
    late = [point.value for point in curve if point.value is not None and point.examples > middle] or values[-1:]
    gained = (best(early) - best(late)) / way
    if gained < LEARNED and (start - values[-1]) / way < HALF_WAY:
        return "diverged", f"{target.metric} got stuck: {best(values):.4g} at best, {values[-1]:.4g} at the end"
    return run.status, run.message


def _values(curve: Sequence[Point]) -> list[float]:
    return [point.value for point in curve if point.value is not None]


def _median(runs: Sequence[Run], key: str) -> float | None:
    values = [run.summary[key] for run in runs if run.summary.get(key) is not None]
    return float(median(values)) if values else None


def _median_staleness(runs: Sequence[Run], key: str) -> float | None:
    values = [found[key] for run in runs if (found := run.summary.get("staleness") or {}).get(key) is not None]
    return float(median(values)) if values else None


def _per_worker(steps: float | None, workers: int) -> float | None:
    return None if steps is None else steps / workers


def _rounded(value: float, up: bool) -> float:
    """Three significant digits, as a target is a number to be said; rounded so that it is no harder to reach."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    return float(f"{(math.ceil if up else math.floor)(value / unit - (1e-9 if up else -1e-9)) * unit:.3g}")


def with_speed_ups(figures: Sequence[Figures]) -> tuple[list[Figures], Figures | None]:
    """The figures with their speed-ups, and the baseline: of the cells with the fewest workers the first to reach the target.

    These have one worker if such a cell was run and got there. Cells whose time is virtual are compared with a virtual
    baseline, others with a real one.
    """
    with_speed: list[Figures] = []
    baselines: dict[bool, Figures] = {}
    for simulated in (False, True):
        usable = [f for f in figures if f.cell.simulated == simulated and f.status == "done" and f.seconds]
        if usable:
            baselines[simulated] = min(usable, key=lambda f: (f.cell.workers, f.seconds))
    for entry in figures:
        baseline = baselines.get(entry.cell.simulated)
        usable = baseline is not None and baseline.seconds is not None and entry.seconds and entry.status == "done"
        with_speed.append(replace(entry, speed_up=baseline.seconds / entry.seconds) if usable else entry)
    found = next((baselines[entry.cell.simulated] for entry in figures if entry.cell.simulated in baselines), None)
    return with_speed, next((entry for entry in with_speed if found is not None and entry.cell is found.cell), None)
