"""What a delay-aware rule must remember from each read, kept on the shard within a byte bound.

AdaptiveRevision needs the sum of gradients as of the reader's pull, DC-ASGD the center as of it. Keeping it here instead of
sending it out and back halves the traffic. There is room for so many readers as the bound allows, at most one row each. The
fall-back for a reader without room: the rule is told nothing and acts as if nobody had pushed since the read (AdaptiveRevision
becomes AsyncAdaGrad for that push, DC-ASGD becomes SGD), and the shard counts it. A row is written anew at each pull, is read at
each push, and is freed when its reader leaves or dies.
"""

from __future__ import annotations

import numpy as np


def capacity(memory_bytes: int, row_bytes: int, replicas: int) -> int:
    """Rows that fit the bound, never more than there are replicas."""
    return min(replicas, memory_bytes // max(row_bytes, 1))


class ReaderMemory:
    """Rows of remembered vectors over arrays that it is given.

    Args:
      rows: (capacity, n), dtype of the center.
      owners: int64 (capacity,): reader + 1 whose row it is, 0 where free.
    """

    def __init__(self, rows: np.ndarray, owners: np.ndarray):
        self.rows, self.owners = rows, owners

    def claim(self, reader: int) -> np.ndarray | None:
        """The row of ``reader``, (n,) to be written, or None if there is no room. Not for two callers at once."""
        row = self._find(reader)
        if row < 0:
            row = self._free(reader)
            if row < 0:
                return None
            self.owners[row] = reader + 1
        return self.rows[row]

    def recall(self, reader: int) -> np.ndarray | None:
        """What ``reader`` saw, (n,) as a view, or None where nothing is remembered."""
        row = self._find(reader)
        return None if row < 0 else self.rows[row]

    def forget(self, reader: int) -> None:
        """Free the row of ``reader``, if it has one."""
        row = self._find(reader)
        if row >= 0:
            self.owners[row] = 0

    def _find(self, reader: int) -> int:
        """The row that ``reader`` has, or -1: most often the row of its own number."""
        if reader < self.owners.size and self.owners.item(reader) == reader + 1:
            return reader
        return self._search(reader + 1)

    def _free(self, reader: int) -> int:
        """A free row, or -1: that of its own number, so that it is found at once, or the first."""
        if reader < self.owners.size and self.owners.item(reader) == 0:
            return reader
        return self._search(0)

    def _search(self, owner: int) -> int:
        found = np.flatnonzero(self.owners == owner)
        return int(found[0]) if found.size else -1
