"""Whether the pieces of a job find their places on the nodes, and what is missing if not.

The pieces of a job are alike, so nothing is searched for: where Ray puts the shards is computed as Ray does it, and then every
node takes as many workers as it has room for.

* Spread shards go each to the emptiest node that has none yet (the one of whose room they take the smallest share), and once
  every node has one, to the emptiest. Packed ones go together to the emptiest node that has room for all.
* Workers that must be beside the shard go with it to a node that has room for all of them (``deploy.cluster.placement`` asks Ray
  for that node).

While actors of other jobs are about to be placed, it is not known where. Then the worst is taken, in two ways of which either is
enough: every node has lost all that may come to lie there, and the shards go where they cost most workers their place; or every
actor that is expected costs as many places as one of its size can, but lies on one node only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from math import ceil

from deploy.service.room import SLACK, Pieces, Room
from deploy.words import number, plural


@dataclass(frozen=True)
class Words:
    """How it is said how much there is: in all, on the node that has most, and of places for workers."""

    of_all: str
    of_one: str
    of_places: str


EMPTY = Words("{} are in the cluster", "the largest has {}", "there are {}")
FREE = Words("{} are free", "at most {} are free on one", "{} are free")


def lack(
    wanted: Pieces | Room, rooms: Sequence[Room], words: Words, at_most: Sequence[Room] | None = None
) -> str | None:
    """What is missing, in words, or None if all find their places.

    Args:
      wanted: the pieces of a job; only their sum, where no more is known.
      rooms: of the nodes. at_most: what they may have when the places are sought, ``rooms`` being the least; None: no more.
    """
    there = sum(rooms, Room())
    asked = wanted if isinstance(wanted, Room) else wanted.total
    missing = _short(asked, there)
    if missing:
        return f"it needs {missing[0]}, {words.of_all.format(missing[1])}"
    if isinstance(wanted, Room):
        return None
    for piece in wanted.together:
        if not any(room.has(piece) for room in rooms):
            return _too_large(piece, rooms, words)
    if wanted.beside:
        tempting = None if at_most is None else _tempting(wanted, rooms, at_most)
        return None if tempting is None else _too_large(wanted.total, [tempting], words)
    places = _places(wanted, rooms) if at_most is None else _worst_places(wanted, rooms)
    if places is None:
        return f"no place is left for some of its {plural(wanted.shards, 'shard')} of {_amounts(wanted.shard)}"
    if places < wanted.workers:
        return (
            f"it needs places for {plural(wanted.workers, 'worker')} of {_amounts(wanted.worker)}; beside its "
            f"{plural(wanted.shards, 'shard')} {words.of_places.format(places)}"
        )
    return None


def finds_anywhere(wanted: Pieces | Room, rooms: Sequence[Room], others: Sequence[Pieces | Room]) -> bool:
    """Whether the pieces surely find their places, wherever those of ``others`` come to lie first; False: it is not known.

    An actor that is ``a`` times as large as a worker costs at most ``ceil(a)`` workers their places. Small ones together cost no
    more than their sum does, and one place on each node.

    Args:
      rooms: what is free of the nodes now.
    """
    if isinstance(wanted, Room) or any(isinstance(one, Room) for one in others):
        return False
    if wanted.shards and (wanted.packed or wanted.beside):
        return False
    theirs = [part for one in others for part in ((one.shards, one.shard), (one.workers, one.worker))]
    shards = not wanted.shards or _places_left(wanted.shard, rooms, theirs) >= wanted.shards
    own = (wanted.shards, wanted.shard)
    return shards and (not wanted.workers or _places_left(wanted.worker, rooms, [*theirs, own]) >= wanted.workers)


def _places_left(piece: Room, rooms: Sequence[Room], others: Sequence[tuple[int, Room]]) -> int:
    """For how many such pieces there is room at least, wherever ``others`` (how many, of what size) come to lie."""
    lost, small, together = 0, 0, Room()
    for count, other in others:
        share = max(_shares(other, piece), default=0.0)
        if share >= 1:
            lost += count * _whole(share)
        elif share:
            small, together = small + count, together + other * count
    places = [room.times(piece) for room in rooms]
    nodes = sum(1 for count in places if count)
    spread = sum(_whole(share + nodes) - 1 for share in _shares(together, piece))
    return sum(places) - lost - min(small, spread)


def _shares(other: Room, piece: Room) -> list[float]:
    """How many times a piece's amount of each resource the other takes; of resources that both take."""
    pairs = ((other.cpus, piece.cpus), (other.gpus, piece.gpus), (other.memory_bytes, piece.memory_bytes))
    return [theirs / each for theirs, each in pairs if theirs and each]


