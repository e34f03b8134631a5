"""Admission: how far replicas may run apart. Policies are pure; what they decide by lies in arrays that they are given.

``asynchronous``: nobody waits. ``bounded``: stale synchronous parallel, nobody is more than so many steps ahead of the slowest.
``synchronous``: every step is the mean of one gradient from each replica. ``backup``: the same with the first gradients of a
step, and the late ones are dropped. The last two work by rounds on the shards (``ps.rounds``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ps.atomics import fetch_add
from ps.errors import UsageError, meant

Specs = dict[str, tuple[tuple[int, ...], str]]


class Clocks:
    """Where each replica is: the number of steps whose updates the shards have applied, counted from where it joined.

    Only members are waited for. A replica writes its own clock; joining and leaving is its coordinator's business, and happens
    while the replica makes no steps.

    Args:
      clocks: int64 (p,). members: int64 (p,), 1 where the replica has work and lives.
    """

    def __init__(self, clocks: np.ndarray, members: np.ndarray):
        self.clocks, self.members = clocks, members

    @staticmethod
    def specs(replicas: int) -> Specs:
        """Names, shapes and dtypes of the arrays for ``replicas`` replicas."""
        return {"clocks": ((replicas,), "int64"), "clock_members": ((replicas,), "int64")}

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray]) -> Clocks:
        """The clocks in the arrays of ``specs``."""
        return Clocks(arrays["clocks"], arrays["clock_members"])

    @staticmethod
    def private(replicas: int) -> Clocks:
        """Clocks in this process's own memory, for thousands of replicas: the smallest is always known."""
        return _CountedClocks(np.zeros(replicas, np.int64), np.zeros(replicas, np.int64))

    def join(self, replica: int) -> None:
        """Count ``replica`` in at the smallest clock of the members (0 if there are none).

        So it makes nobody wait until it has caught up, and a step that others have begun stays within their bound.
        """
        if self.members[replica]:
            return
        self.clocks[replica] = self.minimum()
        fetch_add(self.members, replica, 1)  # seen by all before the next line reads their clocks
        # Others may have gone on since the first reading. Now they wait for the newcomer too, so whoever was let in before that
        # is within the bound of the smallest clock as it is now.
        self.clocks[replica] = self._minimum_beside(replica)

    def leave(self, replica: int) -> None:
        """Wait for ``replica`` no more: it has no work, or is dead."""
        self.members[replica] = 0

    def clock(self, replica: int) -> int:
        """Of one replica."""
        return self.clocks.item(replica)

    def advance(self, replica: int, to: int) -> None:
        """All updates of ``replica`` before clock ``to`` have been applied."""
        self.clocks[replica] = to

    def note_waiting(self, waiting: bool) -> None:
        """Whether who asked last must wait. Of no use here; clocks on another host then answer when there is news."""

    def minimum(self) -> int:
        """Smallest clock of the members, 0 if there are none."""
        clocks = self.clocks[self.members != 0]
        return int(clocks.min()) if clocks.size else 0

    def lag(self, replica: int) -> int:
        """Steps that ``replica`` is ahead of the slowest member; 0 for one that is not a member."""
        return self.clock(replica) - self.minimum() if self.members.item(replica) else 0

    def _minimum_beside(self, replica: int) -> int:
        """Smallest clock of the other members, its own if there are none."""
        others = self.members != 0
        others[replica] = False
        return int(self.clocks[others].min()) if others.any() else self.clock(replica)


class _CountedClocks(Clocks):
    """Clocks that nobody else writes: how many members are at each is counted, so that the smallest need not be searched."""

    def __init__(self, clocks: np.ndarray, members: np.ndarray):
        super().__init__(clocks, members)
        self._at: Counter[int] = Counter()
        self._smallest = 0

    def join(self, replica: int) -> None:
        if not self.members[replica]:
            self.clocks[replica] = self.minimum()
            self.members[replica] = 1
            self._enter(self.clock(replica))

    def leave(self, replica: int) -> None:
        if self.members[replica]:
            self.members[replica] = 0
            self._quit(self.clock(replica))

    def advance(self, replica: int, to: int) -> None:
        before = self.clock(replica)
        self.clocks[replica] = to
        if self.members[replica]:
            self._enter(to)
            self._quit(before)

    def minimum(self) -> int:
        return self._smallest

    def _enter(self, clock: int) -> None:
        self._smallest = min(self._smallest, clock) if self._at else clock
        self._at[clock] += 1

    def _quit(self, clock: int) -> None:
        self._at[clock] -= 1
        if self._at[clock] == 0:
            del self._at[clock]
            if clock == self._smallest:
                self._smallest = min(self._at, default=0)  # few are within a bound of each other


