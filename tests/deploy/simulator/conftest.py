"""Simulated runs of a small task."""

from __future__ import annotations

from pathlib import Path

import pytest

TASK = f"{Path(__file__).parents[1] / 'tasks' / 'least_squares.py'}:LeastSquares"


@pytest.fixture
def simulated():
    """A function that simulates a job on the least-squares task; keywords are sections, ``simulation`` mostly."""
    import hogshead
    from deploy.simulation import simulate

    def run(workers=1, task=(), observer=None, **sections):
        sections = {
            "strategy": "mdownpour",
            "rule": {"name": "sgd", "lr": 1e-3},
            "data": {"batch_size": 4},
            "evaluation": {"every_epochs": 0},
            "stop": {"steps": 100},
        } | sections
        if sections["rule"] is None:
            del sections["rule"]
        job = hogshead.load(
            task={"name": TASK, "worker_only": False, **dict(task)},
            backend="simulation",
            **({"workers": workers if isinstance(workers, dict) else {"count": workers}} if workers else {}),
            **sections,
        )
        return simulate(job, observer=observer)

    return run
