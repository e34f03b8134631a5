"""A replica in virtual time: the driver's work as a coroutine that says what it waits for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from enum import Enum
from typing import Any

import numpy as np

from deploy.setup import Setup
from deploy.simulator import operations
from deploy.simulator.operations import Call
from ps.rows import Rows
from ps.shard import Stamp
from worker import trace
from worker.commands import Command, ComputeGradient, Exchange, Pull, Push
from worker.driver import Driver, Work, _SkipStep
from worker.gate import Gate
from worker.gradients import Gradient, norm
from worker.replica import Replica
from worker.statistics import Statistics
from worker.strategies.base import Steps
from worker.task_calls import TaskCalls
from worker.trace import Trace


class Wait(Enum):
    """What a replica may wait for besides a call."""

    COMPUTE = "the time that a gradient takes"
    BOUNDARY = "leave to begin its next step"
    SETTLED = "transfers under way"
    IDLE = "work"
    JOINED = "nothing: it is ready"
    DONE = "nothing: it has finished a range"


Request = Call | Wait


class Vectors:
    """Vectors (N,) lent to replicas that keep none of their own between two steps."""

    def __init__(self, size: int, dtype: str):
        self._size, self._dtype = size, dtype
        self._free: list[np.ndarray] = []

    def borrow(self) -> np.ndarray:
        """One with any content."""
        return self._free.pop() if self._free else np.empty(self._size, self._dtype)

    def give_back(self, vector: np.ndarray) -> None:
        """It may be lent again."""
        self._free.append(vector)


class SimulatedReplica(Driver):
    """One incarnation of a replica.

    Args:
      setup: of the run.
      replica: its state.
      statistics: counted up.
      calls: the task, shared by all replicas.
      vectors: likewise.
      gate: lets it begin its steps.

    Attributes:
      life: the coroutine; it yields what it waits for and is resumed when that is there.
      time: up to which it has got, virtual seconds; ahead of the clock while an answer is on its way to it.
      queue: ranges to be trained on.
      alive: it has not crashed. stopping: it is to finish at the end of its step.
      catching_up: it asks for something at ``time``, which the clock has not reached.
      outstanding: pushes under way that it does not wait for.
      waiting_for: what it waits for.
      loss: of its last gradient, NaN if that was thrown away.
      log: gets what it does by itself.
    """

    WINDOW = 2  # pushes under way at once, as in worker.courier

    def __init__(
        self,
        setup: Setup,
        replica: Replica,
        statistics: Statistics,
        calls: TaskCalls,
        vectors: Vectors,
        gate: Gate,
    ):
        super().__init__(
            replica, setup.strategy, setup.task, setup.dataset, None, setup.rule, statistics, setup.driver_options(),
            calls=calls, gate=gate,
        )  # fmt: skip
        self._state, self._vectors = setup.state, vectors
        self._inline = setup.policy.joins  # where replicas wait for each other, nothing is under way between two steps
        self._own_rng = hasattr(setup.task, "rng")
        self._sequence = 0
        self._borrowed: np.ndarray | None = None
        self._fetch: Call | None = None
        self._arrived: Call | None = None
        self._courier = None
        self.time = 0.0
        self.queue: deque[Work] = deque()
        self.alive, self.stopping, self.catching_up = True, False, False
        self.outstanding = 0
        self.waiting_for: Request | None = None
        self.loss = 0.0
        self.finished_range = -1
        self.log: Trace | None = None
        self.life = self._live()

    # -- the coroutine ------------------------------------------------------------------------------------------------

    def _live(self) -> Generator[Request, None, None]:
        self.replica.versions = np.array([shard.version for shard in self._state.shards], np.int64)
        yield from self._play(self.strategy.begin(self.replica))
        yield Wait.JOINED
        while not self.stopping:
            if not self.queue:
                yield Wait.IDLE
                continue
            work = self.work = self.queue[0]
            self.replica.epoch = work.epoch
            while work.left:
                yield Wait.BOUNDARY
                if self.stopping:
                    break
                yield from self._one_step()
            else:
                self.queue.popleft()
                self.finished_range = work.id
                yield Wait.DONE
        self._note(trace.FINISH)
        yield from self._play(self.strategy.finish(self.replica))
        yield from self._settled(0)

    def _one_step(self) -> Generator[Request, None, None]:
        position, skipped = self.work.position, False
        try:
            yield from self._play(self.strategy.step(self.replica))
        except _SkipStep:
            skipped = True
            self.statistics.skipped += 1
        self.replica.clock += 1
        self.statistics.steps += 1
        self.statistics.examples += self.work.position - position
        if self.gate.clocked:
            self.gate.stepped(1, self.replica.accrued.count, skipped)

    def _play(self, commands: Steps) -> Generator[Request, None, None]:
        """As ``Driver._run``, but the time that things take is somebody else's to tell."""
        self._land()
        answer: Any = None
        try:
            while True:
                command: Command = commands.send(answer)
                answer = yield from self._steps_of(command)
        except StopIteration:
            return
        finally:
            commands.close()
            self._give_back()

    def _steps_of(self, command: Command) -> Generator[Request, None, Any]:
        if isinstance(command, ComputeGradient):
            return (yield from self._gradient(command))
        if isinstance(command, Pull):
            return (yield from self._pull_call(command))
        if isinstance(command, Push):
            return (yield from self._push_call(command))
        assert isinstance(command, Exchange), f"{command} cannot be simulated"
        return (yield from self._exchange_call(command))

    # -- commands -----------------------------------------------------------------------------------------------------

    def _gradient(self, command: ComputeGradient) -> Generator[Request, None, Gradient]:
        if self._own_rng:
            self.calls.task.rng = self.replica.rng
        before = self.statistics.loss_sum, self.statistics.loss_count
        try:
            gradient = _kept(
                self._compute_gradient(command)
            )  # the parameters stay as they are until the step's time is over
        except _SkipStep:
            self.loss = math.nan
            self._give_back()
            yield Wait.COMPUTE
            raise
        count = self.statistics.loss_count - before[1]
        self.loss = (self.statistics.loss_sum - before[0]) / count if count else 0.0
        self._give_back()
        yield Wait.COMPUTE
        return gradient

    def _pull_call(self, command: Pull) -> Generator[Request, None, None]:
        self.statistics.pulls += 1
        if not command.wait and not self._inline:
            yield from self._start_fetch()
            return
        yield from self._settled(0)
        into = command.into
        if into is None:
            self._arrived = None  # older than what comes now
        call = operations.pull(self, self._state, self._own_or_borrowed if into is None else lambda: into, True)
        yield call
        self.replica.versions = call.versions

    def _start_fetch(self) -> Generator[Request, None, None]:
        if self._fetch is not None:
            return
        call = self._fetch = operations.pull(self, self._state, self._vectors.borrow, False)
        yield call
        if self._arrived is call:  # it took no time at all
            self._land()

    def _land(self) -> None:
        """Take over a vector that has arrived in the meantime."""
        call, self._arrived = self._arrived, None
        if call is not None and call.vector is not None:
            np.copyto(self.replica.parameters, call.vector)
            self.replica.versions = call.versions
            self._vectors.give_back(call.vector)
            self._note(trace.LAND)

    def _push_call(self, command: Push) -> Generator[Request, None, None]:
        versions, epoch = self.replica.versions, self.replica.epoch
        if command.together or self.gate.policy.rounds:
            yield from self._settled(0)
            dense = self.calls.dense(command.payload)
            if dense is not command.payload:
                dense = dense.copy()  # others use that buffer while this one waits
            call = operations.contribute(self, self._state, dense, versions, self._stamp(), epoch)
            yield call
            self.note_applied(call)
            return
        length = norm(command.payload, self.replica.layout) if self._needs_norm else None
        wait = command.wait or self._inline
        yield from self._settled(0 if wait else self.WINDOW - 1)
        call = operations.push(
            self, self._state, command.payload, versions, self._stamp(), wait,
            count=command.count, gradient_norm=length, epoch=epoch,
        )  # fmt: skip
        self.outstanding += not wait
        yield call
        if wait:
            self.note_applied(call)

    def _exchange_call(self, command: Exchange) -> Generator[Request, None, None]:
        yield from self._settled(0)
        replica = self.replica
        call = operations.exchange(
            self, self._state, replica.parameters, replica.versions, self._stamp(), command.alpha
        )
        yield call
        self.note_applied(call)

    def _settled(self, most: int) -> Generator[Request, None, None]:
        """At most so many pushes are under way, and for none also no pull."""
        while self.outstanding > most or (most == 0 and self._fetch is not None):
            yield Wait.SETTLED

    # -- answers ------------------------------------------------------------------------------------------------------

    def landed(self, call: Call) -> None:
        """The answer to a call that was not waited for is there."""
        if call is self._fetch:
            self._fetch, self._arrived = None, call
        else:
            self.outstanding -= 1
            self.note_applied(call)

    def note_applied(self, call: Call) -> None:
        """Count a change of the center, unless every shard has refused it."""
        if call.dropped:
            self.statistics.dropped += 1
        if call.dropped < call.asked:
            self.statistics.updates += 1
            if call.staleness >= 0:
                self.statistics.note_staleness(call.staleness)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _note(self, kind: int) -> None:
        if self.log is not None:
            self.log.add(self.time, kind, self.replica.id, self.replica.incarnation, clock=self.replica.clock)

    def _stamp(self) -> Stamp:
        self._sequence += 1
        return Stamp(self.replica.id, self.replica.incarnation, self._sequence)

    def _own_or_borrowed(self) -> np.ndarray:
        """Where the center is read to: strategies that keep no parameters between two steps need no vector of their own."""
        if self.strategy.keeps_parameters:
            return self.replica.parameters
        if self._borrowed is None:
            self._borrowed = self.replica.parameters = self._vectors.borrow()
        return self._borrowed

    def _give_back(self) -> None:
        if self._borrowed is not None:
            self._vectors.give_back(self._borrowed)
            self._borrowed = None


def _kept(gradient: Gradient) -> Gradient:
    """A copy: the task's buffer is used again by the next replica."""
    if isinstance(gradient, np.ndarray):
        return gradient.copy()
    return {
        name: Rows(part.rows.copy(), part.values.copy()) if isinstance(part, Rows) else part.copy()
        for name, part in gradient.items()
    }
