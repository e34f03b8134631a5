"""Real training runs for the claims that need processes: the run directory is thrown away, nothing is printed."""

from __future__ import annotations

import tempfile
from typing import Any

from deploy.job import Job
from deploy.processes import run


def evaluations_of(**sections: Any) -> list[dict[str, Any]]:
    """Train a job given by its sections, on this machine, and return the records of its evaluations.

    Raises:
      UsageError, HogsheadError: it could not be started, or failed. KeyboardInterrupt: as it was running.
    """
    sections = {"checkpoint": {"every_epochs": 0}} | sections
    with tempfile.TemporaryDirectory(prefix="hogshead-reproduce-") as folder:
        result = run(Job.from_dict(sections).with_run(f"{folder}/run"))
        if result.error is not None:
            raise result.error
        if result.summary["status"] == "interrupted":
            raise KeyboardInterrupt
        return [record for record in result.metrics if record["kind"] == "evaluation"]
