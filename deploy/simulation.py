"""The launcher of virtual time: the same job, strategies, rules, shards and coordinator in one process, from a seed.

Gradients are real, only time is not: steps, messages and service take as long as ``[simulation]`` says. The same seed gives the
same run, event by event.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from deploy.baseline import no_better_than_baseline
from deploy.evaluations import require_finite
from deploy.job import Job
from deploy.monitor import Monitor
from deploy.progress import Observer
from deploy.report import write_report
from deploy.result import Result
from deploy.run_directory import RunDirectory
from deploy.saving import cut, write_checkpoint
from deploy.setup import Setup, plan_of, prepare
from deploy.simulator.clock import Clock
from deploy.simulator.conductor import Conductor
from deploy.simulator.failures import Failures, late_workers
from deploy.simulator.garbage import rare_collections
from deploy.simulator.ordered import PATTERNS
from deploy.simulator.records import Records
from deploy.simulator.replica import SimulatedReplica, Vectors
from deploy.simulator.timed import Timed
from deploy.summary import start_facts, summarise, total_counts, trace_facts
from ps.admission import Clocks
from ps.checkpoint import Writer, describe_state
from ps.errors import HogsheadError, JobError, UsageError, WorkerError
from worker import effects as c
from worker.coordinator import Coordinator
from worker.driver import Work
from worker.gate import Gate
from worker.order import RecentOrders
from worker.randomness import OF_SIMULATION, seeded
from worker.replica import Replica
from worker.statistics import Statistics
from worker.stopping import counted
from worker.task_calls import TaskCalls
from worker.trace import LEAVE, TRACE_FILE, WORK, Trace

# What is kept where the job does not ask for all: enough for a picture, in which each lane is whole.
TRACE_ROWS, TRACE_REPLICAS = 20_000, 64
_LOOK_AT_CLOCK = 16  # turns


@dataclass(frozen=True)
class Outcome:
    """A simulated run.

    Attributes:
      parameters: name -> array.
      summary: as in ``summary.json``.
      evaluations: the records of ``metrics.jsonl``.
      virtual_seconds: until the last replica had stopped.
      error: what ended it, or None.
      trace: operations in their order; whole with ``record = true``, else the first of them.
      setup: task, layout and shards as they are at the end.
    """

    parameters: dict[str, np.ndarray] = field(repr=False)
    summary: dict[str, Any] = field(repr=False)
    evaluations: list[dict[str, Any]] = field(repr=False)
    virtual_seconds: float
    error: Exception | None
    trace: Trace = field(repr=False)
    setup: Setup = field(repr=False)


def simulate(job: Job, task: Any = None, observer: Observer | None = None) -> Outcome:
    """Simulate a job without a run directory.

    Args:
      job: resolved; its backend need not be "simulation".
      task: to be used instead of a new one, so that data are not read again.
      observer: sees the run's records as they come.

    Raises:
      UsageError, TaskError: nothing could be started; what ends a run that has started is the outcome's ``error``.
    """
    setup = prepare(job.with_backend("simulation"), shared=False, task=task)
    return Simulation(setup, observer or Observer()).run()


def run(job: Job, observer: Observer | None = None) -> Result:
    """Simulate a job in a run directory. Arguments, result and errors as of ``deploy.processes.run``."""
    if job.resume:
        raise JobError("a simulated run cannot be resumed; run it again, the same seed gives the same run")
    observer = observer or Observer()
    with RunDirectory.create(job, observer.event) as directory:
        outcome = Simulation(prepare(job, shared=False), observer, directory).run()
    return Result(outcome.setup.task, outcome.parameters, outcome.summary, directory.path, outcome.error)


class Simulation:
    """Carries out what the coordinator decides, in virtual time.

    Args:
      setup: with arrays of this process's own.
      observer: sees the records.
      directory: gets them, a trace and a checkpoint; None for none.
    """

    def __init__(self, setup: Setup, observer: Observer, directory: RunDirectory | None = None):
        self.setup, self.observer, self.directory, self.job = setup, observer, directory, setup.job
        _refuse_endless(self.job)
        workers = self.job.workers.count
        self.coordinator = Coordinator(plan_of(setup))
        self.monitor = Monitor(setup.arrays, workers)
        self.trace = Trace() if self.job.record else Trace(TRACE_ROWS, TRACE_REPLICAS)
        self.clock = Clock()
        self.clocks = Clocks.private(workers)
        self.conductor = self._conductor()
        self.replicas: dict[int, SimulatedReplica] = {}
        self.incarnations = [0] * workers
        self.living = 0
        self.failure: Exception | None = None
        self.interrupted = False
        self._calls = TaskCalls(setup.task, setup.dataset, setup.layout)
        self._vectors = Vectors(setup.layout.size, setup.layout.dtype)
        self._effects: deque[c.Effect] = deque()
        self._carrying_out = False
        self._orders = RecentOrders(setup.order)
        self.records = Records(setup, self.coordinator, self.monitor, self.clock, observer, directory)
        self.event = self.records.event
        self.failures = Failures(self)

    def _conductor(self) -> Conductor:
        delay = self.job.simulation.delay
        if delay is None:
            kind: type[Conductor] = Timed
        elif self.setup.rounds:
            raise JobError(
                "[simulation] delay: synchronous steps have none; take delay out, or choose another strategy"
            )
        else:
            kind = PATTERNS[delay["pattern"]]
        return kind(self.setup, self, self.clock, self.trace)

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """From the first replica to the summary."""
        with threadpool_limits(1), seeded(self.job.seed, *OF_SIMULATION):
            try:
                self._train()
                self._wind_up()
            except KeyboardInterrupt:
                self.interrupted = True
                self.coordinator.finish("interrupted", at_once=True)
            except (HogsheadError, UsageError) as error:
                self.failure = error
                self.coordinator.finish("failed", at_once=True)
        return self._conclude()

    def _train(self) -> None:
        self.observer.started({**start_facts(self.setup, self._path, self.coordinator), "backend": "simulation"})
        self._set_alarms()
        self.failures.schedule()
        with rare_collections():
            self._start_all()
            while self.coordinator.finished is None:
                self._turn()

    def _start_all(self) -> None:
        late = late_workers(self.job.simulation)
        for replica in range(self.job.workers.count):
            if replica in late:
                self._effects.extend(self.coordinator.left(replica))
            else:
                self.start(replica)
        self._carry_out()

    def _turn(self) -> None:
        for _ in range(_LOOK_AT_CLOCK):
            if self.coordinator.finished is not None:
                return
            if not self.conductor.turn():
                raise WorkerError(self._standstill())
        self.records.progress(self.living)

    def _set_alarms(self) -> None:
        if self.job.evaluation.every_seconds is not None:
            self.clock.alarm(self.job.evaluation.every_seconds, self._evaluate_by_clock)
        if self.job.stop.seconds is not None:
            self.clock.alarm(self.job.stop.seconds, self._time_is_up)

    def _standstill(self) -> str:
        living = [replica for replica in self.replicas.values() if replica.alive]
        if not living:
            return f"no worker is left at virtual second {self.clock.now:g}; in [simulation] events let one stay, or join later"
        waits = ", ".join(sorted({str(getattr(replica.waiting_for, "value", "a shard")) for replica in living}))
        return (
            f"the simulation stands still at virtual second {self.clock.now:g}: {len(living)} workers wait for {waits}"
        )

    def _wind_up(self) -> None:
        """Let the replicas finish, and evaluate the result."""
        for replica in list(self.replicas.values()):
            replica.stopping = True
            if replica.alive:
                self.conductor.wake(replica)
        while self.living:
            if self._all_gather():
                for replica in self.conductor.gatherers():
                    self.kill(replica)
            elif not self.conductor.turn():
                raise WorkerError(self._standstill())
        self.records.progress(self.living, last=True)
        self.monitor.end_epoch()  # of an epoch that a bound has cut short
        require_finite(self.setup.result_vector(), self.setup.dataset)
        if not self.records.is_evaluated:
            self._evaluate(self.coordinator.ended - 1)

    def _all_gather(self) -> bool:
        """Whoever lives waits for those who have finished to contribute to a synchronous step."""
        longest = max(map(len, self.conductor.gathering))
        return longest >= self.living and len(self.conductor.gatherers()) == self.living

    def _conclude(self) -> Outcome:
        evaluations = self.records.evaluations
        status = "failed" if self.failure else "interrupted" if self.interrupted else "done"
        latest = evaluations[-1]["evaluation"] if evaluations else {}
        warning = no_better_than_baseline(self.setup.task, latest) if status == "done" else None
        if warning is not None:
            self.records.event("warning", warning)
        summary = summarise(
            self.setup,
            self._path,
            self.coordinator,
            self.monitor,
            status=status,
            seconds=self.records.wall,
            virtual_seconds=self.clock.now,
            evaluation=latest,
            deaths=self.failures.deaths,
            error=self.failure,
            shard_counts=total_counts(shard.counts() for shard in self.setup.state.shards),
        )
        summary |= self.records.rates()
        services = getattr(self.conductor, "services", [])
        summary["shard_busy_seconds"] = [service.busy_seconds for service in services]
        self.trace.facts = {
            **trace_facts(self.job),
            "seconds": self.clock.now,
            "lanes": self.job.workers.count if self.job.record else min(self.job.workers.count, TRACE_REPLICAS),
            "versions": [shard.version for shard in self.setup.state.shards],
        }
        if self.directory is not None:
            self._save(summary)
        self.observer.finished(summary)
        vector = self.setup.result_vector().copy()
        return Outcome(
            self.setup.layout.views(vector),
            summary,
            evaluations,
            self.clock.now,
            self.failure,
            self.trace,
            self.setup,
        )

    def _save(self, summary: dict[str, Any]) -> None:
        assert self.directory is not None
        self.trace.save(self.directory.path / TRACE_FILE)
        if np.isfinite(self.setup.result_vector()).all():
            writer = Writer(self.directory.checkpoint, self.job.checkpoint.keep)
            # The shards alone, to predict with: a simulation is not resumed, and the state of thousands of workers is large.
            run = {"seconds": self.records.wall, "seed": self.job.seed}
            write_checkpoint(
                writer, writer.begin(), self.setup, cut(self.setup), {}, run, describe_state(self.setup.state)
            )
        self.directory.finish(summary)
        write_report([self.directory.path], self.directory.path / "report.html")

    # -- a conductor's host -------------------------------------------------------------------------------------------

    def joined(self, replica: SimulatedReplica) -> None:
        """See ``conductor.Host``."""
        self.follow(self.coordinator.joined(replica.replica.id))

    def done(self, replica: SimulatedReplica) -> None:
        """See ``conductor.Host``."""
        number = replica.replica.id
        self.follow(self.coordinator.done(number, replica.finished_range))
        if self.coordinator.exhausted and not self.coordinator.members[number].ranges:
            self.records.work_ran_out()

    def ended(self, replica: SimulatedReplica) -> None:
        """See ``conductor.Host``."""
        self.living -= 1

    # -- effects ------------------------------------------------------------------------------------------------------

    def follow(self, effects: list[c.Effect]) -> None:
        """Carry effects out after those that are being carried out."""
        self._effects.extend(effects)
        self._carry_out()

    def _carry_out(self) -> None:
        if self._carrying_out:
            return
        self._carrying_out = True
        try:
            while self._effects:
                self._carry_out_one(self._effects.popleft())
        finally:
            self._carrying_out = False

    def _carry_out_one(self, effect: c.Effect) -> None:
        match effect:
            case c.Assign(replica, part):
                at_hand = self.replicas[replica]
                order = self._orders.of(part.epoch)
                at_hand.queue.append(Work(part.id, part.epoch, order[part.start : part.stop]))
                incarnation = self.incarnations[replica]
                self.trace.add(self.clock.now, WORK, replica, incarnation, -1, part.epoch, part.start, part.stop)
                self.conductor.wake(at_hand)
            case c.Join(replica):
                self.clocks.join(replica)
                for shard in self.setup.state.shards:
                    shard.join(replica)
            case c.Leave(replica):
                self.trace.add(self.clock.now, LEAVE, replica, self.incarnations[replica])
                self.clocks.leave(replica)
                for shard in self.setup.state.shards:
                    shard.leave(replica, self.coordinator.epoch)
                self.conductor.left()
            case c.Restart(replica):
                self.failures.restart(replica)
            case c.EpochEnded(epoch):
                self.records.epoch_ended(epoch)
            case c.Evaluate(epoch):
                self._evaluate(epoch)
            case c.Fail(replica, deaths):
                raise WorkerError(
                    f"worker {replica} crashed {deaths} times in a row, without its share of an epoch finished in between; "
                    "let crashes be rarer in [simulation], or raise [workers] max_restarts",
                    replica=replica,
                )
            case c.OpenEpoch() | c.Checkpoint() | c.Finish():
                pass  # orders are made when looked at; it is saved at the end; the loop sees that it is over

    def start(self, number: int) -> None:
        """Begin a replica's next incarnation."""
        setup, job = self.setup, self.job
        self.incarnations[number] += 1
        replica = Replica(
            setup.layout,
            id=number,
            peers=job.workers.count,
            incarnation=self.incarnations[number],
            local_rule=setup.local_rule,
            averaging=setup.averaging,
            seed=job.seed,
        )
        statistics = Statistics.of(setup.arrays, number)
        gate = Gate(setup.policy, self.clocks, number)
        simulated = SimulatedReplica(setup, replica, statistics, self._calls, self._vectors, gate)
        self.replicas[number] = simulated
        self.living += 1
        self.failures.began(number, self.incarnations[number])
        self.conductor.start(simulated)

    def kill(self, replica: SimulatedReplica) -> None:
        """End a replica where it is."""
        self.conductor.kill(replica)
        self.living -= 1

    @property
    def _path(self) -> Any:
        return self.directory.path if self.directory is not None else ""

    # -- by the clock -------------------------------------------------------------------------------------------------

    def _time_is_up(self) -> None:
        self.coordinator.finish(counted(self.job.stop.seconds, "second"), at_once=True)

    def _evaluate_by_clock(self) -> None:
        if self.coordinator.finished is None:
            self._evaluate(self.coordinator.ended, self.records.epochs)
            self.clock.alarm(self.job.evaluation.every_seconds or math.inf, self._evaluate_by_clock)

    def _evaluate(self, epoch: int, epochs: float | None = None) -> None:
        """Evaluate after ``epoch``, or in it with so many ``epochs`` done."""
        metrics = self.records.evaluate(epoch + 1 if epochs is None else epochs)
        effects = self.coordinator.evaluated(epoch, metrics)
        guess = None if self.coordinator.goal is None else self.coordinator.goal.guess()
        if guess is not None:
            self.records.event("metric", guess)
        self.follow(effects)


def _refuse_endless(job: Job) -> None:
    stop = job.stop
    bounded = stop.epochs or stop.steps or stop.examples
    if not bounded and job.simulation.delay is None and not job.simulation.time_passes:
        raise JobError(
            f"[stop] seconds = {stop.seconds:g} is never reached: nothing in [simulation] takes time; set step_seconds > 0, or "
            "another bound in [stop]"
        )
