"""The launcher of one machine: the workers are processes around shards in shared memory. No server, no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.crew import Crew
from deploy.epoch_ends import EpochEnds
from deploy.evaluations import Evaluations
from deploy.interruption import Interruption
from deploy.job import Job
from deploy.launcher import PROGRESS_S, Launcher
from deploy.monitor import Monitor
from deploy.progress import Observer
from deploy.recording import Recording
from deploy.rehearsal import rehearse
from deploy.result import Result
from deploy.run_directory import RunDirectory
from deploy.saving import cut, load_parameters, restore_run, save_result, write_checkpoint
from deploy.setup import Setup, plan_of, prepare
from deploy.summary import start_facts, total_counts, trace_facts
from ps.admission import Clocks
from ps.checkpoint import Checkpoint, describe_state
from ps.errors import (
    CheckpointError,
    NonFiniteError,
)
from ps.locks import LockFile

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
    with RunDirectory.create(job, observer.event) as directory:
        locks = LockFile()
        try:
            setup = prepare(job, locks.lock)
            try:
                rehearse(setup)
                if EpochEnds.needed(setup):
                    setup.epoch_ends = EpochEnds(setup, locks.lock(job.shards.count))
                return Processes(setup, directory, observer).run()
            finally:
                setup.close()
        finally:
            locks.close()


@dataclass
class _Moment:
    """A run as it was while all workers held still.

    Attributes:
      partial: the checkpoint's folder, with the replicas' files in it.
      shards: copies. described: of the shards. replicas: id -> scalars. state: of the run.
    """

    partial: Path
    shards: list[dict[str, np.ndarray]]
    described: dict[str, Any]
    replicas: dict[int, dict[str, Any]]
    state: dict[str, Any]


class Processes(Launcher):
    """Shards in shared memory, workers forked around them."""

    setup: Setup
    crew: Crew

    def __init__(self, setup: Setup, directory: RunDirectory, observer: Observer):
        self._interruption = Interruption()
        crew = Crew(setup, self._interruption)
        monitor = Monitor(setup.arrays, setup.job.workers.count)
        super().__init__(setup, plan_of(setup), directory, observer, crew, Evaluations(setup, crew), monitor)
        self.clocks = Clocks.of(setup.arrays)
        self._recording = Recording(directory.path, self._started) if self.job.record else None
        setup.record_to = self._recording and self._recording.folder
        self._unpushed: _Moment | None = None  # before the replicas' last pushes

    def run(self) -> Result:
        """From the first worker to the summary."""
        if self.job.resume:
            self._restore()
        with self._interruption:  # also around the summary: a second signal must not end the run without one
            try:
                self._guarded(self._train)
                self._guarded(self._wind_up)
            finally:
                self.crew.end()
                if self._unpushed is not None:
                    self.writer.abandon(self._unpushed.partial)  # renamed, if all went well
            if self._recording is not None:
                self._guarded(lambda: self._recording.finish(trace_facts(self.job), self.setup.state.shards))
            return self._conclude()

    def _start_workers(self) -> None:
        if self.setup.epoch_ends is not None:
            by_worker = [member.done for member in self.coordinator.members]
            self.setup.epoch_ends.begin(self.coordinator.ended, self.coordinator.done_examples, by_worker)
        super()._start_workers()

    def _start_worker(self, replica: int) -> None:
        if self.setup.epoch_ends is not None:
            self.setup.epoch_ends.starts(replica, self.coordinator.members[replica].done)
        super()._start_worker(replica)

    def _evaluate_end(self, epoch: int) -> None:
        taken = None if self.setup.epoch_ends is None else self.setup.epoch_ends.taken(epoch)
        if taken is None:
            super()._evaluate_end(epoch)
            return
        counts = {"examples": taken.examples, "steps": taken.steps}
        self.evaluations.hand_on(epoch, self._evaluation_facts() | counts, taken.versions)

    def _open_epoch(self, epoch: int) -> None:
        examples = self.setup.order.of(epoch)
        orders = self.setup.arrays["orders"]
        orders[epoch % len(orders)][: examples.size] = examples

    def _join(self, replica: int) -> None:
        for shard in self.setup.state.shards:
            shard.join(replica)
        self.clocks.join(replica)

    def _leave(self, replica: int) -> None:
        if self._recording is not None:
            self._recording.note_leave(replica, self.incarnations[replica])
        for shard in self.setup.state.shards:
            shard.leave(replica, self.coordinator.epoch)
        self.clocks.leave(replica)

    def _bury(self, replica: int) -> None:
        self.setup.locking(replica).release_dead(replica)

    def _holders(self) -> set[int]:
        processes = [shard.lock.holder() for shard in self.setup.state.shards]
        return {self.crew.replica_of(process) for process in processes} | self.setup.locking(0).holders()

    def _start_facts(self) -> dict[str, Any]:
        return start_facts(self.setup, self.directory.path, self.coordinator)

    def _result_vector(self) -> np.ndarray:
        return self.setup.result_vector()

    def _shard_counts(self) -> dict[str, int]:
        return total_counts(shard.counts() for shard in self.setup.state.shards)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _save_what_there_is(self) -> None:
        """After a failure that has nothing to do with the parameters, so that the run can be resumed from here.

        Not for synchronous replicas: the ones who hold still would be waited for by the others.
        """
        finite = np.isfinite(self.setup.result_vector()).all()
        if finite and not isinstance(self.failure, NonFiniteError) and not self.setup.rounds:
            self._checkpoint()

    def _checkpoint(self, final: bool = False) -> None:
        """Save everything as of one moment: all workers hold still at a step's end while the shards are copied."""
        if self._saving and not final:
            return
        self._save_is_due = False
        self._saving = True
        partial: Path | None = None
        try:
            moment = self._unpushed
            if moment is None:
                partial = self.writer.begin()
                moment = self._collect(partial)
                self._let_go()
            else:
                partial = moment.partial
                save_result(partial, self.setup)
            path = write_checkpoint(
                self.writer, partial, self.setup, moment.shards, moment.replicas, moment.state, moment.described
            )
            late = sorted(set(self.crew.workers()) - set(self._saved))
            without = f" without {', '.join(f'worker {replica}' for replica in late)}: no answer" if late else ""
            self._event("checkpoint", f"saved {path.name}{without}", path=str(path))
        except CheckpointError as error:
            self._let_go()
            if partial is not None:
                self.writer.abandon(partial)
            if final:
                raise
            self._event("checkpoint_failed", str(error))
        except KeyboardInterrupt:
            self._let_go()
            if partial is not None:
                self.writer.abandon(partial)
            raise
        finally:
            self._saving = False

    def _keep_what_is_accrued(self) -> None:
        """Have what replicas have accrued saved before they push it: a run that goes on pushes it when it is complete.

        A recorded run is saved as its replay ends, and synchronous replicas accrue nothing.
        """
        if not self.setup.strategy.accrues or self.setup.rounds or self.job.record:
            return
        while self.evaluations.pending:  # their answers are part of the state
            self._turn(PROGRESS_S)
        self._saving = True
        partial = self.writer.begin()
        try:
            moment = self._collect(partial)
        except CheckpointError:
            self.writer.abandon(partial)
            raise
        except KeyboardInterrupt:
            self.writer.abandon(partial)
            self._let_go()
            self._saving = False
            raise
        self._asked = set()  # the message to stop lets them go on
        if any(scalars["accrued_count"] for scalars in moment.replicas.values()):
            self._unpushed = moment
        else:
            self.writer.abandon(partial)
            self._saving = False

    def _collect(self, partial: Path) -> _Moment:
        self._saves += 1
        self._saved = {}
        # A worker that does not move is left out: what it holds is done once more. Its mail must not pile up either.
        self._asked = set(self.crew.workers()) - self._not_moving()
        for replica in self._asked:
            self.crew.tell(replica, "save", folder=str(partial), number=self._saves)
        while not (self._asked & set(self.crew.workers())) - self._not_moving() <= set(self._saved):
            self._listen(PROGRESS_S)
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
        replicas = {replica: answer["scalars"] for replica, answer in self._saved.items()}
        return _Moment(partial, cut(self.setup), describe_state(self.setup.state), replicas, state)

    def _let_go(self) -> None:
        """Let those who hold still for a checkpoint go on."""
        for replica in self._asked:
            self.crew.tell(replica, "go")
        self._asked = set()

    def _restore(self) -> None:
        checkpoint = Checkpoint.newest(self.directory.checkpoint)
        self._restored = restore_run(checkpoint, self.setup, self.coordinator)
        self.directory.save_job(self.job)
        manifest = checkpoint.manifest
        self._effects.extend(self.coordinator.restore(manifest["coordinator"]))
        self.monitor.restore(manifest["counters"])
        self.directory.forget_after(self.monitor.counts()["examples"])
        self._come_after(checkpoint)
        self._earlier_seconds = manifest["seconds"]
        self._examples_before = sum(map(self.setup.order.size, range(self.coordinator.ended)))
