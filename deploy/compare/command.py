"""The command ``hogshead compare``: the grid, its runs, the table, the page."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deploy.compare.comparison import Comparison, compared, parse_target
from deploy.compare.grid import Cell, build_grid, parse_vary
from deploy.compare.page import write_page
from deploy.compare.running import Run, Trial, run_all, untrained
from deploy.compare.table import Lines, as_json, lines, watcher_for
from deploy.exit_codes import DONE, FAILED, INTERRUPTED
from deploy.run_directory import to_json, write_atomically
from deploy.words import short_path
from ps.errors import UsageError

_MOST = 1000  # runs of a cell, or at once
FOLDER = "comparisons"


def compare(arguments: Namespace) -> int:
    """Run the grid and say what came of it; 1 if no cell ended, 130 if interrupted."""
    overrides = list(arguments.overrides)
    overrides += [f"backend={arguments.backend}"] if arguments.backend else []
    overrides += [f"seed={arguments.seed}"] if arguments.seed is not None else []
    _check_numbers(arguments)
    target = parse_target(arguments.target)
    varied = parse_vary(arguments.vary)
    cells = build_grid(arguments.job, varied, overrides, arguments.repeats)
    if arguments.dry_run:
        for cell in cells:
            print(f"{cell.title}: refused: {cell.refused}" if cell.refused else cell.title)
        return DONE
    out = new_folder(arguments.out, Path(arguments.job).stem)
    keep_pace = any(text.startswith("evaluation.") for text in (*overrides, *varied))
    cells = [in_folder(cell, out) for cell in cells]
    trials = [Trial(index, job, keep_pace) for index, cell in enumerate(cells) for job in cell.jobs]
    start = untrained(trials[0].job)
    with watcher_for(cells, arguments.repeats, quiet=arguments.quiet, json=arguments.json) as watcher:
        runs = _Keeping(watcher, cells)
        whole = run_all(trials, runs, arguments.jobs)
    comparison = compared(
        Path(arguments.job).stem,
        tuple(varied),
        cells,
        runs.ended_runs,
        target=target,
        start=start,
        repeats=arguments.repeats,
    )
    page = write(comparison, out)
    _say(comparison, page, arguments)
    if not whole:
        return INTERRUPTED
    return DONE if any(one.ended for one in comparison.figures) else FAILED


def write(comparison: Comparison, out: Path) -> Path:
    """Write ``compare.json`` and ``compare.html``; returns the page's path."""
    write_atomically(out / "compare.json", to_json(comparison.to_dict(), indent=2) + "\n")
    return write_page(comparison, out / "compare.html")


def in_folder(cell: Cell, out: Path) -> Cell:
    """The cell whose jobs have their run directories in ``out``."""
    several = len(cell.jobs) > 1
    folder = out / "cells"
    jobs = tuple(job.with_run(folder / (f"{cell.name}-seed{job.seed}" if several else cell.name)) for job in cell.jobs)
    return replace(cell, jobs=jobs)


def new_folder(asked: str | None, name: str) -> Path:
    """The folder asked for, which must be new or empty, or a new ``comparisons/<name>-<number>``.

    Raises:
      UsageError: it holds something, or cannot be made.
    """
    try:
        if asked is None:
            return _numbered(name)
        out = Path(asked).expanduser().resolve()
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UsageError(f"--out {asked} is not empty; give another folder")
        return out
    except OSError as error:
        raise UsageError(f"cannot make the folder of the comparison: {error}") from error


class _Keeping(Lines):
    """Hands everything on to a watcher and keeps the runs that ended."""

    def __init__(self, watcher: Lines, cells: Sequence[Cell]):
        self.started, self.progress, self.idle = watcher.started, watcher.progress, watcher.idle  # type: ignore[method-assign]
        self._watcher, self.cells = watcher, cells
        self._by_seed: dict[Cell, dict[int, Run]] = {}

    @property
    def ended_runs(self) -> dict[Cell, list[Run]]:
        """The runs of each cell by rising seed, in whatever order they ended."""
        return {cell: [runs[seed] for seed in sorted(runs)] for cell, runs in self._by_seed.items()}

    def ended(self, trial: Trial, run: Run) -> None:
        self._by_seed.setdefault(self.cells[trial.cell], {})[trial.job.seed] = run
        self._watcher.ended(trial, run)


def _say(comparison: Comparison, page: Path, arguments: Namespace) -> None:
    if arguments.json:
        print(to_json(as_json(comparison)))
    elif not arguments.quiet:
        print("\n".join(["", *lines(comparison), "", f"page  {shlex.quote(short_path(page))}"]))


def _check_numbers(arguments: Namespace) -> None:
    for option in ("repeats", "jobs"):
        value = getattr(arguments, option)
        if value is not None and not 1 <= value <= _MOST:
            raise UsageError(f"--{option} must be >= 1 and <= {_MOST}, got {value}")


def _numbered(name: str) -> Path:
    folder = Path(FOLDER).resolve()
    folder.mkdir(exist_ok=True)
    pattern = re.compile(rf"{re.escape(name)}-(\d+)")
    number = 1 + max(
        (int(found[1]) for entry in folder.iterdir() if (found := pattern.fullmatch(entry.name))), default=0
    )
    while True:  # mkdir decides between two commands started at once
        try:
            (folder / f"{name}-{number}").mkdir()
            return folder / f"{name}-{number}"
        except FileExistsError:
            number += 1
