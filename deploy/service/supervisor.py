"""Moves jobs from state to state: starts those that wait, carries wishes to drivers, takes up what has become of them.

All that it must know after a restart stands in the store, in the jobs' folders and in Ray: it may be killed at any time.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.service.bounds import bound_log, folder_bytes
from deploy.service.folder import BEAT_S, JobFolder
from deploy.service.leftovers import Leftovers, submission_of
from deploy.service.ray_jobs import RUNS, Cluster, ClusterAway, Glimpse
from deploy.service.scheduler import decide
from deploy.service.states import AT_WORK, KILL, STOP, State
from deploy.service.store import JobRecord, Store, UnknownJob, WrongState
from deploy.words import plural

log = logging.getLogger("hogshead.service")

LOOK_S = 1.0
MEASURE_S = 20.0  # between two looks at how large a job's folder is
_BREATH_S = 0.1  # at least, between two looks
QUIET_S = 3 * BEAT_S  # after which Ray is asked what became of a driver
SILENT_S = 60.0  # after which a driver that has not said how long it may be silent is taken for dead, whatever Ray says
MOST_SILENT_S = 300.0  # bound on what a driver may say
START_S = 120.0  # the same for one that Ray has begun, and that has given no sign of life yet
BEGIN_S = 300.0  # the same for one that Ray has not begun
KILL_S = 60.0  # after which a job that is to be killed counts as stopped, whatever its cluster does
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
STATES = {"done": State.SUCCEEDED, "failed": State.FAILED, "interrupted": State.STOPPED}


@dataclass
class _Driver:
    """What is known of a job's driver since the service started."""

    heard: float  # when it last gave a sign of life
    beat: dict[str, Any] = field(default_factory=dict)
    lost: int = 0  # times in a row, without any training in between
    progress: int = 0  # size of the metrics when it was started last
    due: float = 0.0  # when it is to be started again
    waits: bool = False  # for that
    condemned: float | None = None  # since when it is to be killed
    measured: float = float("-inf")  # when its folder was
    outgrown: str = ""  # why it was asked to end, if its folder was too large


