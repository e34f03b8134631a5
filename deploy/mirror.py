"""A second home for checkpoints: a folder behind any URL that fsspec knows, filled in the background while training goes on.

::

    s3://bucket/run/
      job.toml              the job as it was when the newest checkpoint was uploaded
      00000000042/          as in RUN/checkpoint; the manifest comes last, so half an upload is no checkpoint

Network file systems keep threads, and a launcher forks: uploads are made by a process of their own (``upload_all``), which
gets one checkpoint after another on standard input. If it falls behind, only the newest that waits is uploaded.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.remote_checkpoints import RemoteCheckpoints
from ps.errors import CheckpointError, HogsheadError, UsageError
from worker.data import remote

PATIENCE_S = 600.0
ATTEMPTS, PAUSE_S = 3, 2.0
_LASTING = (UsageError, PermissionError, NotADirectoryError, FileExistsError)  # not worth another attempt
_STAGED = ".mirrored-"

Event = dict[str, Any]


class Mirror:
    """Uploads a run's checkpoints; its failures are events, and never the end of a run.

    Args:
      url: folder of the mirror.
      keep: how many checkpoints are kept there.

    Raises:
      UsageError: ``url`` is no URL, its scheme is unknown or a package for it is missing, or other processes cannot see it.
    """

    def __init__(self, url: str, keep: int = 3):
        check_url(url)
        self.url, self.keep = url, keep
        self._process: subprocess.Popen[bytes] | None = None
        self._at_work: Path | None = None
        self._waiting: Path | None = None
        self._answers = b""
        self._events: list[Event] = []

    def saved(self, path: Path) -> None:
        """Have a finished checkpoint uploaded. Returns at once; ``poll`` tells what became of it."""
        try:
            staged = _stage(path)
        except OSError as error:
            self._note_failure(path, f"it cannot be set aside for the upload: {error}")
            return
        if self._waiting is not None:
            shutil.rmtree(self._waiting, ignore_errors=True)
        self._waiting = staged
        self._take_answers()
        self._go_on()

    @property
    def busy(self) -> bool:
        """Something is being uploaded."""
        return self._at_work is not None

    @property
    def shown(self) -> str:
        """The URL as it may be shown."""
        return remote.shown(self.url)

    def poll(self) -> list[Event]:
        """What has happened since the last call: records of events without their time."""
        self._take_answers()
        self._go_on()
        events, self._events = self._events, []
        return events

    def close(self, patience_s: float = PATIENCE_S) -> list[Event]:
        """Wait until everything is uploaded, at most ``patience_s`` seconds; returns the last events."""
        deadline = time.monotonic() + patience_s
        try:
            self._go_on()
            while self._at_work is not None and (left := deadline - time.monotonic()) > 0:
                assert self._process is not None and self._process.stdout is not None
                select.select([self._process.stdout], [], [], left)
                self._take_answers()
                self._go_on()
            if self._at_work is not None:
                self._note_failure(self._at_work, f"it was not done within {patience_s:g} seconds")
        finally:
            self._end()
        events, self._events = self._events, []
        return events

    def _go_on(self) -> None:
        """Give the process the checkpoint that waits, if it has nothing to do."""
        if self._at_work is not None or self._waiting is None:
            return
        self._at_work, self._waiting = self._waiting, None
        try:
            process = self._process = self._process or self._start()
            assert process.stdin is not None
            process.stdin.write(json.dumps({"path": str(self._at_work)}).encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            self._has_died(f"its process has ended ({error.strerror})")

    def _start(self) -> subprocess.Popen[bytes]:
        command = remote.command("upload_all", f"{self.url!r}, {self.keep}", __name__)
        # A session of its own: ^C is for the launcher to deal with, which still has its last checkpoint uploaded.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def _take_answers(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        while (part := self._read()) is not None:
            if not part:
                self._has_died(f"its process ended with code {self._process.wait()}")
                return
            *whole, self._answers = (self._answers + part).split(b"\n")
            for line in whole:
                self._take_answer(json.loads(line))

    def _read(self) -> bytes | None:
        """What the process has said: nothing more (b""), or nothing yet (None)."""
        assert self._process is not None and self._process.stdout is not None
        try:
            return os.read(self._process.stdout.fileno(), 65536)
        except BlockingIOError:
            return None

    def _take_answer(self, answer: dict[str, Any]) -> None:
        if self._at_work is None:
            return
        done, self._at_work = self._at_work, None
        if answer["name"] is not None:
            where = f"{self.shown.rstrip('/')}/{answer['name']}"
            rest = f"; {answer['error']}" if answer["error"] else ""
            message = f"uploaded {_name(done)} to {where}{rest}"
            self._events.append({"event": "mirrored", "message": message, "upload_seconds": answer["seconds"]})
        else:
            self._note_failure(done, answer["error"])
        shutil.rmtree(done, ignore_errors=True)

    def _has_died(self, reason: str) -> None:
        self._end_process()
        if self._at_work is not None:
            done, self._at_work = self._at_work, None
            self._note_failure(done, reason)
            shutil.rmtree(done, ignore_errors=True)

    def _note_failure(self, path: Path, reason: str) -> None:
        message = f"checkpoint {_name(path)} was not uploaded to {self.shown}: {reason}; training goes on"
        self._events.append({"event": "mirror_failed", "message": message})

    def _end(self) -> None:
        for path in (self._at_work, self._waiting):
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)
        self._at_work = self._waiting = None
        self._end_process()

    def _end_process(self) -> None:
        process, self._process, self._answers = self._process, None, b""
        if process is None:
            return
        process.kill()  # it has nothing to do, or has had its time; an upload cut off has no manifest
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what is still buffered for it cannot be written any more
                    pipe.close()


def upload_all(url: str, keep: int) -> None:
    """The process that uploads: a path a line on standard input, what became of it a line on standard output."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # its launcher decides, and closes standard input
        signal.signal(number, signal.SIG_IGN)
    with remote.private_output() as answers:
        for line in sys.stdin:
            start = time.monotonic()
            name, error = upload(url, Path(json.loads(line)["path"]), keep)
            answer = {"name": name, "error": error, "seconds": round(time.monotonic() - start, 3)}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def upload(
    url: str, path: Path, keep: int, *, pause: Callable[[float], None] = time.sleep
) -> tuple[str | None, str | None]:
    """Upload one checkpoint, trying again where that may help, and drop the oldest there.

    Returns:
      Its name there, or None; and what went wrong, or None.
    """
    name, reason = None, None
    for attempt in range(ATTEMPTS):
        if attempt:
            pause(PAUSE_S * 2 ** (attempt - 1))
        try:
            there = RemoteCheckpoints(url)
            name = name or there.put(path)
            there.prune(keep)
            return name, None
        except Exception as error:
            reason = str(error) if isinstance(error, (HogsheadError, UsageError)) else remote.explain(error)
            if isinstance(error, _LASTING):
                break
    return name, f"older ones there could not be dropped: {reason}" if name else reason


