"""What goes wrong when: replicas and shards that join, leave and crash at given or random times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from deploy.setup import Setup
from deploy.simulator import network as streams
from deploy.simulator.clock import Clock
from deploy.simulator.conductor import Conductor
from deploy.simulator.distributions import Stream, build_distribution
from deploy.simulator.network import generator
from deploy.simulator.replica import SimulatedReplica
from deploy.simulator.section import SimulationSection
from ps.shard import Shard
from worker import effects as c
from worker.coordinator import Coordinator

CrashAction = Callable[[int, int], None]


class Host(Protocol):
    """Whose replicas they are: the launcher.

    Attributes:
      replicas: by number, the newest incarnation of each that has ever been there.
    """

    setup: Setup
    clock: Clock
    coordinator: Coordinator
    conductor: Conductor
    replicas: dict[int, SimulatedReplica]
    incarnations: list[int]

    def start(self, number: int) -> None:
        """Begin a new incarnation."""

    def kill(self, replica: SimulatedReplica) -> None:
        """End one."""

    def follow(self, effects: list[c.Effect]) -> None:
        """Carry out what the coordinator decides."""

    def event(self, event: str, message: str, **fields: Any) -> None:
        """Tell whoever watches."""


class Failures:
    """Makes a job's events and random crashes happen.

    Args:
      host: see there.

    Attributes:
      deaths: of replicas, so far.
    """

    def __init__(self, host: Host):
        self._host, self._clock = host, host.clock
        job = host.setup.job
        self._simulation, self._shards = job.simulation, host.setup.state.shards
        self.deaths = 0
        self._away: set[int] = set()  # have left, dead ones included: these are not replaced
        self._snapshots: list[Snapshot] = []
        self._shard_lives = [0] * job.shards.count
        simulation, seed = self._simulation, job.seed
        self._crashes = _random_crashes(
            "crash_every_seconds", simulation, streams.CRASH, seed, self._clock, self._crash_at_random
        )
        self._shard_crashes = _random_crashes(
            "shard_crash_every_seconds", simulation, streams.SHARD_CRASH, seed, self._clock, self._crash_shard_at_random
        )

    def schedule(self) -> None:
        """Put on the clock what is known at the start."""
        actions = {"join": self._join, "leave": self._leave, "crash": self._crash, "crash_shards": self._crash_shard}
        for event in self._simulation.events or ():
            for kind, action in actions.items():
                for index in event.get(kind, ()):
                    self._clock.at(float(event["at"]), action, index)
        if shards_may_crash(self._simulation):
            self._snapshot()
        if self._shard_crashes is not None:
            for index in range(len(self._shards)):
                self._shard_crashes.begin(index, self._shard_lives[index])

    def began(self, number: int, incarnation: int) -> None:
        """A replica lives from now on; it may crash."""
        if self._crashes is not None:
            self._crashes.begin(number, incarnation)

    def restart(self, number: int) -> None:
        """Replace a replica that has crashed, after the time that this takes."""
        self._clock.after(self._simulation.restart_seconds, self._restarted, number)

    @property
    def _over(self) -> bool:
        return self._host.coordinator.finished is not None

    # -- replicas -----------------------------------------------------------------------------------------------------

    def _join(self, number: int) -> None:
        self._away.discard(number)
        if not self._over and not self._lives(number):
            self._host.event("worker_joined", f"worker {number} joined", worker=number)
            self._host.start(number)

    def _leave(self, number: int) -> None:
        if self._over or number in self._away:
            return
        self._away.add(number)
        self._host.event("worker_left", f"worker {number} left", worker=number)
        if self._lives(number):
            self._host.kill(self._host.replicas[number])
        self._host.follow(self._host.coordinator.left(number))

    def _crash(self, number: int) -> None:
        if self._over or not self._lives(number):
            return
        self.deaths += 1
        self._host.event("worker_died", f"worker {number} crashed", worker=number)
        self._host.kill(self._host.replicas[number])
        self._host.follow(self._host.coordinator.died(number))

    def _crash_at_random(self, number: int, incarnation: int) -> None:
        if incarnation == self._host.incarnations[number]:
            self._crash(number)

    def _restarted(self, number: int) -> None:
        if not self._over and number not in self._away and not self._lives(number):
            self._host.event("worker_replaced", f"worker {number} was replaced", worker=number)
            self._host.start(number)

    def _lives(self, number: int) -> bool:
        replica = self._host.replicas.get(number)
        return replica is not None and replica.alive

    # -- shards -------------------------------------------------------------------------------------------------------

    @property
    def _saves_each_step(self) -> bool:
        """Shards that make synchronous steps save each before they answer: one that forgot some would wait for replicas that
        have gone on, at the other shards."""
        return self._host.setup.rounds

    def _snapshot(self) -> None:
        self._snapshots = [Snapshot(shard) for shard in self._shards]
        if not self._over:
            self._clock.alarm(self._simulation.snapshot_seconds, self._snapshot)

    def _crash_shard_at_random(self, index: int, life: int) -> None:
        if life == self._shard_lives[index]:
            self._crash_shard(index)

    def _crash_shard(self, index: int) -> None:
        services = getattr(self._host.conductor, "services", None)
        assert services is not None, "a delay pattern has no failures"
        if self._over or services[index].is_down:
            return
        before = self._shards[index].version
        services[index].crash()
        self._shard_lives[index] += 1
        if not self._saves_each_step:
            self._snapshots[index].restore()
        lost = before - self._shards[index].version
        self._host.event("shard_crashed", f"shard {index} crashed, {lost} updates are lost", shard=index)
        self._clock.after(self._simulation.restart_seconds, self._recover_shard, index)

    def _recover_shard(self, index: int) -> None:
        self._host.conductor.recover(index)
        self._host.event("shard_recovered", f"shard {index} is back", shard=index)
        if self._shard_crashes is not None and not self._over:
            self._shard_crashes.begin(index, self._shard_lives[index])


def late_workers(simulation: SimulationSection) -> set[int]:
    """Workers that are not there from the beginning: what is first said of them is that they join."""
    first: dict[int, str] = {}
    for event in sorted(simulation.events or (), key=lambda event: event["at"]):
        for kind in ("join", "leave", "crash"):
            for worker in event.get(kind, ()):
                first.setdefault(worker, kind)
    return {worker for worker, kind in first.items() if kind == "join"}


class RandomCrashes:
    """Crashes one worker or shard again and again, at random times.

    Args:
      where: key of ``[simulation]``. value: time between two crashes of one of them, as in a job.
      purpose: of the random stream. seed: of the job.
      action: crashes number i in its life number k.
    """

    def __init__(self, where: str, value: Any, purpose: int, seed: int, clock: Clock, action: CrashAction):
        self._distribution = build_distribution(f"[simulation] {where}", value)
        self._purpose, self._seed, self._clock, self._action = purpose, seed, clock, action
        self._streams: dict[int, Stream] = {}

    def begin(self, index: int, life: int) -> None:
        """Number ``index`` works from now on, until it crashes; ``life`` says which of its lives that crash belongs to."""
        if index not in self._streams:
            self._streams[index] = Stream(self._distribution, generator(self._seed, self._purpose, index))
        self._clock.alarm(self._streams[index].draw(), self._action, index, life)


def _random_crashes(
    where: str, simulation: SimulationSection, purpose: int, seed: int, clock: Clock, action: CrashAction
) -> RandomCrashes | None:
    value = getattr(simulation, where)
    return None if value is None else RandomCrashes(where, value, purpose, seed, clock, action)


def shards_may_crash(simulation: SimulationSection) -> bool:
    """So that snapshots are worth their while."""
    given = any(event.get("crash_shards") for event in simulation.events or ())
    return given or simulation.shard_crash_every_seconds is not None


class Snapshot:
    """A copy of all that a shard holds, which it goes on from after a crash; updates since then are lost."""

    def __init__(self, shard: Shard):
        self._arrays = [(array, array.copy()) for array in _arrays_of(shard)]

    def restore(self) -> None:
        """Write it back."""
        for array, copy in self._arrays:
            np.copyto(array, copy)


def _arrays_of(shard: Shard) -> list[np.ndarray]:
    arrays = [shard.center, *shard.slots.values(), shard.header, shard.watermarks, *shard.row_steps.values()]
    if shard.memory is not None:
        arrays += [shard.memory.rows, shard.memory.owners]
    if shard.round is not None:
        arrays += [shard.round.rows, shard.round.laid]  # who takes part is the coordinator's to say
    return arrays
