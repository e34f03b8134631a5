"""A shard: one range of the center with its slots, its version, its push watermarks and its reader memory.

A shard owns no thread and no process. It is a view of arrays, private or in shared memory, and a lock; whoever holds it applies
updates in place. So a replica beside the shard steps the center itself, and an actor steps it for replicas elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from ps import elastic
from ps.atomics import fetch_add
from ps.errors import TransportError, UsageError
from ps.layout import Layout, Range
from ps.locks import Lock
from ps.reader_memory import ReaderMemory
from ps.rounds import Round
from ps.rules.base import Context, UpdateRule
from ps.stepper import Payload, Stepper

# Words of the header. UPDATING is the replica + 1 that is inside an update; ROUND counts synchronous
# steps, DROPPED contributions that came too late for theirs.
VERSION, STEPS, UPDATING, TORN, DUPLICATES, FALLBACKS, ROUND, DROPPED = range(8)
HEADER_WORDS = 16


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who pushes, and which of its pushes this is; a shard applies each stamp at most once.

    Attributes:
      replica: id, 0 <= id < the job's highest number of replicas.
      incarnation: counts the processes that have been this replica; a push of an older one is refused.
      sequence: rises with every push of this incarnation, from 1.
    """

    replica: int
    incarnation: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Applied:
    """Answer to a push or an exchange.

    Attributes:
      version: of the shard after it.
      staleness: version before it minus the version pulled.
      duplicate: this stamp had been applied before; nothing was changed.
      round: of a contribution: the synchronous step that it is for, counted from 1; if dropped, how many had been made, but 0
        with backup workers.
      dropped: nothing was changed: a contribution that came too late, as its step was made before; or a push with a NaN or an
        infinity to a job that skips these.
    """

    version: int
    staleness: int
    duplicate: bool = False
    round: int = 0
    dropped: bool = False


@dataclass(frozen=True)
class ShardOptions:
    """How shards behave; the same for all shards of a job.

    Attributes:
      replicas: highest number of replicas at one time.
      lock_free: apply pushes concurrently, without a lock (Hogwild!).
      rounds: keep one contribution per replica, for synchronous steps.
      backups: with rounds: a step is made without the last so many of ``replicas``, and what comes late is dropped.
      memory_bytes: bound on the reader memory of all shards together; readers without room fall back (see ReaderMemory).
      averaging: weight of one new observation of an averaged parameter.
      seed: of gradient noise.
      skip_nonfinite: a push with a NaN or an infinity that comes over the network is dropped and counted instead of refused.
    """

    replicas: int = 1
    lock_free: bool = False
    rounds: bool = False
    backups: int = 0
    memory_bytes: int = 1 << 30
    averaging: float = 0.1
    seed: int = 0
    skip_nonfinite: bool = False

    def __post_init__(self):
        if self.replicas < 1:
            raise UsageError(f"ShardOptions: replicas must be >= 1, got {self.replicas}")
        if not 0 <= self.backups < self.replicas:
            raise UsageError(
                f"ShardOptions: backups must be >= 0 and < replicas = {self.replicas}, got {self.backups}: somebody must make "
                "the step"
            )
        if self.memory_bytes < 0:
            raise UsageError(f"ShardOptions: memory_bytes must be >= 0, got {self.memory_bytes}")


