"""Who is there, what each holds in hand, and whom others wait for: kept up at each event, so that none looks at all replicas."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from worker.effects import Range


@dataclass
class Member:
    """What the coordinator knows of one replica.

    Attributes:
      joined: it is ready for work. gone: it has left for good, unless it joins again.
      ranges: in hand, the one at work first.
      done: examples finished. since_death: of those, since it last died.
      deaths: in a row.
      counted: others wait for it.
    """

    joined: bool = False
    gone: bool = False
    ranges: deque[Range] = field(default_factory=deque)
    done: int = 0
    deaths: int = 0
    since_death: int = 0
    counted: bool = False


class Membership:
    """All replicas of a run.

    Args:
      replicas: how many.
      depth: ranges that one may hold.

    Attributes:
      members: by replica.
      in_hand: ranges that they hold, all together.
    """

    def __init__(self, replicas: int, depth: int):
        self.members = [Member() for _ in range(replicas)]
        self.in_hand = 0
        self._depth = depth
        self._awaited = replicas  # neither joined nor gone
        self._present = 0  # joined
        self._hungry = [_Hungry(partial(self.wants, held)) for held in range(depth)]
        self._idle: set[int] = set()  # counted, with empty hands

    @property
    def complete(self) -> bool:
        """Everybody has joined who has not left for good."""
        return self._present > 0 and self._awaited == 0

    def join(self, replica: int) -> None:
        """It is ready for work."""
        self._is_now(replica, joined=True, gone=False)
        self._feed(replica)

    def lose(self, replica: int, gone: bool) -> list[Range]:
        """It has died or left (``gone``); returns the ranges that it held."""
        member = self.members[replica]
        self._is_now(replica, joined=False, gone=gone)
        ranges = list(member.ranges)
        member.ranges.clear()
        self.in_hand -= len(ranges)
        member.since_death = 0
        member.counted = False
        self._idle.discard(replica)
        return ranges

    def give(self, replica: int, part: Range) -> None:
        """Put a range into its hands."""
        self.members[replica].ranges.append(part)
        self.in_hand += 1
        self._idle.discard(replica)

    def take(self, replica: int, range_id: int) -> Range | None:
        """Take a finished range out of its hands; None if it does not hold that one."""
        member = self.members[replica]
        held = next((part for part in member.ranges if part.id == range_id), None)
        if held is not None:
            member.ranges.remove(held)
            self.in_hand -= 1
            self._feed(replica)
        return held

    def wants(self, held: int, replica: int) -> bool:
        """It is there and holds no more than ``held`` ranges."""
        member = self.members[replica]
        return member.joined and len(member.ranges) <= held

    def first_hungry(self, held: int) -> int | None:
        """The smallest number among those who want a range and hold no more than ``held``."""
        return self._hungry[held].first()

    def dismiss_idle(self) -> list[int]:
        """Count those no longer who hold nothing; returns them in order."""
        idle = sorted(self._idle)
        self._idle.clear()
        for replica in idle:
            self.members[replica].counted = False
        return idle

    def _is_now(self, replica: int, joined: bool, gone: bool) -> None:
        member = self.members[replica]
        self._present += joined - member.joined
        self._awaited += (not joined and not gone) - (not member.joined and not member.gone)
        member.joined, member.gone = joined, gone

    def _feed(self, replica: int) -> None:
        """There is room in its hands."""
        member = self.members[replica]
        for held in range(len(member.ranges), self._depth):
            self._hungry[held].add(replica)
        if member.counted and not member.ranges:
            self._idle.add(replica)


class _Hungry:
    """Replicas that may be given a range, the smallest number first; one who wants none any more is passed over."""

    def __init__(self, wants: Callable[[int], bool]):
        self._wants = wants
        self._heap: list[int] = []
        self._inside: set[int] = set()

    def add(self, replica: int) -> None:
        if replica not in self._inside:
            self._inside.add(replica)
            heapq.heappush(self._heap, replica)

    def first(self) -> int | None:
        while self._heap and not self._wants(self._heap[0]):
            self._inside.discard(heapq.heappop(self._heap))
        return self._heap[0] if self._heap else None
