"""Taking in a job: its archive is received, checked and unpacked beside the others, then it becomes a job in one step.

A folder that is no job, or none yet, has a mark in it. So a crash at any point leaves either a job that is whole, or something
that is swept away at the next start; see ``Intake.sweep``.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.service.archive import unpack
from deploy.service.ballast import is_disk_full
from deploy.service.checking import Checked, check
from deploy.service.demand import Limits, check_limits
from deploy.service.folder import ID, JobFolder
from deploy.service.states import ENDED
from deploy.service.store import JobRecord, Store, UnknownJob, WrongState
from ps.errors import HogsheadError, UsageError

log = logging.getLogger("hogshead.service")

INCOMING = ".incoming"
MARK = ".unlisted"
MOST_TOKEN = 200  # characters
_TIMES_UNPACKED = 4  # files may be so many times as large as the largest archive
_SPARE_BYTES = 64 << 20  # stay free on the disk


class DiskFull(HogsheadError):
    """There is too little space for the job's files."""


@dataclass(frozen=True)
class Submission:
    """A job as it is handed in; see ``Submission`` in proto/jobs.proto.

    Attributes:
      job: TOML. name: empty: the job's own. overrides: as ``--set`` takes them. priority: None: the job's own.
      client_token: empty: none. archive_bytes, archive_sha256: of the archive that follows; 0 and empty: none.
    """

    job: str
    name: str = ""
    overrides: tuple[str, ...] = ()
    priority: int | None = None
    client_token: str = ""
    archive_bytes: int = 0
    archive_sha256: bytes = field(default=b"", repr=False)