def check_url(url: str) -> None:
    """Refuse what cannot be a mirror.

    Raises:
      UsageError: no URL, an unknown scheme, a missing package, or a place that only one process can see.
    """
    if not remote.is_url(url):
        raise UsageError(f"[checkpoint] url must be a URL, e.g. 's3://bucket/run' or 'file:///backup/run', got {url!r}")
    remote.needs_process(url)
    if url.split("::")[-1].startswith("memory://"):
        raise UsageError(f"[checkpoint] url: {url} is memory of one process; give a place that outlives it")


def require_unused(url: str) -> None:
    """Refuse a URL that already holds checkpoints, so that a new run does not mix its own with another's.

    Raises:
      CheckpointError: there are some, or the URL cannot be reached. UsageError: as ``check_url``.
    """
    check_url(url)
    found = remote.run(f"{__name__}:finished_there", url, url=url)
    if found:
        raise CheckpointError(
            f"[checkpoint] url: {remote.shown(url)} holds checkpoints of a run already; --resume with that URL goes on with it, "
            "another url keeps it"
        )


def finished_there(url: str) -> list[int]:
    """Numbers of the checkpoints behind a URL."""
    return RemoteCheckpoints(url).numbers()


def download_newest(url: str, folder: Path) -> tuple[Path, list[str]]:
    """Download the newest checkpoint that is whole.

    Args:
      url: of a mirror, or of a run's folder ``checkpoint``.
      folder: of checkpoints, e.g. ``RUN/checkpoint``; made if need be.

    Returns:
      The checkpoint's folder, and what was wrong with newer ones.

    Raises:
      CheckpointError: there is none, or none is whole; the message says what is wrong with each.
      DataError: the URL's scheme is unknown or a package is missing.
    """
    name, problems = remote.run(f"{__name__}:download_here", url, str(folder), url=url)
    return Path(folder) / name, problems


def download_here(url: str, folder: str) -> tuple[str, list[str]]:
    """``download_newest``, in this process; the name of the checkpoint instead of its path."""
    return RemoteCheckpoints(url).get_newest(Path(folder))


def download_job(url: str) -> str | None:
    """The text of the mirror's ``job.toml``, or None."""
    return remote.run(f"{__name__}:job_there", url, url=url)


def job_there(url: str) -> str | None:
    """``download_job``, in this process."""
    return RemoteCheckpoints(url).job()


def sweep(folder: Path) -> None:
    """Remove what a killed run had set aside for uploads."""
    for staged in folder.glob(f"{_STAGED}*"):
        shutil.rmtree(staged, ignore_errors=True)


def _stage(path: Path) -> Path:
    """Links to a checkpoint's files and the run's job, as the checkpoint itself may be dropped before it is uploaded."""
    staged = path.with_name(f"{_STAGED}{path.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    job = path.parent.parent / "job.toml"
    for file in [*path.iterdir(), *([job] if job.is_file() else [])]:
        try:
            os.link(file, staged / file.name)
        except OSError:  # a file system without links
            shutil.copyfile(file, staged / file.name)
    return staged


def _name(path: Path) -> str:
    return path.name.removeprefix(_STAGED)
