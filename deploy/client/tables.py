"""Jobs and the cluster as a person reads them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence

from deploy.client.status import ClusterStatus, Demand, JobStatus
from deploy.service.states import State
from deploy.words import clock, number, plural, si

_WAITS = (State.QUEUED, State.STARTING)


def job_lines(jobs: Sequence[JobStatus], now: float | None = None, width: int | None = None) -> list[str]:
    """One line per job: id, state, how far, how long, and the reason or the newest metric."""
    now = time.time() if now is None else now
    rows = [("JOB", "STATE", "EPOCH", "TIME", "")]
    rows += [(job.id, _state(job), _epoch(job), _time(job, now), _news(job)) for job in jobs]
    return _columns(rows, width)


def status_lines(job: JobStatus, now: float | None = None) -> list[str]:
    """All about one job, a line each."""
    now = time.time() if now is None else now
    facts = [
        (job.id, _state_and_reason(job)),
        ("trains", " on ".join(part for part in (job.strategy, job.task) if part)),
        ("takes", demand_text(job.demand)),
        ("submitted", _moment(job.submitted_at, now)),
        ("started", _moment(job.started_at, now)),
        ("ended", _moment(job.ended_at, now)),
        ("priority", str(job.priority) if job.priority else ""),
        ("attempts", str(job.attempt) if job.attempt > 1 else ""),
        ("if lost", "fails" if job.on_loss == "fail" else ""),
        ("progress", _progress(job)),
        ("metrics", _metrics(job)),
    ]
    return [f"{name:{max(9, len(job.id))}}  {text}" for name, text in facts if text]


def cluster_lines(cluster: ClusterStatus) -> list[str]:
    """The nodes, and what is taken of them."""
    if not cluster.reachable:
        return [f"the service has no cluster: {cluster.reason}"]
    rows = [("NODE", "ADDRESS", "CPUS", "GPUS", "MEMORY", "")]
    for node in cluster.nodes:
        total = node.total
        rows.append(
            (node.id[:12], node.address, f"{total.cpus:g}", f"{total.gpus:g}", _memory(total), "head" * node.head)
        )
    total, taken = cluster.total, cluster.taken
    rows.append(
        ("in all", plural(len(cluster.nodes), "node"), f"{total.cpus:g}", f"{total.gpus:g}", _memory(total), "")
    )
    rows.append(("taken", "", f"{taken.cpus:g}", f"{taken.gpus:g}", _memory(taken), "by jobs of this service"))
    return _columns(rows, None)


def demand_text(demand: Demand) -> str:
    """``2.2 CPUs, 1 GPU, 1.5 GB``."""
    parts = [f"{demand.cpus:g} CPU{'' if demand.cpus == 1 else 's'}"]
    parts += [f"{demand.gpus:g} GPU{'' if demand.gpus == 1 else 's'}"] if demand.gpus else []
    parts += [_memory(demand)] if demand.memory_bytes else []
    return ", ".join(parts)


def _state(job: JobStatus) -> str:
    return f"{job.state} ({job.queue_position})" if job.queue_position else str(job.state)


def _state_and_reason(job: JobStatus) -> str:
    reason = job.reason.removeprefix(f"{job.state} ")  # "stopped after 3 epochs"
    return f"{_state(job)}: {reason}" if reason else _state(job)


def _epoch(job: JobStatus) -> str:
    record = job.progress or job.evaluation or {}
    if job.state == State.SUCCEEDED and job.summary and job.summary.get("epochs") is not None:
        record = {"epoch": job.summary["epochs"]}
    epoch = record.get("epoch")
    return f"{epoch:.4g}" if isinstance(epoch, (int, float)) else ""


def _time(job: JobStatus, now: float) -> str:
    if job.started_at is None:
        return clock(max(0.0, now - job.submitted_at)) if job.submitted_at and not job.ended else ""
    return clock(max(0.0, (job.ended_at or now) - job.started_at))


def _news(job: JobStatus) -> str:
    return job.reason if job.reason and (job.state != State.SUCCEEDED or not _metrics(job)) else _metrics(job)


def _metrics(job: JobStatus) -> str:
    values = (job.summary or {}).get("evaluation") or (job.evaluation or {}).get("evaluation")
    found = (
        [f"{name} {number(value)}" for name, value in values.items() if _is_number(value)]
        if isinstance(values, dict)
        else []
    )
    loss = (job.progress or {}).get("loss")
    return "  ".join(found or ([f"loss {number(loss)}"] if _is_number(loss) else []))


def _progress(job: JobStatus) -> str:
    record = job.progress
    if record is None or job.ended:
        return ""
    parts = [f"epoch {record['epoch']:.2f}"] if _is_number(record.get("epoch")) else []
    parts += [f"loss {number(record['loss'])}"] if _is_number(record.get("loss")) else []
    rate = record.get("examples_per_second")
    parts += [f"{si(rate)} examples/s"] if _is_number(rate) else []
    return "  ".join(parts)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _moment(when: float | None, now: float) -> str:
    if when is None:
        return ""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when))} ({clock(max(0.0, now - when))} ago)"


def _memory(demand: Demand) -> str:
    return f"{demand.memory_bytes / 1e9:.3g} GB" if demand.memory_bytes else ""


def _columns(rows: Sequence[tuple[str, ...]], width: int | None) -> list[str]:
    """Aligned; the last column is cut at the terminal's width."""
    width = width or shutil.get_terminal_size((160, 24)).columns
    sizes = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        line = "  ".join([*(f"{text:{size}}" for text, size in zip(row, sizes)), row[-1]]).rstrip()
        lines.append(line if len(line) <= width else line[: max(20, width - 1)] + "…")
    return lines
