"""The actor that owns a shard: its shared memory and its gRPC service.

Ray starts it again when it dies; its constructor then takes the shard's state from the newest checkpoint, as at the first start
it takes the initial values. Both come from the coordinator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import ray

from deploy.cluster.ending import end_with_coordinator
from deploy.cluster.facts import PATIENCE_S, RunFacts, ask, node_address, node_id, tls_of
from deploy.cluster.group_actor import release_dead
from deploy.cluster.memory import watch
from deploy.cluster.out_of_memory import NodeMemory, be_killed_first, node_memory, seen
from ps.errors import MemoryShortage
from ps.host import ShardHost, ShardPlan
from ps.segment import sweep
from ps.transport.following import Whereabouts
from ps.transport.server import ShardServer
from ps.transport.service import ServiceOptions


@ray.remote(concurrency_groups={"look": 2})
class ShardActor:
    """Owns one shard.

    Args:
      facts: of the run. plan: which shard.
    """

    def __init__(self, facts: RunFacts, plan: ShardPlan):
        be_killed_first(False)
        end_with_coordinator(facts, in_group=True)
        state = ask(facts, "shard_state", plan.index, answer_s=PATIENCE_S)
        self.host = ShardHost(plan)
        if "center" in state and len(state) == 1:
            self.host.begin(state["center"])
        else:
            self.host.load(state)
        self.server = ShardServer(
            self.host.shard,
            token=facts.token,
            bind=node_address(),
            tls=tls_of(facts.cluster()),
            options=ServiceOptions(shards=plan.count, peers=lambda: _peers(facts), clocks=self.host.clocks),
        )
        self.server.start()
        self._facts = facts
        self.introduce()
        watch(facts.cluster().shard_memory_mb, f"shard {plan.index}", "shard_memory_mb", self._too_large)

    # -- by the coordinator -------------------------------------------------------------------------------------------

    def introduce(self) -> None:
        """Tell the coordinator where this shard is served."""
        ask(self._facts, "serves", self._whereabouts(), self.host.shard.version)

    def join(self, replica: int) -> None:
        """Count a replica in: synchronous steps and clocks wait for it."""
        self.host.shard.join(replica)
        if self.host.clocks is not None:
            self.host.clocks.join(replica)

    def leave(self, replica: int, epoch: int) -> None:
        """Wait for a replica no more."""
        self.host.shard.leave(replica, epoch)
        if self.host.clocks is not None:
            self.host.clocks.leave(replica)

    def release_dead(self, replica: int) -> None:
        """Free the locks of a sweep that a dead replica held."""
        release_dead(self.host, replica)

    def cut(self) -> None:
        """Copy all that a checkpoint must hold, as of this moment; ``taken`` gives it away."""
        self._cut = self.host.cut()

    @ray.method(concurrency_group="look")
    def taken(self) -> dict[str, np.ndarray]:
        """The last ``cut``."""
        cut, self._cut = self._cut, {}
        return cut

    def _too_large(self, error: MemoryShortage) -> None:
        ask(self._facts, "too_large", str(error))

    def _whereabouts(self) -> Whereabouts:
        """Where it is served, without the generation."""
        index = self.host.plan.index
        return Whereabouts(index, node_id(), self.server.address, 0, self.host.place())

    @ray.method(concurrency_group="look", max_task_retries=-1)
    def vector(self, slot: str | None) -> dict[str, Any]:
        """What is to be evaluated: {"center": (n,), "average": (n,) or None, "version"}, copies."""
        shard = self.host.shard
        with shard.lock:
            average = None if slot is None else shard.slots[slot].copy()
            return {"center": shard.center.copy(), "average": average, "version": shard.version}

    @ray.method(concurrency_group="look")
    def look(self) -> Mapping[str, Any]:
        """Facts for the metrics: version, counts of what went otherwise than planned, and the service's own counters."""
        shard = self.host.shard
        return {
            "version": shard.version,
            "dropped": shard.dropped,
            "counts": shard.counts(),
            "served": self.server.service.counts(),
            "bytes": sum(array.nbytes for array in self.host.arrays.values()),
            "seen": seen(),
        }

    @ray.method(concurrency_group="look")
    def node_memory(self) -> NodeMemory:
        """The memory of this node."""
        return node_memory()

    def shut_down(self) -> None:
        """Serve no more and give the shared memory back."""
        self.server.stop(0.2)
        self.host.close()
        sweep()  # what killed processes of this node have left


def _peers(facts: RunFacts) -> dict[int, str]:
    """Where all shards are served, for whoever asks one of them."""
    return {place["index"]: place["address"] for place in ask(facts, "endpoints", patience_s=1.0)}
