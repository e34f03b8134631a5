"""What a replica counts while it trains, in words of shared memory that the coordinator reads without asking."""

from __future__ import annotations

import numpy as np

BUCKETS = 1024  # staleness is counted exactly below 512, in ever wider buckets above
_EXACT = 512
_PER_OCTAVE = 32

COUNTERS = (
    "steps",
    "examples",
    "updates",
    "pulls",
    "skipped",
    "dropped",
    "staleness_sum",
    "staleness_count",
    "staleness_max",
    "heartbeat",
)
SUMS = ("loss_sum", "loss_count", "wait_seconds", "busy_seconds")


def statistics_specs(replicas: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays for ``replicas`` replicas."""
    return {
        "statistics.counters": ((replicas, len(COUNTERS)), "int64"),
        "statistics.sums": ((replicas, len(SUMS)), "float64"),
        "statistics.staleness": ((replicas, BUCKETS), "int64"),
    }


class Statistics:
    """One replica's counters, by attribute: ``statistics.steps += 1``.

    Attributes:
      steps: local steps finished. examples: examples seen. updates: changes made to the center (pushes, exchanges, or the
        examples of a sweep). pulls. skipped: gradients thrown away because they were not finite. dropped: gradients
        that came too late for their synchronous step. heartbeat: rises as long as the replica does anything.
      loss_sum, loss_count: of the training loss. wait_seconds: waiting for work. busy_seconds: working.
      histogram: int64 (BUCKETS,) of staleness.
    """

    __slots__ = ("_buckets", "_counters", "_sums", "histogram")

    def __init__(self, counters: np.ndarray, sums: np.ndarray, histogram: np.ndarray):
        # Memory views give and take plain numbers several times faster than arrays; these are counted up at every step.
        self._counters, self._sums = memoryview(counters), memoryview(sums)
        self.histogram, self._buckets = histogram, memoryview(histogram)

    @staticmethod
    def of(arrays, replica: int) -> Statistics:
        """The counters of one replica in the arrays of ``statistics_specs``."""
        return Statistics(
            arrays["statistics.counters"][replica],
            arrays["statistics.sums"][replica],
            arrays["statistics.staleness"][replica],
        )

    @staticmethod
    def private() -> Statistics:
        """Counters in this process's own memory."""
        return Statistics.of({name: np.zeros(shape, dtype) for name, (shape, dtype) in statistics_specs(1).items()}, 0)

    def note_staleness(self, staleness: int, times: int = 1) -> None:
        """Count ``times`` updates of this staleness."""
        self._buckets[bucket_of(staleness)] += times
        self.staleness_sum += staleness * times
        self.staleness_count += times
        if staleness > self.staleness_max:
            self.staleness_max = staleness


def _word(words: str, index: int) -> property:
    """An attribute that is one word of ``_counters`` or ``_sums``."""

    def get(statistics: Statistics) -> float:
        return getattr(statistics, words)[index]

    def put(statistics: Statistics, value: float) -> None:
        getattr(statistics, words)[index] = value

    return property(get, put)


for _words, _names in (("_counters", COUNTERS), ("_sums", SUMS)):
    for _index, _name in enumerate(_names):
        setattr(Statistics, _name, _word(_words, _index))


def columns(arrays) -> dict[str, np.ndarray]:
    """Each counter of all replicas, name -> (p,) view, in the arrays of ``statistics_specs``."""
    counters, sums = arrays["statistics.counters"], arrays["statistics.sums"]
    named = {name: counters[:, index] for index, name in enumerate(COUNTERS)}
    return named | {name: sums[:, index] for index, name in enumerate(SUMS)}


def bucket_of(staleness: int) -> int:
    """The histogram bucket that counts this staleness."""
    if staleness < _EXACT:
        return max(int(staleness), 0)
    octave = int(staleness).bit_length() - _EXACT.bit_length()
    within = (int(staleness) >> (octave + _EXACT.bit_length() - 1 - _PER_OCTAVE.bit_length() + 1)) - _PER_OCTAVE
    return min(_EXACT + octave * _PER_OCTAVE + within, BUCKETS - 1)


def value_of(bucket: int) -> int:
    """The smallest staleness that falls into ``bucket``."""
    if bucket < _EXACT:
        return bucket
    octave, within = divmod(bucket - _EXACT, _PER_OCTAVE)
    return (_PER_OCTAVE + within) << (octave + _EXACT.bit_length() - _PER_OCTAVE.bit_length())


def summarise_staleness(histogram: np.ndarray, total: int, largest: int) -> dict[str, object]:
    """Mean, quantiles and maximum.

    Args:
      histogram: int64 (BUCKETS,), summed over replicas. total: sum of all staleness. largest: the maximum.

    Returns:
      {mean, p50, p95, max, histogram: [[value, count], ...]} with null where nothing was counted.
    """
    count = int(histogram.sum())
    if count == 0:
        return {"mean": None, "p50": None, "p95": None, "max": None, "histogram": []}
    cumulative = np.cumsum(histogram)
    quantile = {f"p{q}": value_of(int(np.searchsorted(cumulative, q / 100 * count))) for q in (50, 95)}
    used = np.flatnonzero(histogram)
    pairs = [[value_of(int(bucket)), int(histogram[bucket])] for bucket in used]
    return {"mean": total / count, **quantile, "max": largest, "histogram": pairs}
