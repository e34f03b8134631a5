"""From what the nodes of a cluster said to findings. No Ray, no clock, no network: facts in, words out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.cluster.findings import Finding
from deploy.words import number, plural

SKEW_S = 1.0
LEAST_SHM = 128 << 20  # Docker gives 64 MB unless told otherwise
_MANY = 1_000_000  # as many as anybody asks for
Node = Mapping[str, Any]


@dataclass(frozen=True)
class Needs:
    """What a job needs of a cluster.

    Attributes:
      shards, shard_cpus, replicas, replica_cpus, replica_gpus: of the job; as many replicas as it cannot do without.
      data_bytes: of shared memory on each node with replicas. state_bytes: on all nodes with shards together.
      one_node: all shards go to one node.
    """

    shards: int
    shard_cpus: float
    replicas: int
    replica_cpus: float
    replica_gpus: float
    data_bytes: int
    state_bytes: int
    one_node: bool = False

    def bytes_on(self, nodes: int) -> int:
        """Shared memory that a node must have, of so many."""
        places = 1 if self.one_node else max(min(self.shards, nodes), 1)
        return self.data_bytes + -(-self.state_bytes // places)


def diagnose(nodes: Sequence[Node], own: Mapping[str, Any], needs: Needs | None = None) -> list[Finding]:
    """Everything that is not as it should be.

    Args:
      nodes: as ``deploy.cluster.asking.ask_nodes`` gives them.
      own: {"ray", "python", "hogshead": {"version", "digest"}} of the machine that asks.
      needs: of the job, if one is to run.
    """
    findings = []
    for node in nodes:
        findings += judge_answers(node)
        if node.get("facts") is not None:
            findings += judge_versions(node, own)
            findings += judge_memory(node, needs.bytes_on(len(nodes)) if needs else 0)
            findings += judge_job(node)
        findings += judge_clock(node)
        findings += judge_links(node)
    findings += judge_tokens(nodes)
    findings += judge_room(nodes, needs) if needs else []
    return findings


def judge_answers(node: Node) -> list[Finding]:
    """A node that starts no worker, or whose worker failed."""
    if node.get("facts") is None:
        what = f"no process of Ray's starts there ({node.get('error', 'no answer')})"
        remedy = "look at the logs on that node, below /tmp/ray/session_latest/logs"
        return [Finding("no-answer", place(node), what, remedy)]
    if "error" in node:
        what = f"looking at it failed: {node['error']}"
        return [
            Finding("no-answer", place(node), what, "is the node overloaded, or was it lost just now?", fatal=False)
        ]
    return []


def judge_versions(node: Node, own: Mapping[str, Any]) -> list[Finding]:
    """Ray, Python and hogshead must be those of the machine that starts the job."""
    facts, where = node["facts"], place(node)
    findings = [
        Finding(
            f"{part}-version", where, f"it runs {word} {facts[part]}, here is {own[part]}", f"install {own[part]} there"
        )
        for part, word in (("ray", "Ray"), ("python", "Python"))
        if facts[part] != own[part]
    ]
    there, here = facts["hogshead"], own["hogshead"]
    if "error" in there:
        what = f"hogshead cannot be imported there ({there['error']})"
        remedy = (
            f"install it in the environment that Ray was started from: pip install 'hogshead[ray]=={here['version']}'"
        )
        findings.append(Finding("hogshead-missing", where, what, remedy))
    elif there["version"] != here["version"]:
        what = f"it has hogshead {there['version']}, here is {here['version']}"
        findings.append(Finding("hogshead-version", where, what, f"install hogshead {here['version']} there"))
    elif there["digest"] != here["digest"]:
        what = f"its hogshead {there['version']} has other code than the one here ({there['folder']} there)"
        remedy = "install the same one on both, then restart Ray on that node"
        findings.append(Finding("hogshead-version", where, what, remedy, fatal=False))
    return findings


def judge_memory(node: Node, needed: int) -> list[Finding]:
    """Shards and data lie in /dev/shm."""
    memory, where = node["facts"]["shm"], place(node)
    bigger = "enlarge it: mount -o remount,size=… /dev/shm, or for a container --shm-size (Kubernetes: an emptyDir in memory)"
    if not memory["total"] or not memory["writable"]:
        what = "it has no shared memory (/dev/shm is missing or cannot be written)"
        return [Finding("shared-memory", where, what, "mount a tmpfs on /dev/shm")]
    if memory["free"] < needed:
        what = f"the job needs up to {_mb(needed)} of shared memory there, {_mb(memory['free'])} are free in /dev/shm"
        return [Finding("shared-memory", where, what, f"{bigger}; or spread over more shards")]
    if memory["total"] < LEAST_SHM:
        what = f"its shared memory has only {_mb(memory['total'])}"
        return [Finding("shared-memory", where, what, bigger, fatal=False)]
    return []


def judge_clock(node: Node) -> list[Finding]:
    """Times in metrics and the validity of certificates go by each node's clock."""
    clock = node.get("clock")
    if clock is None or abs(clock["ahead"]) - clock["within"] < SKEW_S:
        return []
    way = "ahead of" if clock["ahead"] > 0 else "behind"
    what = f"its clock is {number(abs(clock['ahead']))} s {way} the one here"
    return [Finding("clock", place(node), what, "have both set by NTP (timedatectl set-ntp true)", fatal=False)]


