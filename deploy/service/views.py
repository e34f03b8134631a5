"""What the web page is told of the service: jobs, one job, its records, log and files, the cluster; plain values for JSON.

Nothing here changes anything. All of it may be called from several threads.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, BinaryIO, Protocol
from urllib.parse import quote

from deploy.run_directory import versions
from deploy.service.bounds import kept_from
from deploy.service.folder import ID
from deploy.service.glance import Glances, seconds_left, share_done
from deploy.service.reading import SECRET, Listed, list_inside, open_inside
from deploy.service.records import Readers, metrics, parsed
from deploy.service.scheduler import order
from deploy.service.states import AT_WORK, State
from deploy.service.store import JobRecord, Store, UnknownJob
from deploy.service.tickets import Tickets
from ps.errors import HogsheadError, UsageError

MOST_LISTED = 200
LOG_BYTES = 64 << 10  # of a log's end at first
MORE_LOG_BYTES = 256 << 10  # of what comes after that, per answer
SUMMARY_BYTES = 1 << 20
CLUSTER_SECONDS, FIRST_SECONDS = 5.0, 1.0  # between two questions to the cluster; waited for the first answer
_SHOWN_OF_SUMMARY = ("status", "stop_reason", "error", "wall_seconds", "epochs", "examples", "steps", "updates",
                     "examples_per_second", "train_loss", "workers", "shards", "rule", "local_rule", "admission", "seed",
                     "worker_deaths", "shards_replaced", "lost_updates", "skipped_nonfinite", "dropped", "versions")  # fmt: skip


class Cluster(Protocol):
    """What the cluster has; see ``ray_jobs``."""

    def nodes(self) -> Sequence[Any]:
        """Its living nodes; raises HogsheadError while it does not answer."""


class Views:
    """Args:
    store: the jobs. jobs: the folder of their folders. cluster: whom to ask for nodes. tickets: for the addresses of files.
    """

    def __init__(self, store: Store, jobs: Path, cluster: Cluster, tickets: Tickets):
        self._store, self._jobs, self._tickets = store, Path(jobs), tickets
        self._readers = Readers(lambda job: self.open(job, "metrics.jsonl"))
        self._glances = Glances(self.open)
        self._nodes = _Nodes(cluster)
        self._version = versions()["hogshead"]

    def overview(self, states: Sequence[str] = (), before: str = "", limit: int = MOST_LISTED) -> dict[str, Any]:
        """Jobs, the newest first, and the cluster that they share.

        Raises:
          UsageError: no such state, a limit out of its bounds, or a ``before`` that is not what came as ``next``.
        """
        if not 1 <= limit <= MOST_LISTED:
            raise UsageError(f"limit must be in 1..{MOST_LISTED}, got {limit}")
        unknown = [state for state in states if state not in set(State)]
        if unknown:
            raise UsageError(f"state must be one of {', '.join(State)}, got {unknown[0][:40]!r}")
        records, following = self._store.list([State(state) for state in states], limit, before)
        active = self._store.active()
        places = _queue(active)
        return {
            "jobs": [self._row(record, places) for record in records],
            "next": following,
            "active": Counter(str(record.state) for record in active),
            "cluster": self._cluster(active),
        }

    def job(self, job: str) -> dict[str, Any]:
        """All about one job that is not in its records.

        Raises:
          UnknownJob: there is none.
        """
        record = self._record(job)
        summary = self._json(job, "summary.json")
        return {
            **_facts(record, _queue(self._store.active())),
            "on_loss": record.on_loss,
            "most_attempts": record.most_attempts,
            "overrides": list(record.overrides),
            "toml": record.job,
            "summary": {name: summary[name] for name in _SHOWN_OF_SUMMARY if summary.get(name) is not None},
            "evaluation": metrics(summary),
        }

    def records(self, job: str) -> dict[str, Any]:
        """What a run's records show, thinned; see ``RecordReader.view``; and how much of the run is done."""
        state = self._record(job).state
        view = self._readers.of(job).view()
        bounds = self._glances.bounds(job) if state in AT_WORK else {}
        done, left = share_done(bounds, view["latest"]), seconds_left(bounds, view.pop("first"), view["latest"])
        return {**view, "bounds": bounds, "share_done": done, "seconds_left": left}

    def log(self, job: str, offset: int | None) -> dict[str, Any]:
        """What a job printed: its end if ``offset`` is None, else what came after that byte.

        Returns:
          ``text``, ``start`` and ``end`` (bytes of it in the log) and ``size`` of all; ``anew``: ``offset`` lies beyond the end,
          so that the log is another one, or what comes after it was dropped; this is the log's end.
        """
        self._record(job)
        try:
            file = open_inside(self._jobs, (job, "log.txt"))
        except FileNotFoundError:
            return {"text": "", "start": 0, "end": 0, "size": 0, "anew": bool(offset)}
        with file:
            size = os.fstat(file.fileno()).st_size
            anew = offset is not None and not 0 <= offset <= size
            if offset is not None and not anew and kept_from(file.fileno(), offset) > offset:
                anew = True  # what would come next was dropped
            if offset is None or anew:
                start, content = _end_of(file, size)
            else:
                start, content = offset, _read_at(file, offset, MORE_LOG_BYTES)
        content = _whole_characters(content)
        text = content.decode("utf-8", errors="replace")
        return {"text": text, "start": start, "end": start + len(content), "size": size, "anew": anew}

    def files(self, job: str) -> dict[str, Any]:
        """The files of a run directory and of the log, each with an address to open it by."""
        self._record(job)
        run, more = list_inside(self._jobs, (job, "run"))
        shown = [(f"run/{listed.path}", listed) for listed in run if listed.path not in SECRET]
        named = [*shown, *self._log_listed(job)]
        return {
            "files": [
                {
                    "path": listed.path,
                    "size": listed.size,
                    "changed_at": listed.changed_at,
                    "href": f"files/{quote(job)}/{quote(path)}?ticket={self._tickets.issue(job, path)}",
                }
                for path, listed in named
            ],
            "more": more,
        }

    def open(self, job: str, path: str, *, inside: str = "run") -> BinaryIO:
        """A file of a job's run directory (or of another place inside its folder).

        Raises:
          FileNotFoundError: there is none.
        """
        if not ID.fullmatch(job) or path in SECRET:
            raise FileNotFoundError(f"{path[:80]!r} of {job[:80]!r} is not to be had")
        return open_inside(self._jobs, [job, *filter(None, [inside]), *path.split("/")])

    def _row(self, record: JobRecord, places: dict[str, int]) -> dict[str, Any]:
        glance = self._glances.of(record.id)
        done = share_done(glance.get("bounds", {}), glance.get("latest", {})) if record.state in AT_WORK else None
        shown = {name: glance.get(name) for name in ("latest", "evaluation", "curve") if glance.get(name)}
        return {**_facts(record, places), "share_done": done, **shown}

    def _cluster(self, active: Sequence[JobRecord]) -> dict[str, Any]:
        at_work = [record for record in active if record.state in AT_WORK]
        return {
            **self._nodes.now(),
            "taken": {
                name: sum(getattr(record, name) for record in at_work) for name in ("cpus", "gpus", "memory_bytes")
            },
            "version": self._version,
        }

    def _log_listed(self, job: str) -> list[tuple[str, Listed]]:
        try:
            with self.open(job, "log.txt", inside="") as file:
                facts = os.fstat(file.fileno())
                size = facts.st_size - kept_from(file.fileno(), 0)
        except FileNotFoundError:
            return []
        return [("log.txt", Listed("log.txt", size, facts.st_mtime))]

    def _record(self, job: str) -> JobRecord:
        if not ID.fullmatch(job):
            raise UnknownJob(f"{job[:80]!r} is no job's id")
        return self._store.get(job)

    def _json(self, job: str, name: str) -> dict[str, Any]:
        try:
            with self.open(job, name) as file:
                return parsed(file.read(SUMMARY_BYTES)) or {}
        except FileNotFoundError:
            return {}


