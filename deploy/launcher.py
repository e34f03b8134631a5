"""What the launchers of real workers share: they carry out what the coordinator decides, and keep the run directory.

A launcher for processes and one for a cluster fill in where shards and workers are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from deploy.baseline import no_better_than_baseline
from deploy.blueprint import Blueprint
from deploy.crew import EVALUATOR
from deploy.evaluations import require_finite
from deploy.monitor import Monitor
from deploy.progress import Observer
from deploy.report import write_report
from deploy.result import Result
from deploy.run_directory import RunDirectory
from deploy.summary import summarise
from deploy.timetable import Timetable
from deploy.watchdog import Watchdog
from ps.checkpoint import Checkpoint, Writer
from ps.errors import (
    HogsheadError,
    MemoryShortage,
    NonFiniteError,
    RunDirectoryError,
    TaskError,
    UsageError,
    WorkerError,
    shortened,
)
from worker import effects as c
from worker.coordinator import Coordinator, Plan
from worker.stopping import counted

PROGRESS_S = 0.25
STOP_S, FLUSH_S = 10.0, 60.0  # for a worker that does not move, when the run is to end at once, or has done its work
STEPS_S = 3.0  # times the longest step so far, where that is more
_LINE = 300  # characters of an error in an event


class AnyCrew(Protocol):
    """The processes of a run: workers by replica id, and the evaluator as ``EVALUATOR``."""

    def start_worker(self, replica: int, incarnation: int, restored: Any = None) -> None: ...
    def start_evaluator(self) -> None: ...
    def tell(self, key: int, kind: str, **fields: Any) -> None: ...
    def poll(self, timeout_s: float) -> Any: ...
    def kill(self, key: int) -> None: ...
    def workers(self) -> list[int]: ...
    def end(self) -> None: ...


class AnyEvaluations(Protocol):
    """Snapshots of the center on their way through the evaluator; see ``deploy.evaluations``."""

    latest: dict[str, float]
    pending: int
    full: bool

    def is_current(self) -> bool: ...
    def request(self, epoch: int, facts: dict[str, Any]) -> None: ...
    def again(self) -> None: ...
    def answered(self, metrics: dict[str, float]) -> tuple[int, dict[str, Any]]: ...


class Launcher:
    """Carries out what the coordinator decides.

    Args:
      setup: the job made ready. plan: what the coordinator knows of it.
      directory: of the run. observer: sees its records.
      crew, evaluations: of the run. monitor: reads the workers' counters.
    """

    def __init__(
        self,
        setup: Blueprint,
        plan: Plan,
        directory: RunDirectory,
        observer: Observer,
        crew: AnyCrew,
        evaluations: AnyEvaluations,
        monitor: Monitor,
    ):
        self.setup, self.directory, self.observer, self.job = setup, directory, observer, setup.job
        self.crew, self.evaluations, self.monitor = crew, evaluations, monitor
        self.coordinator = Coordinator(plan)
        self.writer = Writer(directory.checkpoint, self.job.checkpoint.keep)
        self.incarnations = [0] * self.job.workers.count
        self.last_errors = [""] * self.job.workers.count
        self.deaths = 0
        self.failure: Exception | None = None
        self.interrupted = False
        self._effects: deque[c.Effect] = deque()
        self._restored: dict[int, Any] = {}
        self._earlier_seconds = 0.0
        self._examples_before = 0  # in the epochs that have ended
        self._started = time.perf_counter()
        self._timetable = Timetable({}, 0.0)
        self._saved: dict[int, dict[str, Any]] = {}
        self._saves = 0  # checkpoints begun
        self._asked: set[int] = set()  # to hold still for the one under way
        self._saving = self._save_is_due = False
        self._finished: set[int] = set()
        self._stopping = self._ending = False
        self._watchdog = Watchdog()
        self._killed: dict[int, str] = {}  # why, of those that were killed here
        self._answers = 0  # of the evaluator
        self._evaluator_deaths = 0  # in a row

    # -- what a launcher fills in -------------------------------------------------------------------------------------

    def _start_processes(self) -> None:
        """Start the evaluator and the workers."""
        self.crew.start_evaluator()
        self._start_workers()

    def _start_workers(self) -> None:
        """Start the workers."""
        for replica in range(self.job.workers.count):
            self._start_worker(replica)

    def _open_epoch(self, epoch: int) -> None:
        """Give the workers the order of an epoch's examples."""

    def _join(self, replica: int) -> None:
        """Others wait for this replica from now on."""
        raise NotImplementedError

    def _leave(self, replica: int) -> None:
        """Nobody waits for this replica any more."""
        raise NotImplementedError

    def _bury(self, replica: int) -> None:
        """Free what a dead replica held."""

    def _holders(self) -> set[int]:
        """Replicas that hold what others may be waiting for."""
        return set()

    def _start_facts(self) -> dict[str, Any]:
        """For the observer."""
        raise NotImplementedError

    def _result_vector(self) -> np.ndarray:
        """What is returned (N,), as it is now."""
        raise NotImplementedError

    def _shard_counts(self) -> dict[str, int]:
        """``Shard.counts`` of all shards together."""
        raise NotImplementedError

    def _checkpoint(self, final: bool = False) -> None:
        """Save everything as of one moment."""
        raise NotImplementedError

    def _parameters(self) -> dict[str, np.ndarray]:
        """The trained parameters, for the result."""
        return {name: view.copy() for name, view in self.setup.layout.views(self._result_vector()).items()}

    def _more_progress(self) -> dict[str, Any]:
        """What a progress record holds besides."""
        return {}

    def _more_summary(self) -> dict[str, Any]:
        """What the summary holds besides."""
        return {}

    def _keep_what_is_accrued(self) -> None:
        """Before the replicas' last pushes: keep the state of this moment for a run that goes on from here."""

    def _save_what_there_is(self) -> None:
        """After a failure that has nothing to do with the parameters, so that the run can be resumed from here."""

    # -- the run ------------------------------------------------------------------------------------------------------

    def _guarded(self, stage: Any) -> None:
        """Run a stage; an error or ^C is kept for the summary."""
        try:
            stage()
        except KeyboardInterrupt:
            self.interrupted = True
            self.coordinator.finish("interrupted", at_once=True)
        except (HogsheadError, UsageError) as error:
            self.failure = self.failure or error
            self.coordinator.finish("failed", at_once=True)

    def _train(self) -> None:
        self._started = time.perf_counter()
        self.observer.started(self._start_facts())
        self._start_processes()
        self._schedule()
        while self.coordinator.finished is None:
            self._turn(PROGRESS_S)

    def _wind_up(self) -> None:
        """Let the workers finish, evaluate the result, save it."""
        if self.failure is not None:
            self._save_what_there_is()
            return
        if not self.interrupted:
            self._unless_interrupted(self._keep_what_is_accrued)
        for replica in self.crew.workers():
            self.crew.tell(replica, "stop", flush=not self.interrupted)
        self._stopping = True
        self._unless_interrupted(self._await_workers)
        self._report_progress()
        self.monitor.end_epoch()  # of an epoch that a bound has cut short
        require_finite(self._result_vector(), self.setup.dataset)
        try:
            self._unless_interrupted(self._evaluate_result)
        except (TaskError, WorkerError, UsageError):
            self._save_result()
            raise
        self._save_result()
        self._ending = True
        for replica in self.crew.workers():
            self.crew.tell(replica, "end")
        while self.crew.workers():
            self._turn(PROGRESS_S)

    def _unless_interrupted(self, stage: Callable[[], None]) -> None:
        """Run a stage of the end; the first ^C ends only that stage, and the result is saved all the same."""
        try:
            stage()
        except KeyboardInterrupt:
            if self.interrupted:
                raise
            self.interrupted = True

    def _save_result(self) -> None:
        try:
            self._checkpoint(final=True)
        except KeyboardInterrupt:
            if self.interrupted:
                raise
            self.interrupted = True
            self._checkpoint(final=True)

    def _await_workers(self) -> None:
        while not set(self.crew.workers()) <= self._finished:
            self._turn(PROGRESS_S)

    def _evaluate_result(self) -> None:
        if self.interrupted:
            return
        if not self.evaluations.is_current():
            self._evaluate(self.coordinator.ended - 1)
        while self.evaluations.pending:
            self._turn(PROGRESS_S)

    def _conclude(self) -> Result:
        status = "failed" if self.failure else "interrupted" if self.interrupted else "done"
        warning = no_better_than_baseline(self.setup.task, self.evaluations.latest) if status == "done" else None
        if warning is not None:
            self._event("warning", warning)
        summary = summarise(
            self.setup,
            self.directory.path,
            self.coordinator,
            self.monitor,
            status=status,
            seconds=self._seconds(),
            evaluation=self.evaluations.latest,
            deaths=self.deaths,
            error=self.failure,
            shard_counts=self._shard_counts(),
        )
        summary |= self._more_summary()
        self.directory.finish(summary)
        try:
            write_report([self.directory.path], self.directory.path / "report.html")
        except OSError as error:
            raise RunDirectoryError(f"{self.directory.path}: cannot write the report: {error}") from error
        self.observer.finished(summary)
        return Result(self.setup.task, self._parameters(), summary, self.directory.path, self.failure)

    # -- one turn -----------------------------------------------------------------------------------------------------

    def _turn(self, timeout_s: float) -> None:
        """Wait for something to happen and deal with it."""
        self._listen(timeout_s)
        self._carry_out()
        self._keep_time()
        self._carry_out()

    def _listen(self, timeout_s: float) -> None:
        """Take messages; see to the bound on time and to processes that do not move, also while something is waited for."""
        for key, message in self.crew.poll(timeout_s):
            self._handle(key, message)
        self._watch()
        if self.job.stop.seconds is not None and self._seconds() >= self.job.stop.seconds:
            self.coordinator.finish(counted(self.job.stop.seconds, "second"), at_once=True)

    def _handle(self, key: int, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if key == EVALUATOR:
            self._handle_evaluator(message)
        elif kind == "joined":
            self._effects.extend(self.coordinator.joined(key))
        elif kind == "done":
            self._effects.extend(self.coordinator.done(key, message["range"]))
        elif kind == "saved":
            if message["number"] == self._saves:  # not for a checkpoint that went without it
                self._saved[key] = message
        elif kind == "finished":
            self._finished.add(key)
        elif kind == "died":
            self._handle_death(key, self._explained(key, message))

    def _explained(self, key: int, message: dict[str, Any]) -> dict[str, Any]:
        """The message of a death, with the reason where this launcher has it."""
        reason = self._killed.pop(key, None)
        return message if reason is None else {**message, "message": reason}

    def _handle_death(self, replica: int, message: dict[str, Any]) -> None:
        self.deaths += 1
        self.last_errors[replica] = message["message"]
        self._bury(replica)
        lines = message["message"].splitlines()
        first_line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
        self._event("worker_died", f"worker {replica}: {shortened(first_line, _LINE)}", worker=replica)
        if message["fatal"]:
            kinds = {kind.__name__: kind for kind in (MemoryShortage, NonFiniteError, UsageError)}
            kind = kinds.get(message["type"], WorkerError)
            raise kind(message["message"])
        self._effects.extend(self.coordinator.died(replica))

    def _handle_evaluator(self, message: dict[str, Any]) -> None:
        if message["kind"] == "error":
            raise TaskError(message["message"])
        if message["kind"] == "died":
            self._replace_evaluator(self._explained(EVALUATOR, message)["message"])
            return
        self._answers += 1
        self._evaluator_deaths = 0
        epoch, record = self.evaluations.answered(message["metrics"])
        self.directory.record(record)
        self.observer.evaluation(record)
        self._effects.extend(self.coordinator.evaluated(epoch, message["metrics"]))
        guess = None if self.coordinator.goal is None else self.coordinator.goal.guess()
        if guess is not None:
            self._event("metric", guess)

    def _replace_evaluator(self, died: str) -> None:
        """Start another, which measures what is not answered; unless they keep dying."""
        self._evaluator_deaths += 1
        self._event("evaluator_died", f"the evaluator: {shortened(died, _LINE)}")
        if self._evaluator_deaths > self.job.workers.max_restarts:
            times = "" if self._evaluator_deaths == 1 else f" {self._evaluator_deaths} times in a row"
            raise WorkerError(f"the evaluator died{times}: {died}")
        self.crew.start_evaluator()
        self.evaluations.again()

    def _carry_out(self) -> None:
        while self._effects:
            effect = self._effects.popleft()
            match effect:
                case c.OpenEpoch(epoch):
                    self._open_epoch(epoch)
                case c.Assign(replica, part):
                    self.crew.tell(replica, "work", range=asdict(part))
                case c.Join(replica):
                    self._join(replica)
                case c.Leave(replica):
                    self._leave(replica)
                case c.Restart(replica):
                    self._start_worker(replica)
                    self._event("worker_replaced", f"worker {replica} was replaced", worker=replica)
                case c.EpochEnded(epoch):
                    self.monitor.end_epoch()
                    self._examples_before += self.setup.order.size(epoch)
                    if self._save_is_due:
                        self._checkpoint()
                case c.Evaluate(epoch):
                    self._evaluate_end(epoch)
                case c.Checkpoint():
                    self._checkpoint()
                case c.Fail(replica, deaths, at):
                    if at is not None:
                        raise WorkerError(
                            f"{deaths} workers died one after the other at the same work (examples {at.start} to {at.stop} of "
                            f"epoch {at.epoch + 1}), worker {replica} last: {self.last_errors[replica]}",
                            replica=replica,
                        )
                    times = "" if deaths == 1 else f" {deaths} times in a row"
                    raise WorkerError(f"worker {replica} died{times}: {self.last_errors[replica]}", replica=replica)
                case c.Finish():
                    pass

    def _come_after(self, checkpoint: Checkpoint) -> None:
        """Workers are newer than whoever has pushed under their numbers before, also where those were not workers' then."""
        manifest, pushed = checkpoint.manifest["incarnations"], checkpoint.incarnations()
        for replica in range(len(self.incarnations)):
            before = (known[replica] for known in (manifest, pushed) if replica < len(known))
            self.incarnations[replica] = max(before, default=0)

    def _start_worker(self, replica: int) -> None:
        self.incarnations[replica] += 1
        self.crew.start_worker(replica, self.incarnations[replica], self._restored.pop(replica, None))

    # -- by the clock -------------------------------------------------------------------------------------------------

    def _seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._started

    def _schedule(self) -> None:
        job = self.job
        periods = {
            "progress": PROGRESS_S,
            "evaluation": job.evaluation.every_seconds,
            "save": job.checkpoint.every_seconds,
        }
        self._timetable = Timetable(periods, self._seconds())

    def _keep_time(self) -> None:
        now = self._seconds()
        if self.coordinator.finished is not None:
            return
        if self._timetable.due("progress", now):
            self._report_progress()
        if self._timetable.due("evaluation", now):
            self._evaluate(self.coordinator.ended)
        if self._timetable.due("save", now):
            # In the middle of a synchronous step replicas wait for each other; between epochs nobody does.
            self._save_is_due = self.setup.rounds
            if not self._save_is_due:
                self._checkpoint()

    def _report_progress(self) -> None:
        done = self.monitor.counts()["examples"]
        size = self.setup.order.size(self.coordinator.ended)
        running = self.coordinator.finished is None
        fraction = min(max((done - self._examples_before) / size, 0.0), 1.0) if running else 0.0
        alive = len(self.crew.workers())
        record = self.monitor.progress(self._seconds(), alive, self.coordinator.ended, fraction)
        record |= self._more_progress()
        self.directory.record(record)
        self.observer.progress(record)

    def _event(self, event: str, message: str, **fields: Any) -> None:
        record = {"kind": "event", "seconds": self._seconds(), "event": event, "message": message, **fields}
        self.directory.record(record)
        self.observer.event(record)

    # -- processes that do not move -----------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Name processes that should move and do not; kill them where the job says so, or where the end waits for them."""
        if not self._watchdog.look(time.perf_counter(), self._beats):
            return
        limit = self.job.workers.stuck_seconds
        for key, seconds in self._watchdog.to_tell().items():
            remedy = "" if limit else "; [workers] stuck_seconds = N has it replaced after N seconds"
            self._event("stuck", f"{_name(key)} has not moved for {seconds:.0f} s{remedy}", worker=key)
        if limit is not None:
            self._kill(self._watchdog.stuck(limit), f"[workers] stuck_seconds = {limit:g}")
        if self._stopping:
            self._kill(self._not_moving() - {EVALUATOR}, "the run was to end")

    def _kill(self, stuck: set[int], why: str) -> None:
        """Kill those that hold what others wait for; without any, all: none waits for another."""
        if not stuck:
            return
        for key in stuck & self._holders() or stuck:
            self._killed[key] = f"did not move for {self._watchdog.still[key]:.0f} s and was killed ({why})"
            self.crew.kill(key)
        self._watchdog.forgive()

    def _not_moving(self) -> set[int]:
        """Those that nothing is to wait for any longer."""
        ends = self.coordinator.finished
        patience_s = STOP_S if ends is None or ends.at_once else FLUSH_S
        return self._watchdog.stuck(max(patience_s, STEPS_S * self._watchdog.longest))

    def _beats(self) -> dict[int, Any]:
        """What changes as a process moves, of those that have something to do."""
        beats: dict[int, Any] = {
            replica: (self.incarnations[replica], self.monitor.heartbeat(replica))
            for replica in self.crew.workers()
            if self._has_to_move(replica)
        }
        if self.evaluations.pending:
            beats[EVALUATOR] = self._answers
        return beats

    def _has_to_move(self, replica: int) -> bool:
        if self._saving and replica in self._asked:
            return replica not in self._saved
        if self._stopping:
            return self._ending or replica not in self._finished
        member = self.coordinator.members[replica]
        return not member.joined or bool(member.ranges)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def _evaluate_end(self, epoch: int) -> None:
        """Have the center evaluated as it is, or was, at the end of ``epoch``."""
        self._evaluate(epoch)

    def _evaluate(self, epoch: int) -> None:
        """Have the center evaluated as it is now, once the evaluator has room."""
        training = self.coordinator.finished is None
        while self.evaluations.full:
            self._listen(PROGRESS_S)
            if training and self.coordinator.finished is not None:
                return  # the result is evaluated anyway
        self.evaluations.request(epoch, self._evaluation_facts())

    def _evaluation_facts(self) -> dict[str, Any]:
        return {"seconds": self._seconds(), **self.monitor.counts(), "train_loss": self.monitor.train_loss}


def _name(key: int) -> str:
    return "the evaluator" if key == EVALUATOR else f"worker {key}"