def _whole(share: float) -> int:
    return ceil(share - SLACK)


def taken(wanted: Pieces | Room, rooms: Sequence[Room]) -> list[Room]:
    """The most that these may take of each node, wherever they come to lie; of a mere sum, what is likely."""
    if isinstance(wanted, Pieces):
        return [wanted.most(room) for room in rooms]
    found, rest = [Room()] * len(rooms), wanted
    for index in sorted(range(len(rooms)), key=lambda index: -rooms[index].cpus):
        found[index] = rooms[index].least(rest)
        rest = rest - found[index]
    return found


def less(rooms: Sequence[Room], gone: Sequence[Room]) -> list[Room]:
    """What stays of each, never less than nothing."""
    return [(room - part).least(room) for room, part in zip(rooms, gone)]


@dataclass(frozen=True)
class Claims:
    """What jobs that wait could ever put on each node.

    Attributes:
      rooms: of each node. memory: their shards take memory.
      known: False where only the sum of one is known.
    """

    rooms: tuple[Room, ...]
    memory: bool = False
    known: bool = True

    def plus(self, waiting: Pieces | Room, totals: Sequence[Room]) -> Claims:
        """One more of them; ``totals`` are of the nodes, were they empty."""
        if isinstance(waiting, Room):
            return replace(self, known=False)
        rooms = tuple(room + waiting.most(total) for room, total in zip(self.rooms, totals))
        return replace(self, rooms=rooms, memory=self.memory or waiting.shard.memory_bytes > 0)


def spares(other: Pieces | Room, claims: Claims, totals: Sequence[Room], surely: Sequence[Room]) -> bool:
    """Whether a job can never be in the way of those that wait, wherever its pieces come to lie.

    Of what it takes, and of what their shards take, every node must have so much free that all that they could ever put there
    would still fit: then they wait for something else, say GPUs. So which nodes Ray chooses for them does not matter either.

    Args:
      totals: of the nodes, were they empty. surely: the least that is free there.
    """
    if isinstance(other, Room) or not claims.known:
        return False
    asked = other.total
    for total, room, claimed in zip(totals, surely, claims.rooms):
        stays = room - other.most(total)
        if not Room(cpus=stays.cpus).has(Room(cpus=claimed.cpus)):
            return False
        if asked.gpus and not Room(gpus=stays.gpus).has(Room(gpus=claimed.gpus)):
            return False
        if (asked.memory_bytes or claims.memory) and stays.memory_bytes < claimed.memory_bytes:
            return False
    return True


def _places(wanted: Pieces, rooms: Sequence[Room]) -> int | None:
    """For how many workers there is room once the shards are where Ray puts them; None if not all of these find a place."""
    rooms = list(rooms)
    group = wanted.shard * wanted.shards if wanted.packed else wanted.shard

    def entry(index: int) -> tuple[float, int, int]:
        # Of nodes that are equally empty Ray takes any: here the one where it costs most.
        return -_emptiness(rooms[index], group), -_cost(rooms[index], group, wanted), index

    fresh = [entry(index) for index, room in enumerate(rooms) if room.has(group)]
    heapify(fresh)
    used: list[tuple[float, int, int]] = []
    for _ in range(1 if wanted.packed else wanted.shards):
        if not fresh and not used:
            return None
        index = heappop(fresh or used)[2]
        rooms[index] = rooms[index] - group
        if rooms[index].has(group):
            heappush(used, entry(index))
    return sum(room.times(wanted.worker) for room in rooms)


