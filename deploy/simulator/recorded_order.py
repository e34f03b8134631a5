"""A trace made ready for replay: what each replica did at each shard, in its own order, and what each version waits for."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ps.errors import UsageError
from worker import trace
from worker.trace import Trace

WRITES = (trace.PUSH, trace.EXCHANGE, trace.CONTRIBUTE)


class Entry(NamedTuple):
    """One operation at one shard.

    ``version`` is the shard's at which it happens: the one that a pull reads, and the one before a write.
    ``late``: a contribution that its step was made without. ``forgotten``: the replica has left since it last read here, so
    that nothing is remembered of that.
    """

    kind: int
    version: int
    late: bool = False
    forgotten: bool = False


@dataclass
class Life:
    """What one incarnation of a replica did.

    Attributes:
      reads, writes: per shard, in its own order.
      ranges: epoch, first position and the one after the last.
      landings: clocks at which pulls that were not waited for were taken over.
      finish: its clock when it was told to finish, or None.
    """

    replica: int
    incarnation: int
    reads: dict[int, deque[Entry]] = field(default_factory=lambda: defaultdict(deque))
    writes: dict[int, deque[Entry]] = field(default_factory=lambda: defaultdict(deque))
    ranges: deque[tuple[int, int, int]] = field(default_factory=deque)
    landings: deque[int] = field(default_factory=deque)
    finish: int | None = None

    @property
    def is_over(self) -> bool:
        """It did nothing more."""
        return not (any(self.reads.values()) or any(self.writes.values()) or self.landings)

    def lands_at(self, clock: int) -> bool:
        """The next pull to be taken over was taken over before or in the step after so many."""
        return bool(self.landings) and self.landings[0] == clock


class Record:
    """A whole trace, by replica and by shard.

    Args:
      whole: as a run has left it.
      backups: the run's; contributions that come late are dropped only where it has some.

    Attributes:
      lives: in the order in which they began.
      reads_left: per shard, version -> pulls of it, and contributions that come late at it.
      steps_left: per shard, version -> replicas whose contributions, counted, make the step after it.
      operations: per shard, those to be carried out.

    Raises:
      UsageError: it has gaps; the message says why.
    """

    def __init__(self, whole: Trace, backups: int = 0):
        refuse_gaps(whole, backups)
        shards = int(whole.facts["shards"])
        self.final = [int(version) for version in whole.facts["versions"]]
        self.lives: dict[tuple[int, int], Life] = {}
        self.reads_left: list[Counter[int]] = [Counter() for _ in range(shards)]
        self.steps_left: list[dict[int, Counter[int]]] = [defaultdict(Counter) for _ in range(shards)]
        self.operations = [0] * shards
        columns = whole.columns()
        forgotten: set[tuple[int, int]] = set()  # replica and shard
        names = ("kind", "replica", "incarnation", "shard", "version", "staleness", "clock")
        for kind, replica, incarnation, shard, version, staleness, clock in zip(
            *(columns[name].tolist() for name in names)
        ):
            life = self.lives.get((replica, incarnation))
            if life is None:
                life = self.lives[replica, incarnation] = Life(replica, incarnation)
            if kind == trace.PULL:
                forgotten.discard((replica, shard))
                self._read(life, shard, Entry(kind, version))
            elif kind == trace.CONTRIBUTE and backups and staleness > 0:
                self.reads_left[shard][version] += 1
                self._note(life.writes[shard], shard, Entry(kind, version, late=True))
            elif kind in WRITES:
                self._write(life, shard, Entry(kind, version - 1, forgotten=(replica, shard) in forgotten))
            elif kind == trace.WORK:
                life.ranges.append((version, staleness, clock))
            elif kind == trace.LAND:
                life.landings.append(clock)
            elif kind == trace.FINISH:
                life.finish = clock
            elif kind == trace.LEAVE:
                forgotten.update((replica, index) for index in range(shards))

    def _read(self, life: Life, shard: int, entry: Entry) -> None:
        self.reads_left[shard][entry.version] += 1
        self._note(life.reads[shard], shard, entry)

    def _write(self, life: Life, shard: int, entry: Entry) -> None:
        if entry.version >= self.final[shard]:
            return  # a contribution to a step that was never made
        if entry.kind == trace.CONTRIBUTE:
            self.steps_left[shard][entry.version][life.replica] += 1
        self._note(life.writes[shard], shard, entry)

    def _note(self, entries: deque[Entry], shard: int, entry: Entry) -> None:
        self.operations[shard] += 1
        entries.append(entry)


def refuse_gaps(whole: Trace, backups: int = 0) -> None:
    """Refuse a trace that does not hold all that has changed the center. Arguments and errors as of ``Record``."""
    facts = whole.facts
    if not whole.is_whole:
        raise UsageError(
            f"the trace holds only the first {len(whole):,} operations of the run; run the job with record = true to keep all"
        )
    if facts.get("resumed"):
        raise UsageError("the run was resumed, and what came before is not in its trace; record one from start to end")
    if facts.get("torn_updates"):
        raise UsageError("a worker was killed in the middle of an update, which no trace can hold; record another run")
    columns = whole.columns()
    late = (columns["kind"] == trace.CONTRIBUTE) & (columns["staleness"] > 0) & (backups > 0)
    writes = np.isin(columns["kind"], WRITES) & ~late
    for shard, final in enumerate(facts["versions"]):
        versions = columns["version"][(columns["shard"] == shard) & writes]
        if facts["backend"] == "simulation" and np.any(np.diff(versions) < 0):
            raise UsageError(
                f"shard {shard} crashed and lost updates, which a replay cannot do; record a run without such crashes"
            )
        missing = np.setdiff1d(np.arange(1, final + 1), versions)
        if missing.size:
            raise UsageError(
                f"the trace has gaps: {missing.size} of {final} updates of shard {shard} are not in it, the first is number "
                f"{missing[0]}; a worker was killed before it could write them down. Record another run"
            )