class Intake:
    """Makes jobs of submissions.

    Args:
      store: of the jobs. jobs: folder of their folders, there already. limits: of this service.
    """

    def __init__(self, store: Store, jobs: Path, limits: Limits):
        self.store, self.jobs, self.limits = store, Path(jobs), limits
        (self.jobs / INCOMING).mkdir(mode=0o700, exist_ok=True)

    def take(self, submission: Submission, archive: Iterable[bytes]) -> JobRecord:
        """Make a job, or find the one that the same client token has made before.

        When this returns, the job is on the disk, whatever dies next.

        Args:
          archive: a zip archive in pieces.

        Raises:
          UsageError: anything wrong with the job or the archive; nothing is left of it.
          DiskFull: see there.
        """
        if len(submission.client_token) > MOST_TOKEN:
            raise UsageError(
                f"client_token must have at most {MOST_TOKEN} characters, got {len(submission.client_token)}"
            )
        known = self.store.of_token(submission.client_token)
        if known is not None:
            return known
        self.store.ballast.hold()
        self._check_announced(submission)
        with self._incoming() as folder:
            self._receive(submission, archive, folder / "archive.zip")
            return self._make(submission, folder)

    def sweep(self) -> None:
        """Remove what a crash has left behind; to be called before anything is taken in."""
        shutil.rmtree(self.jobs / INCOMING, ignore_errors=True)
        (self.jobs / INCOMING).mkdir(mode=0o700, exist_ok=True)
        known = self.store.ids()
        for folder in sorted(self.jobs.iterdir()):
            if folder.name.startswith(".") or not folder.is_dir() or folder.is_symlink():
                continue
            if folder.name in known:
                (folder / MARK).unlink(missing_ok=True)
            elif (folder / MARK).exists():
                shutil.rmtree(folder, ignore_errors=True)
                log.info("%s: removed, it never became a job", folder)
            elif ID.fullmatch(folder.name):
                log.warning("%s: is of no job that this service knows; it is left as it is", folder)

    def delete(self, job: str) -> None:
        """Forget a job that has ended, and remove its folder.

        On a disk that is full, also of what was kept for that, the job's files make the room that is needed to forget it.

        Raises:
          UnknownJob, WrongState: see ``Store.remove``.
        """
        record = self.store.get(job)
        if record.state not in ENDED:
            raise WrongState(job, record.state, ENDED)
        folder = JobFolder(self.jobs, job).path
        try:
            self._forget(job, folder)
        except (OSError, HogsheadError) as error:
            if not is_disk_full(error):
                raise
            _empty(folder)
            self._forget(job, folder)
        self._remove(folder)
        self.store.ballast.hold()

    def _forget(self, job: str, folder: Path) -> None:
        """Remove a job from the store; its folder is marked first, so that a crash leaves nothing that is not swept away."""
        if folder.is_dir():
            (folder / MARK).touch()
            _sync(folder)
        try:
            self.store.remove(job)
        except BaseException:
            (folder / MARK).unlink(missing_ok=True)
            raise

    def _remove(self, folder: Path) -> None:
        """Remove the folder of a job that was forgotten."""
        with suppress(FileNotFoundError):
            # Out of the way at once: a driver that is just ending may still write, and a removal that is cut off is swept later.
            place = self.store.ballast.working(lambda: tempfile.mkdtemp(dir=self.jobs / INCOMING))
            gone = folder.rename(Path(place) / folder.name)
            shutil.rmtree(gone.parent, ignore_errors=True)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _check_announced(self, submission: Submission) -> None:
        most, announced = self.limits.upload_bytes, submission.archive_bytes
        if announced > most:
            raise UsageError(
                f"the archive has {announced / 1e6:.1f} MB, this service takes at most {most / 1e6:g} MB; give large data "
                "by a URL, or by a path that every node has"
            )
        if len(submission.archive_sha256) != (32 if announced else 0):
            raise UsageError(
                "archive_sha256 must be the 32 bytes of the archive's SHA-256, and empty without an archive"
            )
        needed = announced * (1 + _TIMES_UNPACKED) if announced else 0
        if shutil.disk_usage(self.jobs).free < min(needed, most) + _SPARE_BYTES:
            raise DiskFull(
                f"too little space on the service's disk for {announced / 1e6:.1f} MB; delete jobs that have ended"
            )

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        """A folder to build the job in; what is left of it in the end is removed."""
        folder = Path(tempfile.mkdtemp(dir=self.jobs / INCOMING))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _receive(self, submission: Submission, archive: Iterable[bytes], path: Path) -> None:
        digest, received = hashlib.sha256(), 0
        with open(path, "wb") as file:
            for piece in archive:
                received += len(piece)
                if received > submission.archive_bytes:
                    raise UsageError(
                        f"the archive is larger than the {submission.archive_bytes} bytes that were announced"
                    )
                digest.update(piece)
                file.write(piece)
        if received < submission.archive_bytes:
            raise UsageError(
                f"the archive ended after {received} bytes of {submission.archive_bytes} that were announced"
            )
        if received and not hmac.compare_digest(digest.digest(), submission.archive_sha256):
            raise UsageError(
                "the archive was damaged on the way: its SHA-256 is not the one that was announced; send it again"
            )

    def _make(self, submission: Submission, incoming: Path) -> JobRecord:
        folder = JobFolder(incoming, "job-1")  # its id comes later
        folder.files.mkdir(parents=True)
        if submission.archive_bytes:
            unpack(incoming / "archive.zip", folder.files, _TIMES_UNPACKED * self.limits.upload_bytes)
        checked = check(submission.job, submission.overrides, folder.files, submission.name)
        check_limits(checked.most, self.limits)
        folder.job.write_text(submission.job, encoding="utf-8", newline="")
        (folder.path / MARK).touch()
        _sync_tree(folder.path)
        placed: list[Path] = []
        try:
            record = self._add(submission, checked, lambda job: self._place(folder.path, job, placed))
        except BaseException:
            for path in placed:
                self._take_back(path)
            raise
        (JobFolder(self.jobs, record.id).path / MARK).unlink(missing_ok=True)
        log.info("%s: submitted", record.id)
        return record

    def _add(self, submission: Submission, checked: Checked, place: Callable[[str], bool]) -> JobRecord:
        record, _ = self.store.add(
            place=place,
            name=checked.name,
            priority=checked.priority if submission.priority is None else submission.priority,
            cpus=checked.demand.cpus,
            gpus=checked.demand.gpus,
            memory_bytes=checked.demand.memory_bytes,
            pieces=checked.pieces.to_text(),
            on_loss=checked.on_loss,
            most_attempts=checked.most_attempts,
            strategy=checked.strategy,
            task=checked.task,
            job=submission.job,
            overrides=submission.overrides,
            client_token=submission.client_token,
        )
        return record

    def _take_back(self, folder: Path) -> None:
        """Remove a folder that was placed for a job that did not come to be."""
        try:
            self.store.get(folder.name)
        except UnknownJob:
            shutil.rmtree(folder, ignore_errors=True)

    def _place(self, built: Path, job: str, placed: list[Path]) -> bool:
        """Put a built folder where the job's belongs; False: there is something already."""
        folder = JobFolder(self.jobs, job).path
        if os.path.lexists(folder):
            return False
        built.rename(folder)
        placed.append(folder)
        _sync(self.jobs)
        return True


def checked_again(record: JobRecord, jobs: Path, overrides: Sequence[str], limits: Limits) -> dict[str, object]:
    """The fields of a job that goes on with more overrides.

    Raises:
      UsageError: anything wrong with it.
    """
    together = (*record.overrides, *overrides)
    checked = check(record.job, together, JobFolder(jobs, record.id).files, record.name)
    check_limits(checked.most, limits)
    return {
        "overrides": together,
        "cpus": checked.demand.cpus,
        "gpus": checked.demand.gpus,
        "memory_bytes": checked.demand.memory_bytes,
        "pieces": checked.pieces.to_text(),
        "on_loss": checked.on_loss,
        "most_attempts": checked.most_attempts,
    }


def _empty(folder: Path) -> None:
    """Remove all that is in a folder."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    """Bring a folder and all in it to the disk; written first and synced then, as that takes fewer turns of it."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
