"""What may still run of jobs that were killed while their cluster was away: it is ended once the cluster is back.

In the store such a job is stopped, and keeps its wish "kill" until nothing of it can run any more. Its driver is started again;
it finds the wish in its order, where the supervisor has put it, ends what there is, and leaves an outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.service.folder import JobFolder
from deploy.service.ray_jobs import RUNS, Cluster
from deploy.service.states import KILLED, State
from deploy.service.store import JobRecord, Store

log = logging.getLogger("hogshead.service")

_PAUSE_S = 5.0  # between two looks at one
_MOST_TRIES = 5
_TRY_S = 120.0  # for a driver to end one; one that runs for longer hangs


class Leftovers:
    """Args:
    store: of the jobs. cluster: where they ran. jobs: folder of their folders.
    command: that runs a job's driver. clock: seconds that only rise.
    """

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        jobs: Path,
        command: Callable[[JobRecord, JobFolder], Sequence[str]],
        clock: Callable[[], float],
    ):
        self._store, self._cluster, self._jobs = store, cluster, jobs
        self._command, self._clock = command, clock
        self._due: dict[str, float] = {}  # when one is looked at again
        self._tries: dict[str, int] = {}  # drivers that were started to end one
        self._begun: dict[str, float] = {}  # when the newest of them was

    def found(self) -> list[JobRecord]:
        """The jobs that are to be looked at now."""
        left = {job.id: job for job in self._store.left_behind()}
        self._due = {job: self._due.get(job, self._clock()) for job in left}
        self._tries = {job: tries for job, tries in self._tries.items() if job in left}
        self._begun = {job: begun for job, begun in self._begun.items() if job in left}
        return [job for job in left.values() if self._clock() >= self._due[job.id]]

    def end(self, job: JobRecord) -> None:
        """Do what can be done now to end one.

        Raises:
          ClusterAway: it still is. UnknownJob, WrongState: somebody has removed or resumed it.
        """
        self._due[job.id] = self._clock() + _PAUSE_S
        folder = JobFolder(self._jobs, job.id)
        tries = self._tries.get(job.id, 0)
        if not folder.path.is_dir() or (tries and folder.outcome):
            self._settle(job, KILLED)
        elif tries and self._clock() - self._begun[job.id] < _TRY_S and self._is_at_work(job):
            return
        elif tries >= _MOST_TRIES:
            self._settle(job, f"killed; {tries} drivers were started to end what may still run of it, and were lost")
        else:
            self._try(job, folder)
            self._tries[job.id], self._begun[job.id] = tries + 1, self._clock()

    def _is_at_work(self, job: JobRecord) -> bool:
        return self._cluster.status(submission_of(job)) in RUNS

    def _try(self, job: JobRecord, folder: JobFolder) -> None:
        self._cluster.forget(submission_of(job))  # one that hangs would keep the next one waiting
        folder.outcome = {}
        job = self._store.change(job.id, {State.STOPPED}, attempt=job.attempt + 1)
        self._cluster.submit(submission_of(job), self._command(job, folder))
        log.info("%s: the cluster is back; what may still run of it is ended, attempt %d", job.id, job.attempt)

    def _settle(self, job: JobRecord, reason: str) -> None:
        self._store.change(job.id, {State.STOPPED}, wish="", reason=reason)
        log.info("%s: %s", job.id, reason)


def submission_of(job: JobRecord) -> str:
    """Its name at Ray, which perhaps knows a job of this id of an earlier service."""
    return f"{job.id}.{job.attempt}.{int(job.submitted_at * 1000):x}"
