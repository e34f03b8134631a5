"""In which order the examples of an epoch are used: a pure function of the seed and the epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ps.errors import UsageError


@dataclass(frozen=True)
class Curriculum:
    """Easy examples first.

    Attributes:
      strategy: "sorted" uses only the easiest share of the examples, which grows to all of them; "mixed" draws part of an epoch
        from that share and the rest from all examples, the combined strategy of Zaremba and Sutskever.
      epochs: after so many epochs all examples take part.
      start: share of the easiest examples in the first epoch, > 0 and <= 1.
      mix: share of an epoch that "mixed" draws from all examples.

    References: Bengio et al. 2009; Zaremba, Sutskever 2014, section 4.
    """

    strategy: str = "mixed"
    epochs: int = 5
    start: float = 0.2
    mix: float = 0.2

    def share(self, epoch: int) -> float:
        """The share of the easiest examples in play in ``epoch`` (0-based): linear from ``start`` to 1."""
        return min(1.0, self.start + (1.0 - self.start) * epoch / self.epochs)


@dataclass(frozen=True)
class Order:
    """Makes each epoch's order.

    Attributes:
      examples: int64 (n,), indices of the training examples in the data set.
      seed: of the job.
      shuffle: a new random order every epoch; otherwise the order of ``examples``.
      replacement: draw n examples with replacement.
      curriculum: easy first, or None.
      difficulty: (n,) of ``examples``, low is easy; needed by a curriculum.
    """

    examples: np.ndarray
    seed: int = 0
    shuffle: bool = True
    replacement: bool = False
    curriculum: Curriculum | None = None
    difficulty: np.ndarray | None = None

    def __post_init__(self):
        if self.curriculum is not None:
            if self.difficulty is None:
                raise UsageError(
                    "[data] curriculum: the task gives no difficulty(); add that method, or take the curriculum out"
                )
            if self.difficulty.shape != self.examples.shape or not np.isfinite(self.difficulty).all():
                raise UsageError(
                    f"the task's difficulty() must give one finite number per example, {self.examples.shape}, "
                    f"got {self.difficulty.shape}"
                )
            object.__setattr__(self, "difficulty", np.argsort(self.difficulty, kind="stable"))

    def size(self, epoch: int) -> int:
        """Examples in ``epoch``."""
        if self.curriculum is not None and self.curriculum.strategy == "sorted":
            return max(1, round(self.curriculum.share(epoch) * self.examples.size))
        return self.examples.size

    def of(self, epoch: int) -> np.ndarray:
        """int64 (size(epoch),): the examples of ``epoch`` in the order to be used."""
        rng = np.random.default_rng([self.seed, 0x0DE5, epoch])
        n = self.examples.size
        if self.curriculum is not None:
            chosen = self._easy_first(epoch, rng)
        elif self.replacement:
            chosen = rng.integers(0, n, n)
        elif self.shuffle:
            chosen = rng.permutation(n)
        else:
            return self.examples
        return self.examples[chosen]

    def _easy_first(self, epoch: int, rng: np.random.Generator) -> np.ndarray:
        assert self.curriculum is not None and self.difficulty is not None
        n = self.examples.size
        easy = self.difficulty[: max(1, round(self.curriculum.share(epoch) * n))]
        if self.curriculum.strategy == "sorted":
            return rng.permutation(easy) if self.shuffle else easy
        if easy.size == n:  # everything is in play: an ordinary epoch
            return rng.permutation(n) if self.shuffle else np.arange(n)
        everywhere = rng.random(n) < self.curriculum.mix
        return np.where(everywhere, rng.integers(0, n, n), easy[rng.integers(0, easy.size, n)])


class RecentOrders:
    """The orders of the last few epochs asked for; others are made again, which gives the same.

    Args:
      order: makes them.
    """

    KEPT = 4

    def __init__(self, order: Order):
        self._order = order
        self._kept: dict[int, np.ndarray] = {}

    def of(self, epoch: int) -> np.ndarray:
        """As ``Order.of``."""
        if epoch not in self._kept:
            self._kept[epoch] = self._order.of(epoch)
            while len(self._kept) > self.KEPT:
                del self._kept[next(iter(self._kept))]
        return self._kept[epoch]


def split_validation(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and validation examples, int64, disjoint, together ``n``; the split is random from the seed.

    Raises:
      UsageError: one of the two would be empty though ``fraction`` is not 0.
    """
    if fraction == 0:
        return np.arange(n), np.zeros(0, np.int64)
    held = round(n * fraction)
    if not 0 < held < n:
        raise UsageError(
            f"[data] validation = {fraction} of {n} examples leaves {n - held} to train and {held} to validate"
        )
    shuffled = np.random.default_rng([seed, 0x5A11D]).permutation(n)
    return np.sort(shuffled[held:]), np.sort(shuffled[:held])
