"""The jobs of a service and where each stands, in SQLite: what was acknowledged is on the disk.

One process has a store open at a time; its threads share it. Write-ahead logging and ``synchronous = FULL``: a change that has
returned outlives the process and the machine. What changes or removes a job works on a full disk too, see ``Ballast``.
"""

from __future__ import annotations

import difflib
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from threading import Condition, RLock
from typing import Any, Self

from deploy.service.ballast import Ballast
from deploy.service.states import ENDED, KILL, State
from ps.errors import HogsheadError, UsageError

LONGEST_REASON = 1000  # characters
_OURS = 0x486F6773  # "Hogs", SQLite's application_id
_LOOKED_THROUGH = 1000  # ids that an unknown one is compared with

# Each brings a file from the version that is its index to the next; none is ever changed once it was released.
MIGRATIONS = (
    """
    CREATE TABLE jobs (
      position INTEGER PRIMARY KEY AUTOINCREMENT,
      id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
      submitted_at REAL NOT NULL, started_at REAL, ended_at REAL,
      priority INTEGER NOT NULL, attempt INTEGER NOT NULL,
      cpus REAL NOT NULL, gpus REAL NOT NULL, memory_bytes INTEGER NOT NULL,
      on_loss TEXT NOT NULL, most_attempts INTEGER NOT NULL,
      strategy TEXT NOT NULL, task TEXT NOT NULL, job TEXT NOT NULL, overrides TEXT NOT NULL,
      client_token TEXT NOT NULL, wish TEXT NOT NULL, resume INTEGER NOT NULL
    );
    CREATE INDEX jobs_by_state ON jobs (state);
    CREATE UNIQUE INDEX jobs_by_token ON jobs (client_token) WHERE client_token <> '';
    CREATE TABLE numbers (name TEXT PRIMARY KEY, last INTEGER NOT NULL);
    """,
    """
    ALTER TABLE jobs ADD COLUMN pieces TEXT NOT NULL DEFAULT '';
    """,
    """
    ALTER TABLE jobs ADD COLUMN earlier TEXT NOT NULL DEFAULT '';
    """,
)


class UnknownJob(HogsheadError):
    """There is no job of that id."""


class WrongState(HogsheadError):
    """A job is in a state in which that cannot be done.

    Attributes:
      state: the job's.
    """

    def __init__(self, job: str, state: State, expected: Collection[State]):
        wanted = " or ".join(sorted(expected)) or "none"
        super().__init__(f"job {job} is {state}; this needs one that is {wanted}")
        self.state = state


@dataclass(frozen=True)
class JobRecord:
    """One job.

    Attributes:
      id: ``<name>-<number>``. state, reason: where it stands, and why, in one line.
      submitted_at, started_at, ended_at: seconds since the epoch; None: not yet. ``started_at`` is of the first start.
      priority: higher ones are started first. attempt: how often its driver was started.
      cpus, gpus, memory_bytes: what it takes of the cluster while it runs; 0 bytes: it does not say.
      pieces: of which that consists, see ``deploy.service.room.Pieces``; empty: an earlier version took the job in.
      on_loss, most_attempts: see ``[service]``.
      strategy, task: names, to show. job: TOML, as submitted. overrides: in force, as ``--set`` takes them.
      client_token: of the submission; empty: none.
      wish: "stop" or "kill", what was asked of a job at work; "kill" of one that is stopped: what may still run of it is yet to
        be ended, as its cluster was away.
      resume: its next start goes on from its checkpoint.
      earlier: JSON, what ``Store.reopen`` has changed, as it was, until the job is at work again; empty: it was not resumed.
    """

    id: str
    name: str
    state: State
    submitted_at: float
    priority: int
    cpus: float
    gpus: float
    memory_bytes: int
    on_loss: str
    most_attempts: int
    strategy: str
    task: str
    job: str
    overrides: tuple[str, ...] = ()
    client_token: str = ""
    reason: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    attempt: int = 0
    wish: str = ""
    resume: bool = False
    pieces: str = field(default="", repr=False)
    earlier: str = field(default="", repr=False)


