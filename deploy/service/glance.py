"""A run at a glance, for a list of many jobs: its newest facts and a small curve, from a few places of ``metrics.jsonl``."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from threading import Lock
from typing import Any, BinaryIO

from deploy.service import bounded_toml
from deploy.service.records import finite, metrics, parsed

WHOLE_BYTES = 128 << 10  # a file that is no longer is read whole
TAIL_BYTES = (64 << 10, 1 << 20)  # looked through for the newest progress; the second if the first has none
PROBES, PROBE_BYTES = 32, 32 << 10
MOST_CURVE = 48
MOST_JOB_BYTES = 256 << 10

OpenFile = Callable[[str, str], BinaryIO]  # of a job, the file in its run directory; raises FileNotFoundError


class Glances:
    """What was seen of each run, seen again only when its file has changed. Thread-safe.

    Args:
      most: runs that are remembered.
    """

    def __init__(self, open_file: OpenFile, most: int = 2000):
        self._open, self._most, self._lock = open_file, most, Lock()
        self._seen: OrderedDict[str, tuple[Any, dict[str, Any]]] = OrderedDict()

    def of(self, job: str) -> dict[str, Any]:
        """``latest`` progress, ``evaluation``, ``curve`` (losses up to now) and ``bounds`` (``[stop]``); {} without a run."""
        try:
            file = self._open(job, "metrics.jsonl")
        except FileNotFoundError:
            return {}
        with file:
            facts = os.fstat(file.fileno())
            mark = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
            with self._lock:
                known = self._seen.get(job)
            if known is not None and known[0] == mark:
                return known[1]
            glance = {**_glance(file, facts.st_size), "bounds": self.bounds(job)}
        with self._lock:
            self._seen[job] = (mark, glance)
            self._seen.move_to_end(job)
            while len(self._seen) > self._most:
                self._seen.popitem(last=False)
        return glance

    def bounds(self, job: str) -> dict[str, float]:
        """What ends the run, of its resolved job: some of ``epoch``, ``steps``, ``examples`` and ``seconds``."""
        try:
            with self._open(job, "job.toml") as file:
                stop = bounded_toml.read(file.read(MOST_JOB_BYTES).decode()).get("stop", {})
        except (FileNotFoundError, ValueError):
            return {}
        stop = stop if isinstance(stop, dict) else {}
        named = {"epoch": "epochs", "steps": "steps", "examples": "examples", "seconds": "seconds"}
        bounds = {name: finite(stop.get(key)) for name, key in named.items()}
        return {name: bound for name, bound in bounds.items() if bound}


def share_done(bounds: Mapping[str, float], facts: Mapping[str, Any]) -> float | None:
    """How much of a run is done, in [0, 1], by the bound that is nearest; None if nothing bounds it."""
    shares = [min(1.0, max(0.0, (finite(facts.get(name)) or 0.0) / bound)) for name, bound in bounds.items()]
    return max(shares, default=None)


def seconds_left(bounds: Mapping[str, float], first: Mapping[str, Any], latest: Mapping[str, Any]) -> float | None:
    """How long the rest takes, if all goes on as since the first progress; None while unknown."""
    done, before = share_done(bounds, latest), share_done(bounds, first)
    seconds = (finite(latest.get("seconds")) or 0.0) - (finite(first.get("seconds")) or 0.0)
    if done is None or before is None or seconds <= 0 or done <= before:
        return None
    return seconds * (1.0 - done) / (done - before)


def _glance(file: BinaryIO, size: int) -> dict[str, Any]:
    ending = _ending(file, size)
    latest, evaluation = _last(ending, "progress"), _last(ending, "evaluation")
    drawn = ending if size <= WHOLE_BYTES else [*_spread(file, size), latest]
    losses = _values(drawn, "progress", "loss")
    if len(losses) < 2:  # a short run knows the loss of its epochs only
        losses = _values(drawn, "evaluation", "train_loss")
    names = ("seconds", "epoch", "examples", "steps", "examples_per_second", "staleness", "workers_alive")
    step = max(1, math.ceil(len(losses) / MOST_CURVE))
    return {
        "latest": {name: finite(latest.get(name)) for name in names if latest}
        | ({"loss": losses[-1]} if losses else {}),
        "evaluation": metrics(evaluation),
        "curve": [float(f"{loss:.4g}") for loss in losses[::-step][::-1]],
    }


def _ending(file: BinaryIO, size: int) -> list[dict[str, Any]]:
    """The last records: all of a short file."""
    if size <= WHOLE_BYTES:
        return list(_records(file, 0, size))
    ending: list[dict[str, Any]] = []
    for tail in TAIL_BYTES:
        ending = list(_records(file, max(0, size - tail), tail))
        if _last(ending, "progress"):
            break
    return ending


def _spread(file: BinaryIO, size: int) -> Iterator[dict[str, Any]]:
    """Records of progress from all over a long file."""
    for probe in range(PROBES):
        found = _records(file, size * probe // PROBES, PROBE_BYTES)
        yield from islice((record for record in found if record.get("kind") == "progress"), 1)


def _last(records: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next((record for record in reversed(records) if record.get("kind") == kind), {})


def _values(records: Sequence[dict[str, Any]], kind: str, name: str) -> list[float]:
    values = (finite(record.get(name)) for record in records if record.get("kind") == kind)
    return [value for value in values if value is not None]


def _records(file: BinaryIO, start: int, length: int) -> Iterator[dict[str, Any]]:
    """Those of the whole lines of a part of the file; the first line, if it is cut, is no record."""
    file.seek(start)
    for line in file.read(length).split(b"\n")[:-1]:
        if (record := parsed(line)) is not None:
            yield record
