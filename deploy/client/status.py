"""What the service says about a job, a node and the cluster, as plain values."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from deploy.service.states import ENDED, State
from deploy.wire import jobs_pb2 as pb


@dataclass(frozen=True)
class Demand:
    """What a job takes, or a node has: CPUs, GPUs and bytes of memory; 0 bytes: not said."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class JobStatus:
    """A job at the service.

    Attributes:
      id: ``digits_easgd-3``.
      state: ``deploy.service.states.State``, which is also a string.
      reason: one line: why it failed, why it waits, or how it ended.
      submitted_at, started_at, ended_at: seconds since the epoch (UTC); None: not yet.
      attempt: how often its driver was started.
      on_loss: ``"resume"`` or ``"fail"``: what becomes of it when it is lost with the cluster.
      queue_position: 1 is next; None: it does not wait.
      progress, evaluation: the newest such record of ``metrics.jsonl``; None before the first.
      summary: ``summary.json``, once there is one.
    """

    id: str
    name: str
    state: State
    reason: str
    submitted_at: float | None
    started_at: float | None
    ended_at: float | None
    priority: int
    attempt: int
    demand: Demand
    on_loss: str
    strategy: str
    task: str
    queue_position: int | None
    progress: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    summary: dict[str, Any] | None

    @property
    def ended(self) -> bool:
        """Succeeded, failed or stopped."""
        return self.state in ENDED

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {**asdict(self), "state": str(self.state)}


@dataclass(frozen=True)
class NodeStatus:
    """A machine of the cluster; ``id`` is Ray's."""

    id: str
    address: str
    head: bool
    total: Demand


@dataclass(frozen=True)
class ClusterStatus:
    """What the cluster has, and what the service's jobs take of it.

    Attributes:
      reachable: Ray answers the service; else ``reason`` says why not.
      version: of Hogshead at the service.
    """

    reachable: bool
    reason: str
    nodes: tuple[NodeStatus, ...]
    total: Demand
    taken: Demand
    version: str

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class Update:
    """One piece of what ``watch`` gives.

    Attributes:
      job: if its state or reason has changed, and at first.
      records: of ``metrics.jsonl``, parsed.
      anew: the records begin anew, as a run went back to its checkpoint: forget those before.
      position: to go on from, behind these records.
    """

    job: JobStatus | None
    records: tuple[dict[str, Any], ...]
    anew: bool
    position: str


def job_status(message: pb.Job) -> JobStatus:
    """From the wire."""
    return JobStatus(
        id=message.id,
        name=message.name,
        state=state_of(message.state),
        reason=one_line(message.reason),
        submitted_at=message.submitted_at or None,
        started_at=message.started_at or None,
        ended_at=message.ended_at or None,
        priority=message.priority,
        attempt=message.attempt,
        demand=_demand(message.demand),
        on_loss=message.on_loss,
        strategy=one_line(message.strategy),
        task=one_line(message.task),
        queue_position=message.queue_position or None,
        progress=parsed(message.latest_progress),
        evaluation=parsed(message.latest_evaluation),
        summary=parsed(message.summary),
    )


def cluster_status(message: pb.ClusterReply) -> ClusterStatus:
    """From the wire."""
    nodes = (NodeStatus(node.id, one_line(node.address), node.head, _demand(node.total)) for node in message.nodes)
    total, taken = _demand(message.total), _demand(message.taken)
    return ClusterStatus(message.reachable, one_line(message.reason), tuple(nodes), total, taken, message.version)


def update(message: pb.WatchReply) -> Update:
    """From the wire; lines that are no JSON objects are left out."""
    records = tuple(record for line in message.records if (record := parsed(line)) is not None)
    job = job_status(message.job) if message.HasField("job") else None
    return Update(job, records, message.anew, message.position)


def state_of(value: int) -> State:
    """The state of a number on the wire; a newer service's unknown one counts as at work."""
    try:
        return State(pb.State.Name(value).lower())
    except ValueError:
        return State.RUNNING


def state_number(state: State) -> int:
    """Its number on the wire."""
    return pb.State.Value(state.name)


def parsed(text: str) -> dict[str, Any] | None:
    """A JSON object; None for nothing, or anything else."""
    try:
        value = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def one_line(text: str) -> str:
    """Without what could move a terminal's cursor: reasons hold what users' code has said."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def _demand(message: pb.Demand) -> Demand:
    return Demand(message.cpus, message.gpus, message.memory_bytes)
