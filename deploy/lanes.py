"""What a timeline shows of a trace: for each replica its gradients, its operations at the shards, and when it was there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worker import trace
from worker.trace import Trace

_SAME_MOMENT = 1e-9  # seconds of rounding
_OPERATIONS = (trace.PULL, trace.PUSH, trace.EXCHANGE, trace.CONTRIBUTE)


@dataclass(frozen=True)
class Window:
    """The part of a trace that is drawn. Times in seconds.

    Attributes:
      replicas: whose lanes. start, stop: of the picture.
      kept: until when the trace has every operation of its lanes. end: of the run.
    """

    replicas: tuple[int, ...]
    start: float
    stop: float
    kept: float
    end: float

    @staticmethod
    def of(whole: Trace, replicas: Sequence[int], start: float | None, stop: float | None, steps: int) -> Window:
        """What was asked for, as far as lanes are whole; without ``stop`` until the busiest replica has made ``steps`` steps."""
        columns = whole.columns()
        ends = columns["time"] + columns["seconds"]
        end = float(whole.facts.get("seconds", ends.max(initial=0.0)))
        kept = end if whole.is_whole else float(columns["time"].max(initial=0.0))
        computes = (columns["kind"] == trace.COMPUTE) & np.isin(columns["replica"], replicas)
        if start is None:
            start = (
                min(0.0, end)
                if whole.facts["backend"] == "simulation"
                else float(columns["time"][computes].min(initial=end))
            )
        if stop is None:
            later = computes & (columns["time"] >= start)
            stop = min(
                (_nth(columns["time"][later & (columns["replica"] == one)], steps, end) for one in replicas),
                default=end,
            )
            stop = stop if stop > start else end
        stop = min(stop, kept) if start < kept else stop
        return Window(tuple(replicas), float(start), float(stop), kept, end)


@dataclass
class Bar:
    """One gradient.

    Attributes:
      start, stop: seconds. clock: steps that the replica had finished. loss: mean over the batch.
      staleness: at which the update that it went into was applied; None if that is not known, or there was none.
    """

    start: float
    stop: float
    clock: int
    loss: float
    staleness: int | None = None


@dataclass
class Tick:
    """One operation: its kind, and (shard, version) for all shards where it happened; staleness -1 of a pull."""

    time: float
    kind: int
    versions: list[tuple[int, int]]
    staleness: int = -1


@dataclass
class Lane:
    """One replica.

    Attributes:
      alive: when it was there, (start, stop).
      deaths: when it died or left, and what was said of it.
    """

    replica: int
    bars: list[Bar] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    alive: list[tuple[float, float]] = field(default_factory=list)
    deaths: list[tuple[float, str]] = field(default_factory=list)


def lanes_of(whole: Trace, window: Window, deaths: Iterable[tuple[int, float, str]] = ()) -> list[Lane]:
    """A lane for each replica of the window.

    Args:
      deaths: replica, seconds and message of those who died or left.
    """
    columns = whole.columns()
    # A little more than is drawn: the update that the last bars end in comes later.
    rest = columns["time"] <= window.stop + (window.stop - window.start)
    order = np.flatnonzero(rest & np.isin(columns["replica"], window.replicas))
    rows: dict[int, list[dict[str, Any]]] = {replica: [] for replica in window.replicas}
    picked = {name: column[order].tolist() for name, column in columns.items()}
    for values in zip(*picked.values()):
        row = dict(zip(picked, values))
        rows[row["replica"]].append(row)
    gone = list(deaths)
    return [
        _lane(replica, found, window, [(at, text) for who, at, text in gone if who == replica])
        for replica, found in rows.items()
    ]


def _lane(replica: int, rows: list[dict[str, Any]], window: Window, deaths: list[tuple[float, str]]) -> Lane:
    lane = Lane(replica)
    open_bars: list[Bar] = []  # whose update has not been seen yet
    ended: list[Bar] = []  # by the last update, which may have more parts
    for row in rows:
        if row["kind"] == trace.BEGIN:
            open_bars = []  # what its predecessor had computed is lost
        elif row["kind"] == trace.COMPUTE:
            open_bars.append(Bar(row["time"], row["time"] + row["seconds"], row["clock"], row["loss"]))
            lane.bars.append(open_bars[-1])
        elif row["kind"] in _OPERATIONS:
            is_next_part = _tick(lane, row)
            if row["kind"] == trace.PULL:
                continue
            if not is_next_part:
                ended = [bar for bar in open_bars if bar.stop <= row["time"] + _SAME_MOMENT]
                open_bars = open_bars[len(ended) :]
            for bar in ended:
                bar.staleness = max(row["staleness"], bar.staleness or 0)
    for bar in lane.bars:
        bar.stop = min([bar.stop, *(at for at, _ in deaths if at >= bar.start)])
    lane.bars = [bar for bar in lane.bars if bar.start <= window.stop and bar.stop >= window.start]
    lane.ticks = [tick for tick in lane.ticks if window.start <= tick.time <= window.stop]
    lane.alive = _alive(rows, window, deaths)
    lane.deaths = [(at, text) for at, text in deaths if window.start <= at <= window.stop]
    return lane


def _tick(lane: Lane, row: dict[str, Any]) -> bool:
    """Note an operation; True if it is the next part of the one before, at another shard."""
    last = lane.ticks[-1] if lane.ticks else None
    where = (row["shard"], row["version"])
    if last is not None and last.kind == row["kind"] and row["shard"] > last.versions[-1][0]:
        last.versions.append(where)
        last.staleness = max(last.staleness, row["staleness"])
        return True
    lane.ticks.append(Tick(row["time"], row["kind"], [where], row["staleness"]))
    return False


def _alive(rows: list[dict[str, Any]], window: Window, deaths: list[tuple[float, str]]) -> list[tuple[float, float]]:
    begins = [row["time"] for row in rows if row["kind"] == trace.BEGIN]
    ends = sorted([row["time"] for row in rows if row["kind"] == trace.END] + [at for at, _ in deaths])
    spans = []
    for begin in begins:
        end = next((at for at in ends if at >= begin), window.stop)
        start, stop = max(begin, window.start), min(end, window.stop)
        if start < stop:
            spans.append((start, stop))
    return spans


def _nth(times: np.ndarray, n: int, otherwise: float) -> float:
    return float(times[n]) if times.size > n else otherwise
