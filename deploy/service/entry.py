"""The driver of a submitted job, run by Ray's job API on the head: ``python -m deploy.service.entry FOLDER ATTEMPT``.

It may be killed and started again at any time, and does what is to be done then: it follows a run that goes on, goes on with one
that was lost from its newest checkpoint, or begins. It leaves an ``outcome`` in the job's folder; without one it was lost itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.cluster.connection import ClusterError, connected
from deploy.cluster.launch import Follower
from deploy.progress import Lines
from deploy.run_directory import read_summary
from deploy.service.folder import Beat, JobFolder
from deploy.service.states import KILL, KILLED, STOP
from deploy.words import plural
from ps.errors import HogsheadError, UsageError

if TYPE_CHECKING:
    from deploy.job import Job

LOST = 3  # exit code: start me again
_START_S = 120.0  # to import Ray, join the cluster and begin, on a machine that is busy
_FOLLOW_S = 20.0  # without an answer of the coordinator, after which another driver is to take over
_EARLIER_S, _LOOK_S = 3.0, 0.1  # for an earlier driver that is about to end
_LAST_WORDS_S = 1.5  # that what a task has printed, perhaps about why it failed, needs from its node to the log


class Attendant(Follower):
    """Follows a run, and carries out what the service wishes.

    Args:
      folder: of the job. job: resolved. uid: of the run. beat: gives a sign of life, valid for so many seconds.
    """

    def __init__(self, folder: JobFolder, job: Job, uid: str, beat: Callable[[float], None] = lambda _: None):
        super().__init__(job, folder.run, Lines(job), uid, away_s=_FOLLOW_S)
        self._folder, self._beat = folder, beat
        self._stopped = False

    def heard(self) -> None:
        """Tell the service that this driver follows its run."""
        self._beat(_FOLLOW_S)

    def tend(self) -> None:
        """Look whether the run is to end."""
        wish = self._folder.order.get("wish", "")
        if wish == KILL:
            self.kill()
            _clear(self.uid)
            self.summary = {"status": "interrupted", "stop_reason": KILLED}
        elif wish == STOP and not self._stopped:
            self._stopped = True
            self.stop()


def main(argv: Sequence[str]) -> int:
    """Run or go on with the job in the folder ``argv[0]``; its words go to the job's log."""
    os.environ["RAY_COLOR_PREFIX"] = "0"  # the log is no terminal
    os.environ["RAY_DEDUP_LOGS"] = "0"  # "step 5" and "step 10" are not the same line; read when Ray is imported
    path = Path(argv[0])
    folder = JobFolder(path.parent, path.name)
    with _logged(folder.log), _alone(path / ".driver.lock"):
        beat = Beat(folder, int(argv[1]))
        beat(_START_S)
        order = folder.order.get("number")
        outcome = _outcome(folder, beat)
    if outcome is None:
        return LOST
    folder.outcome = {**outcome, "order": order}
    return 0


def _outcome(folder: JobFolder, beat: Beat) -> dict[str, Any] | None:
    """How the job ended, or None if its cluster was lost."""
    try:
        return attend(folder, beat)
    except ClusterError as error:
        print(f"hogshead: {error}", flush=True)
        return None
    except (HogsheadError, UsageError) as error:
        print(f"hogshead: {error}", flush=True)
        return _failed(str(error))
    except Exception as error:
        traceback.print_exc()
        return _failed(f"{type(error).__name__}: {error}")


def attend(folder: JobFolder, beat: Callable[[float], None] = lambda _: None) -> dict[str, Any]:
    """See a job to its end.

    Args:
      folder: of the job. beat: gives a sign of life, valid for so many seconds.

    Returns:
      The outcome: ``status`` as in a run's summary, and ``reason``.

    Raises:
      ClusterError: the cluster cannot be reached, or lost the run.
      UsageError, HogsheadError: the job is wrong.
    """
    order = folder.order
    job = job_of(folder, order.get("overrides", ()))
    with connected(job, echo=True):
        begun = folder.generation > order.get("above", 0)
        if order.get("unended") and not begun:
            _end_earlier(folder, job)
        if begun:
            attendant = Attendant(folder, job, folder.uid, beat)
            if attendant.attach():
                print(f"the run goes on; following it (generation {folder.generation})", flush=True)
                attendant.heard()
                return _followed(attendant, folder)
            summary = read_summary(folder.run)
            if summary:
                _forget_files(folder)
                return outcome_of(summary)
            _clear(attendant.uid)
        wish = folder.order.get("wish")  # perhaps only since it is connected
        if wish:
            again = " again" if begun else ""
            reason = KILLED if wish == KILL else f"stopped before it was at work{again}"
            return {"status": "interrupted", "reason": reason, "begun": begun}
        if begun:
            refused = _given_up(folder, order)
            if refused is not None:
                return refused
        return _followed(_begun(folder, job, beat), folder, _START_S)


def _end_earlier(folder: JobFolder, job: Job) -> None:
    """End what may still run of a generation that was killed while the cluster was away: it would write into the same files."""
    earlier = Attendant(folder, job, folder.uid)
    if earlier.attach():
        earlier.kill()
    _clear(earlier.uid)


