"""The folder of a submitted job: what the service and the job's driver, which share it, tell each other.

The service writes ``job.toml`` and ``files/`` once, and ``order.json`` before each start. The driver (``deploy.service.entry``)
writes everything else. Each file is replaced whole, so that either side may be killed at any time.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.run_directory import to_json, write_atomically
from ps.errors import UsageError

BEAT_S = 2.0
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ID = re.compile(rf"{NAME.pattern}-[1-9][0-9]{{0,8}}")


class JobFolder:
    """Args:
      jobs: folder of all jobs. job: id of this one.

    Attributes:
      path: of the folder.
      job: the job as it was submitted, TOML; relative paths in it are relative to ``files``.
      files: what travelled with it, unpacked.
      run: its run directory, once it has begun.
      log: what it printed, of all attempts.

    Raises:
      UsageError: that is no id.
    """

    def __init__(self, jobs: Path, job: str):
        if not ID.fullmatch(job):
            raise UsageError(f"{job[:80]!r} is no job's id; ids are a name and a number, e.g. digits_easgd-3")
        self.id = job
        self.path = Path(jobs) / job
        self.job = self.path / "job.toml"
        self.files = self.path / "files"
        self.run = self.path / "run"
        self.log = self.path / "log.txt"

    @property
    def order(self) -> dict[str, Any]:
        """What the driver is to do: ``overrides``, ``wish`` ("", "stop" or "kill"), and what it must know of before."""
        return self._read("order.json")

    @order.setter
    def order(self, order: Mapping[str, Any]) -> None:
        self._write("order.json", order)

    @property
    def outcome(self) -> dict[str, Any]:
        """How the run ended: ``status`` ("done", "failed" or "interrupted"), ``reason``, the ``order``'s number; {} before."""
        return self._read("outcome.json")

    @outcome.setter
    def outcome(self, outcome: Mapping[str, Any]) -> None:
        if outcome:
            self._write("outcome.json", outcome)
        else:
            (self.path / "outcome.json").unlink(missing_ok=True)

    @property
    def generation(self) -> int:
        """How often the run was begun or resumed; each time its actors have another namespace."""
        return self._read("generation.json").get("generation", 0)

    @property
    def uid(self) -> str:
        """The Ray namespace of the newest generation's actors."""
        return self._read("generation.json").get("uid", "")

    def begin(self) -> None:
        """The next generation begins. No other job has its namespace, also none of a service that began anew on this cluster."""
        generation = self.generation + 1
        uid = f"hogshead-{self.id}-{generation}-{secrets.token_hex(4)}"
        self._write("generation.json", {"generation": generation, "uid": uid})

    @property
    def beat(self) -> dict[str, Any]:
        """The driver's sign of life: ``attempt``, ``count``, which rises, and ``within_s``, by when it rises again."""
        return self._read("beat.json")

    @beat.setter
    def beat(self, beat: Mapping[str, Any]) -> None:
        self._write("beat.json", beat)

    @property
    def at_work(self) -> bool:
        """What was ordered has begun, and made progress."""
        if self.generation <= self.order.get("above", 0):
            return False
        try:
            begun = (self.path / "generation.json").stat().st_mtime_ns
            metrics = (self.run / "metrics.jsonl").stat()
        except FileNotFoundError:
            return False
        return metrics.st_size > 0 and metrics.st_mtime_ns >= begun

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}  # a job's own code can write there

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_atomically(self.path / name, to_json(content) + "\n")


class Beat:
    """A driver's sign of life, given by the driver's own thread after each step, so that it proves progress.

    Args:
      folder: of the job. attempt: the number of the driver. clock: seconds that only rise.
    """

    def __init__(self, folder: JobFolder, attempt: int, clock: Callable[[], float] = time.monotonic):
        self._folder, self._attempt, self._clock = folder, attempt, clock
        self._count, self._given, self._within_s = 0, 0.0, 0.0

    def __call__(self, within_s: float) -> None:
        """Give the next one; at most every ``BEAT_S`` a file is written.

        Args:
          within_s: how long the step may take that begins now; a driver that is silent for longer counts as dead.
        """
        now = self._clock()
        if self._count and within_s == self._within_s and now - self._given < BEAT_S:
            return
        self._count, self._given, self._within_s = self._count + 1, now, within_s
        with suppress(OSError):  # a full disk: the service then asks Ray
            self._folder.beat = {"attempt": self._attempt, "count": self._count, "within_s": within_s}