@dataclass
class Shard:
    """One shard over arrays that it is given (see ``ps.state``, which allocates them).

    Attributes:
      index: of this shard, from 0.
      range: its part of the flat vector.
      layout: of the whole vector.
      rule: steps the trained parameters.
      center: (n,) this shard's part of the parameters.
      slots: name -> (n,).
      header: int64 (HEADER_WORDS,).
      watermarks: int64 (replicas, 2): incarnation and highest sequence applied.
      row_steps: table name -> int64 (rows of the table in this shard,).
      memory: what delay-aware rules remember per reader, or None.
      round: contributions of a synchronous step, or None.
      lock: entered around each update unless ``options.lock_free``.
    """

    index: int
    range: Range
    layout: Layout
    rule: UpdateRule
    center: np.ndarray
    slots: dict[str, np.ndarray]
    header: np.ndarray
    watermarks: np.ndarray
    row_steps: dict[str, np.ndarray]
    lock: Lock
    options: ShardOptions
    memory: ReaderMemory | None = None
    round: Round | None = None
    _stepper: Stepper = field(init=False, repr=False)
    _exclusive: bool = field(init=False, repr=False)
    _guard: AbstractContextManager = field(init=False, repr=False)

    def __post_init__(self):
        self._exclusive = self.round is not None or not self.options.lock_free
        self._guard = self.lock if self._exclusive else nullcontext()
        self._stepper = Stepper(
            self.layout, self.range, self.rule, self.options.averaging, self.center, self.slots, self.row_steps
        )

    @property
    def version(self) -> int:
        """Pushes and exchanges applied so far."""
        return self.header.item(VERSION)

    @property
    def rounds(self) -> int:
        """Synchronous steps made so far."""
        return self.header.item(ROUND)

    @property
    def dropped(self) -> int:
        """Contributions dropped so far because they came late, and pushes because they were not finite."""
        return self.header.item(DROPPED)

    def counts(self) -> dict[str, int]:
        """What went otherwise than planned: updates cut off by a kill, pushes seen twice, reads that were not remembered."""
        words = {"torn_updates": TORN, "duplicate_pushes": DUPLICATES, "memory_fallbacks": FALLBACKS}
        return {name: int(self.header[word]) for name, word in words.items()}

    # -- reading ------------------------------------------------------------------------------------------------------

    def pull(self, out: np.ndarray, reader: int | None = None, consistent: bool = False) -> int:
        """Copy the center into ``out`` (n,) and return its version.

        Args:
          out: (n,), dtype of the center.
          reader: the replica that reads, if a delay-aware rule is to remember this read.
          consistent: wait for the update in progress, so that all elements are of one version. Without it the read may be
            torn. Lock-free shards have no such moment and always give a torn read.
        """
        remembering = self.memory is not None and reader is not None
        if (consistent or remembering) and self._exclusive:
            with self.lock:
                return self._read(out, reader if remembering else None)
        return self._read(out, reader if remembering else None)

    def _read(self, out: np.ndarray, reader: int | None) -> int:
        version = self.version  # before the copy: staleness then counts an update that lands in the middle
        np.copyto(out, self.center)
        if reader is not None:
            self._remember(reader)
        return version

    def _remember(self, reader: int) -> None:
        """Keep for ``reader`` what the rule wants back at its push."""
        assert self.memory is not None
        with nullcontext() if self._exclusive else self.lock:  # no two readers may be given the same row
            row = self.memory.claim(reader)
        if row is None:
            fetch_add(self.header, FALLBACKS, 1)
            return
        name = self.rule.remembers
        np.copyto(row, self.center if name == "center" else self.slots[str(name)])

    # -- writing ------------------------------------------------------------------------------------------------------

    def push(
        self,
        payload: Payload,
        stamp: Stamp,
        *,
        version: int,
        count: int = 1,
        gradient_norm: float | None = None,
        epoch: int = 0,
    ) -> Applied:
        """Apply one push with the rule.

        Args:
          payload: this shard's part, as ``ps.stepper.split_payload`` gives it.
          stamp: who pushes; a stamp seen before changes nothing.
          version: this shard's version at the pull that the gradient was taken after.
          count: number of gradients summed in the payload.
          gradient_norm: 2-norm of the whole gradient over all shards.
          epoch: of the examples, for schedules.

        Raises:
          TransportError: the stamp's incarnation is older than one seen before.
        """

        def step(staleness: int) -> None:
            self._stepper.apply(payload, self._context(stamp.replica, staleness, count, gradient_norm, epoch))

        return self._update(stamp, version, step)

    def exchange(self, x: np.ndarray, alpha: float, stamp: Stamp, *, version: int) -> Applied:
        """EASGD's atomic elastic step between ``x`` (n,), changed in place, and the center. Arguments as in ``push``.

        On a lock-free shard each element is exchanged for itself, as Hogwild! would.
        """
        return self._update(stamp, version, lambda _staleness: elastic.step(x, self.center, alpha))

    def contribute(
        self, payload: np.ndarray, stamp: Stamp, *, version: int, epoch: int = 0, number: int = 0
    ) -> Applied:
        """Lay down this replica's part of a synchronous step; the last one that it needs applies the mean of all.

        The answer comes at once; the step has been made when ``rounds`` has reached the answer's ``round``. With backup workers
        a part that was taken at an older version than the shard's is late: it is dropped, and there is nothing to wait for.

        Args:
          number: the step that it is for, counted from 1; 0, and always with backup workers: the open one. A part for a step that
            was made before is dropped. A part for one after the open step tells that this shard has lost some steps: all others
            have made the open one, so it is over here too, with the parts that are there.
        """
        contributions = self.round
        assert contributions is not None, "the job was set up without rounds"
        refused: int | None = None

        def lay(staleness: int) -> None:
            nonlocal refused
            if self.options.backups:
                if staleness > 0:
                    self.header[DROPPED] += 1
                    refused = 0
                    return
            elif number:
                if number <= self.rounds:
                    refused = self.rounds
                    return
                self._skip_rounds_before(number, epoch)
            contributions.lay(stamp.replica, payload, self.rounds + 1)
            self._finish_round(epoch)

        applied = self._update(stamp, version, lay, advance=False)
        if refused is not None:
            return replace(applied, round=refused, dropped=True)
        return replace(applied, round=int(contributions.laid[stamp.replica]))

    def join(self, replica: int) -> None:
        """Count ``replica`` in from the next synchronous step on."""
        if self.round is not None:
            with self.lock:
                self.round.join(replica)

    def leave(self, replica: int, epoch: int = 0) -> None:
        """Forget a replica that has ended or died: free its memory, and do not let a synchronous step wait for it."""
        with self.lock:
            if self._exclusive:
                self._note_torn()
            if self.memory is not None:
                self.memory.forget(replica)
            if self.round is not None:
                self.round.leave(replica)
                self._finish_round(epoch)

    def drop(self, version: int) -> Applied:
        """Count a push that is left out, taken after a pull of ``version``; returns the answer to it."""
        fetch_add(self.header, DROPPED, 1)
        return Applied(self.version, max(self.version - version, 0), dropped=True)

    def note_updates(self, count: int) -> int:
        """Count updates that a Hogwild! sweep made to the center in place; returns the version before them."""
        return fetch_add(self.header, VERSION, count)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _update(self, stamp: Stamp, version: int, change: Callable[[int], None], advance: bool = True) -> Applied:
        """Call ``change(staleness)`` under the lock (unless lock-free) if the stamp is fresh, and raise the version."""
        with self._guard:
            staleness = max(self.version - version, 0)
            if not self._fresh(stamp):
                return Applied(self.version, staleness, duplicate=True)
            if not self._exclusive:
                change(staleness)
                return Applied(self._mark(stamp, advance), staleness)
            self._note_torn()
            self.header[UPDATING] = stamp.replica + 1
            try:
                change(staleness)
                return Applied(self._mark(stamp, advance), staleness)
            finally:
                self.header[UPDATING] = 0

    def _note_torn(self) -> None:
        """Count an update whose maker was killed inside it: the lock, which is ours now, was freed by the kernel."""
        if self.header.item(UPDATING):
            self.header[TORN] += 1
            self.header[UPDATING] = 0

    def _fresh(self, stamp: Stamp) -> bool:
        incarnation, sequence = self.watermarks[stamp.replica].tolist()
        if stamp.incarnation < incarnation:
            raise TransportError(
                f"shard {self.index}: replica {stamp.replica} was replaced: incarnation {stamp.incarnation} pushed after "
                f"incarnation {incarnation}",
                shard=self.index,
                replica=stamp.replica,
                version=self.version,
            )
        if stamp.incarnation == incarnation and stamp.sequence <= sequence:
            fetch_add(self.header, DUPLICATES, 1)
            return False
        return True

    def _mark(self, stamp: Stamp, advance: bool) -> int:
        """Note that the stamp has been applied; returns the version after it."""
        self.watermarks[stamp.replica] = (stamp.incarnation, stamp.sequence)
        return fetch_add(self.header, VERSION, 1) + 1 if advance else self.version

    def _context(self, replica: int, staleness: int, count: int, norm: float | None, epoch: int) -> Context:
        step = fetch_add(self.header, STEPS, 1) + 1
        remembered = self.memory.recall(replica) if self.memory is not None else None
        return Context(
            step=step,
            epoch=epoch,
            staleness=staleness,
            offset=self.range.start,
            count=count,
            gradient_norm=norm,
            seed=self.options.seed,
            remembered=remembered,
        )

    def _finish_round(self, epoch: int) -> None:
        if self.round is not None and self.round.complete(self.rounds + 1):
            self._make_round(epoch)

    def _make_round(self, epoch: int) -> None:
        assert self.round is not None
        number = self.rounds + 1
        mean, replica = self.round.mean(number)
        self._stepper.apply(mean, self._context(replica, 0, 1, None, epoch))
        fetch_add(self.header, VERSION, 1)
        self.header[ROUND] = number  # last: until here the round can be finished by somebody else

    def _skip_rounds_before(self, number: int, epoch: int) -> None:
        assert self.round is not None
        if self.rounds + 1 < number:
            if self.round.begun(self.rounds + 1):
                self._make_round(epoch)
            self.header[ROUND] = number - 1
