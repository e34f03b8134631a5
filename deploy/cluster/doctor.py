"""``hogshead doctor --address``: what keeps a cluster from running a job, in words."""

from __future__ import annotations

import base64
import json
import math
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.cluster.diagnosis import Needs, diagnose
from deploy.cluster.findings import Finding
from deploy.cluster.reach import check_reachable, own_versions, parse_address, talk
from deploy.exit_codes import DONE, FAILED
from deploy.job import Job, load_job
from deploy.words import number, plural
from ps.errors import UsageError

PROBE_S = 360.0


@dataclass(frozen=True)
class Examination:
    """What was found out about a cluster.

    Attributes:
      address: of its head.
      cluster: {"ray", "python"} of the head; empty if it was not reached.
      nodes: what each node said, see ``deploy.cluster.asking``.
      findings: what is wrong, the fatal ones first.
    """

    address: str
    cluster: Mapping[str, Any]
    nodes: Sequence[Mapping[str, Any]]
    findings: Sequence[Finding]

    @property
    def healthy(self) -> bool:
        """A job can run."""
        return not any(finding.fatal for finding in self.findings)


def doctor(arguments: Namespace) -> int:
    """Examine a cluster, print the findings, and return the exit code: 1 if a job could not run."""
    job = load_job(arguments.job).with_backend("ray") if arguments.job else None
    address = arguments.address or (job.cluster.address if job else None) or os.environ.get("RAY_ADDRESS")
    if not address:
        raise UsageError(
            "a job is checked against a cluster; give --address HOST:PORT, or [cluster] address in the job"
        )
    found = examine(address, job)
    if arguments.json:
        print(json.dumps(to_json(found)))
    else:
        print("\n".join(lines(found, job)))
    return DONE if found.healthy else FAILED


def examine(address: str, job: Job | None = None) -> Examination:
    """Examine the cluster at ``address``, and whether it can run ``job``.

    Raises:
      UsageError: that is no address, or the job itself is wrong.
    """
    host, port = parse_address(address)
    address = f"{host}:{port}"
    needs, findings = None, []
    if job is not None:
        needs, findings = _needs(job)
    in_the_way, cluster = check_reachable(address)
    findings += in_the_way
    if any(finding.fatal for finding in in_the_way):
        return _examination(address, cluster, [], findings)
    nodes, error = _ask_nodes(address, job, bool(cluster.get("token")))
    if error is not None:
        findings.append(error)
    else:
        findings += diagnose(nodes, {**own_versions(), "hogshead": _own_hogshead()}, needs)
    return _examination(address, cluster, nodes, findings)


def lines(found: Examination, job: Job | None = None) -> list[str]:
    """The examination as a person reads it."""
    told = []
    if found.cluster:
        told.append(f"cluster {found.address}: Ray {found.cluster['ray']}, Python {found.cluster['python']}")
    told += [f"  {_node_line(node)}" for node in found.nodes]
    for finding in found.findings:
        told.append(f"{'problem' if finding.fatal else 'warning'}: {finding.where}: {finding.what}")
        told.append(f"         {finding.remedy}")
    problems = sum(finding.fatal for finding in found.findings)
    warnings = len(found.findings) - problems
    if found.findings:
        counts = [plural(count, word) for count, word in ((problems, "problem"), (warnings, "warning")) if count]
        told.append(", ".join(counts) + ("" if problems else ": a job can run"))
    else:
        told.append(f"nothing is missing{f' for {job.name}' if job else ''}")
    return told


def to_json(found: Examination) -> dict[str, Any]:
    """The examination as plain values."""
    return {
        "address": found.address,
        "healthy": found.healthy,
        "cluster": {key: found.cluster[key] for key in ("ray", "python") if key in found.cluster},
        "nodes": list(found.nodes),
        "findings": [finding.to_json() for finding in found.findings],
    }


def needs_of(job: Job, data_bytes: int, state_bytes: int) -> Needs:
    """What a job needs of a cluster, given how large its data and its shards are."""
    cluster = job.cluster
    return Needs(
        shards=job.shards.count,
        shard_cpus=cluster.shard_cpus,
        replicas=job.workers.fewest,
        replica_cpus=cluster.replica_cpus,
        replica_gpus=cluster.replica_gpus,
        data_bytes=data_bytes,
        state_bytes=state_bytes,
        one_node=cluster.shard_nodes == "pack",
    )


def _needs(job: Job) -> tuple[Needs, list[Finding]]:
    """Sizes are found by building the task here; where its data are only on the nodes, they stay unknown."""
    from deploy.blueprint import draw
    from ps.state import state_specs

    try:
        plan = draw(job)
    except Exception as error:  # the task's own code runs here
        what = f"the task cannot be built here, so the memory that it needs is not known: {error}"
        return needs_of(job, 0, 0), [Finding("task", "this machine", what, "see the message", fatal=False)]
    data = sum(array.nbytes for array in plan.dataset.arrays().values())
    return needs_of(job, data, _size(state_specs(plan.layout, job.shards.count, plan.rule, plan.shard_options))), []


def _size(specs: Mapping[str, tuple[tuple[int, ...], str]]) -> int:
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in specs.values())


def _ask_nodes(address: str, job: Job | None, token: bool) -> tuple[list[dict[str, Any]], Finding | None]:
    """What the nodes said, or why nothing came back; ``token``: they want one."""
    request: dict[str, Any] = {"address": address, "probe": True, "token": token}
    if job is not None:
        from deploy.cluster.bundle import pack

        bundle = pack(job)
        data = base64.b64encode(bundle.data).decode()
        request |= {"job": job.to_dict(), "bundle": {"data": data, "digest": bundle.digest, "base": bundle.base}}
    said = "it gave no answer"
    for answer in talk(request, PROBE_S):
        if answer.get("stage") == "nodes":
            return answer["nodes"], None
        if answer.get("stage") == "error":
            said = f"{answer['type']}: {answer['error']}".splitlines()[0][:400]
        elif answer.get("ended", 0) is None:
            said = f"no answer within {PROBE_S:g} s"
    remedy = "see that Ray runs on this machine too, as a node of that cluster (`ray status`)"
    return [], Finding("not-joined", address, f"its head answers, but joining the cluster failed ({said})", remedy)


def _own_hogshead() -> dict[str, Any]:
    from deploy.cluster.probe import NodeProbe

    return NodeProbe._hogshead()


def _examination(address: str, cluster: Any, nodes: Any, findings: Sequence[Finding]) -> Examination:
    return Examination(address, cluster, nodes, sorted(findings, key=lambda finding: not finding.fatal))


def _node_line(node: Mapping[str, Any]) -> str:
    parts = [node["address"], node["name"], f"{number(node['resources'].get('CPU', 0))} CPUs"]
    parts += [f"{number(gpus)} GPUs"] if (gpus := node["resources"].get("GPU")) else []
    facts = node.get("facts")
    if facts is not None:
        parts.append(f"{facts['shm']['free'] / 1e9:.2f} GB shared memory free")
        hogshead = facts["hogshead"]
        parts.append("no hogshead" if "error" in hogshead else f"hogshead {hogshead['version']}")
    if node.get("clock"):
        parts.append(f"clock {node['clock']['ahead']:+.3f} s")
    return "  ".join(parts)
