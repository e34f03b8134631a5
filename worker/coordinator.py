"""The coordinator: epochs, ranges of examples, stopping, evaluation and checkpoints, as pure logic.

Events go in as method calls, effects come out as lists for a launcher to carry out in their order. It reads no clock and does no
I/O, so the same logic runs over processes, on a cluster and in virtual time.

Without a barrier epochs flow into each other, and one ends when as many examples are done as it and those before it have: a
straggler that is still at work on some of them holds nobody up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
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
from worker.membership import Membership
from worker.stopping import Goal, StopRule

_SMALL_SHARES = 16  # with backups: as SHARES, counted from what is left


@dataclass(frozen=True)
class Plan:
    """What the coordinator has to know of a job.

    Attributes:
      replicas: number of replicas.
      epoch_size: examples in an epoch, by its 0-based number.
      batch_size: ranges are multiples of it, but for the last of an epoch.
      epoch_barrier: no epoch begins before the one before has ended.
      exact: nothing of the next epoch is handed out before an epoch that is evaluated has ended, nor, where the evaluation may
        end the training, before its answer. For one replica, whose runs then repeat exactly.
      open_epochs: without it: orders of so many epochs are kept, >= 2. Others wait for a replica that falls back further.
      rounds: synchronous steps: the first waits until everybody is there, and replicas join and leave.
      backups: with rounds: replicas that a step does not wait for. Without any, ranges are equal parts.
      joins: replicas join and leave also without rounds, because somebody may have to wait for them.
      warmstart_examples: replica 0 works alone until it has done so many.
      min_range: smallest range worth a message.
      evaluate_every, checkpoint_every: epochs; 0 means only at the end, which the launcher does.
      max_restarts: deaths without progress in between that are put up with: of a replica, until it has finished its share of an
        epoch; and of any replicas at work on one range, until that is finished.
      stop: the bounds.
      goal: metric to watch for patience and target.
    """

    replicas: int
    epoch_size: Callable[[int], int]
    batch_size: int = 1
    epoch_barrier: bool = False
    exact: bool = False
    open_epochs: int = 2
    rounds: bool = False
    backups: int = 0
    joins: bool = False
    warmstart_examples: int = 0
    min_range: int = 1
    evaluate_every: int = 1
    checkpoint_every: int = 0
    max_restarts: int = 3
    stop: StopRule = field(default_factory=StopRule)
    goal: Goal | None = None


class Coordinator:
    """See the module. A launcher calls ``start`` once, then one method per event."""

    DEPTH = 2  # ranges a replica holds: the next one is there before it asks
    SHARES = 8  # a range is at most this part of a fair share of what is left, so that a slow replica does not hold the others up

    def __init__(self, plan: Plan):
        self.plan = plan
        self.goal = plan.goal
        self._crowd = Membership(plan.replicas, self.DEPTH)
        self.members = self._crowd.members
        self.epoch = 0  # the epoch being handed out
        self.cursor = 0  # examples of it handed out
        self.ended = 0  # epochs ended
        self.handed = 0  # examples handed out, each once
        self.steps = 0  # steps that these make
        self.finished: Finish | None = None
        self._again: deque[Range] = deque()  # ranges of the dead
        self._deaths_at: Counter[int] = Counter()  # id of an unfinished range -> replicas that died at work on it
        self._next_id = 0
        self._opened = -1
        self._unfinished: Counter[int] = Counter()  # epoch -> ranges of it in hand or in ``_again``
        self._done = 0  # examples of all finished ranges
        self._until_end = plan.epoch_size(0)  # of the epoch that ends next: examples that have to be done by then
        self._warm = plan.warmstart_examples == 0
        self._unanswered: set[int] = set()  # with ``exact``: epochs whose evaluation has not come in

    @property
    def done_examples(self) -> int:
        """Of all finished ranges."""
        return self._done

    # -- events -------------------------------------------------------------------------------------------------------

    def joined(self, replica: int) -> list[Effect]:
        """A replica is ready for work."""
        self._crowd.join(replica)
        return self._go_on()

    def done(self, replica: int, range_id: int) -> list[Effect]:
        """A replica has finished a range; one that it no longer holds is ignored."""
        held = self._crowd.take(replica, range_id)
        if held is None:
            return []
        member = self.members[replica]
        self._deaths_at.pop(held.id, None)
        self._unfinished[held.epoch] -= 1
        if not self._unfinished[held.epoch]:
            del self._unfinished[held.epoch]
        self._done += held.size
        member.done += held.size
        member.since_death += held.size
        # A few ranges between two deaths are no progress: it must have got through its share of an epoch.
        if member.since_death >= -(-self.plan.epoch_size(held.epoch) // self.plan.replicas):
            member.deaths = 0
        return self._go_on()

    def died(self, replica: int) -> list[Effect]:
        """A replica's process is gone: its ranges are handed out again, and it is replaced unless it keeps dying."""
        member = self.members[replica]
        at_work = member.ranges[0] if member.ranges else None
        effects = self._lose(replica, gone=False)
        member.deaths += 1
        if self.finished:
            return effects
        if member.deaths > self.plan.max_restarts:
            return [*effects, Fail(replica, member.deaths)]
        if at_work is not None:
            self._deaths_at[at_work.id] += 1
            # Each time another replica may be the one that takes it and dies, and all may do well with other ranges.
            if self._deaths_at[at_work.id] > self.plan.max_restarts:
                return [*effects, Fail(replica, self._deaths_at[at_work.id], at_work)]
        return [*effects, Restart(replica), *self._go_on()]

    def found(self, held: Mapping[int, list[int]]) -> list[Effect]:
        """Replicas are at work since before this coordinator was; nothing is handed out before all have what they hold.

        Args:
          held: replica -> ids of the ranges that it holds; those that are not known to be out are passed over.
        """
        for replica, range_ids in held.items():
            self._crowd.join(replica)
            for part in [part for part in self._again if part.id in range_ids]:
                self._again.remove(part)
                self._crowd.give(replica, part)
            member = self.members[replica]
            member.counted = bool(member.ranges) and (self.plan.rounds or self.plan.joins)
        # Who was told to leave, and whether that was done, is not known.
        joins = self.plan.rounds or self.plan.joins
        unused = [Leave(replica) for replica, member in enumerate(self.members) if joins and not member.counted]
        return [*unused, *self._go_on()]

    def left(self, replica: int) -> list[Effect]:
        """A replica has left for good: its ranges are handed out again and nobody waits for it, unless it joins again."""
        return [*self._lose(replica, gone=True), *self._go_on()]

    def _lose(self, replica: int, gone: bool) -> list[Effect]:
        self._again.extend(self._crowd.lose(replica, gone))
        return [Leave(replica)]

    def evaluated(self, epoch: int, metrics: dict[str, float]) -> list[Effect]:
        """An evaluation has come in; it may end the training. One that comes after the end still counts for the best."""
        awaited = epoch in self._unanswered
        self._unanswered.discard(epoch)
        reason = None if self.goal is None else self.goal.observe(epoch, metrics)
        if reason is not None:
            return self.finish(reason, at_once=True)
        return self._go_on() if awaited else []

    def finish(self, reason: str, at_once: bool) -> list[Effect]:
        """End the training."""
        if self.finished:
            return []
        self.finished = Finish(reason, at_once)
        return [self.finished]

    @property
    def exhausted(self) -> bool:
        """Everything that the bounds allow has been handed out; who finishes now has nothing more to do."""
        if self._opened < 0 or self._again:
            return False
        epochs = self.plan.stop.epochs
        is_last = epochs is not None and self.epoch + 1 >= epochs
        return self._bound_reached() is not None or (is_last and self._left_in(self.epoch) <= 0)

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
        while self.ended <= self._opened and self._done >= self._until_end:
            epoch = self.ended
            self.ended += 1
            self._until_end += self.plan.epoch_size(self.ended)
            effects += [*(self._leave_idle() if self.plan.rounds else ()), EpochEnded(epoch)]
            if self._is_evaluated(epoch):
                effects.append(self._evaluate(epoch))
            last = self._bound_reached() is not None  # the launcher saves at the end anyway
            if self.plan.checkpoint_every and self.ended % self.plan.checkpoint_every == 0 and not last:
                effects.append(Checkpoint(epoch))
        reason = self._bound_reached()
        if reason is not None and not self._crowd.in_hand and not self._again:
            effects += self.finish(reason, at_once=False)
        return effects

    def _evaluate(self, epoch: int) -> Evaluate:
        if self.plan.exact:
            self._unanswered.add(epoch)
        return Evaluate(epoch)

    def _is_evaluated(self, epoch: int) -> bool:
        every = self.plan.evaluate_every
        return every > 0 and (epoch + 1) % every == 0

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
        if self._left_in(self.epoch) > 0 or self._must_wait():
            return []
        if self.plan.stop.epochs is not None and self.epoch + 1 >= self.plan.stop.epochs:
            return []
        self.epoch, self.cursor = self.epoch + 1, 0
        self._opened = self.epoch
        return [OpenEpoch(self.epoch)]

    def _must_wait(self) -> bool:
        """The next epoch must not be opened yet.

        An evaluation of the one before may have to come first, or a replica still looks at the order whose place it would take.
        """
        if self.plan.epoch_barrier or (self.plan.exact and self._is_evaluated(self.epoch)):
            may_end = self.goal is not None and self.goal.may_end
            return self.ended <= self.epoch or (may_end and bool(self._unanswered))
        oldest = min(self._unfinished, default=self.epoch + 1)
        return oldest <= self.epoch + 1 - self.plan.open_epochs

    def _hand_out(self) -> list[Effect]:
        """Fill the replicas' hands, the emptiest first; a dead replica's ranges go first."""
        if self._opened < 0 or (self.plan.rounds and not self._all_here()):
            return []
        joins: list[Effect] = []
        assigned: list[Effect] = []
        left: list[Effect] = []
        for depth in range(self.DEPTH):
            while not left and (replica := self._first_hungry(depth)) is not None:
                part = self._next_range()
                if part is None:
                    left = self._leave_idle()
                    break
                joins += self._count_in(replica)
                self._crowd.give(replica, part)
                assigned.append(Assign(replica, part))
        # All join before any works: a step must not be made without those whose range comes next.
        return [*reversed(joins), *assigned, *left]

    def _count_in(self, replica: int) -> list[Effect]:
        """From now on others wait for this replica, where anybody waits at all."""
        member = self.members[replica]
        if member.counted or not (self.plan.rounds or self.plan.joins):
            return []
        member.counted = True
        return [Join(replica)]

    def _first_hungry(self, depth: int) -> int | None:
        """The replica that is given a range next if it has no more than ``depth``; during the warm start only replica 0."""
        if self._is_warm():
            return self._crowd.first_hungry(depth)
        return 0 if self._crowd.wants(depth, 0) and self._warmstart_left() > 0 else None

    def _is_warm(self) -> bool:
        """Replica 0 has warmed the center up alone, or never will."""
        first = self.members[0]
        self._warm = self._warm or first.done >= self.plan.warmstart_examples or first.gone
        return self._warm

    def _warmstart_left(self) -> int:
        """Examples of the warm start that are not handed out yet."""
        if self._is_warm():
            return 0
        first = self.members[0]
        return self.plan.warmstart_examples - first.done - sum(part.size for part in first.ranges)

    def _all_here(self) -> bool:
        """Everybody has joined who has not left for good, or some are at work already."""
        return self._crowd.complete or self._crowd.in_hand > 0

    def _next_range(self) -> Range | None:
        if self._again:
            return self._again.popleft()  # counted as unfinished all the time
        allowed = self.plan.stop.examples_left(self.handed, self.steps, self.plan.batch_size)
        left = min(self._left_in(self.epoch), allowed)
        if left <= 0:
            return None
        size = min(self._range_size(left), left)
        part = Range(self._next_id, self.epoch, self.cursor, self.cursor + size)
        self._next_id += 1
        self._unfinished[self.epoch] += 1
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
        if self.plan.rounds and not self.plan.backups:
            wanted = self._equal_part(left)
        elif replicas == 1:
            wanted = left
        elif self.plan.rounds:
            # The one that is too slow for every step must not hold up the end of the epoch.
            wanted = left // (_SMALL_SHARES * replicas)
        else:
            fair = -(-self.plan.epoch_size(self.epoch) // replicas)  # a small data set is enough for everybody, too
            wanted = min(max(left // (self.SHARES * replicas), self.plan.min_range), fair)
        if self._warmstart_left() > 0:
            wanted = min(wanted, self._warmstart_left())
        return max(-(-wanted // batch), 1) * batch

    def _equal_part(self, left: int) -> int:
        """The epoch in as many parts as replicas, which differ by a batch at most: only one step lacks a replica."""
        batch, replicas = self.plan.batch_size, self.plan.replicas
        batches = -(-(self.cursor + left) // batch)
        # Part k ends after ceil(k * batches / replicas) batches; the first that ends behind the cursor comes next.
        part = (self.cursor // batch) * replicas // batches + 1
        return -(-part * batches // replicas) * batch - self.cursor

    def _leave_idle(self) -> list[Effect]:
        """Nobody must wait for those who have nothing to do."""
        return [Leave(replica) for replica in self._crowd.dismiss_idle()]

    # -- checkpoint ---------------------------------------------------------------------------------------------------

    def state(self, positions: dict[int, tuple[int, int]]) -> dict[str, Any]:
        """Plain values to go on from.

        Args:
          positions: replica -> (id of the range at hand, examples of it done), at the moment of the checkpoint.
        """
        ranges, done, left = {}, [], []
        for replica, member in enumerate(self.members):
            at_hand, position = positions.get(replica, (-1, 0))
            parts = [
                Range(p.id, p.epoch, p.start + (position if p.id == at_hand else 0), p.stop) for p in member.ranges
            ]
            ranges[str(replica)] = [asdict(part) for part in parts if part.size]
            left += parts
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
            "evaluate": self._still_to_evaluate([*self._again, *left]),
            "goal": None if self.goal is None else self.goal.state(),
        }

    def _still_to_evaluate(self, left: list[Range]) -> int | None:
        """The epoch just ended, if its evaluation has not come in and the center is still as it was then.

        Args:
          left: what has been handed out and is not done.
        """
        just_ended = self.ended - 1
        done = self.handed - sum(part.size for part in left)
        same = done == self._until_end - self.plan.epoch_size(self.ended)
        return just_ended if same and just_ended in self._unanswered else None

    def restore(self, state: dict[str, Any]) -> list[Effect]:
        """Go on from ``state``, with as many replicas as there are now; returns what is to be opened and evaluated first."""
        self.epoch, self.cursor, self.ended = state["epoch"], state["cursor"], state["ended"]
        self.handed, self.steps, self._next_id = state["handed"], state["steps"], state["next_id"]
        self._opened = self.epoch
        # What was in hand goes out first and in its order, so that one replica goes on as if it had never stopped.
        for parts in (*state["ranges"].values(), state["again"]):
            self._again.extend(Range(**part) for part in parts)
        self._unfinished = Counter(part.epoch for part in self._again)
        self._done = self.handed - sum(part.size for part in self._again)
        self._until_end = sum(map(self.plan.epoch_size, range(self.ended + 1)))
        for member, done in zip(self.members, state["done"]):
            member.done = done
        if self.goal is not None and state["goal"] is not None:
            self.goal.restore(state["goal"])
        opened = {part.epoch for part in self._again} | {self.epoch}
        evaluate = state.get("evaluate")  # an older run has none
        return [
            *(OpenEpoch(epoch) for epoch in sorted(opened)),
            *(() if evaluate is None else [self._evaluate(evaluate)]),
        ]