def job_of(folder: JobFolder, overrides: Sequence[str]) -> Job:
    """The submitted job, for this cluster."""
    from deploy.job import Job

    os.chdir(folder.files)  # what paths in overrides are relative to
    tables = tomllib.loads(folder.job.read_text(encoding="utf-8"))
    files = [*tables.get("cluster", {}).get("files", []), "*"] if any(folder.files.iterdir()) else []
    ours = ["backend=ray", "cluster.detach=true", "cluster.address=", "run=", f"cluster.files={json.dumps(files)}"]
    return Job.from_dict(
        tables,
        overrides=[*overrides, *ours],
        folder=folder.files,
        name=folder.id,
        path=str(folder.files / "job.toml"),
    )


def _begun(folder: JobFolder, job: Job, beat: Callable[[float], None]) -> Attendant:
    """Start the run's next generation, from its newest checkpoint if it has one."""
    checkpoint = folder.run / "checkpoint"
    resume = checkpoint.is_dir() and any(checkpoint.iterdir())
    if not resume:
        shutil.rmtree(folder.run, ignore_errors=True)
    (folder.run / "summary.json").unlink(missing_ok=True)  # of the generation before
    _forget_files(folder)
    folder.begin()
    print(
        f"the run {'goes on from its checkpoint' if resume else 'begins'} (generation {folder.generation})", flush=True
    )
    attendant = Attendant(folder, job.with_run(folder.run, resume=resume), folder.uid, beat)
    beat(_START_S)
    attendant.start()
    beat(_START_S)
    return attendant


def _forget_files(folder: JobFolder) -> None:
    """Remove what travelled with the newest generation: nobody of it is left."""
    from deploy.cluster.travel import stowed_at

    if folder.uid:
        stowed_at(folder.run, folder.uid).unlink(missing_ok=True)


def _given_up(folder: JobFolder, order: Mapping[str, Any]) -> dict[str, Any] | None:
    """The outcome of a run that was lost and is not to go on, or None if it is."""
    if order.get("on_loss") == "fail":
        return _failed('it was lost with the cluster ([service] on_loss = "fail"); `resume` goes on with it')
    lost = folder.generation - order.get("above", 0)
    if lost >= order.get("most_attempts", 5):
        return _failed(f"it was lost with the cluster {plural(lost, 'time')}; `resume` goes on with it")
    return None


def _followed(attendant: Attendant, folder: JobFolder, first_s: float | None = None) -> dict[str, Any]:
    """Follow to the end; what the run has written counts, if its coordinator ended unseen. ``first_s`` as of ``follow``."""
    try:
        attendant.follow(first_s)
    except ClusterError:
        summary = read_summary(folder.run)
        if not summary:
            raise
        _forget_files(folder)
        return outcome_of(summary)
    finally:
        attendant.end()
    attendant.clean()
    if attendant.summary is None or attendant.summary.get("status") == "failed":
        time.sleep(_LAST_WORDS_S)
    if attendant.summary is not None:
        attendant.observer.finished(attendant.summary)
        return outcome_of(attendant.summary)
    error = attendant.error or {"type": "", "message": "it ended without a word"}
    return _failed(error["message"])


def outcome_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome that a run's summary tells."""
    status, reason = summary.get("status", "failed"), summary.get("error") or summary.get("stop_reason") or ""
    if status == "interrupted" and "epochs" in summary:
        reason = f"stopped after {summary['epochs']:g} epochs"
    return {"status": status, "reason": one_line(str(reason))}


def _failed(reason: str) -> dict[str, Any]:
    return {"status": "failed", "reason": one_line(reason)}


def one_line(text: str) -> str:
    """The line of a message that says most: the first, or the last of a traceback."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()] or [""]
    return (lines[-1] if any(line.startswith("Traceback") for line in lines[:2]) else lines[0])[:500]


def _clear(uid: str) -> None:
    from deploy.cluster.ending import clear

    clear(uid)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Have everything that this process and those that it starts print go to the end of a file."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    before = [os.dup(number) for number in (1, 2)]
    _turn([log, log])
    os.close(log)
    try:
        yield
    finally:
        _turn(before)
        for number in before:
            os.close(number)


def _turn(files: Sequence[int]) -> None:
    """Have standard output and standard error go to these open files."""
    for stream, number, file in zip((sys.stdout, sys.stderr), (1, 2), files):
        stream.flush()
        os.dup2(file, number)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the job's only driver. An earlier one that the service has given up may hang, and is killed if it does not end."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        if not _taken(lock, time.monotonic() + _EARLIER_S):
            _kill_earlier(lock, path.parent)
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


def _taken(lock: int, deadline: float) -> bool:
    """Try to lock a file until the deadline, on the monotonic clock."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
        time.sleep(_LOOK_S)


def _kill_earlier(lock: int, folder: Path) -> None:
    """Kill the driver that stands in the lock's file, if it is one of this job and runs on this machine."""
    try:
        pid = int(os.pread(lock, 20, 0))
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (ValueError, OSError):
        return
    if os.fsencode(folder) in words and b"deploy.service.entry" in words:
        print(f"hogshead: an earlier driver of this job (process {pid}) does not end, and is killed", flush=True)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
