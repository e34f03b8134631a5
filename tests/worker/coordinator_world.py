"""A world around a coordinator: replicas that join, work and die in any order, and all that must hold meanwhile."""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import replace

from ps.admission import Clocks, Policy
from worker import effects as c
from worker.coordinator import Coordinator, Plan


class World:
    """Carries out effects as a launcher does, and checks after each what must always be true.

    A synchronous step is modelled as on a shard: who has contributed waits until every member has, or with backups a quorum.
    With a policy that goes by clocks, replicas make single steps and wait for leave to begin each.
    """

    def __init__(self, plan: Plan, policy: Policy | None = None):
        self.plan = plan
        self.policy = policy
        self.largest_lag = self.dropped = 0
        self.carrying: deque[c.Effect] = deque()
        self.is_carrying = False
        self.coordinator = Coordinator(plan)
        self.finished_examples: Counter[tuple[int, int]] = Counter()  # (epoch, index)
        self.steps = 0
        self.deaths = self.fails = 0
        self.orders: dict[int, int] = {}  # place -> epoch
        self.places = 2 if plan.epoch_barrier else plan.open_epochs
        self.opened: list[int] = []
        self.ended: list[int] = []
        self.evaluated: list[int] = []
        self.finish: c.Finish | None = None
        self.log: list[str] = []
        self._born(plan.replicas)

    def _born(self, replicas: int) -> None:
        self.starting = set(range(replicas))  # processes that have not joined
        self.hands: list[deque[c.Range]] = [deque() for _ in range(replicas)]
        self.done_of_range = [0] * replicas  # examples of the first range in hand
        self.members: set[int] = set()
        self.laid: set[int] = set()
        self.gone: set[int] = set()
        self.may_be_cold = False  # replica 0 has left for good
        self.made = 0  # synchronous steps
        self.read: dict[int, int] = {}  # with backups: the number of steps made when a replica began the one it is at
        self.clocks = Clocks.private(replicas)
        self.warm = getattr(self, "warm", 0)  # examples finished by replica 0

    # -- what can happen ----------------------------------------------------------------------------------------------

    def actions(self) -> list[tuple[str, int]]:
        """Everything that can go on now, deaths aside; none of it before the end would be a deadlock."""
        if self.finish is not None or self.fails:
            return []
        joins = [("join", replica) for replica in sorted(self.starting)]
        works = [("work", k) for k, hand in enumerate(self.hands) if hand and k not in self.laid and self.admits(k)]
        return joins + works

    def admits(self, replica: int) -> bool:
        return self.policy is None or not self.policy.clocked or self.policy.admits(self.clocks, replica)

    def act(self, action: tuple[str, int]) -> None:
        kind, replica = action
        self.log.append(f"{kind} {replica}")
        getattr(self, kind)(replica)

    def join(self, replica: int) -> None:
        self.starting.remove(replica)
        self.carry_out(self.coordinator.joined(replica))

    def work(self, replica: int) -> None:
        """One synchronous step, one step by the clocks, or one whole range."""
        if self.policy is not None and self.policy.clocked:
            self._step_by_clock(replica)
            return
        if not self.plan.rounds:
            self._advance(replica, self.hands[replica][0].size)
            return
        assert replica in self.members, "a step of one whom nobody waits for"
        if self.plan.backups and replica not in self.read:
            self.read[replica] = self.made
        elif self.plan.backups and self.read.pop(replica) < self.made:
            self.dropped += 1
            self._advance(replica, self.plan.batch_size)
        else:
            self.laid.add(replica)
            self._finish_round()

    def _step_by_clock(self, replica: int) -> None:
        assert self.clocks.members[replica], "a step of one whom nobody waits for"
        self.largest_lag = max(self.largest_lag, self.clocks.lag(replica))
        self.clocks.advance(replica, self.clocks.clock(replica) + 1)
        self._advance(replica, self.plan.batch_size)

    def die(self, replica: int) -> None:
        self.deaths += 1
        self._lose(replica)
        self.gone.discard(replica)
        self.carry_out(self.coordinator.died(replica))

    def leave(self, replica: int) -> None:
        """For good, unless it comes back."""
        self._lose(replica)
        self.gone.add(replica)
        self.may_be_cold |= replica == 0
        self.carry_out(self.coordinator.left(replica))

    def come_back(self, replica: int) -> None:
        self.gone.remove(replica)
        self.starting.add(replica)

    def _lose(self, replica: int) -> None:
        self.starting.discard(replica)
        self.hands[replica].clear()
        self.read.pop(replica, None)
        self.done_of_range[replica] = 0

    def save_and_restore(self, replicas: int) -> None:
        """Stop everything, and go on from a checkpoint with another number of replicas."""
        positions = {}
        for replica, hand in enumerate(self.hands):
            if hand:
                positions[replica] = (hand[0].id, self.done_of_range[replica])
        state = json.loads(json.dumps(self.coordinator.state(positions)))
        for replica, hand in enumerate(self.hands):
            if hand:
                part = hand[0]
                self._count(replica, replace(part, stop=part.start + self.done_of_range[replica]))
        self.plan = replace(self.plan, replicas=replicas)
        self.coordinator = Coordinator(self.plan)
        self._born(replicas)
        parts = [part for parts in (*state["ranges"].values(), state["again"]) for part in parts]
        self.opened = list(range(min([state["epoch"], *(part["epoch"] for part in parts)])))
        self.orders.clear()
        self.carry_out(self.coordinator.restore(state))

    # -- carrying out -------------------------------------------------------------------------------------------------

    def carry_out(self, effects: list[c.Effect]) -> None:
        """In their order; what they bring about comes after them, as in a launcher."""
        self.carrying.extend(effects)
        if self.is_carrying:
            return
        self.is_carrying = True
        while self.carrying:
            effect = self.carrying.popleft()
            assert self.finish is None or isinstance(effect, c.Leave), "work after the end"
            match effect:
                case c.OpenEpoch(epoch):
                    self.opened.append(epoch)
                    self.orders[epoch % self.places] = epoch
                case c.Assign(replica, part):
                    self._assign(replica, part)
                case c.Join(replica):
                    assert replica not in self.members and replica not in self.starting
                    self.members.add(replica)
                    self.clocks.join(replica)
                case c.Leave(replica):
                    assert not self.hands[replica], "left with work in hand"
                    self.members.discard(replica)
                    self.clocks.leave(replica)
                    self._finish_round()
                case c.Restart(replica):
                    self.starting.add(replica)
                case c.EpochEnded(epoch):
                    assert epoch == len(self.ended), "epochs end one after the other"
                    size = self.plan.epoch_size(epoch)
                    self.ended.append(epoch)
                    if self.plan.epoch_barrier:
                        assert all(self.finished_examples[epoch, index] for index in range(size))
                    # Each example counts once, however often the death of a replica had it done again.
                    assert len(self.finished_examples) >= sum(self.plan.epoch_size(each) for each in self.ended)
                    assert not self.plan.rounds or not self.members, "a synchronous step would wait between epochs"
                case c.Evaluate(epoch):
                    self.evaluated.append(epoch)
                case c.Fail():
                    self.fails += 1
                case c.Finish():
                    self.finish = effect
        self.is_carrying = False
        self.check()

    def check(self) -> None:
        if self.plan.epoch_barrier:
            assert len(set(self.opened) - set(self.ended)) <= 1
        assert len(self.opened) - len(self.ended) <= self.places
        assert self.opened == sorted(set(self.opened))
        if self.finish is None and not self.fails and len(self.gone) < self.plan.replicas:
            assert self.actions(), f"deadlock after {self.log}"

    def _assign(self, replica: int, part: c.Range) -> None:
        assert replica not in self.starting, "work for one that is not there"
        assert len(self.hands[replica]) < Coordinator.DEPTH
        assert self.orders[part.epoch % self.places] == part.epoch
        size = self.plan.epoch_size(part.epoch)
        assert 0 <= part.start < part.stop <= size
        if self.plan.stop.examples is None:
            assert part.size % self.plan.batch_size == 0 or part.stop == size
        if self.plan.rounds or self.plan.joins:
            assert replica in self.members, "assigned before it joined the round"
        warm = self.warm >= self.plan.warmstart_examples or self.may_be_cold
        assert replica == 0 or warm, "released before the center was warm"
        self.hands[replica].append(part)

    def _advance(self, replica: int, examples: int) -> None:
        part = self.hands[replica][0]
        assert self.orders[part.epoch % self.places] == part.epoch, "the order was overwritten while somebody used it"
        self.done_of_range[replica] += min(examples, part.size - self.done_of_range[replica])
        if self.done_of_range[replica] == part.size:
            self.hands[replica].popleft()
            self.done_of_range[replica] = 0
            self._count(replica, part)
            self.carry_out(self.coordinator.done(replica, part.id))

    def _count(self, replica: int, part: c.Range) -> None:
        self.finished_examples.update((part.epoch, index) for index in range(part.start, part.stop))
        self.steps += -(-part.size // self.plan.batch_size)
        if replica == 0:
            self.warm += part.size

    def _finish_round(self) -> None:
        quorum = self.plan.replicas - self.plan.backups
        if self.laid and (self.members <= self.laid or len(self.laid) >= quorum):
            self.made += 1
            ready, self.laid = self.laid, set()
            for replica in sorted(ready):
                if self.hands[replica]:  # not the dead, whose contribution still counts
                    self._advance(replica, self.plan.batch_size)
