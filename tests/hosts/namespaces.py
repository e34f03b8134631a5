"""Hosts as namespaces: each has its own address, processes, /dev/shm and scratch folder, and a port on one switch.

No namespace has a name: each lives as long as its first process, and that process ends when the pipe from its maker closes.
So nothing is left behind, also when the maker is killed, and any number of such networks run side by side with equal addresses.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

TOOLS = ("ip", "tc", "unshare", "nsenter")
BRIDGE = "br0"
SCRATCH = (
    "/dev/shm/scratch"  # inside what is each host's own, so that it goes with the host; short: sockets lie below it
)
START_TIMEOUT_S = 60

# The process id is read before /proc is mounted anew, so it is the one that the maker sees. A first process that ignores SIGCHLD
# leaves no zombies. cat ends when the maker closes the pipe, and the kernel then kills every other process of the host.
FIRST_PROCESS = r"""
set -eu
read -r pid rest </proc/self/stat
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o size={shm_mb}m tmpfs /dev/shm
mkdir {scratch}
for folder in {private}; do mount -t tmpfs tmpfs "$folder"; done
echo '{names}' >{scratch}/hosts
mount --bind {scratch}/hosts /etc/hosts
hostname {name}
ip link set lo up
echo "$pid"
trap '' CHLD
exec cat >/dev/null
"""
SWITCH_PROCESS = r"""
set -eu
read -r pid rest </proc/self/stat
ip link add {bridge} type bridge
ip link set {bridge} up
echo "$pid"
exec cat >/dev/null
"""


@dataclass(frozen=True)
class Host:
    """One host: its number from 0, its address, and the process that keeps its namespaces."""

    number: int
    address: str
    pid: int
    port: str = field(repr=False)  # its name on the switch

    @property
    def name(self) -> str:
        """Its host name, which all hosts can resolve."""
        return f"host-{self.number}"


def why_not() -> str | None:
    """Why hosts cannot be made here, or None where they can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"hosts need {', '.join(missing)} (packages iproute2 and util-linux)"
    try:
        with Network(1):
            return None
    except NotPermitted as error:
        return str(error)


class NotPermitted(Exception):
    """This machine does not let us make namespaces; the message is what the tool said."""


