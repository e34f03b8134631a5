"""Checkpoints in a folder behind a URL: upload with the manifest last, prune with the manifest first, download and verify."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ps.checkpoint import MANIFEST, Checkpoint
from ps.errors import CheckpointError, HogsheadError, UsageError
from worker.data import remote

JOB = "job.toml"
_T = TypeVar("_T")


class RemoteCheckpoints:
    """The checkpoints of one run behind a URL.

    Args:
      url: their folder; need not exist.

    Raises:
      DataError: unknown scheme, or a missing package.
    """

    def __init__(self, url: str):
        self.shown = remote.shown(url).rstrip("/")
        self.fs, root = remote.filesystem(url)
        self.root = root.rstrip("/")

    def numbers(self) -> list[int]:
        """Numbers of the finished checkpoints, ascending.

        Raises:
          CheckpointError: the folder cannot be listed.
        """
        return sorted(int(name) for name, files in self._listing().items() if MANIFEST in files)

    def put(self, path: Path) -> str:
        """Upload a checkpoint as the newest: its files and the job first, then its manifest.

        Returns:
          Its name there: its own number, or a greater one where there are greater ones.

        Raises:
          CheckpointError: it did not arrive as it was sent. Whatever else the file system raises is passed on.
        """
        number = int("".join(filter(str.isdecimal, path.name)) or 0)
        name = f"{max(number, max(self.numbers(), default=-1) + 1):011d}"
        folder = f"{self.root}/{name}"
        self.fs.makedirs(folder, exist_ok=True)
        parts = sorted(part for part in path.iterdir() if part.name not in (MANIFEST, JOB))
        for part in parts:
            self.fs.put_file(str(part), f"{folder}/{part.name}")
        self._check_sizes(folder, parts)
        if (path / JOB).is_file():
            self.fs.put_file(str(path / JOB), f"{self.root}/{JOB}")
        self.fs.put_file(str(path / MANIFEST), f"{folder}/{MANIFEST}")
        return name

    def prune(self, keep: int) -> None:
        """Drop all but the newest ``keep`` checkpoints, and what is left of uploads that were cut off before them."""
        listing = self._listing()
        finished = self.numbers()
        oldest_kept = finished[-keep:][0] if finished else 0
        for name, files in listing.items():
            if int(name) < oldest_kept or (MANIFEST not in files and finished and int(name) < finished[-1]):
                if MANIFEST in files:  # half removed, it must not look like a checkpoint
                    self.fs.rm_file(f"{self.root}/{name}/{MANIFEST}")
                self.fs.rm(f"{self.root}/{name}", recursive=True)

    def get_newest(self, folder: Path) -> tuple[str, list[str]]:
        """Download the newest checkpoint that is whole into ``folder``.

        Returns:
          Its name, and what was wrong with newer ones.

        Raises:
          CheckpointError: there is none, or none is whole.
        """
        numbers = self.numbers()
        if not numbers:
            raise CheckpointError(f"{self.shown}: there is no checkpoint")
        problems: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        for number in reversed(numbers):
            try:
                return self._get(f"{number:011d}", folder), problems
            except CheckpointError as error:
                problems.append(str(error))
        raise CheckpointError(f"{self.shown}: none of its checkpoints is whole: {'; '.join(problems)}")

    def job(self) -> str | None:
        """The text of the job, or None if there is none."""
        try:
            return self.fs.cat_file(f"{self.root}/{JOB}").decode("utf-8")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed(error) from error

    def _get(self, name: str, folder: Path) -> str:
        partial = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
        try:
            for file in self._attempt(lambda: self._listing()[name]):
                self._attempt(lambda file=file: self.fs.get_file(f"{self.root}/{name}/{file}", str(partial / file)))
            try:
                Checkpoint(partial)
            except CheckpointError as error:
                raise CheckpointError(str(error).replace(str(partial), f"{self.shown}/{name}")) from error
            place = folder / name
            shutil.rmtree(place, ignore_errors=True)
            os.rename(partial, place)
            place.chmod(0o755)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return name

    def _listing(self) -> dict[str, list[str]]:
        """Number of each checkpoint, finished or not -> names of its files."""
        self.fs.invalidate_cache()
        try:
            below = self.fs.find(self.root, maxdepth=2)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise self._failed(error) from error
        found: dict[str, list[str]] = {}
        for path in below:
            folder, _, file = self._relative(path).partition("/")
            if folder.isdecimal() and file and "/" not in file:
                found.setdefault(folder, []).append(file)
        return found

    def _relative(self, path: str) -> str:
        # Listings come with or without the leading slash or the protocol, as the file system likes.
        _, found, rest = path.partition(self.root.lstrip("/") + "/")
        return rest if found else ""

    def _check_sizes(self, folder: str, parts: list[Path]) -> None:
        self.fs.invalidate_cache()
        for part in parts:
            size = self.fs.info(f"{folder}/{part.name}").get("size")
            if size is not None and size != part.stat().st_size:
                raise CheckpointError(f"{self.shown}: {part.name} has {part.stat().st_size} bytes, {size} have arrived")

    def _attempt(self, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except (HogsheadError, UsageError):
            raise
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"{self.shown}: {remote.explain(error)}")
