"""A training on hosts, started on host 0 and watched from here."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hosts.cluster import Hosts

# Ray finds a dead host by missed answers to its health check: after about 10 s instead of a minute. A cut must be shorter.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}
JOB = """
backend = "ray"
[task]
name = "counting.py:Counting"
gate = "{gate}"
[data]
batch_size = 32
[strategy]
name = "downpour"
[rule]
name = "sgd"
lr = 1.0
[shards]
count = 3
[workers]
count = 3
[stop]
epochs = {epochs}
[evaluation]
every_epochs = {epochs}
[checkpoint]
every_seconds = 1
[cluster]
deadline_seconds = 1.0
"""
PATIENCE_S = 180


class Gate:
    """How far the workers of a training may go, said by files that all hosts see: first nowhere.

    Args:
      folder: made.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()

    def open(self, epochs: float, worker: int | None = None) -> None:
        """Let one worker, or all, go on until the center has seen so many epochs."""
        beside = self.folder / ".new"
        beside.write_text(str(epochs))
        beside.replace(self.folder / ("all" if worker is None else str(worker)))

    def reached(self, epochs: float, worker: int) -> None:
        """Wait until a worker stands before the gate, open so far, with the examples of its next gradient in its hands."""
        deadline = time.monotonic() + PATIENCE_S
        while not (self.folder / f"{worker} waits at {epochs:g}").exists():
            assert time.monotonic() < deadline, f"worker {worker} did not come to the gate"
            time.sleep(0.05)


def home(folder: Path, hosts: Hosts, epochs: int, gate: Gate) -> Path:
    """A job and its task in ``folder``, which only host 0 has from now on."""
    shutil.copy(Path(__file__).parent / "counting.py", folder)
    (folder / "job.toml").write_text(JOB.format(epochs=epochs, gate=gate.folder))
    for number in range(1, len(hosts)):
        assert hosts.run(number, ["mount", "-t", "tmpfs", "tmpfs", folder]).returncode == 0
    return folder / "job.toml"


class Training:
    """A run in the background. A context manager, so that it ends with the test.

    Attributes:
      run: its directory. records: of its metrics so far.
    """

    def __init__(self, hosts: Hosts, job: Path, *arguments: str):
        self.run, self.records = job.parent / "run", []
        command = ["hogshead", "train", job, "--run", self.run, "--address", hosts.address, "--json", *arguments]
        self._hosts, self._command = hosts, command
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> Training:
        self._process = self._hosts.start(
            0, self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
        )
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        self._errors = ""
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *_exc) -> None:
        self._hosts.stop(self._process)
        for reader in self._readers:
            reader.join()
        self._process.stdout.close()
        self._process.stderr.close()

    def until(self, when: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The next record for which ``when`` is true."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                raise AssertionError(f"waited in vain; the training so far: {self.story()}") from None
            if not line:
                raise AssertionError(f"the training has ended: {self.story()}")
            self.records.append(json.loads(line))
            if when(self.records[-1]):
                return self.records[-1]

    def now(self, when: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The same of those that are begun from now on."""
        while not self._lines.empty():
            self.until(lambda _record: True)
        self.until(when)  # perhaps begun before
        return self.until(when)

    def summary(self) -> dict[str, Any]:
        """What it says at its end."""
        return self.until(lambda record: record["kind"] == "summary")

    def events(self) -> list[str]:
        """Names of what has happened so far."""
        return [record["event"] for record in self.records if record["kind"] == "event"]

    def story(self) -> str:
        """For a failure: what was said."""
        return "\n".join([*map(json.dumps, self.records[-8:]), self._errors[-2000:]])

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _read_errors(self) -> None:
        for line in self._process.stderr:
            self._errors += line
