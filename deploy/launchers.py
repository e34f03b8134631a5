"""Where a job runs: its ``backend`` names the launcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.job import Job
    from deploy.progress import Observer
    from deploy.result import Result


def run(job: Job, observer: Observer | None = None) -> Result:
    """Train a job in a run directory; see ``run`` of ``deploy.processes``, ``deploy.cluster.launch``, ``deploy.simulation``."""
    if job.backend == "simulation":
        from deploy.simulation import run as launch
    elif job.backend == "ray":
        from deploy.cluster.launch import run as launch
    else:
        from deploy.processes import run as launch
    return launch(job, observer)
