"""A recorded order instead of times: every pull and every write happens at the version at which it happened in the run."""

from __future__ import annotations

from collections import deque
from typing import Any

from deploy.setup import Setup
from deploy.simulator.clock import Clock
from deploy.simulator.conductor import Conductor, Host
from deploy.simulator.operations import Call, Part
from deploy.simulator.recorded_order import Entry, Life, Record
from deploy.simulator.replica import SimulatedReplica, Vectors, Wait
from ps.errors import HogsheadError, NonFiniteError
from worker import trace
from worker.driver import Work
from worker.gate import Gate
from worker.order import RecentOrders
from worker.replica import Replica
from worker.statistics import Statistics
from worker.task_calls import TaskCalls
from worker.trace import Trace


class DepartureError(HogsheadError):
    """A replay does something else than the record says."""


class Recorded(Conductor):
    """Carries operations out in the order of a record: per shard, a write when all reads of the version before it are done.

    Args:
      setup: as of the recorded run, in this process, untouched.
      record: of the run.
      inline: whoever sent a pull or a push waited for it, whatever the strategy asked for, as in processes.
    """

    def __init__(self, setup: Setup, record: Record, inline: bool):
        super().__init__(setup, _Nobody(), Clock(), Trace(0))
        self.record, self._inline = record, inline
        self._ready: deque[SimulatedReplica] = deque()
        self._lined_up: set[int] = set()
        shards = range(len(setup.state.shards))
        self._waiting: list[dict[int, list[tuple[Part, Entry]]]] = [{} for _ in shards]
        self._reads_left, self._steps_left = record.reads_left, record.steps_left
        self._left = list(record.operations)
        self._unmade: list[Call] = []  # contributions laid down whose steps have not been made
        self._beside: set[Call] = set()  # those that their senders do not wait for
        self._fetched: dict[int, Call] = {}  # by id of a replica: read, not taken over yet
        self._begun: list[tuple[SimulatedReplica, Life]] = []
        self._lives: dict[int, Life] = {}
        self._orders = RecentOrders(setup.order)
        for shard in setup.state.shards:
            if shard.round is not None:
                shard.round.quorum = setup.job.workers.count + 1  # the record says whose contributions make a step

    def play(self) -> None:
        """From the first operation to the last.

        Raises:
          DepartureError: a replica does not do what it did in the run.
        """
        calls = TaskCalls(self.setup.task, self.setup.dataset, self.setup.layout)
        vectors = Vectors(self.setup.layout.size, self.setup.layout.dtype)
        for life in self.record.lives.values():
            replica = self._replica(life, calls, vectors)
            self._begun.append((replica, life))
            self._lives[id(replica)] = life
            replica.log = _Landings(life)
            self._line_up(replica)
        while self._ready:
            replica = self._ready.popleft()
            self._lined_up.discard(id(replica))
            self.drive(replica)
        if any(self._left):
            raise DepartureError(self._departure())

    def _replica(self, life: Life, calls: TaskCalls, vectors: Vectors) -> SimulatedReplica:
        setup = self.setup
        state = Replica(
            setup.layout,
            id=life.replica,
            peers=setup.job.workers.count,
            incarnation=life.incarnation,
            local_rule=setup.local_rule,
            averaging=setup.averaging,
            seed=setup.job.seed,
        )
        gate = Gate(setup.policy if setup.policy.rounds else None)  # when a step may begin is in the record
        return SimulatedReplica(setup, state, Statistics.of(setup.arrays, life.replica), calls, vectors, gate)

    def _departure(self) -> str:
        left = ", ".join(f"{count:,} at shard {shard}" for shard, count in enumerate(self._left) if count)
        text = f"the replay has departed from the record, with operations left: {left}"
        for replica, life in self._begun:
            if not life.is_over:
                return f"{text}; replica {life.replica} had got to step {replica.replica.clock} and did not do what came next"
        return text

    # -- replicas -----------------------------------------------------------------------------------------------------

    def drive(self, replica: SimulatedReplica) -> None:
        try:
            super().drive(replica)
        except NonFiniteError:  # so it was in the run; if not, operations are left
            replica.alive = False

    def handle(self, replica: SimulatedReplica, request: Wait) -> bool:
        if request is Wait.SETTLED:
            # With no push under way it waits for a pull, which was there by now in the run too.
            return replica.outstanding == 0 and self._land(replica)
        if request in (Wait.BOUNDARY, Wait.IDLE):
            return self._goes_on(replica, request)
        return True

    def _goes_on(self, replica: SimulatedReplica, request: Wait) -> bool:
        life, clock = self._lives[id(replica)], replica.replica.clock
        if life.finish == clock:
            replica.stopping = True
        if life.is_over:
            self.kill(replica)  # what it computed from here on reached nobody
            return False
        if replica._fetch is not None and life.lands_at(clock) and not self._land(replica):
            return False
        if request is Wait.IDLE and not replica.stopping:
            return self._give_range(replica, life)
        return True

    def _land(self, replica: SimulatedReplica) -> bool:
        """A pull that was not waited for has come in by now, if it has been carried out."""
        call = self._fetched.pop(id(replica), None)
        if call is not None:
            replica.landed(call)
        return call is not None

    def _give_range(self, replica: SimulatedReplica, life: Life) -> bool:
        if not life.ranges:
            return False
        epoch, start, stop = life.ranges.popleft()
        replica.queue.append(Work(0, epoch, self._orders.of(epoch)[start:stop]))
        return True

    def compute(self, replica: SimulatedReplica) -> bool:
        return True

    # -- calls --------------------------------------------------------------------------------------------------------

    def call(self, replica: SimulatedReplica, call: Call) -> bool:
        life = self._lives[id(replica)]
        at_once = call.kind == trace.PULL and life.lands_at(replica.replica.clock)
        goes_on = not (call.wait or self._inline or at_once)
        if goes_on:
            self._beside.add(call)
            if call.kind != trace.PULL:
                call.detach()
        parts = list(call.parts)
        for part in parts:
            self._place(life, part)
        for part in parts:
            self._advance(part.shard.index)
        # Whoever waits is lined up when the last part is done, perhaps just now: one way for all.
        return goes_on

    def _place(self, life: Life, part: Part) -> None:
        index = part.shard.index
        entries = (life.reads if part.is_read else life.writes)[index]
        if not entries:
            return  # it never happened: the replica had been lost, or the run was over
        entry = entries.popleft()
        if entry.kind != part.call.kind:
            raise DepartureError(
                f"the replay has departed from the record: at step {part.call.sender.replica.clock} replica {life.replica} does "
                f"a {trace.KINDS[part.call.kind]} at shard {index}, where it did a {trace.KINDS[entry.kind]}"
            )
        self._waiting[index].setdefault(entry.version, []).append((part, entry))

    def _advance(self, index: int) -> None:
        """Carry out whatever may happen at a shard now."""
        shard = self.setup.state.shards[index]
        while True:
            waiting = self._waiting[index].get(shard.version, [])
            chosen = next((item for item in waiting if self._may_happen(index, *item)), None)
            if chosen is None:
                return
            waiting.remove(chosen)
            if not waiting:
                del self._waiting[index][chosen[1].version]
            self._carry_out(index, *chosen)

    def _may_happen(self, index: int, part: Part, entry: Entry) -> bool:
        if part.is_read or entry.late:
            return True
        is_last = entry.kind != trace.CONTRIBUTE or self._steps_left[index][entry.version].total() == 1
        return not is_last or self._reads_left[index][entry.version] == 0

    def _carry_out(self, index: int, part: Part, entry: Entry) -> None:
        self._left[index] -= 1
        if entry.forgotten and part.shard.memory is not None:
            part.shard.memory.forget(part.call.sender.replica.id)
        if part.is_read or entry.late:
            self._reads_left[index][entry.version] -= 1
            part.execute(0.0, self.log)
        elif entry.kind == trace.CONTRIBUTE:
            self._contribute(index, part, entry)
        else:
            part.execute(0.0, self.log)
        self.answer(part)

    def _contribute(self, index: int, part: Part, entry: Entry) -> None:
        left, replica = self._steps_left[index][entry.version], part.call.sender.replica.id
        members = part.shard.round.members
        members[:] = 0
        members[list(left)] = 1  # those who have contributed stay in it, with 0 left
        left[replica] -= 1
        if left[replica] == 0:  # else it contributed once more to the same step, and that was what counted
            part.execute(0.0, self.log)
        if left.total() == 0:
            del self._steps_left[index][entry.version]

    def answer(self, part: Part) -> None:
        call = part.call
        call.left -= 1
        if call.left == 0:
            if call.kind == trace.CONTRIBUTE:
                self._unmade.append(call)
            else:
                self._answered(call)
        if call.kind == trace.CONTRIBUTE:
            made = [call for call in self._unmade if call.dropped or all(p.shard.rounds >= p.round for p in call.parts)]
            for call in made:
                self._unmade.remove(call)
                self._answered(call)

    def _answered(self, call: Call) -> None:
        replica, call.parts = call.sender, []
        beside = call in self._beside
        self._beside.discard(call)
        if beside and call.kind == trace.PULL:
            self._fetched[id(replica)] = call
        elif not call.wait:
            replica.landed(call)
        held = replica.waiting_for
        if not beside or (isinstance(held, Wait) and self._may_resume(replica, held)):
            self._line_up(replica)

    def _may_resume(self, replica: SimulatedReplica, held: Wait) -> bool:
        """What it waits for besides a call may have come about."""
        if held is Wait.SETTLED:
            return True  # it looks for itself
        return held in (Wait.BOUNDARY, Wait.IDLE) and id(replica) not in self._lined_up and self._goes_on(replica, held)

    def _line_up(self, replica: SimulatedReplica) -> None:
        if replica.alive and id(replica) not in self._lined_up:
            self._lined_up.add(id(replica))
            self._ready.append(replica)


class _Landings(Trace):
    """Hears of a replica's landings, and crosses them off."""

    def __init__(self, life: Life):
        super().__init__(0)
        self._life = life

    def add(self, time: float, kind: int, *_: Any, clock: int = -1, **__: Any) -> None:
        if kind == trace.LAND and self._life.lands_at(clock):
            self._life.landings.popleft()


class _Nobody(Host):
    """Nobody needs to be told what replicas have come to: it is in the record."""

    def joined(self, replica: SimulatedReplica) -> None:
        pass

    def done(self, replica: SimulatedReplica) -> None:
        pass

    def ended(self, replica: SimulatedReplica) -> None:
        pass
