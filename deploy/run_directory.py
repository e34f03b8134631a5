"""The run directory: ``job.toml``, ``metrics.jsonl``, ``summary.json``, ``report.html``, ``checkpoint/``; locked."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from deploy.interruption import held_back
from deploy.sinks import Events, Sink, check_sinks, open_sinks
from ps.errors import RunDirectoryError

if TYPE_CHECKING:
    from deploy.job import Job

LOCK_FILE = ".lock"
RUNS_FOLDER = "runs"


class RunDirectory:
    """An open run directory; ``with RunDirectory.create(job) as directory: ...``.

    Attributes:
      path: the directory, absolute.
      resumed: whether it goes on from an earlier run.
      sinks: what else gets the records. Their own events are recorded, and told to ``on_event``.
    """

    def __init__(
        self,
        path: Path,
        lock_file: int,
        resumed: bool,
        sinks: Iterable[Sink] = (),
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
    ):
        self.path, self.resumed, self.sinks = path, resumed, list(sinks)
        self._on_event = on_event
        self._seconds = 0.0
        self._lock_file: int | None = lock_file
        self._metrics = open(path / "metrics.jsonl", "ab")

    @classmethod
    def create(cls, job: Job, on_event: Callable[[Mapping[str, Any]], None] | None = None) -> RunDirectory:
        """Make (or, with ``job.resume``, open) the run directory of ``job``, lock it and, unless resumed, write ``job.toml``.

        Args:
          on_event: is told of events that do not come from the launcher, such as a checkpoint that could not be mirrored.

        Raises:
          RunDirectoryError: in use by a living process, holds another run, nothing to resume, or cannot be written.
          UsageError, CheckpointError: the job's ``[checkpoint] url`` cannot be used.
        """
        check_sinks(job)
        directory = None
        try:
            with held_back():  # one that is half made would refuse the next run of its name
                directory = cls._made(job, on_event)
        except KeyboardInterrupt as interrupt:
            if directory is not None:
                directory.__exit__(type(interrupt), interrupt, None)
            raise
        return directory

    @classmethod
    def _made(cls, job: Job, on_event: Callable[[Mapping[str, Any]], None] | None) -> RunDirectory:
        try:
            path = Path(job.run).expanduser().resolve() if job.run else numbered(job.name)
            if job.resume and not path.is_dir():
                raise RunDirectoryError(f"{path}: no such run directory to resume")
            path.mkdir(parents=True, exist_ok=True)
            lock_file = _lock(path)
        except OSError as error:
            raise RunDirectoryError(f"cannot make the run directory: {error}") from error
        try:
            _check_contents(path, job.resume)
            if job.resume:
                _drop_torn_line(path / "metrics.jsonl")
            directory = cls(path, lock_file, job.resume, open_sinks(job, path), on_event)
            if not job.resume:  # a resumed run keeps its job until the checkpoint has been found to fit the new one
                directory.save_job(job)
            return directory
        except OSError as error:
            os.close(lock_file)
            raise RunDirectoryError(f"{path}: cannot be written: {error}") from error
        except BaseException:
            os.close(lock_file)
            raise

    @classmethod
    def reopen(cls, job: Job, on_event: Callable[[Mapping[str, Any]], None] = lambda record: None) -> RunDirectory:
        """Open the directory of a run whose launcher was killed and starts again in the middle of it.

        Raises:
          RunDirectoryError: it is in use, or cannot be written.
        """
        path = Path(str(job.run))
        lock_file = _lock(path)
        try:
            _drop_torn_line(path / "metrics.jsonl")
            return cls(path, lock_file, True, open_sinks(job, path), on_event)
        except BaseException as error:
            os.close(lock_file)
            if isinstance(error, OSError):
                raise RunDirectoryError(f"{path}: cannot be written: {error}") from error
            raise

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoints; made by whoever writes the first."""
        return self.path / "checkpoint"

    def save_job(self, job: Job) -> None:
        """Write ``job.toml``, resolved, with the versions that run it."""
        write_atomically(self.path / "job.toml", _header() + job.to_toml())

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one record to ``metrics.jsonl`` in a single write, so that readers see whole lines.

        Raises:
          RunDirectoryError: the disk is full, or the like.
        """
        self._write(record)
        self._seconds = record.get("seconds", self._seconds)
        self._tell_sinks(lambda sink: sink.record(record), spread=True)

    def forget_after(self, examples: int) -> None:
        """Drop progress and evaluations beyond ``examples``: a resumed run repeats them from its checkpoint."""
        kept = [
            entry
            for entry in read_metrics(self.path)
            if entry.get("kind") == "event" or entry.get("examples", 0) <= examples
        ]
        self._metrics.close()
        write_atomically(self.path / "metrics.jsonl", "".join(to_json(entry) + "\n" for entry in kept))
        self._metrics = open(self.path / "metrics.jsonl", "ab")
        self._tell_sinks(lambda sink: sink.forget_after(examples))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``.

        Raises:
          RunDirectoryError: the disk is full, or the like.
        """
        try:
            write_atomically(self.path / "summary.json", to_json(summary, indent=2) + "\n")
        except OSError as error:
            raise RunDirectoryError(f"{self.path}: cannot write the summary: {error}") from error
        self._tell_sinks(lambda sink: sink.finish(summary))

    def close(self) -> None:
        """Wait for the sinks and release the lock. The directory stays."""
        try:
            try:
                self._tell_sinks(lambda sink: sink.close())
            finally:
                self.sinks.clear()
                self._metrics.close()
        finally:
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Release the lock; a new directory in which an error came before anything was recorded is taken back."""
        try:
            with held_back():
                if kind is not None and not self.resumed and self._metrics.tell() == 0:
                    self._take_back()
        finally:
            self.close()

    def _take_back(self) -> None:
        visible = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")}
        if visible <= {"job.toml", "metrics.jsonl"}:
            for name in ("job.toml", "metrics.jsonl", LOCK_FILE):
                (self.path / name).unlink(missing_ok=True)
            with suppress(OSError):  # who started the run on a cluster has something hidden there, and takes it back
                self.path.rmdir()

    def _write(self, record: Mapping[str, Any]) -> None:
        try:
            self._metrics.write(to_json(record).encode() + b"\n")
            self._metrics.flush()
        except OSError as error:
            raise RunDirectoryError(f"{self.path / 'metrics.jsonl'}: cannot be written: {error.strerror}") from error

    def _tell_sinks(self, action: Callable[[Sink], Events], spread: bool = False) -> None:
        """Tell all sinks; one that fails gets nothing more. ``spread``: what one says of itself is told to the others, too."""
        for sink in list(self.sinks):
            try:
                events = list(action(sink))
            except OSError as error:
                self.sinks.remove(sink)
                with suppress(OSError):
                    sink.close()
                events = [
                    {"event": f"{sink.name}_failed", "message": f"{sink.name}: {error}; training goes on without"}
                ]
            for event in events:
                record = {"kind": "event", "seconds": self._seconds, **event}
                self._write(record)
                if self._on_event is not None:
                    self._on_event(record)
                for other in [other for other in self.sinks if spread and other is not sink]:
                    with suppress(OSError):  # it says so itself at the next record
                        other.record(record)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of ``metrics.jsonl`` in order; a torn last line (the run was killed) is left out.

    Raises:
      RunDirectoryError: another line is not JSON, with its number.
    """
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise RunDirectoryError(f"{run / 'metrics.jsonl'}, line {number}: not JSON: {error}") from None
    return records


