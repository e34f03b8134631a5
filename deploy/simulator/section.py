"""``[simulation]``: what a job may say of virtual time, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from deploy.schema import Section, check_keys, check_type, key
from deploy.simulator.distributions import build_distribution
from deploy.words import plural
from ps.errors import JobError, meant

_LOGNORMAL = {"distribution": "lognormal", "median": 1.0, "sigma": 0.3}
_CRASHES = ("crash_every_seconds", "shard_crash_every_seconds")
_TIMES = ("step_seconds", "service_seconds", "pull_seconds", *_CRASHES)
# What a pattern of delays, which gives an order and no times, has no use for.
_NOT_DELAYED = (
    "speeds", "stragglers", "latency_seconds", "bandwidth", "service_seconds", "pull_seconds", "handoff_seconds", "events",
    *_CRASHES,
)  # fmt: skip
EVENTS = ("join", "leave", "crash", "crash_shards")
DELAYS = ("constant", "minibatch", "random")
Time = int | float | dict


@dataclass(frozen=True)
class SimulationSection(Section):
    """``[simulation]``: how long things take in virtual time, and what goes wrong when."""

    section: ClassVar[str] = "simulation"
    step_seconds: Time = key(
        1.0, help="virtual seconds of a local step: a number, or a distribution", example=_LOGNORMAL
    )
    speeds: list[float] | None = key(None, help="relative speed of each worker, repeated if fewer", example=[1.0, 0.25])
    stragglers: dict | None = key(
        None, help="single steps that take longer", example={"probability": 0.01, "slowdown": 10.0}
    )
    latency_seconds: int | float | dict | list = key(
        0.0, help="one way, of each message: a number or distribution, or a list of them by worker"
    )
    bandwidth: int | float | list | None = key(
        None, help="bytes per second of a worker's link, each way, or a list by worker; not set: no limit", example=1e9
    )
    service_seconds: Time = key(0.0, help="a shard's time for a push or an exchange")
    pull_seconds: Time = key(0.0, help="a shard's time for a pull")
    handoff_seconds: float = key(0.0, help="hogwild, locking = 'round_robin': passing the turn on", at_least=0)
    restart_seconds: float = key(1.0, help="until a crashed replica or shard is there again", at_least=0)
    snapshot_seconds: float = key(
        10.0, help="between the snapshots that a crashed shard goes on from (synchronous steps are all saved)", above=0
    )
    events: list | None = key(
        None, help="at given times: join, leave, crash (workers), crash_shards", example=[{"at": 20.0, "leave": [0]}]
    )
    crash_every_seconds: int | float | dict | None = key(
        None, help="time between random crashes of a worker", example={"distribution": "exponential", "mean": 500.0}
    )
    shard_crash_every_seconds: int | float | dict | None = key(
        None, help="time between random crashes of a shard", example={"distribution": "exponential", "mean": 500.0}
    )
    delay: dict | None = key(
        None,
        help="no time but an exact order of reads and updates: constant, minibatch or random delay",
        example={"pattern": "constant", "updates": 3000},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _TIMES:
            if getattr(self, name) is not None:
                self._check_time(name)
        for name in ("handoff_seconds", "restart_seconds", "snapshot_seconds"):
            if not math.isfinite(getattr(self, name)):
                raise JobError(f"[simulation] {name} must be finite, got {getattr(self, name)!r}")
        self._check_speeds()
        self._check_links()
        self._check_stragglers()
        for event in self.events or ():
            _check_event(event)
        self._check_delay()

    def delayed_workers(self) -> int | None:
        """How many workers the delay pattern needs, or None without one."""
        if self.delay is None:
            return None
        updates = self.delay["updates"]
        return 2 * updates + 1 if self.delay["pattern"] == "minibatch" else updates + 1

    @property
    def time_passes(self) -> bool:
        """Steps, messages or service take time."""
        latencies = self.latency_seconds if isinstance(self.latency_seconds, list) else [self.latency_seconds]
        times = [self.step_seconds, self.service_seconds, self.pull_seconds, self.handoff_seconds, *latencies]
        return self.bandwidth is not None or any(build_distribution("", time).mean > 0 for time in times)

    def _check_time(self, name: str) -> None:
        distribution = build_distribution(f"[simulation] {name}", getattr(self, name))
        if name in _CRASHES and distribution.mean == 0:
            raise JobError(
                f"[simulation] {name} must be > 0 on average, got {getattr(self, name)!r}; leave it out for no crashes"
            )

    def _check_speeds(self) -> None:
        if self.speeds is not None and (not self.speeds or min(self.speeds) <= 0):
            raise JobError(f"[simulation] speeds must be numbers > 0, at least one, got {self.speeds!r}")

    def _check_links(self) -> None:
        latencies = self.latency_seconds if isinstance(self.latency_seconds, list) else [self.latency_seconds]
        bandwidths = self.bandwidth if isinstance(self.bandwidth, list) else [self.bandwidth or 1.0]
        if not latencies or not bandwidths:
            raise JobError("[simulation] latency_seconds and bandwidth must not be empty lists")
        for latency in latencies:
            build_distribution("[simulation] latency_seconds", latency)
        for bandwidth in bandwidths:
            if not isinstance(bandwidth, (int, float)) or isinstance(bandwidth, bool) or not bandwidth > 0:
                raise JobError(f"[simulation] bandwidth must be > 0 bytes per second, got {bandwidth!r}")
        if not isinstance(self.bandwidth, list) and self.bandwidth == 0:
            raise JobError("[simulation] bandwidth must be > 0 bytes per second, got 0; leave it out for no limit")

    def _check_stragglers(self) -> None:
        if self.stragglers is None:
            return
        check_keys("simulation.stragglers", self.stragglers, ("probability", "slowdown"))
        table = {"probability": 0.01, "slowdown": 10.0, **self.stragglers}
        for name, value in table.items():
            table[name] = check_type("simulation.stragglers", name, value, float)
        if not 0 <= table["probability"] <= 1:
            raise JobError(f"[simulation.stragglers] probability must be >= 0 and <= 1, got {table['probability']!r}")
        if table["slowdown"] < 1:
            raise JobError(f"[simulation.stragglers] slowdown must be >= 1, got {table['slowdown']!r}")
        object.__setattr__(self, "stragglers", table)

    def _check_delay(self) -> None:
        if self.delay is None:
            return
        check_keys("simulation.delay", self.delay, ("pattern", "updates"))
        pattern = self.delay.get("pattern", "constant")
        if pattern not in DELAYS:
            raise JobError(
                f"[simulation.delay] pattern must be one of {', '.join(map(repr, DELAYS))}, got {pattern!r}"
                f"{meant(pattern, DELAYS)}"
            )
        updates = check_type("simulation.delay", "updates", self.delay.get("updates"), int, 3000)
        if updates < 0:
            raise JobError(f"[simulation.delay] updates must be >= 0, got {updates}")
        object.__setattr__(self, "delay", {"pattern": pattern, "updates": updates})
        refused = [name for name in _NOT_DELAYED if getattr(self, name)]
        if refused:
            raise JobError(
                f"[simulation] delay gives the order of operations, not times: take out {', '.join(refused)}"
            )


def check_against(simulation: SimulationSection, workers: int, shards: int) -> None:
    """Refuse events about workers or shards that the job does not have."""
    for event in simulation.events or ():
        for kind in EVENTS:
            known = shards if kind == "crash_shards" else workers
            for index in event.get(kind, ()):
                if index >= known:
                    what = plural(known, "shard" if kind == "crash_shards" else "worker")
                    raise JobError(
                        f"[simulation] events: {kind} {index}, but the job has {what}, counted from 0; run it without events by "
                        "--set simulation.events=[]"
                    )


def defaults() -> dict[str, Any]:
    """The keys with their defaults."""
    return {entry.name: entry.default for entry in fields(SimulationSection)}


def _check_event(event: Any) -> None:
    example = "{ at = 20.0, leave = [0, 1] }"
    if not isinstance(event, Mapping) or "at" not in event:
        raise JobError(f"[simulation] events: each must be a table with its time, e.g. {example}, got {event!r}")
    check_keys("simulation.events", event, ("at", *EVENTS))
    at = check_type("simulation.events", "at", event["at"], float, 20.0)
    if at < 0:
        raise JobError(f"[simulation.events] at must be >= 0 virtual seconds, got {at!r}")
    if not any(kind in event for kind in EVENTS):
        raise JobError(
            f"[simulation.events] at = {at:g}: nothing happens; add one of {', '.join(EVENTS)}, e.g. {example}"
        )
    for kind in EVENTS:
        for index in check_type("simulation.events", kind, event.get(kind, []), list[int], [0]):
            if index < 0:
                raise JobError(f"[simulation.events] {kind}: numbers are counted from 0, got {index}")
