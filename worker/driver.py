"""Performs a strategy's commands on a link: the loop of a replica in a process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ps.errors import NonFiniteError
from ps.rules.base import Context, UpdateRule
from ps.transport.link import LATE, Link
from ps.waiting import wait_until
from worker.commands import Command, ComputeGradient, Exchange, Pull, Push, Sweep
from worker.courier import Courier
from worker.data.dataset import Dataset
from worker.data.finite import blame, not_finite_in_batch
from worker.gate import Gate
from worker.gradients import Gradient, is_finite, needs_norm, norm
from worker.locking import Locking
from worker.replica import Replica
from worker.statistics import Statistics
from worker.strategies.base import Steps, Strategy
from worker.task_calls import TaskCalls


@dataclass
class Work:
    """A range of examples to be trained on.

    Attributes:
      id: of this range, given by the coordinator.
      epoch: 0-based.
      examples: int64 (k,), indices into the data set, in the order to be used.
      position: examples already done.
    """

    id: int
    epoch: int
    examples: np.ndarray
    position: int = 0

    @property
    def left(self) -> int:
        """Examples not done yet."""
        return self.examples.size - self.position

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` examples, or as many as are left."""
        chosen = self.examples[self.position : self.position + count]
        self.position += chosen.size
        return chosen


@dataclass(frozen=True)
class DriverOptions:
    """How steps are made.

    Attributes:
      batch_size: examples per gradient.
      skip_nonfinite: throw a gradient that is not finite away and count it, instead of stopping.
      background: carry pulls and pushes that need not be waited for in a thread.
      sweep_examples: examples per call of a compiled sweep.
    """

    batch_size: int = 32
    skip_nonfinite: bool = False
    background: bool = False
    sweep_examples: int = 4096


class _SkipStep(Exception):
    """The step's gradient was not finite and is thrown away."""


