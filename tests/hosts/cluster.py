"""A Ray cluster over hosts with addresses of their own: a head on host 0, a node on each other host, one token."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.hosts.namespaces import SCRATCH, Host, Network, environment, kill_group, run, why_not
from tests.patient_ray import RAY

__all__ = ["Hosts", "StartError", "why_not"]

PORT = 6379
START_TIMEOUT_S = 240
# Nodes of a test need no idle workers in advance, no usage statistics and no pages of metrics.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_DEDUP_LOGS": "0",
}

# Nor the head's autoscaler.
BARE = ["--no-monitor"]


class StartError(Exception):
    """Ray did not start on a host; the message holds what it said."""


class Hosts:
    """``count`` hosts with Ray on them. A context manager; leaving it ends every process on them.

    Args:
      count: number of hosts, the head's (0) included.
      cpus: CPUs that each host's node offers to Ray, or one number per host.
      ray: numbers of the hosts with Ray, the head's (0) first; all if None, none if empty.
      token: Ray's token; random if None.
      dashboard: start the head's dashboard too (job submission and the state API need it); a few seconds more.
      store_mb: size of each node's object store.
      env: environment variables of Ray's processes and of commands run.
      shm_mb, private: as ``Network`` takes them.

    Example:
      >>> with Hosts(2) as hosts:                                           # doctest: +SKIP
      ...     hosts.run(0, ["hogshead", "doctor", "--address", hosts.address])
      ...     hosts.cut(1)

    Raises:
      NotPermitted: namespaces cannot be made here; ``why_not()`` says so beforehand.
      StartError: Ray did not start.
    """

    def __init__(
        self,
        count: int,
        *,
        cpus: int | Sequence[int] = 2,
        ray: Sequence[int] | None = None,
        token: str | None = None,
        dashboard: bool = False,
        store_mb: int = 100,
        env: Mapping[str, str] | None = None,
        shm_mb: int = 1024,
        private: Sequence[str | Path] = (),
    ):
        self.cpus = [cpus] * count if isinstance(cpus, int) else list(cpus)
        self.token = secrets.token_hex(16) if token is None else token
        self.env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=self.token, **QUIET, **(env or {}))
        self.network = Network(count, shm_mb, private)
        self._ray = range(count) if ray is None else ray
        self._dashboard, self._store_mb = dashboard, store_mb

    def __enter__(self) -> Hosts:
        self.network.__enter__()
        try:
            if self._ray:
                self.start_ray(self._ray[0])
                # Nodes are started side by side: each waits longer for its processes than it works.
                with ThreadPoolExecutor() as pool:
                    list(pool.map(self.start_ray, self._ray[1:]))
        except BaseException:
            self.network.close()
            raise
        return self

    def __exit__(self, *_exc) -> None:
        self.network.close()

    def __len__(self) -> int:
        return self.network.count

    def __getitem__(self, number: int) -> Host:
        return self.network.topology.hosts[number]

    @property
    def address(self) -> str:
        """The cluster's address, ``"10.83.0.10:6379"``; "" without Ray."""
        return f"{self[self._ray[0]].address}:{PORT}" if self._ray else ""

    def start_ray(self, number: int) -> None:
        """Start the head or a node; also to bring a node back whose processes were ended."""
        where = (
            ["--head", f"--port={PORT}", f"--include-dashboard={self._dashboard}", *BARE]
            if number == self._ray[0]
            else [f"--address={self.address}"]
        )
        command = [
            *RAY,
            "start",
            *where,
            f"--node-ip-address={self[number].address}",
            f"--temp-dir={SCRATCH}/ray",
            f"--num-cpus={self.cpus[number]}",
            f"--object-store-memory={self._store_mb * 1_000_000}",
            "--include-log-monitor=False",
            "--disable-usage-stats",
        ]
        done = self.run(number, command, timeout_s=START_TIMEOUT_S)
        if done.returncode:
            raise StartError(f"Ray did not start on host {number}:\n{done.stdout}{done.stderr}")

    def run(
        self,
        number: int,
        command: Sequence[str],
        *,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end, with its output; what it started ends with it if the time is over.

        Raises:
          subprocess.TimeoutExpired: it took longer than ``timeout_s``.
        """
        pipe = subprocess.PIPE
        command = self.network.topology.command(number, list(map(str, command)), cwd)
        return run(command, timeout_s, self.env | dict(env or {}), stdout=pipe, stderr=pipe, text=True)

    def start(
        self,
        number: int,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        **options,
    ) -> subprocess.Popen:
        """Start a command on a host, in a process group of its own; end it with ``stop``. Options as ``Popen`` takes."""
        command = self.network.topology.command(number, list(map(str, command)), cwd)
        return subprocess.Popen(command, env=self.env | dict(env or {}), start_new_session=True, **options)

    def stop(self, process: subprocess.Popen) -> None:
        """SIGKILL what ``start`` gave."""
        kill_group(process)

    def cut(self, number: int, seconds: float | None = None) -> None:
        """Unplug a host: its packets are lost without a word. For so many seconds, or until it is healed."""
        self.network.topology.cut(number, seconds)

    def heal(self, number: int) -> None:
        """Plug it in again."""
        self.network.topology.heal(number)

    @contextmanager
    def without_cable(self, number: int) -> Iterator[None]:
        """Unplug a host in here."""
        self.cut(number)
        try:
            yield
        finally:
            self.heal(number)

    def deafened(self, number: int) -> AbstractContextManager[None]:
        """Lose what others send to a host in here; what it sends arrives."""
        return self.network.topology.deafened(number)

    def limit(self, number: int, rate: str | None) -> None:
        """Limit a host's link in each direction, e.g. ``"10mbit"``; None ends the limit."""
        self.network.topology.limit(number, rate)

    def held_back(self, number: int) -> int:
        """How often a host's packets had to wait for its limit, those to it and those from it."""
        return self.network.topology.held_back(number)

    def kill(self, number: int) -> None:
        """SIGKILL all of a host's processes and take it off the network; it does not come back."""
        self.network.topology.kill(number)

    def file(self, number: int, path: str | Path) -> Path:
        """Where this process sees a host's file, e.g. Ray's logs below ``SCRATCH``."""
        return Path(f"/proc/{self[number].pid}/root{path}")
