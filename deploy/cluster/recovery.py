"""How a coordinator goes on where another was killed: the actors have gone on without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploy.cluster.endpoints import to_json
from deploy.cluster.ready import beside, grouped

if TYPE_CHECKING:
    from deploy.cluster.conduct import Cluster


def journaled(cluster: Cluster) -> dict[str, Any]:
    """What must be known again, as plain values."""
    return {
        "coordinator": cluster.coordinator.state({}),
        "counted": cluster.tally.state(),
        "incarnations": cluster.incarnations,
        "deaths": cluster.deaths,
        "shards_replaced": cluster.shards_replaced,
        "seen": cluster.shards.seen,
        "lost": cluster.shards.lost,
        "seconds": cluster._seconds(),
        "groups": cluster.groups.state(),
        "begun": cluster.begun,
        "waited_for": sorted(cluster.waited_for),
        "places": {str(index): to_json(place) for index, place in cluster.shards.places.items()},
        "finished": _end(cluster),
    }


def _end(cluster: Cluster) -> dict[str, Any] | None:
    """That the training is over and why, unless it failed: that happens again, or does not."""
    finished = cluster.coordinator.finished
    if finished is None or cluster.failure is not None:
        return None
    return {"reason": finished.reason, "at_once": finished.at_once, "interrupted": cluster.interrupted}


def recover(cluster: Cluster, known: Mapping[str, Any]) -> None:
    """Take over what ``journaled`` gave, and the actors that live.

    What the journal says replicas hold is theirs again if they still have it at hand; what they finished lately is done, for the
    one that was killed may have been told and not have written it down; the rest is handed out again.
    """
    cluster._effects.extend(cluster.coordinator.restore(known["coordinator"]))
    cluster.tally.restore(known["counted"])
    cluster.incarnations = list(known["incarnations"])
    cluster.deaths, cluster.shards_replaced = known["deaths"], known["shards_replaced"]
    cluster.shards.seen, cluster.shards.lost = list(known["seen"]), known["lost"]
    cluster._earlier_seconds = known["seconds"]
    cluster._examples_before = sum(map(cluster.setup.order.size, range(cluster.coordinator.ended)))
    cluster.begun, cluster.waited_for = known["begun"], set(known["waited_for"])
    cluster.shards.adopt(known["places"])
    cluster.groups.restore(known["groups"])
    if beside(cluster.setup) and cluster.shards.places:
        cluster.crew.node = cluster.shards.places[0].node
    cluster.publish()
    end = known["finished"]
    if end is not None:  # replicas that have stopped do not begin again
        cluster.coordinator.finish(end["reason"], end["at_once"])
        cluster.interrupted = end["interrupted"]
    _adopt(cluster)
    cluster._event("coordinator_replaced", "the coordinator was replaced; the replicas have gone on")


def _adopt(cluster: Cluster) -> None:
    """Find the replicas; only when all that live have what they hold is anything handed out."""
    begun = {replica: incarnation for replica, incarnation in enumerate(cluster.incarnations) if incarnation}
    found = cluster.crew.adopt(begun)
    joined = {replica: held for replica, held in found.items() if held is not None and held["joined"]}
    coordinator, effects = cluster.coordinator, cluster._effects
    if not cluster.begun:  # nothing was handed out yet: they arrive once more
        for replica in joined:
            cluster.crew.events.put((replica, {"kind": "joined"}))
        joined = {}
    effects.extend(coordinator.found({r: [*held["queue"], *held["lately"]] for r, held in joined.items()}))
    cluster.waited_for |= {replica for replica, member in enumerate(coordinator.members) if member.counted}
    for replica in range(cluster.job.workers.fewest, cluster.job.workers.count):
        if replica not in joined:
            effects.extend(coordinator.left(replica))
    for replica, held in joined.items():
        for finished in held["lately"]:
            effects.extend(coordinator.done(replica, finished))
    for replica, held in found.items():
        if held is None:
            cluster.tally.retire(replica)
            effects.extend(coordinator.died(replica))
    if grouped(cluster.setup):  # one may have been asked for and not begun
        for node in {held["node"] for held in found.values() if held is not None and "node" in held}:
            cluster.groups.want(node)
    if cluster.shards.places or not beside(cluster.setup):  # otherwise they are started once it is known where
        for replica in range(cluster.job.workers.count):
            if replica not in begun:
                cluster._start_worker(replica)
