"""A Hogwild! group: the replicas of one node around a center of their own, joined with the other nodes by elastic averaging.

Inside the group the replicas step the group's center in place, as Hogwild! does on one machine. The group as a whole is one
replica of EASGD (Zhang, Choromanska, LeCun 2015, Algorithm 1): every ``tau`` examples it exchanges with the center of the run.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import ray

from deploy.cluster.ending import end_with_coordinator
from deploy.cluster.endpoints import Endpoints, to_json
from deploy.cluster.facts import RunFacts, ask, node_id
from deploy.cluster.links import port_to
from deploy.cluster.out_of_memory import be_killed_first
from ps.host import ShardHost, ShardPlan
from ps.segment import sweep
from ps.transport.following import Whereabouts
from ps.transport.sharded import ShardedLink
from worker.locking import Locking

_LOOK_S = 0.005


@ray.remote(concurrency_groups={"control": 1})
class GroupActor:
    """Owns the center of one node's group.

    Args:
      facts: of the run. group: its replica id at the shards.
      inner: the group's own shard, the whole vector. outer: the shards of the run.
      tau: examples between two exchanges. beta: alpha is beta by the number of groups.
    """

    def __init__(
        self,
        facts: RunFacts,
        group: int,
        inner: ShardPlan,
        outer: list[ShardPlan],
        tau: int,
        beta: float,
    ):
        be_killed_first(False)
        end_with_coordinator(facts)
        self._tau, self._beta, self._groups = tau, beta, 1
        self._node = node_id()
        self._endpoints = Endpoints()
        self._endpoints.update(ask(facts, "endpoints"))
        self.host = ShardHost(inner)
        ports = [port_to(plan, facts.cluster(), facts.token, group, self._node, self._endpoints) for plan in outer]
        # An actor that Ray starts again is given the same arguments, and must exchange as a newer incarnation than before.
        incarnation = ask(facts, "group_begins", group)
        self._link = ShardedLink(inner.layout, ports, group, incarnation)
        self._versions = self._link.pull(self.host.shard.center)
        self._held = False
        self._exchanging = threading.Lock()
        self._over = threading.Event()
        threading.Thread(target=self._exchange_often, name="exchange", daemon=True).start()
        self._facts, self._group = facts, group
        self._here = Whereabouts(0, self._node, "", incarnation, self.host.place())
        self.introduce()

    # -- by the coordinator -------------------------------------------------------------------------------------------

    def introduce(self) -> None:
        """Tell the coordinator where this group is."""
        ask(self._facts, "group_serves", self._group, to_json(self._here))

    @ray.method(concurrency_group="control")
    def tell(self, message: dict[str, Any]) -> None:
        """News: where the shards are served, how many groups there are."""
        if message["kind"] == "endpoints":
            self._endpoints.update(message["endpoints"])
        elif message["kind"] == "groups":
            self._groups = message["groups"]

    @ray.method(concurrency_group="control")
    def hold(self, timeout_s: float, still: bool = False) -> dict[str, Any] | None:
        """See ``ReplicaActor.hold``."""
        self._held = self._held or self._link.hold(timeout_s)
        return {"queue": [], "lately": [], "at_hand": (-1, 0)} if self._held else None

    @ray.method(concurrency_group="control")
    def seen_versions(self) -> list[tuple[int, int]]:
        """See ``ReplicaActor.seen_versions``."""
        return list(self._link.seen)

    @ray.method(concurrency_group="control")
    def release(self) -> None:
        """End ``hold``."""
        if self._held:
            self._held = False
            self._link.release()

    def settle(self) -> None:
        """One exchange, now that the replicas rest."""
        self._exchange()

    def release_dead(self, replica: int) -> None:
        """Free the locks of a sweep that a dead replica held."""
        release_dead(self.host, replica)

    def shut_down(self) -> None:
        """Give the shared memory back."""
        self._over.set()
        self.host.close()
        sweep()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _exchange_often(self) -> None:
        last = self.host.shard.version
        while not self._over.wait(_LOOK_S):
            version = self.host.shard.version
            if version - last >= self._tau:
                last = version
                self._exchange()

    def _exchange(self) -> None:
        """The elastic step between the group's center and that of the run; the replicas go on stepping the former."""
        with self._exchanging:
            center = self.host.shard.center
            before = center.copy()
            after = before.copy()
            self._link.exchange(after, self._beta / self._groups, self._versions)
            # Only the difference is put in: what the replicas have done meanwhile stays.
            np.subtract(after, before, out=after)
            np.add(center, after, out=center)


def release_dead(host: ShardHost, replica: int) -> None:
    """Free the locks of a sweep, which lie beside the center, that a dead replica held."""
    if "locking.owners" in host.arrays:
        words = {name: host.arrays[f"locking.{name}"] for name in ("owners", "turn", "order")}
        Locking(**words).release_dead(replica)
