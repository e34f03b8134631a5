"""How long a worker's steps and messages take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deploy.simulator.distributions import Distribution, Stream, build_distribution
from deploy.simulator.section import SimulationSection

# What a random stream is for: with the job's seed and the worker's number it makes the generator, so that the times of one worker
# do not depend on the others nor on the strategy.
STEP, STRAGGLE, UP, DOWN, CRASH, SERVICE, SHARD_CRASH = range(7)


def generator(seed: int, purpose: int, index: int) -> Callable[[], np.random.Generator]:
    """Makes the random generator of one purpose of one worker or shard."""
    return lambda: np.random.default_rng([seed, 0x51A1, purpose, index])


class StepTimes:
    """Virtual seconds of local steps.

    Args:
      simulation: ``step_seconds``, ``speeds``, ``stragglers``. seed: of the job.
    """

    def __init__(self, simulation: SimulationSection, seed: int):
        self._seed, self._speeds = seed, simulation.speeds or [1.0]
        self._times = build_distribution("[simulation] step_seconds", simulation.step_seconds)
        self._stragglers = simulation.stragglers
        self._streams: dict[int, Stream] = {}
        self._coins: dict[int, np.random.Generator] = {}

    @property
    def mean(self) -> float:
        """Expected seconds of a step at speed 1."""
        return self._times.mean

    def draw(self, worker: int) -> float:
        """The next step of ``worker``."""
        stream = self._streams.get(worker)
        if stream is None:
            stream = self._streams[worker] = Stream(self._times, generator(self._seed, STEP, worker))
        seconds = stream.draw() / self._speeds[worker % len(self._speeds)]
        return seconds if self._stragglers is None else seconds * self._slowdown(worker, self._stragglers)

    def _slowdown(self, worker: int, stragglers: dict[str, float]) -> float:
        if worker not in self._coins:
            self._coins[worker] = generator(self._seed, STRAGGLE, worker)()
        return stragglers["slowdown"] if self._coins[worker].random() < stragglers["probability"] else 1.0


class Network:
    """The workers' links: each message takes a latency, and its bytes follow those sent before on the same link.

    Args:
      simulation: ``latency_seconds`` and ``bandwidth``. seed: of the job.
    """

    def __init__(self, simulation: SimulationSection, seed: int):
        self._seed = seed
        given = simulation.latency_seconds
        self._latencies = [
            build_distribution("[simulation] latency_seconds", value)
            for value in (given if isinstance(given, list) else [given])
        ]
        self._bandwidths = simulation.bandwidth if isinstance(simulation.bandwidth, list) else [simulation.bandwidth]
        self._streams: dict[tuple[int, int], Stream] = {}
        self._free: dict[tuple[int, int], float] = {}  # when a link has sent all it was given
        self._arrived: dict[tuple[int, int], float] = {}  # when the last message on a link is there
        self._instant = self._bandwidths == [None] and all(latency.constant == 0 for latency in self._latencies)

    def arrival(self, direction: int, worker: int, now: float, size: int) -> float:
        """When a message of ``size`` bytes, given at ``now`` to the link of ``worker`` (``UP`` or ``DOWN``), is there."""
        if self._instant:
            return now
        sent = now
        bandwidth = self._bandwidths[worker % len(self._bandwidths)]
        link = (direction, worker)
        if bandwidth is not None:
            sent = self._free[link] = max(now, self._free.get(link, 0.0)) + size / bandwidth
        # A link is a stream: what was sent later does not overtake.
        arrived = self._arrived[link] = max(sent + self._latency(link).draw(), self._arrived.get(link, 0.0))
        return arrived

    def _latency(self, link: tuple[int, int]) -> Stream:
        if link not in self._streams:
            distribution: Distribution = self._latencies[link[1] % len(self._latencies)]
            self._streams[link] = Stream(distribution, generator(self._seed, *link))
        return self._streams[link]


def service_stream(where: str, value: Any, seed: int, shard: int) -> Stream:
    """A shard's service times."""
    return Stream(build_distribution(f"[simulation] {where}", value), generator(seed, SERVICE, shard))