def judge_links(node: Node) -> list[Finding]:
    """Replicas reach shards on ports that the system chooses."""
    failures = node.get("unreachable") or []
    if not failures:
        return []
    whom = ", ".join(f"{address} ({reason})" for address, reason in failures[:4])
    whom += f" and {len(failures) - 4} more" if len(failures) > 4 else ""
    remedy = "let the nodes' firewalls pass TCP between nodes on all ports above 1023"
    return [Finding("link", place(node), f"it cannot connect to shards on {whom}", remedy)]


def judge_job(node: Node) -> list[Finding]:
    """The task, the rules, and data given by path."""
    job, where = node.get("job"), place(node)
    if job is None:
        return []
    findings = []
    if job["error"]:
        what = f"the job cannot be loaded there: {job['error']}"
        remedy = "install what is missing there, or let modules and files of yours travel with [cluster] files"
        findings.append(Finding("task", where, what, remedy))
    for option, path in job["missing"]:
        remedy = "put it there, name it in [cluster] files so that it travels with the job, or give a URL"
        findings.append(Finding("data", where, f"{option} = {path!r} is not there", remedy))
    return findings


def judge_tokens(nodes: Sequence[Node]) -> list[Finding]:
    """A cluster without tokens runs what anybody sends it."""
    if not any(node["facts"]["token"] is False for node in nodes if node.get("facts") is not None):
        return []
    what = "it takes calls without a token: whoever reaches its port can run code there"
    remedy = "restart Ray with RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN on all nodes"
    return [Finding("token-off", "the cluster", what, remedy, fatal=False)]


def judge_room(nodes: Sequence[Node], needs: Needs) -> list[Finding]:
    """Whether the actors of a job fit onto the nodes, at all and now."""
    asked = (
        f"{plural(needs.shards, 'shard')} of {number(needs.shard_cpus)} CPUs and {plural(needs.replicas, 'worker')} of "
        f"{number(needs.replica_cpus)} CPUs"
    )
    asked += f" and {number(needs.replica_gpus)} GPUs" if needs.replica_gpus else ""
    shards, replicas = room([node["resources"] for node in nodes], needs)
    if shards < needs.shards or replicas < needs.replicas:
        cpus = sum(node["resources"].get("CPU", 0) for node in nodes)
        what = f"the job asks for {asked}; on {plural(len(nodes), 'node')} with {number(cpus)} CPUs there is room for "
        what += plural(shards, "shard") + ("" if shards < needs.shards else f" and {plural(replicas, 'worker')}")
        remedy = "add nodes, or lower [workers] count, [cluster] replica_cpus or shard_cpus"
        return [Finding("room", "the cluster", what, remedy)]
    shards, replicas = room([node["free"] for node in nodes], needs)
    if shards < needs.shards or replicas < needs.replicas:
        what = (
            f"the job asks for {asked}, and others use so much that there is room for {plural(replicas, 'worker')} now"
        )
        return [Finding("room", "the cluster", what, "the job's workers will start as others end", fatal=False)]
    return []


def room(nodes: Iterable[Mapping[str, float]], needs: Needs) -> tuple[int, int]:
    """How many shards and then replicas fit onto nodes with these resources, the shards spread (or packed) as Ray does it."""
    nodes = list(nodes)
    cpus = [float(node.get("CPU", 0.0)) for node in nodes]
    shards = [0] * len(nodes)
    at_once = needs.shards if needs.one_node else 1
    while sum(shards) < needs.shards:
        able = [index for index, left in enumerate(cpus) if _times(left, at_once * needs.shard_cpus)]
        if not able:
            break
        best = min(able, key=lambda index: (shards[index], -cpus[index]))
        shards[best] += at_once
        cpus[best] -= at_once * needs.shard_cpus
    replicas = (
        min(_times(left, needs.replica_cpus), _times(node.get("GPU", 0.0), needs.replica_gpus))
        for left, node in zip(cpus, nodes)
    )
    return sum(shards), min(sum(replicas), _MANY)


def place(node: Node) -> str:
    """A node as a person knows it."""
    name = node.get("name")
    return f"node {node['address']}" + (f" ({name})" if name and name != node["address"] else "")


def _times(there: float, each: float) -> int:
    return int((there + 1e-9) // each) if each > 0 else _MANY


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
