"""Before a node leaves the cluster: ask every run there for a checkpoint; ``python -m deploy.cluster.leave [SECONDS]``.

Runs on a node of the cluster. From the checkpoint until the node has left, nothing changes the center, so shards that were there
come back elsewhere as they were.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace

from deploy.cluster.connection import ClusterError, connected
from deploy.words import plural

DEFAULT_S = 15.0


def leave(timeout_s: float) -> tuple[int, int]:
    """Have all runs of the cluster write a checkpoint now.

    Returns:
      How many did so in time, and how many runs there are.

    Raises:
      ClusterError: there is no cluster at ``RAY_ADDRESS``.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        raise ClusterError("leave needs the address of the cluster's head in RAY_ADDRESS, host:port")
    with connected(SimpleNamespace(cluster=SimpleNamespace(address=address, detach=True))):
        from deploy.cluster.facts import node_id

        return save_all(timeout_s, node_id())


def save_all(timeout_s: float, leaving: str | None = None) -> tuple[int, int]:
    """``leave``, for a driver of the cluster. Where no node is left that trains there is nothing to save any more.

    Args:
      leaving: the node that leaves afterwards; None: none does, and the runs go on at once.
    """
    import ray

    from deploy.cluster.facts import COORDINATOR

    if not any(node["Alive"] and node["Resources"].get("CPU") for node in ray.nodes()):
        return 0, 0
    runs = [
        actor["namespace"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["name"] == COORDINATOR and actor["namespace"].startswith("hogshead-")
    ]
    calls = []
    for run in runs:
        with suppress(ValueError):  # it has just ended
            calls.append(ray.get_actor(COORDINATOR, namespace=run).save.remote(timeout_s, leaving))
    ready, _ = ray.wait(calls, num_returns=len(calls), timeout=timeout_s) if calls else ([], [])
    return sum(_answer(call) for call in ready), len(calls)


def _answer(call: object) -> bool:
    import ray

    try:
        return bool(ray.get(call))
    except ray.exceptions.RayError:  # it is not at work yet, or ends just now
        return False


def main(argv: Sequence[str]) -> int:
    """``python -m deploy.cluster.leave [SECONDS]``; 0 if all runs were saved."""
    try:
        saved, runs = leave(float(argv[0]) if argv else DEFAULT_S)
    except ClusterError as error:
        print(f"hogshead: {error}", file=sys.stderr)
        return 1
    print(f"{saved} of {plural(runs, 'run')} saved", flush=True)
    return 0 if saved == runs else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
