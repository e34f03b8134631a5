"""The coordinator: epochs, ranges of examples, stopping, evaluation and checkpoints, as pure logic.

Events go in as method calls, effects come out as lists for a launcher to carry out in their order. It reads no clock and does no
I/O, so the same logic runs over processes, on a cluster and in virtual time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from worker.effects import (
    Assign,
    Checkpoint,
    Effect,
    EpochEnded,
    Evaluate,
    Fail,
    Finish,
    Join,
    Leave,
    OpenEpoch,
    Range,
    Restart,
)
from worker.stopping import Goal, StopRule


@dataclass(frozen=True)
class Plan:
    """What the coordinator has to know of a job.

    Attributes:
      replicas: number of replicas.
      epoch_size: examples in an epoch, by its 0-based number.
      batch_size: ranges are multiples of it, but for the last of an epoch.
      epoch_barrier: no epoch begins before the one before has ended.
      rounds: synchronous steps: ranges are equal parts, and replicas join and leave.
      warmstart_examples: replica 0 works alone until it has done so many.
      min_range: smallest range worth a message.
      evaluate_every, checkpoint_every: epochs; 0 means only at the end, which the launcher does.
      max_restarts: deaths of a replica in a row, without its share of an epoch finished in between, that are put up with.
      stop: the bounds.
      goal: metric to watch for patience and target.
    """

    replicas: int
    epoch_size: Callable[[int], int]
    batch_size: int = 1
    epoch_barrier: bool = False
    rounds: bool = False
    warmstart_examples: int = 0
    min_range: int = 1
    evaluate_every: int = 1
    checkpoint_every: int = 0
    max_restarts: int = 3
    stop: StopRule = field(default_factory=StopRule)
    goal: Goal | None = None


@dataclass
class _Member:
    """What the coordinator knows of one replica."""

    joined: bool = False
    ranges: deque[Range] = field(default_factory=deque)
    done: int = 0  # examples finished
    deaths: int = 0  # in a row
    since_death: int = 0  # examples finished since the last
    in_round: bool = False


class Coordinator:
    """See the module. A launcher calls ``start`` once, then one method per event."""

    DEPTH = 2  # ranges a replica holds: the next one is there before it asks

    def __init__(self, plan: Plan):
        self.plan = plan
        self.goal = plan.goal
        self.members = [_Member() for _ in range(plan.replicas)]
        self.epoch = 0  # the epoch being handed out
        self.cursor = 0  # examples of it handed out
        self.ended = 0  # epochs ended
        self.handed = 0  # examples handed out, each once
        self.steps = 0  # steps that these make
        self.finished: Finish | None = None
        self._again: deque[Range] = deque()  # ranges of the dead
        self._next_id = 0
        self._opened = -1

    # -- events -------------------------------------------------------------------------------------------------------

    def joined(self, replica: int) -> list[Effect]:
        """A replica is ready for work."""
        self.members[replica].joined = True
        return self._go_on()

    def done(self, replica: int, range_id: int) -> list[Effect]:
        """A replica has finished a range; one that it no longer holds is ignored."""
        member = self.members[replica]
        held = next((part for part in member.ranges if part.id == range_id), None)
        if held is None:
            return []
        member.ranges.remove(held)
        member.done += held.size
        member.since_death += held.size
        # A few ranges between two deaths are no progress: it must have got through its share of an epoch.
        if member.since_death >= -(-self.plan.epoch_size(held.epoch) // self.plan.replicas):
            member.deaths = 0
        return self._go_on()

    def died(self, replica: int) -> list[Effect]:
        """A replica's process is gone: its ranges are handed out again, and it is replaced unless it keeps dying."""
        member = self.members[replica]
        member.joined = False
        self._again.extend(member.ranges)
        member.ranges.clear()
        member.deaths += 1
        member.since_death = 0
        member.in_round = False
        effects: list[Effect] = [Leave(replica)]
        if self.finished:
            return effects
        if member.deaths > self.plan.max_restarts:
            return [*effects, Fail(replica, member.deaths)]
        return [*effects, Restart(replica), *self._go_on()]

    def evaluated(self, epoch: int, metrics: dict[str, float]) -> list[Effect]:
        """An evaluation has come in; it may end the training. One that comes after the end still counts for the best."""
        if self.goal is None:
            return []
        reason = self.goal.observe(epoch, metrics)
        return [] if reason is None else self.finish(reason, at_once=True)

    def finish(self, reason: str, at_once: bool) -> list[Effect]:
        """End the training."""
        if self.finished:
            return []
        self.finished = Finish(reason, at_once)
        return [self.finished]

    # -- handing out --------------------------------------------------------------------------------------------------

    def _go_on(self) -> list[Effect]:
        """Whatever can be done now: end epochs, open the next, hand out ranges."""
        effects: list[Effect] = []
        while not self.finished:
            progress = [*self._end_epochs(), *self._open_epoch(), *self._hand_out()]
            if not progress:
                break
            effects += progress
        return effects

    def _end_epochs(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._is_over(self.ended):
            epoch = self.ended
            self.ended += 1
            effects += [*self._leave_idle(), EpochEnded(epoch)]
            if self.plan.evaluate_every and self.ended % self.plan.evaluate_every == 0:
                effects.append(Evaluate(epoch))
            last = self._bound_reached() is not None  # the launcher saves at the end anyway
            if self.plan.checkpoint_every and self.ended % self.plan.checkpoint_every == 0 and not last:
                effects.append(Checkpoint(epoch))
        reason = self._bound_reached()
        if reason is not None and not self._outstanding() and not self._again:
            effects += self.finish(reason, at_once=False)
        return effects

    def _is_over(self, epoch: int) -> bool:
        """All of ``epoch`` was handed out and is done."""
        if epoch > self._opened or self._left_in(epoch) > 0:
            return False
        return all(part.epoch != epoch for part in (*self._outstanding(), *self._again))

    def _left_in(self, epoch: int) -> int:
        """Examples of ``epoch`` not handed out yet."""
        if epoch < self.epoch:
            return 0
        return self.plan.epoch_size(epoch) - (self.cursor if epoch == self.epoch else 0)

    def _bound_reached(self) -> str | None:
        """Why nothing more is to be handed out, or None."""
        return self.plan.stop.reached(self.ended, self.handed, self.steps)

    def _open_epoch(self) -> list[Effect]:
        if self._bound_reached() is not None:
            return []
        if self._opened < 0:
            self._opened = self.epoch
            return [OpenEpoch(self.epoch)]
        behind = 1 if self.plan.epoch_barrier else 2
        if self._left_in(self.epoch) > 0 or self.epoch + 1 - self.ended >= behind:
            return []
        if self.plan.stop.epochs is not None and self.epoch + 1 >= self.plan.stop.epochs:
            return []
        self.epoch, self.cursor = self.epoch + 1, 0
        self._opened = self.epoch
        return [OpenEpoch(self.epoch)]

    def _hand_out(self) -> list[Effect]:
        """Fill the replicas' hands, the emptiest first; a dead replica's ranges go first."""
        if self._opened < 0 or (self.plan.rounds and not self._all_here()):
            return []
        effects: list[Effect] = []
        for depth in range(self.DEPTH):
            for replica, member in enumerate(self.members):
                if len(member.ranges) > depth or not self._may_work(replica):
                    continue
                part = self._next_range()
                if part is None:
                    return effects + self._leave_idle()
                member.ranges.append(part)
                if self.plan.rounds and not member.in_round:
                    member.in_round = True
                    # All join before any works: a step must not be made without those whose range comes next.
                    effects.insert(0, Join(replica))
                effects.append(Assign(replica, part))
        return effects

    def _may_work(self, replica: int) -> bool:
        """Joined, and not held back while replica 0 warms the center up alone."""
        if not self.members[replica].joined:
            return False
        if self.members[0].done >= self.plan.warmstart_examples:
            return True
        return replica == 0 and self._warmstart_left() > 0

    def _warmstart_left(self) -> int:
        """Examples of the warm start that are not handed out yet."""
        first = self.members[0]
        return self.plan.warmstart_examples - first.done - sum(part.size for part in first.ranges)

    def _all_here(self) -> bool:
        """Everybody has joined, or some are at work already."""
        return all(member.joined for member in self.members) or bool(self._outstanding())

    def _next_range(self) -> Range | None:
        if self._again:
            return self._again.popleft()
        allowed = self.plan.stop.examples_left(self.handed, self.steps, self.plan.batch_size)
        left = min(self._left_in(self.epoch), allowed)
        if left <= 0:
            return None
        size = min(self._range_size(left), left)
        part = Range(self._next_id, self.epoch, self.cursor, self.cursor + size)
        self._next_id += 1
        self.cursor += size
        self.handed += size
        self.steps += -(-size // self.plan.batch_size)
        return part

    def _range_size(self, left: int) -> int:
        """Ever smaller towards the end of an epoch, so that all replicas end together and a fast one gets more.

        Args:
          left: examples of the epoch that may still be handed out, > 0.
        """
        batch, replicas = self.plan.batch_size, self.plan.replicas
        if self.plan.rounds:
            wanted = self._equal_part(left)
        elif replicas == 1:
            wanted = left
        else:
            fair = -(-self.plan.epoch_size(self.epoch) // replicas)  # a small data set is enough for everybody, too
            wanted = min(max(left // (2 * replicas), self.plan.min_range), fair)
        if self._warmstart_left() > 0:
            wanted = min(wanted, self._warmstart_left())
        return -(-wanted // batch) * batch

    def _equal_part(self, left: int) -> int:
        """The epoch in as many parts as replicas, which differ by a batch at most: only one step lacks a replica."""
        batch, replicas = self.plan.batch_size, self.plan.replicas
        batches = -(-(self.cursor + left) // batch)
        ends = (-(-part * batches // replicas) * batch for part in range(1, replicas + 1))
        return next(end for end in ends if end > self.cursor) - self.cursor

    def _outstanding(self) -> list[Range]:
        return [part for member in self.members for part in member.ranges]

    def _leave_idle(self) -> list[Effect]:
        """Synchronous steps must not wait for those who have nothing to do."""
        effects: list[Effect] = []
        for replica, member in enumerate(self.members):
            if member.in_round and not member.ranges:
                member.in_round = False
                effects.append(Leave(replica))
        return effects

    # -- checkpoint ---------------------------------------------------------------------------------------------------

    def state(self, positions: dict[int, tuple[int, int]]) -> dict[str, Any]:
        """Plain values to go on from.

        Args:
          positions: replica -> (id of the range at hand, examples of it done), at the moment of the checkpoint.
        """
        ranges, done = {}, []
        for replica, member in enumerate(self.members):
            at_hand, position = positions.get(replica, (-1, 0))
            parts = [
                Range(p.id, p.epoch, p.start + (position if p.id == at_hand else 0), p.stop) for p in member.ranges
            ]
            ranges[str(replica)] = [asdict(part) for part in parts if part.size]
            done.append(member.done + sum(p.size for p in member.ranges) - sum(part.size for part in parts))
        return {
            "epoch": self.epoch,
            "cursor": self.cursor,
            "ended": self.ended,
            "handed": self.handed,
            "steps": self.steps,
            "next_id": self._next_id,
            "again": [asdict(part) for part in self._again],
            "ranges": ranges,
            "done": done,
            "goal": None if self.goal is None else self.goal.state(),
        }

    def restore(self, state: dict[str, Any]) -> list[Effect]:
        """Go on from ``state``, with as many replicas as there are now; returns the epochs to open."""
        self.epoch, self.cursor, self.ended = state["epoch"], state["cursor"], state["ended"]
        self.handed, self.steps, self._next_id = state["handed"], state["steps"], state["next_id"]
        self._opened = self.epoch
        # What was in hand goes out first and in its order, so that one replica goes on as if it had never stopped.
        for parts in (*state["ranges"].values(), state["again"]):
            self._again.extend(Range(**part) for part in parts)
        for member, done in zip(self.members, state["done"]):
            member.done = done
        if self.goal is not None and state["goal"] is not None:
            self.goal.restore(state["goal"])
        opened = {part.epoch for part in self._again} | {self.epoch}
        return [OpenEpoch(epoch) for epoch in sorted(opened)]