def read_summary(run: Path) -> dict[str, Any]:
    """``summary.json``, or an empty dict while there is none.

    Raises:
      RunDirectoryError: it is not JSON.
    """
    try:
        return json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunDirectoryError(f"{run / 'summary.json'}: not JSON: {error}") from None


def require_run(path: str | Path) -> Path:
    """``path`` if it is a run directory.

    Raises:
      RunDirectoryError: no such directory, or one without ``job.toml``.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunDirectoryError(f"{path}: no such run directory")
    if not (path / "job.toml").is_file():
        raise RunDirectoryError(f"{path}: not a run directory, it has no job.toml")
    return path


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text: numpy numbers and arrays as plain ones, NaN and infinities (which JSON lacks) as null."""
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """``value`` in types that JSON has."""
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return [plain(entry) for entry in value] if isinstance(value, Iterable) else str(value)


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("hogshead", "numpy", "numba"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_atomically(path: Path, text: str) -> None:
    """Write beside ``path`` and rename, so that a reader or a full disk never leaves half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def numbered(name: str) -> Path:
    """A new ``runs/<name>-<number>``; mkdir is what decides between two commands started at once."""
    folder = Path(RUNS_FOLDER).resolve()
    folder.mkdir(exist_ok=True)
    pattern = re.compile(rf"{re.escape(name)}-(\d+)")
    taken = [int(found[1]) for entry in folder.iterdir() if (found := pattern.fullmatch(entry.name))]
    number = max(taken, default=0) + 1
    while True:
        try:
            (folder / f"{name}-{number}").mkdir()
            return folder / f"{name}-{number}"
        except FileExistsError:
            number += 1


def _lock(path: Path) -> int:
    """Lock the directory for this process; the kernel lets go when the last process that holds the file dies."""
    lock_file = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(lock_file, 32).decode(errors="replace").strip() or "unknown"
        os.close(lock_file)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise RunDirectoryError(f"{path} is in use by process {holder}; wait for it, or give another --run") from None
    os.ftruncate(lock_file, 0)
    os.pwrite(lock_file, f"{os.getpid()}\n".encode(), 0)
    return lock_file


def _check_contents(path: Path, resume: bool) -> None:
    if resume:
        require_run(path)
        if not (path / "checkpoint").is_dir() or not any((path / "checkpoint").iterdir()):
            raise RunDirectoryError(f"{path}: nothing to resume, it has no checkpoint; start anew with another --run")
        return
    others = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if "job.toml" in others:
        raise RunDirectoryError(f"{path} holds a run already; --resume {path} goes on with it, another --run keeps it")
    if others:
        raise RunDirectoryError(f"{path} is not empty (it has {others[0]}); give another --run")


def _drop_torn_line(path: Path) -> None:
    """Cut a last line without its end, left by a killed run, so that the next record starts a line."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _header() -> str:
    """Comment lines on top of ``job.toml``: when, and with what versions."""
    listed = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"# resolved {time.strftime('%Y-%m-%d %H:%M:%S %z')} with {listed}\n"
