"""The folder of a submitted job: what the service and the job's driver, which share it, tell each other.

The service writes ``job.toml`` and ``files/`` once, and ``order.json`` before each start. The driver (``deploy.service.entry``)
writes everything else. Each file is replaced whole, so that either side may be killed at any time.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

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
        """The driver's sign of life: ``attempt``, and ``count``, which rises while it lives."""
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
    """Gives a driver's sign of life; ``with Beat(folder, attempt): ...``."""

    def __init__(self, folder: JobFolder, attempt: int):
        self._folder, self._attempt, self._over = folder, attempt, threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def __enter__(self) -> Self:
        self._give(1)  # here, so that there is one however soon it ends
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        count = 1
        while not self._over.wait(BEAT_S):
            count += 1
            self._give(count)

    def _give(self, count: int) -> None:
        with suppress(OSError):  # a full disk: the service then asks Ray
            self._folder.beat = {"attempt": self._attempt, "count": count}
