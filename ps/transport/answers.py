"""The last answer to each replica's exchange, kept so that a retried exchange gets the same one: then both sides move once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np

from ps.shard import Applied, Stamp


@dataclass(frozen=True)
class Answer:
    """What a replica was told.

    Attributes:
      stamp: of its exchange.
      applied: version and staleness.
      content: uint8 (bytes,), its parameters after the exchange.
    """

    stamp: Stamp
    applied: Applied
    content: np.ndarray


class Answers:
    """At most one answer per replica, within a byte bound; where there is no room, the oldest goes.

    Args:
      limit_bytes: of all answers together.
    """

    def __init__(self, limit_bytes: int):
        self._limit = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[int, Answer] = OrderedDict()
        self._lock = Lock()

    def keep(self, answer: Answer) -> np.ndarray | None:
        """Keep it instead of the replica's last; returns an array that is of no use any more and may be written to, if any.

        That is the content of the replica's last answer, or of this one if it alone is beyond the bound.
        """
        with self._lock:
            last = self._forget(answer.stamp.replica)
            if answer.content.nbytes > self._limit:
                return answer.content
            while self._bytes + answer.content.nbytes > self._limit:
                self._forget(next(iter(self._kept)))
            self._kept[answer.stamp.replica] = answer
            self._bytes += answer.content.nbytes
            return last.content if last is not None else None

    def find(self, stamp: Stamp) -> Answer | None:
        """The answer to the exchange of this stamp, if it is still kept."""
        with self._lock:
            answer = self._kept.get(stamp.replica)
            return answer if answer is not None and answer.stamp == stamp else None

    def _forget(self, replica: int) -> Answer | None:
        answer = self._kept.pop(replica, None)
        if answer is not None:
            self._bytes -= answer.content.nbytes
        return answer
