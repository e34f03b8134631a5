"""Which of the waiting jobs may start: the one with the highest priority first, then whoever came first.

A job starts once all its pieces have their places (see ``deploy.service.fitting``) on what is free of the nodes: what they have,
less what lies there now, less what may yet come to lie there of jobs that were started before. Nor may it come to lie where those
have their only places.

A job that must wait holds back those behind it, so that small ones do not keep a large one waiting for ever. Two exceptions:

* One that the cluster is too small for, whatever runs there, holds back nobody.
* One behind may go first if it takes nothing that is scarce for those before it, wherever its pieces come to lie: say CPUs, of
  which there are plenty on every node, while they wait for GPUs (``deploy.service.fitting.spares``). Nobody is ever delayed by
  that, which is why nothing is guessed from how long jobs may take.

Elastic jobs count with the workers that they cannot do without; what they have taken beyond that is no longer free either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from deploy.service.fitting import EMPTY, FREE, Claims, finds_anywhere, lack, less, spares, taken
from deploy.service.room import Pieces, Room
from deploy.service.states import AT_WORK, State

if TYPE_CHECKING:
    from deploy.service.ray_jobs import Held, NodeFacts
    from deploy.service.store import JobRecord


@dataclass(frozen=True)
class Turn:
    """What is decided.

    Attributes:
      start: jobs to start now, in this order.
      waits: id -> why another one waits.
    """

    start: list[JobRecord]
    waits: dict[str, str]


def order(jobs: Sequence[JobRecord]) -> list[JobRecord]:
    """The queue: waiting jobs in the order in which they will start."""
    waiting = [job for job in jobs if job.state == State.QUEUED]
    return sorted(waiting, key=lambda job: (-job.priority, job.submitted_at, job.id))


def decide(
    jobs: Sequence[JobRecord],
    nodes: Sequence[NodeFacts],
    most_running: int | None = None,
    held: Sequence[Held] = (),
) -> Turn:
    """Start as many as there is room for.

    Args:
      jobs: all that have not ended. nodes: the living ones. most_running: bound on jobs at work at one time.
      held: what lies on the nodes.
    """
    at_work = [job for job in jobs if job.state in AT_WORK]
    floor = _Floor(nodes, held)
    for job in at_work:
        floor.expect(job.id, *_missing(job, held))
    places = (most_running or len(jobs)) - len(at_work)
    start: list[JobRecord] = []
    waits: dict[str, str] = {}
    before: list[JobRecord] = []  # those that wait, and hold back
    for job in order(jobs):
        wanted = _wanted(job)
        too_small = _ever_lacks(wanted, floor.totals)
        if too_small:
            waits[job.id] = f"waits for nodes: {too_small}"
        elif before and (places <= len(before) or not floor.spares(wanted) or floor.reason(wanted)):
            waits[job.id] = f"waits for {before[0].id}, which is before it"
        elif places <= 0 or floor.reason(wanted):
            full = f"waits for one of {len(at_work) + len(start)} jobs to end" if places <= 0 else None
            waits[job.id] = full or floor.reason(wanted)
            before.append(job)
            floor.claim(wanted)
        else:
            start.append(job)
            floor.expect(job.id, wanted)
            places -= 1
    return Turn(start, waits)


@dataclass(frozen=True)
class _Expected:
    """What of a job is yet to be placed.

    Attributes:
      most: of each node, what it may take there at most. nodes: indices of those where it may come to lie.
    """

    job: str
    pieces: Pieces | Room
    most: list[Room]
    nodes: Sequence[int]


class _Floor:
    """What is free of each node, as far as it is known.

    Attributes:
      totals: of the nodes, were they empty. free: of what lies there now.
      surely: what is free once all has come that is expected, wherever it comes to lie. likely: the same, if it lies well.
    """

    def __init__(self, nodes: Sequence[NodeFacts], held: Sequence[Held]):
        self.totals = tuple(Room.of(node) for node in nodes)
        self._at = {node.id: index for index, node in enumerate(nodes)}
        free = list(self.totals)
        for piece in held:
            if piece.node in self._at:
                free[self._at[piece.node]] -= piece.room
        self.free = [room.least(room) for room in free]
        self.surely, self.likely = list(self.free), list(self.free)
        self._expected: list[_Expected] = []
        self._gone = [Room()] * len(nodes)  # all that is expected, wherever it may come to lie
        self._claims = Claims(tuple(self._gone))
        self._reasons: dict[Pieces | Room, str | None] = {}  # many jobs that wait may be alike

    def expect(self, job: str, pieces: Pieces | Room, node: str | None = None) -> None:
        """Something is yet to be placed; on that ``node``, if it can be nowhere else."""
        total = pieces if isinstance(pieces, Room) else pieces.total
        if total == Room():
            return
        nodes = range(len(self.free)) if node is None else [self._at[node]] if node in self._at else []
        most = [part if index in nodes else Room() for index, part in enumerate(taken(pieces, self.free))]
        self._expected.append(_Expected(job, pieces, most, nodes))
        self._gone = [one + part for one, part in zip(self._gone, most)]
        self.surely = less(self.free, self._gone)
        self.likely = less(self.likely, taken(total, self.likely))
        self._reasons.clear()

    def reason(self, wanted: Pieces | Room) -> str | None:
        """Why it must wait now, or None."""
        if wanted not in self._reasons:
            self._reasons[wanted] = self._reason(wanted)
        return self._reasons[wanted]

    def _reason(self, wanted: Pieces | Room) -> str | None:
        at_most = self.free if self._expected else None
        missing = lack(wanted, self.likely, FREE)
        others = [one.pieces for one in self._expected]
        if lack(wanted, self.surely, FREE, at_most) is None or finds_anywhere(wanted, self.free, others):
            robbed = self._robbed(wanted)
            return f"waits until {robbed} has found its places" if robbed else None
        return f"waits for room: {missing}" if missing else f"waits until {self._expected[0].job} has found its places"

    def _robbed(self, wanted: Pieces | Room) -> str | None:
        """A job that will find its places, but perhaps not any more beside ``wanted``; None too if it would not anyway."""
        more = taken(wanted, self.free)
        for one in self._expected:
            others = [other.pieces for other in self._expected if other is not one]
            before = less(self.free, [gone - own for gone, own in zip(self._gone, one.most)])
            if not self._finds(one, before, others):  # it does only if all goes as foreseen, with nobody in between
                if lack(one.pieces, [before[index] for index in one.nodes], FREE) is None:
                    return one.job
            elif not self._finds(one, less(before, more), [*others, wanted]):
                return one.job
        return None

    def _finds(self, one: _Expected, rooms: Sequence[Room], others: Sequence[Pieces | Room]) -> bool:
        """Whether what is expected surely finds its places: if there are ``rooms`` at least, or wherever ``others`` lie."""
        at, free = [rooms[index] for index in one.nodes], [self.free[index] for index in one.nodes]
        return lack(one.pieces, at, FREE, free) is None or finds_anywhere(one.pieces, free, others)

    def claim(self, waiting: Pieces | Room) -> None:
        """One waits, and holds back those behind it."""
        self._claims = self._claims.plus(waiting, self.totals)

    def spares(self, wanted: Pieces | Room) -> bool:
        """It can be in the way of none of those that wait."""
        return spares(wanted, self._claims, self.totals, self.surely)


def _wanted(job: JobRecord) -> Pieces | Room:
    return _pieces(job.pieces) or Room.of(job)


_pieces = lru_cache(4096)(Pieces.from_text)


@lru_cache(4096)
def _ever_lacks(wanted: Pieces | Room, totals: tuple[Room, ...]) -> str | None:
    """What the cluster lacks whatever runs there."""
    return lack(wanted, totals, EMPTY)


def _missing(job: JobRecord, held: Sequence[Held]) -> tuple[Pieces | Room, str | None]:
    """What a job at work has not placed yet, and the node where it must, if there is but one."""
    wanted, own = _wanted(job), [piece for piece in held if piece.job == job.id]
    if isinstance(wanted, Room):
        rest = wanted - sum((piece.room for piece in own), Room())
        return rest.least(rest), None
    placed = {kind: [piece.node for piece in own if piece.kind == kind] for kind in ("shard", "worker")}
    missing = replace(
        wanted,
        shards=max(wanted.shards - len(placed["shard"]), 0),
        workers=max(wanted.workers - len(placed["worker"]), 0),
    )
    return missing, placed["shard"][0] if wanted.beside and placed["shard"] else None
