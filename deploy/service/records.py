"""A run's ``metrics.jsonl``, read as it grows, and kept as what a page shows of it: thinned lines, newest facts, events."""

from __future__ import annotations

import json
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, BinaryIO

from deploy.service.thinning import Thinned

READ_BYTES = 8 << 20  # at once, so that a request is answered soon; the page asks again for more
MOST_EVENTS = 200
MOST_LISTED = 256  # workers and shards of a record
MOST_TEXT = 2000  # characters of a message
SEEN_BYTES = 64  # compared to find out whether the file is still the one that was read
RATE_SECONDS, LOOK_SECONDS = 10.0, 1.0  # rates are means over about so long, from records so far apart
DRAWN = ("loss", "staleness", "examples_per_second", "workers_alive")
COUNTED = ("version", "pulls", "pushes", "exchanges", "bytes_in", "bytes_out")


class RecordReader:
    """Reads one file, from where it stopped the time before; thread-safe.

    A run that goes on from a checkpoint replaces the file: then all that was known is forgotten.

    Args:
      open_file: opens it; raises FileNotFoundError while there is none.
    """

    def __init__(self, open_file: Callable[[], BinaryIO]):
        self._open, self._lock = open_file, Lock()
        self._forget()

    def view(self) -> dict[str, Any]:
        """What there is now, after at most ``READ_BYTES`` more of the file.

        Keys: ``read_bytes`` of ``size_bytes``, and whether ``more`` can be read at once; ``progress`` and ``evaluation`` (see
        ``Thinned.lines``, placed by seconds and examples); ``first`` and ``latest`` facts of progress; ``workers``, ``shards``;
        the newest ``events`` that are no checkpoint, and how many ``more_events`` there were; ``checkpoints`` (how many) and
        ``last_checkpoint`` (seconds); ``unreadable`` (lines).
        """
        with self._lock:
            self._read_on()
            progress, evaluation = self._progress.lines(), self._evaluation.lines()
            return {
                "read_bytes": self._offset,
                "size_bytes": self._size,
                "more": self._more,
                "progress": progress,
                "evaluation": evaluation,
                "first": self._first,
                "latest": self._latest_facts(),
                "workers": self._workers(),
                "shards": self._shards(),
                "events": list(self._events),
                "more_events": self._event_count - len(self._events),
                "checkpoints": self._checkpoints,
                "last_checkpoint": self._last_checkpoint,
                "unreadable": self._unreadable,
            }

    def _forget(self) -> None:
        self._inode, self._offset, self._size, self._seen = 0, 0, 0, b""
        self._more = False
        self._progress = Thinned(("seconds", "examples"))
        self._evaluation = Thinned(("seconds", "examples"))
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._event_count = self._checkpoints = self._unreadable = 0
        self._last_checkpoint: float | None = None
        self._first: dict[str, Any] = {}
        self._latest: dict[str, Any] = {}
        self._looks: deque[tuple[float, dict[str, Any]]] = deque()  # seconds and record, of the last RATE_SECONDS

    def _read_on(self) -> None:
        try:
            file = self._open()
        except FileNotFoundError:
            self._forget()
            return
        with file:
            facts = os.fstat(file.fileno())
            if facts.st_ino != self._inode or not self._is_the_same(file):
                self._forget()
                self._inode = facts.st_ino
            self._size = facts.st_size
            file.seek(self._offset)
            content = file.read(READ_BYTES)
        self._more = len(content) == READ_BYTES
        whole = content.rfind(b"\n") + 1
        if not whole and self._more:  # no record of ours is that long
            whole = len(content)
        for line in content[:whole].splitlines():
            self._take(line)
        self._offset += whole
        self._seen = (self._seen + content[:whole][-SEEN_BYTES:])[-SEEN_BYTES:]

    def _is_the_same(self, file: BinaryIO) -> bool:
        """Also an inode may be given again."""
        file.seek(self._offset - len(self._seen))
        return file.read(len(self._seen)) == self._seen

    def _take(self, line: bytes) -> None:
        record = parsed(line)
        if record is None:
            self._unreadable += 1
            return
        kind, at = record.get("kind"), (finite(record.get("seconds")) or 0.0, finite(record.get("examples")) or 0.0)
        if kind == "progress":
            self._progress.add(at, {name: finite(record.get(name)) for name in DRAWN})
            self._keep(record, at[0])
        elif kind == "evaluation":
            self._evaluation.add(at, metrics(record) | {"train loss": finite(record.get("train_loss"))})
        elif kind == "event":
            self._take_event(record, at[0])

    def _keep(self, record: dict[str, Any], seconds: float) -> None:
        if not self._first and finite(record.get("examples")):
            self._first = {name: finite(record.get(name)) for name in ("seconds", "epoch", "examples", "steps")}
        if self._looks and seconds < self._looks[-1][0]:
            self._looks.clear()
        if not self._looks or seconds >= self._looks[-1][0] + LOOK_SECONDS:
            self._looks.append((seconds, record))
        while len(self._looks) > 1 and self._looks[1][0] <= seconds - RATE_SECONDS:
            self._looks.popleft()
        self._latest = record

    def _take_event(self, record: dict[str, Any], seconds: float) -> None:
        name = str(record.get("event"))[:64]
        if name == "checkpoint":
            self._checkpoints += 1
            self._last_checkpoint = seconds
            return
        self._event_count += 1
        self._events.append(
            {"seconds": seconds, "event": name, "message": str(record.get("message") or "")[:MOST_TEXT]}
        )

    def _latest_facts(self) -> dict[str, Any]:
        names = ("seconds", "epoch", "examples", "steps", *DRAWN)
        facts = {name: finite(self._latest.get(name)) for name in names}
        if self._latest and facts["loss"] is None:  # nothing was finished since the record before
            facts |= {name: self._progress.last(name) for name in ("loss", "staleness")}
        return facts if self._latest else {}

    def _workers(self) -> list[dict[str, Any]]:
        places = {place["worker"]: place for place in listed(self._latest, "nodes", "worker")}
        rates = self._rates("workers", "worker", ("examples",))
        return [
            {
                "worker": worker["worker"],
                "node": short_text(places.get(worker["worker"], {}).get("node")),
                "links": _links(places.get(worker["worker"], {})),
                "examples": finite(worker.get("examples")),
                "examples_per_second": rates.get(worker["worker"], {}).get("examples"),
                "staleness": finite(worker.get("staleness")),
            }
            for worker in listed(self._latest, "workers", "worker")
        ]

    def _shards(self) -> list[dict[str, Any]]:
        rates = self._rates("shards", "shard", COUNTED)
        return [
            {
                "shard": shard["shard"],
                "node": short_text(shard.get("node")),
                "address": short_text(shard.get("address")),
                **{name: finite(shard.get(name)) for name in COUNTED},
                "per_second": rates.get(shard["shard"], {}),
            }
            for shard in listed(self._latest, "shards", "shard")
        ]

    def _rates(self, kind: str, key: str, names: tuple[str, ...]) -> dict[int, dict[str, float]]:
        """What each worker or shard counted per second lately; what has begun to count anew has no rate yet."""
        rates: dict[int, dict[str, float]] = {}
        if not self._looks:
            return rates
        seconds, first = self._looks[0]
        elapsed = (finite(self._latest.get("seconds")) or 0.0) - seconds
        before = {entry[key]: entry for entry in listed(first, kind, key)}
        for entry in listed(self._latest, kind, key) if elapsed > 0 else ():
            for name in names if entry[key] in before else ():
                now, then = finite(entry.get(name)), finite(before[entry[key]].get(name))
                if now is not None and then is not None and now >= then:
                    rates.setdefault(entry[key], {})[name] = (now - then) / elapsed
        return rates