def _worst_places(wanted: Pieces, rooms: Sequence[Room]) -> int | None:
    """The same wherever the shards go."""
    if not wanted.packed and sum(room.times(wanted.shard) for room in rooms) < wanted.shards:
        return None
    able = sum(room.has(wanted.shard) for room in rooms)
    piled = wanted.shards if wanted.packed else max(wanted.shards - able + 1, 1)
    costs = sorted((_cost(room, wanted.shard * piled, wanted) for room in rooms), reverse=True)
    return sum(room.times(wanted.worker) for room in rooms) - sum(costs[: 1 if wanted.packed else wanted.shards])


def _tempting(wanted: Pieces, rooms: Sequence[Room], at_most: Sequence[Room]) -> Room | None:
    """The room of a node that may look like the best one for a shard and the workers beside it, but is too small; or None."""

    def places(room: Room) -> int:
        return (room - wanted.shard).times(wanted.worker) if room.has(wanted.shard) else -1

    best = max(map(places, rooms))
    for room, most in zip(rooms, at_most):
        if places(most) >= best and not room.has(wanted.total):
            return room
    return None


def _emptiness(room: Room, piece: Room) -> float:
    """Ray's score of a node: of each resource that is asked for, the share of what is free that stays."""
    score = (room.cpus - piece.cpus) / room.cpus if piece.cpus and room.cpus > 0 else 0.0
    if piece.memory_bytes and room.memory_bytes:
        score += (room.memory_bytes - piece.memory_bytes) / room.memory_bytes
    return round(score, 9)


def _cost(room: Room, taken: Room, wanted: Pieces) -> int:
    """Places for workers that are lost on a node."""
    stays = (room - taken).least(room)
    return min(room.times(wanted.worker), wanted.workers) - min(stays.times(wanted.worker), wanted.workers)


def _short(wanted: Room, there: Room) -> tuple[str, str] | None:
    """Of what there is too little: how much is wanted, with its unit, and how much there is."""
    if not Room(cpus=there.cpus).has(Room(cpus=wanted.cpus)):
        return f"{number(wanted.cpus)} CPUs", number(max(there.cpus, 0.0))
    if not Room(gpus=there.gpus).has(Room(gpus=wanted.gpus)):
        return f"{number(wanted.gpus)} GPUs", number(max(there.gpus, 0.0))
    if wanted.memory_bytes > there.memory_bytes:
        return f"{wanted.memory_bytes / 1e9:.2g} GB of memory", f"{max(there.memory_bytes, 0) / 1e9:.2g} GB"
    return None


def _too_large(piece: Room, rooms: Sequence[Room], words: Words) -> str:
    most = Room(
        max((room.cpus for room in rooms), default=0.0),
        max((room.gpus for room in rooms), default=0.0),
        max((room.memory_bytes for room in rooms), default=0),
    )
    missing = _short(piece, most)
    if missing:
        return f"it needs {missing[0]} on one node, {words.of_one.format(missing[1])}"
    return f"it needs {_amounts(piece)} on one node, none has all of that{'' if words is EMPTY else ' free'}"


def _amounts(room: Room) -> str:
    counted = ((room.cpus, "CPU"), (room.gpus, "GPU"))
    parts = [f"{number(count)} {what}{'' if count == 1 else 's'}" for count, what in counted if count]
    parts += [f"{room.memory_bytes / 1e9:.2g} GB of memory"] if room.memory_bytes else []
    return " and ".join(parts) or "no CPU"
