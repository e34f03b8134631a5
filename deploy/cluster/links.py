"""A replica's links: to the shards of the run, mapped on its node and over gRPC elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deploy.blueprint import Blueprint
from deploy.cluster.endpoints import Endpoints
from deploy.cluster.facts import RunFacts, tls_of
from deploy.cluster.ready import beside, grouped
from deploy.cluster.section import ClusterSection
from deploy.cluster.worker import ClusterWorker
from ps.host import ShardPlan
from ps.state import private_arrays
from ps.transport.following import FollowingPort
from ps.transport.retry import Retry
from ps.transport.sharded import ShardedLink


def connect(
    setup: Blueprint,
    facts: RunFacts,
    replica: int,
    incarnation: int,
    node: str,
    endpoints: Endpoints,
    say: Callable[[dict[str, Any]], None],
) -> ClusterWorker:
    """A worker linked to all shards, or to the group of its node; waits until they are served."""
    plans = [inner_plan(setup)] if grouped(setup) else shard_plans(setup)
    ports = [port_to(plan, setup.job.cluster, facts.token, replica, node, endpoints) for plan in plans]
    worker: ClusterWorker | None = None

    def abandoned() -> None:
        if worker is not None:
            worker.look()

    link = ShardedLink(
        setup.layout,
        ports,
        replica,
        incarnation,
        consistent=setup.job.shards.reads == "consistent",
        abandoned=abandoned,
    )
    mapped = ports[0].mapped
    arrays = private_arrays(setup.locking_specs()) if mapped is None or not setup.sweeps else mapped.arrays
    worker = ClusterWorker(setup, replica, incarnation, link, setup.locking_in(arrays, replica), say)
    return worker


def shard_plans(setup: Blueprint) -> list[ShardPlan]:
    """Every shard of a job; the locks of a sweep lie beside the center that it steps."""
    count, more = setup.job.shards.count, setup.locking_specs() if beside(setup) else {}
    return [ShardPlan(index, count, setup.layout, setup.rule, setup.shard_options, more) for index in range(count)]


def inner_plan(setup: Blueprint) -> ShardPlan:
    """The center of a group: the whole vector, and the locks of its sweeps."""
    return ShardPlan(0, 1, setup.layout, setup.rule, setup.shard_options, setup.locking_specs())


def port_to(
    plan: ShardPlan, cluster: ClusterSection, token: str, replica: int | None, node: str, endpoints: Endpoints
) -> FollowingPort:
    """The port to one shard, wherever it goes."""

    def far(plan: ShardPlan) -> Any:
        from ps.transport.remote import RemoteOptions, RemoteShard

        return RemoteShard(
            plan.index,
            plan.layout.shards(plan.count)[plan.index],
            plan.layout,
            lambda: endpoints.current(plan.index).address,
            token=token,
            tls=tls_of(cluster),
            options=RemoteOptions(
                retry=Retry(deadline_s=cluster.deadline_seconds, patience_s=cluster.patience_seconds), replica=replica
            ),
        )

    return FollowingPort(plan, node, endpoints, far)
