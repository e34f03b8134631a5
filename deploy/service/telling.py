"""A job as it is told to a client."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from deploy.service.folder import JobFolder
from deploy.service.reading import open_inside
from deploy.service.scheduler import order
from deploy.service.states import State
from deploy.service.store import JobRecord
from deploy.wire import jobs_pb2 as pb

_MOST_BYTES = 256 << 10  # of a record or a summary that is told
_BACK_BYTES = 4 << 20  # looked through for the newest records
_KEPT, _REMEMBERED_BYTES = 1000, 64 << 10  # jobs whose newest records are remembered, if these are no larger
_KINDS = {b'"progress"': "progress", b'"evaluation"': "evaluation"}


def state_of(state: State) -> int:
    """A state as it goes over the wire."""
    return pb.State.Value(state.name)


def demand_of(what: object) -> pb.Demand:
    """The demand of what has ``cpus``, ``gpus`` and ``memory_bytes``."""
    return pb.Demand(cpus=what.cpus, gpus=what.gpus, memory_bytes=what.memory_bytes)


def queue_of(jobs: Sequence[JobRecord]) -> dict[str, int]:
    """The places of those that wait, from 1."""
    return {job.id: place for place, job in enumerate(order(jobs), 1)}


class Teller:
    """Args:
    jobs: folder of the jobs' folders.
    """

    def __init__(self, jobs: Path):
        self._jobs = Path(jobs)
        self._newest: OrderedDict[str, _Newest] = OrderedDict()
        self._lock = Lock()

    def job(self, record: JobRecord, queue: Mapping[str, int]) -> pb.Job:
        """A job as it is told; ``queue`` has its place if it waits."""
        newest = self._newest_of(record.id)
        return pb.Job(
            id=record.id,
            name=record.name,
            state=state_of(record.state),
            reason=record.reason,
            submitted_at=record.submitted_at,
            started_at=record.started_at or 0.0,
            ended_at=record.ended_at or 0.0,
            priority=record.priority,
            attempt=record.attempt,
            demand=demand_of(record),
            on_loss=record.on_loss,
            strategy=record.strategy,
            task=record.task,
            latest_progress=newest.lines.get("progress", ""),
            latest_evaluation=newest.lines.get("evaluation", ""),
            summary=self._summary(record.id),
            queue_position=queue.get(record.id, 0),
        )

    def open(self, job: str, *parts: str) -> BinaryIO:
        """A file of a job's folder; FileNotFoundError while it is not there."""
        return open_inside(JobFolder(self._jobs, job).path, parts)

    def _summary(self, job: str) -> str:
        try:
            with self.open(job, "run", "summary.json") as file:
                content = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return ""
        return content.decode("utf-8", "replace") if len(content) <= _MOST_BYTES else ""

    def _newest_of(self, job: str) -> _Newest:
        with self._lock:
            before = self._newest.pop(job, None)
        try:
            with self.open(job, "run", "metrics.jsonl") as file:
                newest = _newest(file, before)
        except FileNotFoundError:
            newest = _Newest((0, 0, 0), {})
        if sum(map(len, newest.lines.values())) > _REMEMBERED_BYTES:
            return newest
        with self._lock:
            self._newest[job] = newest
            while len(self._newest) > _KEPT:
                self._newest.popitem(last=False)
        return newest


@dataclass(frozen=True)
class _Newest:
    """The newest line of each kind, and what file they were found in: inode, size and time of change."""

    facts: tuple[int, int, int]
    lines: dict[str, str]


def _newest(file: BinaryIO, before: _Newest | None) -> _Newest:
    status = os.fstat(file.fileno())
    facts = (status.st_ino, status.st_size, status.st_mtime_ns)
    if before is not None and before.facts == facts:
        return before
    grown = before is not None and before.facts[0] == facts[0] and before.facts[1] <= facts[1]
    lines = _last_lines(file, facts[1])
    return _Newest(facts, {**before.lines, **lines} if grown else lines)


def _last_lines(file: BinaryIO, size: int) -> dict[str, str]:
    """The last line of each kind near the end; block by block, so that little is read of a file in use."""
    found: dict[str, str] = {}
    at, behind = size, b""
    while at > max(0, size - _BACK_BYTES) and len(found) < len(_KINDS):
        start = max(0, at - (64 << 10))
        file.seek(start)
        lines = (file.read(at - start) + behind).split(b"\n")
        behind, at = lines[0], start
        for line in reversed(lines[0 if start == 0 else 1 :]):
            _take(line, found)
    return found


def _take(line: bytes, found: dict[str, str]) -> None:
    head = line[:40]  # {"kind": "progress", …
    for mark, kind in _KINDS.items():
        if kind not in found and mark in head and len(line) <= _MOST_BYTES and line.endswith(b"}"):
            found[kind] = line.decode("utf-8", "replace")