_FIELDS = tuple(entry.name for entry in fields(JobRecord))
_COLUMNS = ", ".join(_FIELDS)
_CHANGEABLE = frozenset(
    {"state", "reason", "started_at", "ended_at", "priority", "attempt", "overrides", "wish", "resume"}
    | {"cpus", "gpus", "memory_bytes", "pieces", "on_loss", "most_attempts", "earlier"}
)
_EARLIER = tuple(sorted(_CHANGEABLE - {"started_at", "attempt", "resume", "earlier"}))


class Store:
    """The jobs, in a file; made if it is not there. Close it, or use it as a context.

    Args:
      path: of the file; its folder must exist.
      ballast: released for a change on a full disk; None: none is kept.

    Raises:
      UsageError: the file cannot be opened, is no store of jobs, or is of a later version of Hogshead.
    """

    def __init__(self, path: str | Path, ballast: Ballast | None = None):
        self.path, self.ballast = Path(path), ballast or Ballast()
        self._lock = RLock()
        self._changed = Condition()
        self._changes = 0
        try:
            self._connection = sqlite3.connect(self.path, timeout=10.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise UsageError(f"{self.path}: cannot be opened as the file of jobs: {error}") from error
        try:
            self._open()
        except (sqlite3.Error, HogsheadError) as error:
            self._connection.close()
            raise UsageError(
                f"{self.path}: is no file of jobs, or is damaged ({error}); restore it from a backup, or give another --state"
            ) from error
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file; whoever waits is woken."""
        with self._lock:
            self._connection.close()
        self._tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- waiting ------------------------------------------------------------------------------------------------------

    @property
    def changes(self) -> int:
        """Changes made through this object so far."""
        return self._changes

    def wait(self, seen: int, timeout_s: float) -> int:
        """Until there are more ``changes`` than ``seen``, or the time is over; returns how many there are."""
        with self._changed:
            self._changed.wait_for(lambda: self._changes > seen, timeout_s)
            return self._changes

    def wake(self) -> None:
        """Wake all who wait, though nothing has changed."""
        self._tell()

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, job: str) -> JobRecord:
        """The job of this id.

        Raises:
          UnknownJob: there is none; the message names the nearest.
        """
        rows = self._rows("WHERE id = ?", (job,))
        if not rows:
            raise UnknownJob(f"there is no job {job[:80]!r}{self._like(job)}")
        return rows[0]

    def of_token(self, client_token: str) -> JobRecord | None:
        """The job that was submitted with this token, if any."""
        rows = self._rows("WHERE client_token = ? AND client_token <> ''", (client_token,))
        return rows[0] if rows else None

    def list(self, states: Collection[State] = (), limit: int = 100, before: str = "") -> tuple[list[JobRecord], str]:
        """Jobs, the newest first.

        Args:
          states: only these; all if empty.
          limit: at most so many, >= 1.
          before: what came with the page before.

        Returns:
          The jobs, and ``before`` for the next page; empty: there is none.

        Raises:
          UsageError: ``before`` is not what came with a page.
        """
        if before and not (before.isascii() and before.isdigit() and len(before) < 19):
            raise UsageError(f"before must be what came with the page before, got {before[:80]!r}")
        conditions, values = ["1"], []
        if before:
            conditions.append("position < ?")
            values.append(int(before))
        if states:
            conditions.append(f"state IN ({', '.join('?' * len(states))})")
            values.extend(map(str, states))
        where = f"WHERE {' AND '.join(conditions)} ORDER BY position DESC LIMIT ?"
        with self._guarded():
            rows = self._connection.execute(f"SELECT position, {_COLUMNS} FROM jobs {where}", (*values, limit + 1))
            found = rows.fetchall()
        return [_record(row[1:]) for row in found[:limit]], str(found[limit - 1][0]) if len(found) > limit else ""

    def active(self) -> list[JobRecord]:
        """All jobs that have not ended, in the order of their submission."""
        ended = ", ".join(f"'{state}'" for state in sorted(ENDED))
        return self._rows(f"WHERE state NOT IN ({ended}) ORDER BY position", ())

    def left_behind(self) -> list[JobRecord]:
        """Jobs that are stopped, but of which something may still run."""
        return self._rows("WHERE state = ? AND wish = ? ORDER BY position", (str(State.STOPPED), KILL))

    def ids(self) -> set[str]:
        """Of all jobs."""
        with self._guarded():
            return {name for (name,) in self._connection.execute("SELECT id FROM jobs")}

    # -- changing -----------------------------------------------------------------------------------------------------

    def add(self, *, place: Callable[[str], bool] | None = None, **given: Any) -> tuple[JobRecord, bool]:
        """Add a job; ``given`` are the fields of a ``JobRecord`` but ``id``, queued and submitted now unless they say otherwise.

        Args:
          place: is called with the new id before the job is in the store, and puts its folder there; False: that name is taken,
            try another. What it raises leaves the store as it was.

        Returns:
          The job and True; for a client token that is there already, the job that came with it and False.
        """
        given = {"state": State.QUEUED, "submitted_at": time.time(), **given}
        _check_names(given, frozenset(_FIELDS) - {"id"})
        with self._transaction():
            known = self.of_token(given.get("client_token", ""))
            if known is not None:
                return known, False
            record = JobRecord(id=self._place(given["name"], place), **given)
            marks = ", ".join("?" * len(_FIELDS))
            values = [_stored(name, getattr(record, name)) for name in _FIELDS]
            self._connection.execute(f"INSERT INTO jobs ({_COLUMNS}) VALUES ({marks})", values)
        self._tell()
        return record, True

    def change(self, job: str, expected: Collection[State], **given: Any) -> JobRecord:
        """Set fields of a job, if its state is one of ``expected``; returns the job as it is then.

        Raises:
          UnknownJob: there is none.
          WrongState: it is in another state; nothing has changed.
        """
        _check_names(given, _CHANGEABLE)
        changed = self.ballast.working(lambda: self._change(job, expected, given))
        self._tell()
        return changed

    def reopen(self, job: str, **given: Any) -> JobRecord:
        """Queue a job that has ended, to go on from its checkpoint; ``given`` are fields to set. ``put_back`` undoes it.

        Raises:
          UnknownJob: there is none.
          WrongState: it has not ended.
        """
        _check_names(given, _CHANGEABLE)
        fresh = {"state": State.QUEUED, "resume": True, "wish": "", "reason": "", "ended_at": None}
        with self._transaction():
            record = self.get(job)
            if record.state not in ENDED:
                raise WrongState(job, record.state, ENDED)
            earlier = json.dumps({name: _stored(name, getattr(record, name)) for name in _EARLIER})
            fresh |= given
            self._set(job, {**{name: _stored(name, value) for name, value in fresh.items()}, "earlier": earlier})
            changed = self.get(job)
        self._tell()
        return changed

    def put_back(self, job: str, expected: Collection[State]) -> JobRecord:
        """Have a job that was resumed and stopped before it was at work be what it was, e.g. succeeded.

        Raises:
          UnknownJob: there is none.
          WrongState: it is in another state than ``expected``, or was not resumed.
        """
        changed = self.ballast.working(lambda: self._put_back(job, expected))
        self._tell()
        return changed

    def remove(self, job: str, expected: Collection[State] = ENDED) -> None:
        """Forget a job; its number is not given again.

        Raises:
          UnknownJob: there is none.
          WrongState: it is in another state than ``expected``.
        """
        self.ballast.working(lambda: self._remove(job, expected))
        self._tell()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _change(self, job: str, expected: Collection[State], given: dict[str, Any]) -> JobRecord:
        with self._transaction():
            record = self.get(job)
            if record.state not in expected:
                raise WrongState(job, record.state, expected)
            self._set(job, {name: _stored(name, value) for name, value in given.items()})
            return self.get(job)

    def _put_back(self, job: str, expected: Collection[State]) -> JobRecord:
        with self._transaction():
            record = self.get(job)
            if record.state not in expected or not record.earlier:
                raise WrongState(job, record.state, expected)
            self._set(job, {**json.loads(record.earlier), "resume": 0, "earlier": ""})
            return self.get(job)

    def _set(self, job: str, stored: dict[str, Any]) -> None:
        if stored:
            settings = ", ".join(f"{name} = ?" for name in stored)
            self._connection.execute(f"UPDATE jobs SET {settings} WHERE id = ?", (*stored.values(), job))

    def _remove(self, job: str, expected: Collection[State]) -> None:
        with self._transaction():
            state = self.get(job).state
            if state not in expected:
                raise WrongState(job, state, expected)
            self._connection.execute("DELETE FROM jobs WHERE id = ?", (job,))

    def _open(self) -> None:
        ours = self._number("application_id") == _OURS
        empty = not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not ours and not empty:
            raise UsageError(f"{self.path}: is a database of something else; give another --state")
        version = self._number("user_version")
        if version > len(MIGRATIONS):
            raise UsageError(
                f"{self.path}: is of a later version of Hogshead (its schema is {version}, this one knows {len(MIGRATIONS)}); "
                "use that version, or give another --state"
            )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        for number in range(version, len(MIGRATIONS)):
            with self._transaction():
                self._connection.execute(f"PRAGMA application_id = {_OURS}")
                for statement in MIGRATIONS[number].split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {number + 1}")
        found = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        self._rows("LIMIT 1", ())

    def _place(self, name: str, place: Callable[[str], bool] | None) -> str:
        """The id of a new job of this name."""
        found = self._connection.execute("SELECT last FROM numbers WHERE name = ?", (name,)).fetchone()
        number = found[0] + 1 if found else 1
        while place is not None and not place(f"{name}-{number}"):
            number += 1
        self._connection.execute("INSERT OR REPLACE INTO numbers (name, last) VALUES (?, ?)", (name, number))
        return f"{name}-{number}"

    def _number(self, pragma: str) -> int:
        return self._connection.execute(f"PRAGMA {pragma}").fetchone()[0]

    def _rows(self, where: str, values: tuple) -> list[JobRecord]:
        with self._guarded():
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM jobs {where}", values).fetchall()
        return [_record(row) for row in rows]

    def _like(self, job: str) -> str:
        with self._guarded():
            rows = self._connection.execute("SELECT id FROM jobs ORDER BY position DESC LIMIT ?", (_LOOKED_THROUGH,))
            known = [name for (name,) in rows]
        close = difflib.get_close_matches(job[:80], known, n=1, cutoff=0.6)
        return f"; did you mean {close[0]!r}?" if close else "; `hogshead jobs` lists them"

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or nothing, and nobody else in between."""
        with self._guarded():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.ProgrammingError:  # ours: a closed store, a wrong statement
                raise
            except sqlite3.Error as error:
                raise HogsheadError(f"{self.path}: the jobs cannot be read or written: {error}") from error

    def _tell(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()


def _check_names(given: dict[str, Any], known: frozenset[str]) -> None:
    if unknown := sorted(set(given) - known):
        raise TypeError(f"{', '.join(unknown)} cannot be set, only {', '.join(sorted(known))}")


def _stored(name: str, value: Any) -> Any:
    """A field's value as SQLite keeps it."""
    if name == "overrides":
        return json.dumps(list(value))
    if name == "state":
        return str(State(value))
    if name == "reason":
        # One line, and nothing in it that a terminal would obey.
        printable = "".join(letter if letter.isprintable() else " " for letter in value)
        return " ".join(printable.split())[:LONGEST_REASON]
    return int(value) if isinstance(value, bool) else value


def _record(row: tuple) -> JobRecord:
    values = dict(zip(_FIELDS, row))
    values |= {"state": State(values["state"]), "overrides": tuple(json.loads(values["overrides"]))}
    return JobRecord(**values | {"resume": bool(values["resume"])})
