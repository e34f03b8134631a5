"""What the coordinator wants done: effects, to be carried out by a launcher in their order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Examples ``[start, stop)`` of an epoch's order.

    Attributes:
      id: unique within a run.
    """

    id: int
    epoch: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class OpenEpoch:
    """Make the order of ``epoch`` available, in the place of the one ``Plan.open_epochs`` before it."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Assign:
    """Give a range to a replica, which may still be busy with one before it."""

    replica: int
    range: Range


@dataclass(frozen=True, slots=True)
class Join:
    """From now on synchronous steps wait for this replica."""

    replica: int


@dataclass(frozen=True, slots=True)
class Leave:
    """This replica has no work in this epoch any more, or has died: nobody must wait for it."""

    replica: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Replace a replica that has died."""

    replica: int


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """So many examples have been processed as ``epoch`` and those before it have; with a barrier, all of theirs."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Evaluate the center as it is now; the answer goes to ``evaluated``."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Save everything now."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Training is over.

    Attributes:
      reason: in words, for the summary.
      at_once: replicas are to stop at their next step; otherwise they are idle already.
    """

    reason: str
    at_once: bool


@dataclass(frozen=True, slots=True)
class Fail:
    """The job cannot go on.

    Attributes:
      replica: the one that died last. deaths: how many there were without progress in between.
      at: the range that was at work in each of these deaths, of whichever replica; None: all of them are of ``replica``.
    """

    replica: int
    deaths: int
    at: Range | None = None


Effect = OpenEpoch | Assign | Join | Leave | Restart | EpochEnded | Evaluate | Checkpoint | Finish | Fail
