"""The launcher of one machine: the workers are processes around shards in shared memory. No server, no Ray."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from deploy.crew import EVALUATOR, Crew
from deploy.evaluations import Evaluations, require_finite
from deploy.interruption import termination_as_interrupt
from deploy.job import Job
from deploy.monitor import Monitor
from deploy.progress import Observer
from deploy.recording import Recording
from deploy.rehearsal import rehearse
from deploy.report import write_report
from deploy.result import Result
from deploy.run_directory import RunDirectory
from deploy.saving import cut, load_parameters, restore_run, write_checkpoint
from deploy.setup import Setup, plan_of, prepare
from deploy.summary import start_facts, summarise, trace_facts
from deploy.timetable import Timetable
from ps.admission import Clocks
from ps.checkpoint import Checkpoint, Writer
from ps.errors import (
    CheckpointError,
    HogsheadError,
    NonFiniteError,
    RunDirectoryError,
    TaskError,
    UsageError,
    WorkerError,
)
from ps.locks import LockFile
from worker import effects as c
from worker.coordinator import Coordinator

PROGRESS_S = 0.25

__all__ = ["load_parameters", "run"]


def run(job: Job, observer: Observer | None = None) -> Result:
    """Train a job on this machine.

    Args:
      job: resolved.
      observer: sees the run's records as they come (see ``deploy.progress``).

    Returns:
      The result; its summary's status is "done", "failed" or "interrupted".

    Raises:
      UsageError, HogsheadError: nothing could be started; once workers run, an error ends in a summary instead.
    """
    observer = observer or Observer()
    with RunDirectory.create(job) as directory:
        locks = LockFile()
        try:
            setup = prepare(job, locks.lock)
            try:
                rehearse(setup)
                return Launcher(setup, directory, observer).run()
            finally:
                setup.close()
        finally:
            locks.close()


class Launcher:
    """Carries out what the coordinator decides."""

    def __init__(self, setup: Setup, directory: RunDirectory, observer: Observer):
        self.setup, self.directory, self.observer, self.job = setup, directory, observer, setup.job
        self.coordinator = Coordinator(plan_of(setup))
        self.crew = Crew(setup)
        self.evaluations = Evaluations(setup, self.crew)
        self.clocks = Clocks.of(setup.arrays)
        self.monitor = Monitor(setup.arrays, self.job.workers.count)
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
        self._recording = Recording(directory.path, self._started) if self.job.record else None
        setup.record_to = self._recording and self._recording.folder
        self._timetable = Timetable({}, 0.0)
        self._saved: dict[int, dict[str, Any]] = {}
        self._saving = self._save_is_due = False
        self._finished: set[int] = set()

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """From the first worker to the summary."""
        try:
            if self.job.resume:
                self._restore()
            with termination_as_interrupt():
                self._guarded(self._train)
                self._guarded(self._wind_up)
        finally:
            self.crew.end()
        if self._recording is not None:
            self._guarded(lambda: self._recording.finish(trace_facts(self.job), self.setup.state.shards))
        return self._conclude()

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
        self.observer.started(start_facts(self.setup, self.directory.path, self.coordinator))
        self.crew.start_evaluator()
        for replica in range(self.job.workers.count):
            self._start_worker(replica)
        self._schedule()
        while self.coordinator.finished is None:
            self._turn(PROGRESS_S)

    def _wind_up(self) -> None:
        """Let the workers finish, evaluate the result, save it."""
        if self.failure is not None:
            self._save_what_there_is()
            return
        for replica in self.crew.workers():
            self.crew.tell(replica, "stop", flush=not self.interrupted)
        while not set(self.crew.workers()) <= self._finished:
            self._turn(PROGRESS_S)
        self._report_progress()
        self.monitor.end_epoch()  # of an epoch that a bound has cut short
        require_finite(self.setup.result_vector())
        if not self.interrupted:
            if not self.evaluations.is_current():
                self._evaluate(self.coordinator.ended - 1)
            while self.evaluations.pending:
                self._turn(PROGRESS_S)
        self._checkpoint(final=True)
        for replica in self.crew.workers():
            self.crew.tell(replica, "end")
        while self.crew.workers():
            self._turn(PROGRESS_S)

    def _save_what_there_is(self) -> None:
        """After a failure that has nothing to do with the parameters, so that the run can be resumed from here.

        Not for synchronous replicas: the ones who hold still would be waited for by the others.
        """
        finite = np.isfinite(self.setup.result_vector()).all()
        if finite and not isinstance(self.failure, NonFiniteError) and not self.setup.rounds:
            self._checkpoint()

    def _conclude(self) -> Result:
        status = "failed" if self.failure else "interrupted" if self.interrupted else "done"
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
        )
        self.directory.finish(summary)
        try:
            write_report([self.directory.path], self.directory.path / "report.html")
        except OSError as error:
            raise RunDirectoryError(f"{self.directory.path}: cannot write the report: {error}") from error
        self.observer.finished(summary)
        parameters = {name: view.copy() for name, view in self.setup.layout.views(self.setup.result_vector()).items()}
        return Result(self.setup.task, parameters, summary, self.directory.path, self.failure)

    # -- one turn -----------------------------------------------------------------------------------------------------

    def _turn(self, timeout_s: float) -> None:
        """Wait for something to happen and deal with it."""
        for key, message in self.crew.poll(timeout_s):
            self._handle(key, message)
        self._carry_out()
        self._keep_time()
        self._carry_out()

    def _handle(self, key: int, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if key == EVALUATOR:
            self._handle_evaluator(message)
        elif kind == "joined":
            self._effects.extend(self.coordinator.joined(key))
        elif kind == "done":
            self._effects.extend(self.coordinator.done(key, message["range"]))
        elif kind == "saved":
            self._saved[key] = message
        elif kind == "finished":
            self._finished.add(key)
        elif kind == "died":
            self._handle_death(key, message)

    def _handle_death(self, replica: int, message: dict[str, Any]) -> None:
        self.deaths += 1
        self.last_errors[replica] = message["message"]
        self.setup.locking(replica).release_dead(replica)
        lines = message["message"].splitlines()
        first_line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
        self._event("worker_died", f"worker {replica}: {first_line}", worker=replica)
        if message["fatal"]:
            kind = {"NonFiniteError": NonFiniteError, "UsageError": UsageError}.get(message["type"], WorkerError)
            raise kind(message["message"])
        self._effects.extend(self.coordinator.died(replica))

    def _handle_evaluator(self, message: dict[str, Any]) -> None:
        if message["kind"] == "error":
            raise TaskError(message["message"])
        if message["kind"] == "died":
            raise WorkerError(f"the evaluator: {message['message']}")
        epoch, record = self.evaluations.answered(message["metrics"])
        self.directory.record(record)
        self.observer.evaluation(record)
        self._effects.extend(self.coordinator.evaluated(epoch, message["metrics"]))

    def _carry_out(self) -> None:
        while self._effects:
            effect = self._effects.popleft()
            match effect:
                case c.OpenEpoch(epoch):
                    examples = self.setup.order.of(epoch)
                    orders = self.setup.arrays["orders"]
                    orders[epoch % len(orders)][: examples.size] = examples
                case c.Assign(replica, part):
                    self.crew.tell(replica, "work", range=asdict(part))
                case c.Join(replica):
                    for shard in self.setup.state.shards:
                        shard.join(replica)
                    self.clocks.join(replica)
                case c.Leave(replica):
                    if self._recording is not None:
                        self._recording.note_leave(replica, self.incarnations[replica])
                    for shard in self.setup.state.shards:
                        shard.leave(replica, self.coordinator.epoch)
                    self.clocks.leave(replica)
                case c.Restart(replica):
                    self._start_worker(replica)
                    self._event("worker_replaced", f"worker {replica} was replaced", worker=replica)
                case c.EpochEnded(epoch):
                    self.monitor.end_epoch()
                    self._examples_before += self.setup.order.size(epoch)
                    if self._save_is_due:
                        self._checkpoint()
                case c.Evaluate(epoch):
                    self._evaluate(epoch)
                case c.Checkpoint():
                    self._checkpoint()
                case c.Fail(replica, deaths):
                    times = "" if deaths == 1 else f" {deaths} times in a row"
                    raise WorkerError(f"worker {replica} died{times}: {self.last_errors[replica]}", replica=replica)
                case c.Finish():
                    pass

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
        if self.job.stop.seconds is not None and now >= self.job.stop.seconds:
            self.coordinator.finish(f"{self.job.stop.seconds:g} seconds", at_once=True)

    def _report_progress(self) -> None:
        done = self.monitor.counts()["examples"]
        size = self.setup.order.size(self.coordinator.ended)
        running = self.coordinator.finished is None
        fraction = min(max((done - self._examples_before) / size, 0.0), 1.0) if running else 0.0
        alive = len(self.crew.workers())
        record = self.monitor.progress(self._seconds(), alive, self.coordinator.ended, fraction)
        self.directory.record(record)
        self.observer.progress(record)

    def _event(self, event: str, message: str, **fields: Any) -> None:
        record = {"kind": "event", "seconds": self._seconds(), "event": event, "message": message, **fields}
        self.directory.record(record)
        self.observer.event(record)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def _evaluate(self, epoch: int) -> None:
        """Have the center evaluated as it is now, once the evaluator has room."""
        while self.evaluations.full:
            for key, message in self.crew.poll(PROGRESS_S):
                self._handle(key, message)
        facts = {"seconds": self._seconds(), **self.monitor.counts(), "train_loss": self.monitor.train_loss}
        self.evaluations.request(epoch, facts)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _checkpoint(self, final: bool = False) -> None:
        """Save everything as of one moment: all workers hold still at a step's end while the shards are copied."""
        if self._saving:
            return
        self._save_is_due = False
        self._saving, self._saved = True, {}
        partial: Path | None = None
        try:
            partial = self.writer.begin()
            shards, state = self._collect(partial)
            self._let_go()
            replicas = {replica: answer["scalars"] for replica, answer in self._saved.items()}
            path = write_checkpoint(self.writer, partial, self.setup, shards, replicas, state)
            self._event("checkpoint", f"saved {path.name}", path=str(path))
        except CheckpointError as error:
            self._let_go()
            if partial is not None:
                self.writer.abandon(partial)
            if final:
                raise
            self._event("checkpoint_failed", str(error))
        finally:
            self._saving = False

    def _collect(self, partial: Path) -> tuple[list[dict[str, np.ndarray]], dict[str, Any]]:
        asked = set(self.crew.workers())
        for replica in asked:
            self.crew.tell(replica, "save", folder=str(partial))
        while not (asked & set(self.crew.workers())) <= set(self._saved):
            for key, message in self.crew.poll(PROGRESS_S):
                self._handle(key, message)
        failures = [answer["failure"] for answer in self._saved.values() if answer["failure"]]
        if failures:
            raise CheckpointError(failures[0])
        positions = {replica: tuple(answer["at_hand"]) for replica, answer in self._saved.items()}
        state = {
            "coordinator": self.coordinator.state(positions),
            "counters": self.monitor.counters(),
            "incarnations": self.incarnations,
            "seconds": self._seconds(),
            "seed": self.job.seed,
        }
        return cut(self.setup), state

    def _let_go(self) -> None:
        """Let those who hold still for a checkpoint go on."""
        for replica in self._saved:
            self.crew.tell(replica, "go")

    def _restore(self) -> None:
        checkpoint = Checkpoint.newest(self.directory.checkpoint)
        self._restored = restore_run(checkpoint, self.setup, self.coordinator)
        self.directory.save_job(self.job)
        manifest = checkpoint.manifest
        self._effects.extend(self.coordinator.restore(manifest["coordinator"]))
        self.monitor.restore(manifest["counters"])
        self.directory.forget_after(self.monitor.counts()["examples"])
        for replica, incarnation in enumerate(manifest["incarnations"][: len(self.incarnations)]):
            self.incarnations[replica] = incarnation
        self._earlier_seconds = manifest["seconds"]
        self._examples_before = sum(map(self.setup.order.size, range(self.coordinator.ended)))
