"""Made-up cells for the tests of what follows from them."""

from __future__ import annotations

from dataclasses import replace

from deploy.compare.grid import Cell
from deploy.compare.measure import Figures, Target
from deploy.job import Job

TARGET = Target("test_loss", 0.2, True, "as asked for", 2.3)


def cell(strategy: str, workers: int, **options) -> Cell:
    """A cell with a job of this strategy."""
    job = Job.from_dict(
        {
            "task": "mlp",
            "data": {"train": "sklearn:digits"},
            "strategy": {"name": strategy, **options},
            "workers": {"count": workers},
            "backend": "simulation",
        }
    )
    settings = {"strategy": strategy, "workers": workers}
    return Cell(f"{strategy}-{workers}", settings, strategy, workers, (job,))


def reached(strategy: str, workers: int, seconds: float, **more) -> Figures:
    """A cell that reached the target after so many seconds, and kept it."""
    known = {
        "final": 0.1,
        "seconds": seconds,
        "examples": 10.0 * seconds,
        "reached": 1.0,
        "holds": True,
        "staleness": workers - 1.0,
    }
    return Figures(cell(strategy, workers), "done", **{**known, **more})


def missed(strategy: str, workers: int, status: str = "done", message: str = "", **more) -> Figures:
    """A cell that did not reach the target."""
    return Figures(cell(strategy, workers), status, message, **{"final": 1.5, **more})


def with_options(figures: Figures, **options) -> Figures:
    """The same figures of a cell with other options of its strategy."""
    return replace(figures, cell=cell(figures.cell.strategy, figures.cell.workers, **options))
