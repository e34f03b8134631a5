"""A comparison: the cells with what came of them, the target, the baseline and the answer; as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.compare.advice import Advice, advise
from deploy.compare.grid import SHORT, Cell
from deploy.compare.measure import Figures, Target, choose_target, curve_of, figures_of, metric_for, with_speed_ups
from deploy.compare.running import Run
from ps.errors import UsageError

VERSION = 1


@dataclass(frozen=True)
class Comparison:
    """The outcome, also of a comparison that was interrupted.

    Attributes:
      name: of the job. varied: the keys that vary, as the user wrote them.
      figures: of each cell, in the grid's order.
      target: None if nothing was evaluated. baseline: the cell that speed-ups refer to, or None.
      advice: is asynchrony helping?
      repeats: runs per cell.
    """

    name: str
    varied: tuple[str, ...]
    figures: tuple[Figures, ...]
    target: Target | None
    baseline: Figures | None
    advice: Advice
    repeats: int

    @property
    def simulated(self) -> bool:
        """All times are virtual."""
        return all(one.cell.simulated for one in self.figures if one.cell.jobs)

    @property
    def suggested(self) -> Figures | None:
        """The cell that the advice suggests."""
        wanted = self.advice.settings
        if not wanted:
            return None
        return next((one for one in self.figures if _is_suggested(one, wanted)), None)

    def to_dict(self) -> dict[str, Any]:
        """What stands in ``compare.json``."""
        return {
            "version": VERSION,
            "job": self.name,
            "varied": list(self.varied),
            "repeats": self.repeats,
            "target": None if self.target is None else vars(self.target),
            "baseline": None if self.baseline is None else self.baseline.cell.name,
            "advice": vars(self.advice),
            "cells": [_cell_dict(one) for one in self.figures],
        }


def compared(
    name: str,
    varied: Sequence[str],
    cells: Sequence[Cell],
    runs: Mapping[Cell, Sequence[Run]],
    *,
    target: tuple[str | None, float | None] = (None, None),
    start: Mapping[str, float] | None = None,
    repeats: int = 1,
) -> Comparison:
    """Everything that follows from what the runs came to.

    Args:
      runs: of each cell, those that have ended.
      target: metric (None chooses) and value (None chooses).
      start: metrics of the untrained model, as far as known.

    Raises:
      UsageError: the target's metric is not evaluated.
    """
    metric = metric_for(target[0], [run for several in runs.values() for run in several])
    jobs = [cell.jobs[0] for cell in cells if cell.jobs]
    mode = jobs[0].stop.mode if jobs and jobs[0].stop.metric == metric else "auto"
    curves = {cell: [curve_of(run, metric, cell.simulated) for run in runs[cell]] for cell in cells if runs.get(cell)}
    chosen = choose_target(metric, curves, target[1], mode=mode, start=(start or {}).get(metric))
    figures, baseline = with_speed_ups([figures_of(cell, runs.get(cell, ()), chosen) for cell in cells])
    cores = None if all(cell.simulated for cell in cells if cell.jobs) else len(os.sched_getaffinity(0))
    advice = advise(figures, chosen, baseline, repeats=repeats, cores=cores)
    return Comparison(name, tuple(varied), tuple(figures), chosen, baseline, advice, repeats)


def parse_target(text: str | None) -> tuple[str | None, float | None]:
    """``test_loss=0.1``, ``loss=0.1``, or only one of metric and value.

    Raises:
      UsageError: the value is not a number.
    """
    if text is None:
        return None, None
    metric, separator, value = (part.strip() for part in text.partition("="))
    if not separator:
        try:
            return None, float(metric)
        except ValueError:
            return metric, None
    try:
        return metric or None, float(value)
    except ValueError:
        raise UsageError(f"--target {text!r}: must be METRIC=NUMBER, e.g. --target test_accuracy=0.95") from None


def _is_suggested(one: Figures, wanted: Mapping[str, Any]) -> bool:
    settings = {SHORT.get(key, key): value for key, value in one.cell.settings.items() if value is not None}
    own = {**settings, "strategy.name": one.cell.strategy, "workers.count": one.cell.workers}
    return all(wanted.get(key) == value for key, value in own.items())


def _cell_dict(one: Figures) -> dict[str, Any]:
    figures = {key: value for key, value in vars(one).items() if key not in ("cell", "curves")}
    curves = [[vars(point) for point in curve] for curve in one.curves]
    cell = one.cell
    described = {"name": cell.name, "strategy": cell.strategy, "workers": cell.workers, "settings": dict(cell.settings)}
    return {**described, **figures, "time": "virtual" if cell.simulated else "wall", "curves": curves}
