"""The error tree of Hogshead.

::

    ValueError
      └── UsageError            a user's mistake: says what, the bound, what was got, and the remedy
            ├── JobError        a wrong key or value in a job
            └── DataError       a missing, malformed or non-finite data file (file, line and column)
    Exception
      └── HogsheadError         something failed while running; carries shard, replica and version where known
            ├── TaskError       the user's task raised, or returned something of the wrong shape
            ├── NonFiniteError  a NaN or an infinity in a loss, a gradient or the parameters
            ├── WorkerError     a worker kept dying
            ├── MemoryShortage  too little shared memory
            ├── CheckpointError a checkpoint is corrupt, foreign or could not be written
            ├── RunDirectoryError   a run directory is in use or is not one
            └── TransportError  a link to a shard failed (the peer is named)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A user's mistake. The message says what is wrong, the bound, the value got and the remedy."""


class JobError(UsageError):
    """A job has an unknown key, a missing key or a value out of its bound."""


class DataError(UsageError):
    """A data file is missing, malformed, out of range or not finite."""


class HogsheadError(Exception):
    """A failure at run time.

    Args:
      message: what happened and what to do.
      shard: index of the shard concerned, if any.
      replica: id of the replica concerned, if any.
      version: the shard's version at that moment, if known.
    """

    def __init__(
        self, message: str, *, shard: int | None = None, replica: int | None = None, version: int | None = None
    ):
        super().__init__(message)
        self.shard, self.replica, self.version = shard, replica, version


class TaskError(HogsheadError):
    """The user's task raised, or returned something of the wrong shape or type."""


class NonFiniteError(HogsheadError):
    """A loss, a gradient or the parameters hold a NaN or an infinity."""


class WorkerError(HogsheadError):
    """A worker process kept dying; the message holds that worker's own error."""


class MemoryShortage(HogsheadError):
    """There is too little memory for what the job needs, or it took more than it may."""


class CheckpointError(HogsheadError):
    """A checkpoint is corrupt, of another job, or could not be written."""


class RunDirectoryError(HogsheadError):
    """A run directory is in use, exists already, or is not a run directory."""


class TransportError(HogsheadError):
    """A link to a shard failed."""


MOST_TEXT = 4000


def shortened(text: str, most: int = MOST_TEXT) -> str:
    """``text`` with its middle left out where it has more than ``most`` characters; the end of an error says more."""
    if len(text) <= most:
        return text
    head = most // 4
    tail = most - head
    return f"{text[:head]} … {len(text) - most:,} characters left out … {text[-tail:]}"


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'tau'?"`` for the known word most like ``word``, else the sorted list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known) or 'none'}"


def meant(word: object, choices: Iterable[str]) -> str:
    """``"; did you mean 'tau'?"`` or nothing, for a message that lists the choices already."""
    hint = nearest(word, choices) if isinstance(word, str) else ""
    return hint if "did you mean" in hint else ""
