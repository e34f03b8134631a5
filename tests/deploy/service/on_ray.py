"""A Ray head with its job API, and the job service as a process beside it; for tests that kill either."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from deploy.client.client import Client, connect
from deploy.client.wire import Patience
from tests.patient_ray import RAY
from tests.ports import port_of, reserved

PATIENCE_S = 150.0
_AT = "job service at"
TOKEN = "a-token-for-this-test"


def wait_until(condition, state=lambda: ""):
    """Look again and again; a test that waits in vain fails here, and says in which ``state``."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {state()}"
        time.sleep(0.1)
    return found


class Head:
    """``ray start --head`` on this machine, with nothing of another's; gone afterwards.

    Args:
      folder: for Ray's files; a short path. cpus: that it says it has.
    """

    def __init__(self, folder: str, cpus: int):
        self.folder, self._held = folder, [reserved() for _ in range(3)]
        self.dashboard, agent, server = map(port_of, self._held)
        ports = {"port": 0, "dashboard-port": self.dashboard, "ray-client-server-port": server}
        options = {**ports, "temp-dir": folder, "num-cpus": cpus, "object-store-memory": 100_000_000}
        resources = ["--resources", '{"hogshead_jobs": 1000}', "--dashboard-agent-listen-port", str(agent)]
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
        self._log = open(Path(folder) / "head.log", "wb")
        self._process = subprocess.Popen(
            [*RAY, "start", "--head", "--block", "--no-monitor", *resources]
            + [f"--{name}={value}" for name, value in options.items()],
            env={**os.environ, **quiet},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        for pid in processes(self.folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for held in self._held:
            held.close()


class Service:
    """``hogshead serve`` in a process of its own, which a test may kill.

    Args:
      folder: of the jobs, and of the token. head: that it submits to.
    """

    def __init__(self, folder: Path, head: Head):
        self.jobs, self._head, self._held = folder / "jobs", head, reserved()
        self.port = port_of(self._held)
        self.jobs.mkdir()
        self._token = folder / "token"
        self._token.write_text(TOKEN)
        self._token.chmod(0o600)
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        """Start it, again on the same folder and port."""
        where = ["--jobs", self.jobs, "--ray", f"http://127.0.0.1:{self._head.dashboard}", "--port", str(self.port)]
        before = self.log.count(_AT)
        self._log = open(self.jobs.parent / "service.log", "ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "serve", *where, "--token-file", self._token, "--web-port", "0"],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        wait_until(lambda: self.log.count(_AT) > before, lambda: self.log)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end."""
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            self._log.close()

    def close(self) -> None:
        """Kill it, for good."""
        self.end(signal.SIGKILL)
        self._held.close()

    def client(self) -> Client:
        """Of this service, also while it is away for a moment."""
        return connect(f"127.0.0.1:{self.port}", TOKEN, patience=Patience(call_s=PATIENCE_S, lost_s=PATIENCE_S))

    def clear(self) -> None:
        """End the jobs that a test that failed has left: they would take the next one's room."""
        with self.client() as client:
            left = [job.id for job in client.jobs() if not job.ended]
            for job in left:
                client.stop(job, kill=True)
            wait_until(lambda: all(client.get(job).ended for job in left), lambda: self.log)

    @property
    def log(self) -> str:
        """What it has said."""
        path = self.jobs.parent / "service.log"
        return path.read_text() if path.exists() else ""

    def driver(self, job: str) -> int:
        """Process id of a job's driver."""
        return wait_until(lambda: processes(rf"deploy\.service\.entry {self.jobs / job} "), lambda: self.log)[-1]


def processes(pattern: str) -> list[int]:
    """Ids of the processes of this machine whose command line has the pattern, but not this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if re.search(pattern, command) and not command.startswith("/bin/sh"):
                found.append(int(entry.name))
    return sorted(found)
