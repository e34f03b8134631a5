"""The process that asks Ray: a request on standard input (JSON), answers on standard output (JSON, one a line) as they come.

Request: {"address": "10.0.0.4:6379", "probe": whether to look at every node too, "job": its tables, "bundle": its files}.
Answers: {"stage": "cluster", "ray", "python", "nodes"}, then {"stage": "nodes", "nodes"}; or {"stage": "error", "type", "error"}.
Its own module and process, as Ray may wait for ever, print, or end the process that it is in.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deploy.cluster.reach import UNKNOWN

NODE_S = 90.0  # until a node has started a process of Python that has imported hogshead
ANSWER_S = 30.0  # of a process that is there
CLOCK_READINGS = 5
REACH_S = 3.0
MOST_PEERS = 32  # each node tries so many others


def main() -> int:
    """Answer the request."""
    say = _own_output()
    request = json.load(sys.stdin)
    try:
        answer = ask_cluster(request["address"])
        say({"stage": "cluster", **answer})
        if request.get("probe"):
            say({"stage": "nodes", "nodes": ask_nodes(request)})
    except Exception as error:
        say({"stage": "error", "type": type(error).__name__, "error": str(error)})
        return 1
    return 0


def ask_cluster(address: str) -> dict[str, Any]:
    """Versions and living nodes, from the head alone."""
    from ray._raylet import GcsClient

    client = GcsClient(address=address)
    versions = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster") or b"{}")
    nodes = [node for node in client.get_all_node_info(timeout=30).values() if node.state == 0]
    return {
        "ray": versions.get("ray_version", UNKNOWN),
        "python": versions.get("python_version", UNKNOWN),
        "nodes": [
            {"id": node.node_id.hex(), "address": node.node_manager_address, "name": node.node_manager_hostname}
            for node in nodes
        ],
    }


def ask_nodes(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a probe finds on each node: facts, clock, whom it can reach, what it says of the job."""
    import ray

    from deploy.cluster import probe

    # By value: a node need not have this module.
    ray.cloudpickle.register_pickle_by_value(probe)
    ray.init(address=request["address"], namespace="hogshead-doctor", log_to_driver=False, configure_logging=False)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        free = ray._private.state.available_resources_per_node()
        probes = [_probe_on(node["NodeID"], probe.NodeProbe) for node in nodes]
        found = [
            {
                "id": node["NodeID"],
                "address": node["NodeManagerAddress"],
                "name": node["NodeManagerHostname"],
                "resources": node["Resources"],
                "free": free.get(node["NodeID"], {}),
            }
            for node in nodes
        ]
        _collect(found, "facts", [actor.facts.remote() for actor in probes])
        here = [(entry, actor) for entry, actor in zip(found, probes) if entry["facts"] is not None]
        for entry, actor in here:
            with _reported(entry):
                entry["clock"] = measure_skew(lambda actor=actor: ray.get(actor.clock.remote(), timeout=ANSWER_S))
        _reach(here)
        if request.get("job"):
            bundle = {**request["bundle"], "data": base64.b64decode(request["bundle"]["data"])}
            able = [(entry, actor) for entry, actor in here if "error" not in entry["facts"]["hogshead"]]
            _collect(
                [entry for entry, _ in able], "job", [actor.job.remote(request["job"], bundle) for _, actor in able]
            )
        return found
    finally:
        ray.shutdown()


def measure_skew(read: Callable[[], float], now: Callable[[], float] = time.time) -> dict[str, float]:
    """By how many seconds a remote clock is ahead of ours, and how sure that is: from the reading that took the least time."""
    readings = []
    for _ in range(CLOCK_READINGS):
        before = now()
        remote = read()
        after = now()
        readings.append((after - before, remote - (before + after) / 2))
    took, ahead = min(readings)
    return {"ahead": ahead, "within": took / 2}


def _probe_on(node: str, probe: type) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.remote(probe).options(num_cpus=0, scheduling_strategy=there).remote()


def _collect(entries: Sequence[dict[str, Any]], name: str, calls: Sequence[Any]) -> None:
    """Put each call's result into its node's entry; None, and the error beside it, where there is none in time."""
    import ray

    ray.wait(list(calls), num_returns=len(calls), timeout=NODE_S)
    for entry, call in zip(entries, calls):
        entry[name] = None
        with _reported(entry):
            entry[name] = ray.get(call, timeout=0)


def _reach(here: Sequence[tuple[dict[str, Any], Any]]) -> None:
    """Have the nodes connect to each other's ports."""
    import ray

    listening = []
    for entry, actor in here:
        with _reported(entry):
            listening.append([entry["address"], ray.get(actor.listen.remote(entry["address"]), timeout=ANSWER_S)])
    calls = []
    for index, (_, actor) in enumerate(here):
        others = (listening[index + 1 :] + listening[:index])[:MOST_PEERS]
        calls.append(actor.reach.remote(others, REACH_S))
    _collect([entry for entry, _ in here], "unreachable", calls)


@contextlib.contextmanager
def _reported(entry: dict[str, Any]):
    """Write a node's error into its entry and go on with the next."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        entry.setdefault("error", f"{type(error).__name__}: {lines[-1] if lines else ''}"[:400])


def _own_output() -> Callable[[Mapping[str, Any]], None]:
    """Keep standard output for the answers: what else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Mapping[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    return say


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # Ray's threads may still be at something