@dataclass(frozen=True)
class Topology:
    """A network that stands: what can be done to it, from the process that made it or from another one."""

    switch: int
    hosts: tuple[Host, ...]

    def command(self, host: int, command: Sequence[str], cwd: str | Path | None = None) -> list[str]:
        """``command`` as it is run from outside to run on ``host``, in the folder ``cwd`` or the current one."""
        return enter(self.hosts[host].pid, command, cwd)

    def cut(self, host: int, seconds: float | None = None) -> None:
        """Take the host's cable out of the switch: packets are lost without a word, in both directions.

        Args:
          seconds: after which it is put back; None: it stays out.
        """
        self.on_switch("ip", "link", "set", self.hosts[host].port, "nomaster")
        if seconds is not None:
            try:
                time.sleep(seconds)
            finally:
                self.heal(host)

    def heal(self, host: int) -> None:
        """Put the cable back."""
        self.on_switch("ip", "link", "set", self.hosts[host].port, "master", BRIDGE)

    @contextmanager
    def deafened(self, host: int) -> Iterator[None]:
        """Lose all packets to the host in here; those from it arrive, and whoever answers them is not heard."""
        device = self.hosts[host].port
        self.on_switch("tc", "qdisc", "replace", "dev", device, "root", "tbf", *"rate 8bit burst 1 limit 1".split())
        try:
            yield
        finally:
            self.on_switch("tc", "qdisc", "del", "dev", device, "root")

    def limit(self, host: int, rate: str | None) -> None:
        """Limit the host's link to ``rate`` (as tc writes it, ``"10mbit"``) in each direction; None ends the limit."""
        for run, device in ((self.on_switch, self.hosts[host].port), (partial(self.on, host), "eth0")):
            if rate is None:
                with suppress(subprocess.CalledProcessError):  # there was none
                    run("tc", "qdisc", "del", "dev", device, "root")
            else:
                # Little at once: whatever is more than a packet has to wait, also where packets are few.
                bucket = ("burst", "2kb", "latency", "100ms")
                run("tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, *bucket)

    def held_back(self, host: int) -> int:
        """How often packets had to wait for the limit, those to the host and those from it."""
        show = ("tc", "-s", "qdisc", "show", "dev")
        told = self.on_switch(*show, self.hosts[host].port) + self.on(host, *show, "eth0")
        return sum(map(int, re.findall(r"overlimits (\d+)", told)))

    def kill(self, host: int) -> None:
        """SIGKILL every process of the host at once, and take it off the network, as when the power fails."""
        self.cut(host)
        first = os.pidfd_open(self.hosts[host].pid)
        try:
            signal.pidfd_send_signal(first, signal.SIGKILL)
            select.select([first], [], [], START_TIMEOUT_S)  # the kernel ends the others before the first one
        finally:
            os.close(first)

    def on(self, host: int, *command: str) -> str:
        """Run a command on a host that must succeed; its output."""
        return _checked(self.command(host, command, "/"))

    def on_switch(self, *command: str) -> str:
        """Run a command that must succeed where the switch is; its output."""
        return _checked([*_enter_user(self.switch), "nsenter", f"--target={self.switch}", "--net", *command])


class Network:
    """``count`` hosts on one switch. A context manager; everything goes when it is left.

    Args:
      count: number of hosts, 1 to 100.
      shm_mb: size of each host's /dev/shm.
      private: existing folders that hosts 1 and above see empty, each its own: nothing there is shared with host 0.

    Attributes:
      topology: the network, once it stands.
    """

    def __init__(self, count: int, shm_mb: int = 1024, private: Sequence[str | Path] = ()):
        self.count, self.shm_mb, self.private = count, shm_mb, tuple(map(str, private))
        self.topology = Topology(0, ())
        self._undo = ExitStack()

    def __enter__(self) -> Network:
        with ExitStack() as undo:
            switch = _keep(undo, ["unshare", *_own_user(), "--net", "--mount"], SWITCH_PROCESS.format(bridge=BRIDGE))
            self.topology = Topology(switch, ())
            for number in range(self.count):
                host = self._make_host(undo, number)
                self.topology = replace(self.topology, hosts=(*self.topology.hosts, host))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def close(self) -> None:
        """Kill all processes of all hosts, and take the network down."""
        self._undo.close()

    def _make_host(self, undo: ExitStack, number: int) -> Host:
        names = "\n".join(["127.0.0.1 localhost", *(f"{_address(n)} host-{n}" for n in range(self.count))])
        script = FIRST_PROCESS.format(
            shm_mb=self.shm_mb,
            private=shlex.join([SCRATCH, *(self.private if number else ())]),
            scratch=SCRATCH,
            names=names,
            name=f"host-{number}",
        )
        unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]
        pid = _keep(undo, [*_enter_user(self.topology.switch), *unshare], script)
        host = Host(number, _address(number), pid, f"port{number}")
        on_switch = self.topology.on_switch
        on_switch("ip", "link", "add", host.port, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        on_switch("ip", "link", "set", host.port, "master", BRIDGE, "up")
        _checked(enter(pid, ["ip", "address", "add", f"{host.address}/24", "dev", "eth0"], "/"))
        _checked(enter(pid, ["ip", "link", "set", "eth0", "up"], "/"))
        return host


def enter(pid: int, command: Sequence[str], cwd: str | Path | None = None) -> list[str]:
    """``command`` as it is run from outside to run beside the process ``pid``, in all its namespaces.

    The user's comes first: it permits the others. The folder is entered there, where it may be another one than here.
    """
    inside = ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd or os.getcwd())]
    spaces = ["--net", "--mount", "--pid", "--uts", "--ipc"]
    return [*_enter_user(pid), "nsenter", f"--target={pid}", *spaces, *inside, *command]


def environment(**extra: str) -> dict[str, str]:
    """The caller's environment without settings of another Ray cluster, this Python's commands first, and ``extra``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"} | extra


def run(command: Sequence[str], timeout_s: float, env: Mapping[str, str], **options) -> subprocess.CompletedProcess:
    """``subprocess.run`` that on a timeout also ends what the command has started on the host."""
    with subprocess.Popen(command, env=env, start_new_session=True, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            kill_group(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def kill_group(process: subprocess.Popen) -> None:
    """SIGKILL a command on a host, and wait for it; nsenter itself would pass no signal on."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(START_TIMEOUT_S)


def _keep(undo: ExitStack, unshare: Sequence[str], script: str) -> int:
    """Start a namespace's first process; returns its id once it has set everything up. ``undo`` will end it."""
    process = subprocess.Popen(
        [*unshare, "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # ^C in the terminal is for the script, which then closes in order
    )
    undo.callback(_end, process)
    pid = process.stdout.readline().strip()
    if not pid:
        raise NotPermitted(f"namespaces are not permitted here: {process.stderr.readline().strip()}")
    return int(pid)


def _own_user() -> list[str]:
    return [] if os.geteuid() == 0 else ["--user", "--map-root-user"]


def _enter_user(pid: int) -> list[str]:
    if os.geteuid() == 0:
        return []
    return ["nsenter", f"--target={pid}", "--user", "--preserve-credentials"]


def _address(number: int) -> str:
    return f"10.83.0.{number + 10}"


def _checked(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=START_TIMEOUT_S).stdout


def _end(process: subprocess.Popen) -> None:
    process.stdin.close()
    try:
        process.wait(START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()  # --kill-child passes it on
        process.wait(START_TIMEOUT_S)
    process.stdout.close()
    process.stderr.close()
