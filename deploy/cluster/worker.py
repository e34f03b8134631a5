"""A worker of the cluster: the loop of a replica whose messages come and go through its actor."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from deploy.blueprint import Blueprint
from deploy.cluster.clocks import FollowingClocks
from deploy.cluster.departure import Rest
from deploy.worker_loop import WorkerLoop, new_replica
from ps.transport.sharded import ShardedLink
from worker.driver import Driver, Work
from worker.effects import Range
from worker.gate import Gate
from worker.locking import Locking
from worker.order import RecentOrders
from worker.statistics import COUNTERS, SUMS, Statistics

_REMEMBERED = 64  # ranges finished lately, more than a replica ever holds


class ClusterWorker(WorkerLoop):
    """One replica around shards that may be anywhere.

    Args:
      setup: the job made ready.
      replica, incarnation: who this is.
      link: to the shards, or to the group of this node.
      locking: of sweeps.
      say: takes what is to be told to the coordinator, in order.
    """

    def __init__(
        self,
        setup: Blueprint,
        replica: int,
        incarnation: int,
        link: ShardedLink,
        locking: Locking,
        say: Callable[[dict[str, Any]], None],
    ):
        super().__init__()
        self.setup, self.link, self._say = setup, link, say
        self.inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.replica = new_replica(setup, replica, incarnation)
        self.statistics = Statistics.private()
        self.at_hand = (-1, 0)
        self.rest = Rest()
        self.lately: deque[int] = deque(maxlen=_REMEMBERED)
        self._orders = RecentOrders(setup.order)
        self._mapped = link.ports[0].mapped if setup.sweeps else None  # where the locks of sweeps lie
        clocks = FollowingClocks(link.ports[0], replica) if setup.policy.clocked else None
        self.driver = Driver(
            self.replica,
            setup.strategy,
            setup.task,
            setup.dataset,
            link,
            setup.rule,
            self.statistics,
            setup.driver_options(),
            locking,
            gate=Gate(setup.policy, clocks, replica),
        )

    def send(self, kind: str, **fields: Any) -> None:
        self._say({"kind": kind, **fields})

    def receive(self) -> dict[str, Any]:
        return self.inbox.get() if self.queue else self.rest.while_idle(self.inbox.get)

    def has_mail(self) -> bool:
        return not self.inbox.empty()

    def look(self) -> None:
        """Take messages in the middle of a step, while a shard is waited for."""
        super().between_steps()

    def between_steps(self) -> None:
        if self.queue:
            self.at_hand = (self.queue[0].id, self.queue[0].position)
        if self.setup.sweeps:
            self._follow_locks()
        self.rest.between_steps(self.driver.settle)
        super().between_steps()

    def _follow_locks(self) -> None:
        """The center was replaced, and with it the locks beside it that all who step it go by."""
        mapped = self.link.ports[0].mapped
        if mapped is not None and mapped is not self._mapped:
            self._mapped = mapped
            self.driver.locking = self.setup.locking_in(mapped.arrays, self.replica.id)

    def finished_range(self, work: Work) -> None:
        self.driver.settle()  # done is what has been applied
        self.lately.append(work.id)
        super().finished_range(work)

    def examples_of(self, part: Range) -> np.ndarray:
        return np.array(self._orders.of(part.epoch)[part.start : part.stop])

    def counters(self) -> dict[str, Any]:
        """What has been counted so far, as plain values."""
        statistics, histogram = self.statistics, self.statistics.histogram
        used = np.flatnonzero(histogram)
        return {
            "counters": [getattr(statistics, name) for name in COUNTERS],
            "sums": [getattr(statistics, name) for name in SUMS],
            "staleness": [used.tolist(), histogram[used].tolist()],
            "seen_versions": list(self.link.seen),
        }

    def handle_more(self, message: dict[str, Any]) -> None:
        if message["kind"] == "stop":  # told again, by a coordinator that was restarted in the meantime
            self.send("finished")

    def held(self) -> dict[str, Any]:
        """Which ranges are at hand, and which were finished lately."""
        return {
            "queue": [work.id for work in list(self.queue)],
            "lately": list(self.lately),
            "at_hand": self.at_hand,
        }