@dataclass(frozen=True)
class Asynchronous:
    """Nobody waits for anybody; also the base of the other policies.

    Class attributes:
      name: as in a job.
      clocked: steps wait by the clocks.
      rounds: gradients are contributions to rounds, see ``ps.rounds``.
      backups: with rounds: replicas whose gradient a step does not wait for.
    """

    name: ClassVar[str] = "asynchronous"
    clocked: ClassVar[bool] = False
    rounds: ClassVar[bool] = False
    backups: ClassVar[int] = 0

    @property
    def joins(self) -> bool:
        """Somebody may have to wait, so it must be known who has work and lives."""
        return self.clocked or self.rounds

    def allowance(self, clocks: Clocks, replica: int, ahead: int = 0) -> int:
        """How many steps ``replica`` may make now before it asks again; 0: it must wait.

        Args:
          clocks: of all replicas.
          replica: who asks, between two steps.
          ahead: steps it has made since its clock, whose updates have not been applied yet.
        """
        return 1 << 62

    def admits(self, clocks: Clocks, replica: int, ahead: int = 0) -> bool:
        """``replica`` may begin its next step now. Arguments as in ``allowance``."""
        return self.allowance(clocks, replica, ahead) > 0


@dataclass(frozen=True)
class Bounded(Asynchronous):
    """Stale synchronous parallel: a step at clock c begins only if c - the smallest clock <= ``max_clock_lag``.

    A clock rises only when the updates before it have been applied. So a read at clock c holds every update stamped
    <= c - max_clock_lag - 1, and the reader's own. The slowest member always goes on, hence somebody always does.

    Args:
      max_clock_lag: s >= 0, in steps; 0 lets nobody begin a step before all have finished the one before.

    References: Ho et al. 2013, section 2.
    """

    max_clock_lag: int = 0

    name: ClassVar[str] = "bounded"
    clocked: ClassVar[bool] = True

    def __post_init__(self):
        if self.max_clock_lag < 0:
            raise UsageError(
                f"Bounded: max_clock_lag must be >= 0 steps, got {self.max_clock_lag}; for no bound choose asynchronous"
            )

    def allowance(self, clocks: Clocks, replica: int, ahead: int = 0) -> int:
        lag = clocks.lag(replica)
        left = self.max_clock_lag + 1 - lag - ahead
        return max(left, 1) if lag <= 0 else max(left, 0)


@dataclass(frozen=True)
class Synchronous(Asynchronous):
    """Bulk synchronous parallel: every step is the mean of one gradient from each member, and all wait for it."""

    name: ClassVar[str] = "synchronous"
    rounds: ClassVar[bool] = True


@dataclass(frozen=True)
class Backup(Asynchronous):
    """Backup workers: of N + b replicas the first N gradients of a round make the step; late ones are dropped and counted.

    Where fewer than N have work and live, a step takes one gradient from each of them.

    Args:
      backups: b >= 0; 0 is ``Synchronous``.

    References: Chen et al. 2016, section 3.
    """

    backups: int = 1  # type: ignore[misc]

    name: ClassVar[str] = "backup"
    rounds: ClassVar[bool] = True

    def __post_init__(self):
        if self.backups < 0:
            raise UsageError(f"Backup: backups must be >= 0 replicas, got {self.backups}")


Policy = Asynchronous
POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (Asynchronous, Bounded, Synchronous, Backup)}


def build_admission(table: Mapping[str, Any]) -> Policy:
    """The policy of a job's ``[admission]``.

    Args:
      table: ``policy`` and options; those of other policies are left alone.

    Raises:
      UsageError: no such policy, or an option out of its bounds.
    """
    name = table.get("policy", Asynchronous.name)
    if name not in POLICIES:
        known = ", ".join(POLICIES)
        raise UsageError(f"[admission] policy must be one of {known}, got {name!r}{meant(name, POLICIES)}")
    policy = POLICIES[name]
    return policy(**{option.name: table[option.name] for option in fields(policy) if option.name in table})