class _Nodes:
    """The cluster's nodes, asked for once in a while. Nobody waits for long: a cluster that is away answers late."""

    def __init__(self, cluster: Cluster):
        self._cluster, self._lock = cluster, Lock()
        self._known: dict[str, Any] = {"reachable": None, "reason": "", "nodes": []}  # None: nobody knows yet
        self._asked_at = -CLUSTER_SECONDS
        self._answered = Event()
        self._answered.set()

    def now(self) -> dict[str, Any]:
        with self._lock:
            if self._answered.is_set() and time.monotonic() - self._asked_at >= CLUSTER_SECONDS:
                self._answered.clear()
                self._asked_at = time.monotonic()
                Thread(target=self._refresh, name="nodes", daemon=True).start()
        if self._known["reachable"] is None:
            self._answered.wait(FIRST_SECONDS)
        return self._known

    def _refresh(self) -> None:
        try:
            self._known = self._ask()
        finally:
            self._answered.set()

    def _ask(self) -> dict[str, Any]:
        try:
            nodes = self._cluster.nodes()
        except HogsheadError as error:
            return {"reachable": False, "reason": str(error).splitlines()[0][:500], "nodes": []}
        names = ("id", "address", "head", "cpus", "gpus", "memory_bytes")
        return {
            "reachable": True,
            "reason": "",
            "nodes": [{name: getattr(node, name) for name in names} for node in nodes],
        }


def _facts(record: JobRecord, places: dict[str, int]) -> dict[str, Any]:
    """What is shown of a job everywhere; never its client token."""
    names = ("id", "name", "state", "reason", "submitted_at", "started_at", "ended_at", "priority", "attempt", "cpus", "gpus",
             "memory_bytes", "strategy", "task", "wish")  # fmt: skip
    return {name: getattr(record, name) for name in names} | {"queue_position": places.get(record.id, 0)}


def _queue(active: Sequence[JobRecord]) -> dict[str, int]:
    """Places of the jobs that wait, from 1."""
    return {record.id: place for place, record in enumerate(order(active), 1)}


def _read_at(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def _end_of(file: BinaryIO, size: int) -> tuple[int, bytes]:
    """The last lines; the first of them is whole if there is more than one."""
    start = max(0, size - LOG_BYTES)
    content = _read_at(file, start, LOG_BYTES)
    cut = content.find(b"\n") + 1 if start else 0
    return start + cut, content[cut:]


def _whole_characters(content: bytes) -> bytes:
    """Without the beginning of a character whose end is not there yet."""
    for back in range(1, min(3, len(content)) + 1):
        byte = content[-back]
        if byte >= 0xC0:  # begins a character of several bytes
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return content[:-back] if length > back else content
        if byte < 0x80:
            break
    return content