class Driver:
    """Runs one replica.

    Args:
      replica: its state.
      strategy: says what a step is.
      task: what is learned.
      dataset: where batches come from.
      link: to the shards.
      rule: of the shards, for a sweep's step size and to know whether it needs the gradient's norm.
      statistics: counted up.
      options: see there.
      locking: locks of a sweep.
      calls: the task, where several replicas in one process share its buffers.
      gate: lets it begin its steps; by default at once.
    """

    def __init__(
        self,
        replica: Replica,
        strategy: Strategy,
        task: Any,
        dataset: Dataset,
        link: Link,
        rule: UpdateRule,
        statistics: Statistics,
        options: DriverOptions,
        locking: Locking | None = None,
        calls: TaskCalls | None = None,
        gate: Gate | None = None,
    ):
        self.replica, self.strategy, self.link, self.rule = replica, strategy, link, rule
        self.statistics, self.options, self.locking = statistics, options, locking or Locking()
        self.calls = calls or TaskCalls(task, dataset, replica.layout)
        self.work = Work(-1, 0, np.zeros(0, np.int64))
        self.gate = gate or Gate()
        self._allowance = options.sweep_examples  # steps that it may make before it asks again
        self._needs_norm = needs_norm(rule)
        self._courier = Courier(replica.layout.size, replica.layout.dtype) if options.background else None
        self._perform: dict[type, Callable[[Any], Any]] = {
            Pull: self._pull,
            ComputeGradient: self._compute_gradient,
            Push: self._push,
            Exchange: self._exchange,
            Sweep: self._sweep,
        }

    def begin(self) -> None:
        """The strategy's commands before the first step."""
        self.replica.versions = self.link.versions()
        self._run(self.strategy.begin(self.replica))

    def resumed(self) -> None:
        """Instead of ``begin``, for a replica that goes on from a checkpoint, perhaps with another number of shards."""
        now = self.link.versions()
        if self.replica.versions.shape != now.shape:
            self.replica.versions = now
        if self.gate.clocked:
            self.gate.pace.ahead = self.replica.accrued.count

    def finish(self) -> None:
        """The strategy's commands after the last step; nothing is under way afterwards."""
        self._run(self.strategy.finish(self.replica))
        self.settle()
        if self._courier is not None:
            self._courier.close()
            self._courier = None

    def settle(self) -> None:
        """Wait for transfers under way, so that the state can be saved."""
        if self._courier is not None:
            self._courier.drain()

    def run(self, work: Work, between_steps: Callable[[], None] = lambda: None) -> None:
        """Train on a range; ``between_steps`` is called after each step and while the next must wait, and may raise to stop."""
        self.work = work
        self.replica.epoch = work.epoch
        while work.left:
            before = work.position
            self._await_admission(between_steps)
            self.step()
            assert work.position > before, f"{type(self.strategy).__name__}.step took no examples"
            between_steps()

    def _await_admission(self, between_steps: Callable[[], None]) -> None:
        if not self.gate.clocked:
            return
        self._allowance = self.gate.allowance()
        if self._allowance == 0:
            started = time.perf_counter()
            wait_until(lambda: self.gate.allowance() > 0, between_steps)
            self._allowance = self.gate.allowance()
            self.statistics.wait_seconds += time.perf_counter() - started

    def step(self) -> None:
        """One local step, or one call of a sweep."""
        position, skipped = self.work.position, False
        try:
            self._run(self.strategy.step(self.replica))
        except _SkipStep:
            self.statistics.skipped += 1
            skipped = True
        examples = self.work.position - position
        steps = examples if self.replica.sweeps else 1
        self.replica.clock += steps
        self.statistics.steps += steps
        self.statistics.examples += examples
        self.statistics.heartbeat += 1
        if self.gate.clocked:
            self.settle()  # the clock says that all before it has been applied
            self.gate.stepped(steps, self.replica.accrued.count, skipped)

    def _run(self, commands: Steps) -> None:
        self._land()
        answer: Any = None
        try:
            while True:
                command: Command = commands.send(answer)
                answer = self._perform[type(command)](command)
        except StopIteration:
            return
        finally:
            commands.close()

    # -- commands -----------------------------------------------------------------------------------------------------

    def _pull(self, command: Pull) -> None:
        self.statistics.pulls += 1
        if self._courier is not None and not command.wait:
            self._courier.fetch(self.link.pull)
            return
        self.settle()
        if command.into is not None:
            self.replica.versions = self.link.pull(command.into)
            return
        if self._courier is not None:
            self._courier.arrived()  # older than what comes now
        self.replica.versions = self.link.pull(self.replica.parameters)

    def _land(self) -> None:
        """Take over a vector that has arrived in the meantime."""
        arrived = self._courier.arrived() if self._courier is not None else None
        if arrived is not None:
            parameters, self.replica.versions = arrived
            np.copyto(self.replica.parameters, parameters)

    def _compute_gradient(self, command: ComputeGradient) -> Gradient:
        point = self.replica.parameters if command.at is None else command.at
        examples = self.work.take(self.options.batch_size)
        loss, gradient = self.calls.gradient(point, examples)
        if not math.isfinite(loss):
            self._refuse("loss", examples)
        if not is_finite(gradient):
            self._refuse("gradient", examples)
        self.statistics.loss_sum += loss * examples.size
        self.statistics.loss_count += examples.size
        return gradient

    def _refuse(self, what: str, examples: np.ndarray) -> None:
        if self.options.skip_nonfinite:
            raise _SkipStep
        message = (
            f"the {what} is not finite (NaN or infinity) in epoch {self.work.epoch}, step {self.replica.clock} of replica "
            f"{self.replica.id}"
        )
        remedy = 'lower the step size, clip the gradient ([rule] clip_norm), or set [stop] on_nonfinite = "skip"'
        raise NonFiniteError(blame(message, self._not_finite(examples), remedy), replica=self.replica.id)

    def _not_finite(self, examples: np.ndarray) -> str | None:
        return not_finite_in_batch(self.calls.dataset.take(examples), examples)

    def _push(self, command: Push) -> None:
        versions, epoch = self.replica.versions, self.replica.epoch
        if command.together or self.gate.policy.rounds:
            dense = self.calls.dense(command.payload)
            self._count_together(self.link.push_together(dense, versions, epoch=epoch))
            return
        length = norm(command.payload, self.replica.layout) if self._needs_norm else None

        def push(payload: Gradient) -> Callable[[], None]:
            facts = {"count": command.count, "gradient_norm": length, "epoch": epoch}
            begin = getattr(self.link, "begin_push", None)
            if begin is None:
                staleness = self.link.push(payload, versions, **facts)
                return lambda: self._count(staleness)
            answer = begin(payload, versions, **facts)
            return lambda: self._count(answer())

        if self._courier is not None and not command.wait:
            self._courier.send(command.payload, push)
        else:
            self.settle()
            push(command.payload)()

    def _exchange(self, command: Exchange) -> None:
        self.settle()
        self._count(self.link.exchange(self.replica.parameters, command.alpha, self.replica.versions))

    def _count(self, staleness: np.ndarray) -> None:
        """Count one change of the center; its staleness is that of the shard that saw most in between."""
        self.statistics.updates += 1
        largest = max(staleness.tolist())
        if largest >= 0:
            self.statistics.note_staleness(largest)

    def _count_together(self, staleness: np.ndarray) -> None:
        """Count a contribution to a synchronous step: dropped if it was late anywhere, and a change if it was not everywhere."""
        late = staleness == LATE
        self.statistics.dropped += bool(late.any())
        if not late.all():
            self._count(staleness)

    def _sweep(self, _command: Sweep) -> None:
        assert self.link.center is not None
        examples = self.work.take(min(self.options.sweep_examples, self._allowance))
        step_size = self.rule.learning_rate(Context(step=self.replica.clock + 1, epoch=self.work.epoch))
        before = self.link.note_updates(0)
        loss = self.calls.sweep(self.link.center, examples, step_size, self.locking)
        others = self.link.note_updates(examples.size) - before
        if not math.isfinite(loss):
            message = (
                f"the loss is not finite (NaN or infinity) in epoch {self.work.epoch} on replica {self.replica.id}"
            )
            remedy = f"an in-place sweep cannot take a step back: lower [rule] lr (now {step_size:.3g})"
            raise NonFiniteError(blame(message, self._not_finite(examples), remedy), replica=self.replica.id)
        self.statistics.loss_sum += loss
        self.statistics.loss_count += examples.size
        self.statistics.updates += examples.size
        # Others' updates while this sweep ran, shared out over its examples: what each missed between read and write.
        self.statistics.note_staleness(round(others / examples.size), examples.size)