class Readers:
    """The readers of the jobs that were looked at last, at most ``most``."""

    def __init__(self, open_file: Callable[[str], BinaryIO], most: int = 64):
        self._open, self._most, self._lock = open_file, most, Lock()
        self._readers: OrderedDict[str, RecordReader] = OrderedDict()

    def of(self, job: str) -> RecordReader:
        """The reader of a job's records."""
        with self._lock:
            reader = self._readers.pop(job, None) or RecordReader(lambda: self._open(job))
            self._readers[job] = reader
            while len(self._readers) > self._most:
                self._readers.popitem(last=False)
            return reader


def parsed(line: bytes) -> dict[str, Any] | None:
    """A line's record, or None if it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def finite(value: Any) -> float | None:
    """``value`` if it is a number that JSON can say."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1e300 else None


def metrics(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics of an evaluation record."""
    found = record.get("evaluation")
    return {str(name)[:64]: finite(value) for name, value in found.items()} if isinstance(found, dict) else {}


def listed(record: Mapping[str, Any], name: str, key: str) -> list[dict[str, Any]]:
    """The tables of a list in a record, those that have a number as their ``key``."""
    entries = record.get(name)
    tables = [entry for entry in entries[:MOST_LISTED] if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [entry for entry in tables if isinstance(entry.get(key), int)]


def short_text(value: Any) -> str:
    """``value`` as text of bounded length; empty for None."""
    return "" if value is None else str(value)[:128]


def _links(place: Mapping[str, Any]) -> list[str]:
    links = place.get("links")
    return [short_text(link) for link in links[:MOST_LISTED]] if isinstance(links, list) else []
