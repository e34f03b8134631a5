"""Virtual time: steps, messages and service take as long as the job says."""

from __future__ import annotations

from typing import Any

from deploy.setup import Setup
from deploy.simulator import network as streams
from deploy.simulator.conductor import Conductor
from deploy.simulator.network import Network, StepTimes, service_stream
from deploy.simulator.operations import Call, Part
from deploy.simulator.replica import SimulatedReplica, Wait
from deploy.simulator.service import PerVariable, Queue, RoundRobin, Service
from worker import trace


class Timed(Conductor):
    """Lets every step and message take its time.

    Attributes:
      services: of each shard.
    """

    def __init__(self, setup: Setup, *args: Any):
        super().__init__(setup, *args)
        simulation, seed = setup.job.simulation, setup.job.seed
        self.steps, self.network = StepTimes(simulation, seed), Network(simulation, seed)
        self.services = [self._service(index) for index in range(len(setup.state.shards))]
        self._sending: Call | None = None

    def _service(self, index: int) -> Service:
        job, simulation = self.setup.job, self.setup.job.simulation
        times = [
            service_stream(name, getattr(simulation, name), job.seed, index)
            for name in ("service_seconds", "pull_seconds")
        ]
        arguments = (self.clock, self.execute, *times)
        locking = getattr(self.setup.strategy, "locking", "none")
        if locking == "round_robin":
            return RoundRobin(*arguments, replicas=job.workers.count, handoff_seconds=simulation.handoff_seconds)
        if locking == "per_variable":
            return PerVariable(*arguments)
        if job.shards.apply == "lock_free" and locking == "none":
            return Service(*arguments)
        return Queue(*arguments, in_turn=job.shards.reads == "consistent")

    # -- replicas -----------------------------------------------------------------------------------------------------

    def handle(self, replica: SimulatedReplica, request: Wait) -> bool:
        """As in the base, but not before the time has come at which the replica asks."""
        if replica.time > self.clock.now and request is not Wait.COMPUTE:
            replica.catching_up = True
            self.clock.at(replica.time, self._caught_up, replica, request)
            return False
        return super().handle(replica, request)

    def _caught_up(self, replica: SimulatedReplica, request: Wait) -> None:
        replica.catching_up = False
        # What it waited to be settled may be so by now: it looks for itself.
        if replica.alive and (request is Wait.SETTLED or super().handle(replica, request)):
            self.drive(replica)

    def bring_up(self, replica: SimulatedReplica, time: float) -> None:
        if time > replica.time:
            replica.statistics.wait_seconds += time - replica.time
            replica.time = time

    def compute(self, replica: SimulatedReplica) -> bool:
        seconds = self.steps.draw(replica.replica.id)
        if replica.time > self.clock.now:
            self.clock.at(replica.time, self._note_compute, replica, seconds)
        else:
            self._note_compute(replica, seconds)
        replica.time += seconds
        if replica.time <= self.clock.now:
            return True
        self.clock.at(replica.time, self._computed, replica, seconds)
        return False

    def _note_compute(self, replica: SimulatedReplica, seconds: float) -> None:
        if replica.alive:
            state, loss = replica.replica, replica.loss
            self.log.add(
                self.clock.now, trace.COMPUTE, state.id, state.incarnation, -1, -1, -1, state.clock, seconds, loss
            )

    def _computed(self, replica: SimulatedReplica, seconds: float) -> None:
        if replica.alive:
            replica.statistics.busy_seconds += seconds
            self.drive(replica)

    def idle(self, replica: SimulatedReplica) -> None:
        for service in self.services:
            service.active(replica.replica.id, False)

    def busy(self, replica: SimulatedReplica) -> None:
        for service in self.services:
            service.active(replica.replica.id, True)

    def wake(self, replica: SimulatedReplica) -> None:
        if replica.queue and self.parked.get(replica.replica.id) is not replica:
            self.busy(replica)
        super().wake(replica)

    def kill(self, replica: SimulatedReplica) -> None:
        super().kill(replica)
        self.idle(replica)

    # -- calls --------------------------------------------------------------------------------------------------------

    def call(self, replica: SimulatedReplica, call: Call) -> bool:
        if replica.time > self.clock.now:
            self.clock.at(replica.time, self._send_later, call)
            return self._goes_on_beside(replica, call)
        self._sending = call
        self._send(call)
        self._sending = None
        if call.left == 0 and (call.arrived <= self.clock.now or (call.wait and call.kind == trace.PULL)):
            # The answer to a pull is known, so the replica runs ahead to what it does with it: fewer vectors are under way.
            self.bring_up(replica, call.arrived)
            if not call.wait:
                replica.landed(call)
            return True
        if call.left == 0:
            self.clock.at(call.arrived, self._answered, call)
        return self._goes_on_beside(replica, call)

    def _goes_on_beside(self, replica: SimulatedReplica, call: Call) -> bool:
        """A call that is not waited for is under way: what it carries must not change."""
        if not call.wait and call.kind != trace.PULL:
            call.detach()
        return not call.wait

    def _send_later(self, call: Call) -> None:
        if call.sender.alive:
            self._send(call)

    def _send(self, call: Call) -> None:
        now, worker = self.clock.now, call.sender.replica.id
        call.arrived = now
        for part in call.parts:
            arrival = self.network.arrival(streams.UP, worker, now, part.out_bytes)
            service = self.services[part.shard.index]
            if arrival <= now:
                service.arrive(part)
            else:
                self.clock.at(arrival, service.arrive, part)

    def answer(self, part: Part) -> None:
        call, now = part.call, self.clock.now
        call.arrived = max(
            call.arrived, self.network.arrival(streams.DOWN, call.sender.replica.id, now, part.back_bytes)
        )
        if call.note_answer() and call is not self._sending:
            if call.wait and call.kind == trace.PULL:
                self._answered(call)  # at once, so that what was read is used before the next one reads
            else:
                self.clock.at(call.arrived, self._answered, call)

    def _answered(self, call: Call) -> None:
        replica = call.sender
        if not replica.alive:
            return
        if call.wait:
            self.bring_up(replica, call.arrived)
            self.drive(replica)
            return
        replica.landed(call)
        if replica.waiting_for is Wait.SETTLED and not replica.catching_up:
            self.drive(replica)

    # -- failures -----------------------------------------------------------------------------------------------------

    def recover(self, index: int) -> None:
        waiting, self.gathering[index] = self.gathering[index], []
        self.services[index].recover()
        for part in waiting:
            self.services[index].try_again(part)
