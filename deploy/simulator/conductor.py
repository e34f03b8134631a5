"""Resumes the replicas' coroutines; how long things take, or in which order they happen, is a subclass's."""

from __future__ import annotations

from typing import Protocol

from deploy.setup import Setup
from deploy.simulator.clock import Clock
from deploy.simulator.operations import Call, Part
from deploy.simulator.replica import SimulatedReplica, Wait
from worker import trace


class Host(Protocol):
    """Who is told what replicas have come to: the launcher."""

    def joined(self, replica: SimulatedReplica) -> None:
        """It is ready for work."""

    def done(self, replica: SimulatedReplica) -> None:
        """It has finished ``replica.finished_range``."""

    def ended(self, replica: SimulatedReplica) -> None:
        """It has stopped, as it was asked to."""


class Conductor:
    """Base.

    Args:
      setup: of the run.
      host: see there.
      clock: virtual time.
      log: gets every operation on a shard.

    Attributes:
      parked: replicas that wait for leave to begin a step.
      gathering: per shard, contributions whose synchronous step has not been made.
    """

    def __init__(self, setup: Setup, host: Host, clock: Clock, log: trace.Trace):
        self.setup, self.host, self.clock, self.log = setup, host, clock, log
        self.parked: dict[int, SimulatedReplica] = {}
        self.gathering: list[list[Part]] = [[] for _ in setup.state.shards]
        self._smallest: int | None = None  # clock, when those who are parked were last looked at

    # -- what a subclass decides --------------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Let something happen; False if nothing can."""
        return self.clock.turn()

    def call(self, replica: SimulatedReplica, call: Call) -> bool:
        """Send a call; True if the replica may go on."""
        raise NotImplementedError

    def compute(self, replica: SimulatedReplica) -> bool:
        """Let the time of a gradient pass; True if the replica may go on."""
        raise NotImplementedError

    def may_go_on(self, replica: SimulatedReplica) -> bool:
        """At a step's boundary or where it has got to the end of a range: it may go on at once."""
        return True

    def answer(self, part: Part) -> None:
        """A part has been carried out; its sender is to hear of it."""
        raise NotImplementedError

    def bring_up(self, replica: SimulatedReplica, time: float) -> None:
        """It has waited until ``time``, unless it is ahead of that."""
        replica.time = max(replica.time, time)

    # -- replicas -----------------------------------------------------------------------------------------------------

    def start(self, replica: SimulatedReplica) -> None:
        """A new incarnation begins."""
        replica.time = self.clock.now
        replica.log = self.log
        self.log.add(self.clock.now, trace.BEGIN, replica.replica.id, replica.replica.incarnation)
        self.drive(replica)

    def drive(self, replica: SimulatedReplica) -> None:
        """Resume a replica until it has to wait."""
        self.bring_up(replica, self.clock.now)
        while replica.alive:
            request = replica.waiting_for = next(replica.life, None)
            if request is None:
                self.kill(replica)
                self.host.ended(replica)
                return
            goes_on = self.call(replica, request) if isinstance(request, Call) else self.handle(replica, request)
            if not goes_on:
                return

    def handle(self, replica: SimulatedReplica, request: Wait) -> bool:
        """Deal with a request that is no call; True if the replica may go on at once."""
        if request is Wait.COMPUTE:
            return self.compute(replica)
        if request is Wait.BOUNDARY:
            return (replica.stopping or self.is_admitted(replica)) and self.may_go_on(replica)
        if request is Wait.SETTLED:
            return False
        if request is Wait.IDLE:
            goes_on = replica.stopping or bool(replica.queue)
            if not goes_on:
                self.idle(replica)
            return goes_on
        if request is Wait.DONE:
            if replica.gate.clocked:
                self.reconsider(replica.gate.smallest())
            self.host.done(replica)
        else:
            self.host.joined(replica)
        return True

    def idle(self, replica: SimulatedReplica) -> None:
        """It has no work, or no leave to begin its next step."""

    def busy(self, replica: SimulatedReplica) -> None:
        """It has both again."""

    def wake(self, replica: SimulatedReplica) -> None:
        """It has got work, or is to stop: it goes on as soon as the clock turns, if that is what it waits for."""
        if self._can_be_woken(replica):
            self.clock.at(self.clock.now, self._woken, replica)

    def _woken(self, replica: SimulatedReplica) -> None:
        if replica.alive and self._can_be_woken(replica) and (replica.queue or replica.stopping):
            self.parked.pop(replica.replica.id, None)
            self.drive(replica)

    def _can_be_woken(self, replica: SimulatedReplica) -> bool:
        """Otherwise it looks for itself whether there is work, or whether it is to stop."""
        if replica.catching_up:
            return False
        parked = self.parked.get(replica.replica.id) is replica
        return replica.waiting_for is Wait.IDLE or (parked and replica.stopping)

    def kill(self, replica: SimulatedReplica) -> None:
        """It has crashed, or is not to be waited for any more."""
        self.bring_up(replica, self.clock.now)
        replica.alive = False
        replica.life.close()
        state = replica.replica
        self.log.add(self.clock.now, trace.END, state.id, state.incarnation, clock=state.clock)
        if self.parked.get(replica.replica.id) is replica:
            del self.parked[replica.replica.id]

    def gatherers(self) -> list[SimulatedReplica]:
        """Those who live and wait for the others of a synchronous step, each once."""
        senders = {id(part.call): part.call.sender for parts in self.gathering for part in parts}
        return [sender for sender in senders.values() if sender.alive]

    # -- admission ----------------------------------------------------------------------------------------------------

    def is_admitted(self, replica: SimulatedReplica) -> bool:
        """It may begin its next step; otherwise it is parked."""
        if not replica.gate.clocked:
            return True
        self.reconsider(replica.gate.smallest())  # the step that it has just finished may be what others wait for
        if replica.gate.allowance() > 0:
            return True
        self.parked[replica.replica.id] = replica
        self.idle(replica)  # who waits for its turn at a shard may be the one that it waits for
        return False

    def reconsider(self, smallest: int | None = None) -> None:
        """Let go those who may begin now.

        Args:
          smallest: clock; as long as it stays, nobody need be looked at. None: somebody has left.
        """
        if smallest is not None and smallest == self._smallest:
            return
        self._smallest = smallest
        for number, replica in list(self.parked.items()):
            if replica.gate.allowance() > 0:
                del self.parked[number]
                self.clock.at(self.clock.now, self._released, replica)

    def _released(self, replica: SimulatedReplica) -> None:
        if replica.alive:
            self.busy(replica)
            self.drive(replica)

    # -- shards -------------------------------------------------------------------------------------------------------

    def execute(self, part: Part) -> None:
        """Carry a part out now.

        An update on its way is applied whatever becomes of its sender. But where that is dead nobody is there to read, and a
        contribution would make others wait for the next one.
        """
        if not part.call.sender.alive and part.call.kind in (trace.PULL, trace.CONTRIBUTE):
            return
        part.execute(self.clock.now, self.log)
        shard = part.shard
        if part.call.dropped:  # late at one shard, it waits at none
            self._let_go(part.call)
            self.answer(part)
        elif part.round > shard.rounds:
            self.gathering[shard.index].append(part)
        else:
            self.answer(part)
        if self.gathering[shard.index]:
            self.finish_rounds(shard.index)

    def _let_go(self, call: Call) -> None:
        for index, waiting in enumerate(self.gathering):
            mine = [part for part in waiting if part.call is call]
            if mine:
                self.gathering[index] = [part for part in waiting if part.call is not call]
                self.answer(mine[0])

    def finish_rounds(self, index: int) -> None:
        """Answer those whose synchronous step has been made at this shard."""
        made = self.setup.state.shards[index].rounds
        waiting = self.gathering[index]
        if not waiting or waiting[0].round > made:
            return
        self.gathering[index] = [part for part in waiting if part.round > made]
        for part in waiting:
            if part.round <= made:
                self.answer(part)

    def left(self) -> None:
        """Somebody has left: synchronous steps may have been made without, and others may begin theirs."""
        for index in range(len(self.gathering)):
            self.finish_rounds(index)
        self.reconsider()

    def recover(self, index: int) -> None:
        """A crashed shard is there again: contributions to steps that it has not made are sent to it once more."""
