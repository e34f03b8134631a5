"""A round: the contributions of one synchronous step.

Each member lays its vector into a row of its own, so that one killed half-way through leaves no half sum, and the mean is summed
in the order of the replicas whoever came first: the same contributions give the same step, bit for bit. Rounds are numbered, and
a row says for which of them it is: one is over when the shard raises its count of rounds, in one word, after the step. So a
member killed while it makes the step leaves the contributions as they were, and the step is made by somebody else.

With backup workers (Chen et al. 2016) a round has a quorum: so many contributions make the step, whoever else is still at work.
"""

from __future__ import annotations

import numpy as np

from ps.elastic import mean_rows


class Round:
    """Over arrays that it is given; the shard's lock must be held around every call.

    Args:
      rows: (replicas, n), one contribution each.
      mean: (n,), for the mean.
      laid: int64 (replicas,): the round, counted from 1, that each row is for.
      members: int64 (replicas,): 1 where rounds wait for that replica.
      backups: replicas whose contribution a step does not need, 0 <= backups < replicas.
    """

    def __init__(self, rows: np.ndarray, mean: np.ndarray, laid: np.ndarray, members: np.ndarray, backups: int = 0):
        self.rows, self.laid, self.members = rows, laid, members
        self.quorum = laid.size - backups
        self._mean = mean

    def join(self, replica: int) -> None:
        """Wait for ``replica`` from now on."""
        self.members[replica] = 1

    def leave(self, replica: int) -> None:
        """Wait for ``replica`` no more; what it has laid down still counts."""
        self.members[replica] = 0

    def lay(self, replica: int, values: np.ndarray, number: int) -> None:
        """Take the contribution (n,) of ``replica``, which is a member from now on, to round ``number``."""
        np.copyto(self.rows[replica], values)
        self.members[replica] = 1
        self.laid[replica] = number

    def begun(self, number: int) -> bool:
        """Somebody has contributed to round ``number``."""
        return bool((self.laid == number).any())

    def complete(self, number: int) -> bool:
        """Somebody has contributed to round ``number``, and so have a quorum or all members, where these are fewer."""
        laid = self.laid == number
        count = int(np.count_nonzero(laid))
        return count >= self.quorum or (count > 0 and bool(laid[self.members == 1].all()))

    def mean(self, number: int) -> tuple[np.ndarray, int]:
        """The mean of the contributions to round ``number``, (n,) valid until the next call, and one contributor's id."""
        laid = (self.laid == number).astype(np.int64)
        mean_rows(self.rows, laid, self._mean)
        return self._mean, int(laid.argmax())
