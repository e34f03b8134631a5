"""Whether Ray's head is there, and what becomes of a run without it.

Without Redis a head that dies forgets the cluster, and Ray ends each process of the cluster a minute later
(``RAY_gcs_rpc_server_reconnect_timeout_s``), also the one that follows the run, with a message of its own. Before that
happens the run is stopped and its summary is written.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.job import Job
from deploy.run_directory import read_metrics, to_json, versions, write_atomically
from ps.errors import HogsheadError

_LOOK_S, _CONNECT_S = 2.0, 1.0
_TIMEOUT, _DEFAULT_S = "RAY_gcs_rpc_server_reconnect_timeout_s", 60.0
_STOP_SHARE, _END_SHARE = 0.5, 0.75  # of Ray's own patience, after which the run is stopped, and given up


class HeadWatch:
    """Looks now and then whether a head takes connections.

    Args:
      address: host:port of its GCS server. is_there: whether something listens. clock: seconds that only rise.
    """

    def __init__(
        self,
        address: str,
        is_there: Callable[[str], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.address, self._is_there, self._clock = address, is_there or _listens, clock
        self._patience_s = _patience_s()
        self._seen = self._looked = clock()

    @property
    def answers(self) -> bool:
        """It takes connections now."""
        self._look(self._clock())
        return self._seen == self._looked

    @property
    def is_lost(self) -> bool:
        """It has been away for so long that the run is to be stopped while its processes live."""
        return self._away_s() > _STOP_SHARE * self._patience_s

    @property
    def is_over(self) -> bool:
        """It has been away for so long that nothing of the run will answer any more."""
        return self._away_s() > _END_SHARE * self._patience_s

    def message(self, run: Path) -> str:
        """What is said of a run that ends for this."""
        return (
            f"Ray's head at {self.address} has not answered for {_STOP_SHARE * self._patience_s:g} s, and without Redis a new "
            f"one forgets the cluster; start Ray anew, then go on from the newest checkpoint with `hogshead train --resume {run}`"
        )

    def _away_s(self) -> float:
        now = self._clock()
        if now - self._looked >= _LOOK_S:
            self._look(now)
        return now - self._seen

    def _look(self, now: float) -> None:
        self._looked = now
        if self._is_there(self.address):
            self._seen = now


def _patience_s() -> float:
    try:
        return float(os.environ[_TIMEOUT])
    except (KeyError, ValueError):
        return _DEFAULT_S


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


def failed_summary(job: Job, run: Path, written: Mapping[str, Any] | None, error: Exception) -> dict[str, Any]:
    """Write the summary of a run that failed for a reason that its coordinator cannot know.

    Args:
      written: the coordinator's own; None: there is none, and what the metrics say must do.
    """
    from deploy.report import write_report

    summary = {**(written or _from_metrics(job, run))}
    summary |= {"status": "failed", "error": str(error), "error_type": type(error).__name__}
    with suppress(OSError, HogsheadError):  # a full disk, say: the summary is told all the same
        write_atomically(run / "summary.json", to_json(summary, indent=2) + "\n")
        write_report([run], run / "report.html")
    return summary


def _from_metrics(job: Job, run: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, HogsheadError):  # nothing was recorded yet
        records = read_metrics(run)
        progress = next((record for record in reversed(records) if record["kind"] == "progress"), {})
        evaluation = next((record for record in reversed(records) if record["kind"] == "evaluation"), {})
        return {
            **_of_job(job, run),
            "epochs": int(progress.get("epoch", 0)),
            **{name: progress[name] for name in ("steps", "examples", "updates") if name in progress},
            "wall_seconds": progress.get("seconds"),
            "train_loss": evaluation.get("train_loss"),
            "evaluation": evaluation.get("evaluation") or {},
        }
    return {**_of_job(job, run), "evaluation": {}}


def _of_job(job: Job, run: Path) -> dict[str, Any]:
    return {
        "backend": job.backend,
        "strategy": job.strategy.name,
        "task": job.task.name,
        "workers": job.workers.count,
        "shards": job.shards.count,
        "seed": job.seed,
        "stop_reason": None,
        "versions": versions(),
        "run": str(run),
        "job": job.path,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
