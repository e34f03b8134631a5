"""Amounts of what nodes have, and the pieces in which a job asks for them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Protocol, Self

SLACK = 1e-6  # sums of tenths of a CPU
MANY = 1 << 40  # of what takes nothing


class Amounts(Protocol):
    """What has them: a job's record, a node's facts."""

    cpus: float
    gpus: float
    memory_bytes: int


@dataclass(frozen=True)
class Room:
    """Resources; ``Room() + ...``.

    Attributes:
      cpus, gpus, memory_bytes: amounts.
    """

    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: int = 0

    @classmethod
    def of(cls, what: Amounts) -> Room:
        """What a job takes, or a node has."""
        return cls(what.cpus, what.gpus, what.memory_bytes)

    def __add__(self, other: Room) -> Room:
        return Room(self.cpus + other.cpus, self.gpus + other.gpus, self.memory_bytes + other.memory_bytes)

    def __sub__(self, other: Room) -> Room:
        return Room(self.cpus - other.cpus, self.gpus - other.gpus, self.memory_bytes - other.memory_bytes)

    def __mul__(self, times: int) -> Room:
        return Room(self.cpus * times, self.gpus * times, self.memory_bytes * times)

    def least(self, other: Room) -> Room:
        """What both have, never less than nothing."""
        return Room(
            max(min(self.cpus, other.cpus), 0.0),
            max(min(self.gpus, other.gpus), 0.0),
            max(min(self.memory_bytes, other.memory_bytes), 0),
        )

    def has(self, wanted: Room) -> bool:
        """There is room for that."""
        return self.times(wanted) > 0

    def times(self, piece: Room) -> int:
        """How many such pieces there is room for."""
        counts = [
            int((there + SLACK) // each) if there > -SLACK else 0
            for there, each in ((self.cpus, piece.cpus), (self.gpus, piece.gpus))
            if each > 0
        ]
        if piece.memory_bytes:
            counts.append(max(self.memory_bytes, 0) // piece.memory_bytes)
        return min(counts, default=MANY)


@dataclass(frozen=True)
class Pieces:
    """What a job asks of Ray: an actor per shard in one placement group, an actor per worker.

    The job's driver, its coordinator, evaluator and groups take nothing but a sliver of the mark of the service's node.

    Attributes:
      shards, shard: how many, and what one takes. workers, worker: likewise; as many workers as it cannot do without.
      packed: all shards must be on one node (``[cluster] shard_nodes = "pack"``); else they are spread as far as there are nodes.
      beside: the workers must be on the node of the only shard (see ``deploy.cluster.ready.beside``).
    """

    shards: int
    shard: Room
    workers: int
    worker: Room
    packed: bool = False
    beside: bool = False

    @property
    def total(self) -> Room:
        """All of them together."""
        return self.shard * self.shards + self.worker * self.workers

    @property
    def together(self) -> list[Room]:
        """What must find its place on a single node, each."""
        if self.beside:
            return [self.total]
        shards = self.shard * self.shards if self.packed else self.shard
        return [part for part, count in ((shards, self.shards), (self.worker, self.workers)) if count]

    def most(self, room: Room) -> Room:
        """As much of them as may come to lie on a node with so much room."""
        shards = self.shard * min(self.shards, room.times(self.shard))
        return (shards + self.worker * min(self.workers, room.times(self.worker))).least(room)

    def to_text(self) -> str:
        """JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """The pieces of ``to_text``; None for "": of a job that an earlier version took in, only the sums are known."""
        if not text:
            return None
        facts = json.loads(text)
        return cls(**facts | {"shard": Room(**facts["shard"]), "worker": Room(**facts["worker"])})