class Supervisor:
    """Args:
    store: of the jobs. cluster: where they run. jobs: folder of their folders.
    most_running: bound on jobs at work at one time; None: as many as there is room for.
    most_job_bytes: bound on the folder of one job at work, which is asked to end beyond it; None: none.
    python: the interpreter that runs a driver on Ray's head. clock: seconds that only rise.
    """

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        jobs: Path,
        *,
        most_running: int | None = None,
        most_job_bytes: int | None = None,
        python: str = sys.executable,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.store, self.cluster, self.jobs = store, Glimpse(cluster), Path(jobs)
        self._most_running, self._python, self._clock = most_running, python, clock
        self._most_job_bytes = most_job_bytes
        self._drivers: dict[str, _Driver] = {}
        self._leftovers = Leftovers(store, self.cluster, self.jobs, self._command, clock)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End; jobs at work go on, and are found again."""
        self._over.set()
        self.store.wake()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            seen = self.store.changes
            try:
                self.look()
            except Exception:  # must go on whatever comes; what is wrong now may be right in a second
                if self._over.is_set():  # nobody has waited for it, and the store is closed
                    return
                log.exception("the supervisor stumbled")
            self.store.wait(seen, LOOK_S)
            self._over.wait(_BREATH_S)  # its own changes wake it as well

    # -- one look -----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Do all that can be done now."""
        self.cluster.again()
        jobs = self.store.active()
        self._drivers = {job.id: self._drivers.get(job.id) or _Driver(self._clock()) for job in jobs}
        for job in jobs:
            if job.state in AT_WORK:
                self._guarded(self._look_after, job)
        for job in self._leftovers.found():
            self._guarded(self._leftovers.end, job)
        jobs = self.store.active()
        if any(job.state == State.QUEUED for job in jobs):
            self._guarded(self._start_some, jobs)

    def _guarded(self, step: Any, argument: Any) -> None:
        """One job that is changed by somebody else just now, or whose folder is broken, does not keep the others waiting."""
        try:
            step(argument)
        except (UnknownJob, WrongState, ClusterAway) as error:
            log.debug("%s", error)
        except OSError as error:
            log.warning("%s", error)
        except Exception:  # the job's own code may have written anything into its folder
            if self._over.is_set():  # nobody has waited for it, and the store is closed
                raise
            log.exception("the supervisor stumbled over %s", getattr(argument, "id", "the queue"))

    def _start_some(self, jobs: Sequence[JobRecord]) -> None:
        try:
            nodes, held = self.cluster.nodes(), self.cluster.held()
        except ClusterAway as error:
            for job in jobs:
                self._say(job, f"waits for the cluster: {error}")
            return
        turn = decide(jobs, nodes, self._most_running, held)
        for job in jobs:
            if job.id in turn.waits:
                self._say(job, turn.waits[job.id])
        for job in turn.start:
            self._guarded(self._start, job)

    def _say(self, job: JobRecord, reason: str) -> None:
        if job.state == State.QUEUED and job.reason != reason:
            self.store.change(job.id, {State.QUEUED}, reason=reason)

    def _start(self, job: JobRecord) -> None:
        folder = JobFolder(self.jobs, job.id)
        if not folder.path.is_dir():
            self.store.change(
                job.id, {State.QUEUED}, state=State.FAILED, reason="its folder is gone", ended_at=time.time()
            )
            return
        unended = _is_unended(folder)
        if unended:
            self.cluster.forget(submission_of(job))  # a driver that was to end it
        folder.outcome = {}
        # A driver that is started again later has the same order, so that it can tell what it has begun from what was before.
        folder.order = self._order(job, folder.generation, unended)
        job = self.store.change(
            job.id,
            {State.QUEUED},
            state=State.STARTING,
            reason="",
            attempt=job.attempt + 1,
            started_at=job.started_at or time.time(),
        )
        self._submit(job, folder)

    @staticmethod
    def _order(job: JobRecord, above: int, unended: bool) -> dict[str, Any]:
        return {
            "overrides": list(job.overrides),
            "wish": job.wish,
            "number": job.attempt + 1,
            "above": above,
            "unended": unended,
            "on_loss": job.on_loss,
            "most_attempts": job.most_attempts,
        }

    def _submit(self, job: JobRecord, folder: JobFolder) -> None:
        driver = self._drivers.setdefault(job.id, _Driver(self._clock()))
        driver.heard, driver.beat, driver.waits = self._clock(), folder.beat, False
        driver.progress = _size(folder.run / "metrics.jsonl")
        self.cluster.submit(submission_of(job), self._command(job, folder))
        log.info("%s: started, attempt %d", job.id, job.attempt)

    def _command(self, job: JobRecord, folder: JobFolder) -> list[str]:
        return [self._python, "-m", "deploy.service.entry", str(folder.path), str(job.attempt)]

    # -- a job at work ------------------------------------------------------------------------------------------------

    def _look_after(self, job: JobRecord) -> None:
        folder, driver = JobFolder(self.jobs, job.id), self._drivers[job.id]
        if self._conclude(job, folder):
            return
        order = folder.order
        if order.get("wish", "") != job.wish:
            self.store.ballast.ease()  # the driver must be able to save, and to say how the job ended
            folder.order = {**order, "wish": job.wish}
        if job.wish == KILL and self._is_overdue(driver):
            self._leave_behind(job)
            return
        if job.state == State.STARTING and folder.at_work:
            job = self.store.change(job.id, {State.STARTING}, state=State.RUNNING, reason="")
        self._bound(job, folder, driver)
        if driver.waits:
            self._start_again(job, folder, driver)
        elif self._is_lost(job, folder, driver) and not self._conclude(job, folder):
            self._lose(job, folder, driver)

    def _bound(self, job: JobRecord, folder: JobFolder, driver: _Driver) -> None:
        """Keep the job's log within its bound, and ask the job to end if its folder is beyond its own."""
        bound_log(folder.log)
        most = self._most_job_bytes
        if most is None or job.wish or self._clock() - driver.measured < MEASURE_S:
            return
        driver.measured, size = self._clock(), folder_bytes(folder.path)
        if size > most:
            driver.outgrown = (
                f"its folder has grown to {size / 1e9:.3g} GB, and this service gives a job at most {most / 1e9:.3g} GB "
                "(--most-job-gb)"
            )
            log.warning("%s: %s; it is asked to end", job.id, driver.outgrown)
            self.store.change(job.id, {job.state}, state=State.STOPPING, wish=STOP, reason=driver.outgrown)

    def _conclude(self, job: JobRecord, folder: JobFolder) -> bool:
        """Take up the job's outcome, if there is one; not that of a driver that was ordered before, and was slow to end."""
        outcome = folder.outcome
        ordered_now = outcome.get("order") in (None, folder.order.get("number"))
        if not outcome or not ordered_now:
            return False
        if outcome.get("begun") is False and job.earlier:
            self.store.put_back(job.id, AT_WORK)
            return True
        state = STATES.get(str(outcome.get("status")), State.FAILED)
        reason = self._drivers[job.id].outgrown or str(outcome.get("reason", ""))
        self._end(job, state, reason)
        return True

    def _end(self, job: JobRecord, state: State, reason: str, wish: str = "") -> None:
        ended = {"state": state, "reason": reason, "ended_at": time.time(), "wish": wish}
        self.store.change(job.id, AT_WORK, **ended, resume=False, earlier="")
        self._drivers.pop(job.id, None)
        log.info("%s: %s%s", job.id, state, f", {reason}" if reason else "")

    def _is_overdue(self, driver: _Driver) -> bool:
        if driver.condemned is None:
            driver.condemned = self._clock()
        return self._clock() - driver.condemned >= KILL_S

    def _leave_behind(self, job: JobRecord) -> None:
        """A kill ends in time, whatever the cluster does; what is left is ended later, as the wish that stays says."""
        try:
            self.cluster.nodes()
            why = f"killed; it did not end within {KILL_S:g} s, and what may still run of it is ended as soon as it can be"
        except ClusterAway as error:
            why = f"killed while its cluster was away ({error}); what may still run there is ended once it is back"
        self._end(job, State.STOPPED, why, wish=KILL)

    def _is_lost(self, job: JobRecord, folder: JobFolder, driver: _Driver) -> bool:
        """Ray may take a driver for dead that is not, e.g. when its own head was away for a moment: a beat counts more."""
        beat = folder.beat
        if beat != driver.beat:
            driver.beat, driver.heard = beat, self._clock()
        is_heard, quiet_s = beat.get("attempt") == job.attempt, self._clock() - driver.heard
        if is_heard and quiet_s < QUIET_S:
            return False
        try:
            status = self.cluster.status(submission_of(job))
        except ClusterAway:
            driver.heard = self._clock()  # driver and head share a machine: it may be away with it, and come back
            raise
        unheard_s = BEGIN_S if status == "PENDING" else START_S  # a busy head takes its time
        patience_s = _allowed_s(beat) if is_heard else unheard_s
        return status not in RUNS or quiet_s > patience_s

    def _lose(self, job: JobRecord, folder: JobFolder, driver: _Driver) -> None:
        if _size(folder.run / "metrics.jsonl") != driver.progress:
            driver.lost = 0  # it did something meanwhile
        driver.lost += 1
        if driver.lost > job.most_attempts and job.wish != KILL:
            self._end(
                job, State.FAILED, f"its driver was lost {plural(driver.lost, 'time')} in a row; see the job's log"
            )
            return
        with suppress(ClusterAway):
            self.cluster.forget(submission_of(job))  # one that hangs would keep the next one waiting
        pause = min(_FIRST_PAUSE_S * 2 ** (driver.lost - 1), _LONGEST_PAUSE_S)
        log.warning("%s: its driver was lost; starting another in %g s", job.id, pause)
        driver.waits, driver.due = True, self._clock() + pause

    def _start_again(self, job: JobRecord, folder: JobFolder, driver: _Driver) -> None:
        if self._clock() < driver.due:
            return
        self.cluster.nodes()  # raises while there is none
        job = self.store.change(job.id, {job.state}, attempt=job.attempt + 1)
        self._submit(job, folder)


def _allowed_s(beat: Mapping[str, Any]) -> float:
    """How long a driver may be silent after this sign of life; a job's own code can write there."""
    said = beat.get("within_s")
    return said if isinstance(said, (int, float)) and 0 < said <= MOST_SILENT_S else SILENT_S


def _is_unended(folder: JobFolder) -> bool:
    """Whether something may still run of what was ordered before: it was killed, and nobody has seen its end."""
    order = folder.order
    before = bool(order.get("unended")) and folder.generation <= order.get("above", 0)
    return before or (order.get("wish") == KILL and not folder.outcome)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
