"""Several hosts on this machine with Ray on them, by hand: ``python -m tests.hosts up`` and, from elsewhere, the rest.

Example::

    python -m tests.hosts up 3 --cpus 2          # a shell on host 0; all ends with it
    python -m tests.hosts limit 2 10mbit         # this and the next lines from another terminal
    python -m tests.hosts cut 2 --seconds 5
    python -m tests.hosts run 1 -- hogshead doctor --address 10.83.0.10:6379
    python -m tests.hosts run 1                  # a shell on host 1
    python -m tests.hosts kill 2

    python -m tests.hosts up 2 -- hogshead train examples/digits_easgd.toml --backend ray
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from tests.hosts.cluster import Hosts, StartError
from tests.hosts.namespaces import Host, NotPermitted, Topology, environment, why_not


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code, or that of the command which it ran on a host."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    try:
        return arguments.function(arguments)
    except (NotPermitted, StartError, LookupError) as error:
        print(f"hosts: {error.args[0]}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"hosts: {' '.join(error.cmd[-6:])}: {error.stderr.strip()}", file=sys.stderr)
        return 1


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; ``command`` is what stands after ``--``."""
    words = list(argv)
    split = words.index("--") if "--" in words else len(words)
    arguments = _parser().parse_args(words[:split])
    arguments.command = words[split + 1 :]
    return arguments


def up(arguments: argparse.Namespace) -> int:
    """Make hosts, run a command or a shell on host 0, and take everything down."""
    reason = why_not()
    if reason:
        raise NotPermitted(reason)
    # A plain SIGTERM would end this process without taking the hosts down in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    hosts = Hosts(
        arguments.count, cpus=arguments.cpus, ray=() if arguments.no_ray else None, dashboard=arguments.dashboard
    )
    with hosts, _registered(hosts):
        for number in range(len(hosts)) if arguments.limit else ():
            hosts.limit(number, arguments.limit)
        command = arguments.command or [os.environ.get("SHELL", "/bin/sh")]
        if not arguments.command:
            print(_facts(hosts, arguments), file=sys.stderr)
        # In the foreground, not in a group of its own: the terminal is the command's.
        env = hosts.env | _address(hosts.address)
        process = subprocess.Popen(hosts.network.topology.command(0, command), env=env)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the command has got it too, and decides
                continue


def run(arguments: argparse.Namespace) -> int:
    """Run a command on a host of the network that stands."""
    topology, saved = standing(arguments)
    env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=saved["token"], **_address(saved["address"]))
    return subprocess.call(topology.command(arguments.host, arguments.command or ["sh"]), env=env)


def cut(arguments: argparse.Namespace) -> int:
    """Unplug a host, for good or for some seconds."""
    standing(arguments)[0].cut(arguments.host, arguments.seconds)
    return 0


def heal(arguments: argparse.Namespace) -> int:
    """Plug a host in again."""
    standing(arguments)[0].heal(arguments.host)
    return 0


def limit(arguments: argparse.Namespace) -> int:
    """Limit the rate of a host's link."""
    standing(arguments)[0].limit(arguments.host, None if arguments.rate == "off" else arguments.rate)
    return 0


def kill(arguments: argparse.Namespace) -> int:
    """Kill a host."""
    standing(arguments)[0].kill(arguments.host)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.hosts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    make = commands.add_parser("up", help=up.__doc__, usage="%(prog)s [COUNT] [options] [-- COMMAND ...]")
    make.set_defaults(function=up)
    make.add_argument("count", nargs="?", type=int, default=2, help="number of hosts (default: 2)")
    make.add_argument("--cpus", type=int, default=2, metavar="N", help="that each host offers (default: 2)")
    make.add_argument("--limit", metavar="RATE", help="of each host's link, e.g. 100mbit")
    make.add_argument("--dashboard", action="store_true", help="start Ray's dashboard too")
    make.add_argument("--no-ray", action="store_true", help="hosts only")
    for function in (run, cut, heal, limit, kill):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--of", type=int, metavar="PID", help="which network, if several stand: its process id")
        command.add_argument("host", type=int, help="number of the host, from 0")
        if function is limit:
            command.add_argument("rate", help="as tc writes it, e.g. 10mbit; or off")
        if function is cut:
            command.add_argument("--seconds", type=float, metavar="S", help="and heal it then")
    return parser


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f"hogshead-hosts-{os.getuid()}"


@contextmanager
def _registered(hosts: Hosts):
    """Let other terminals find the network; the file holds the token, so it is this user's alone."""
    _folder().mkdir(mode=0o700, exist_ok=True)
    path = _folder() / f"{os.getpid()}.json"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        saved = {"token": hosts.token, "address": hosts.address}
        json.dump({"topology": asdict(hosts.network.topology), **saved}, file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # another network stands
            _folder().rmdir()


def standing(arguments: argparse.Namespace) -> tuple[Topology, dict[str, str]]:
    """The network asked for, or the only one; and the token and the address of its Ray."""
    files = {int(path.stem): path for path in _folder().glob("*.json") if Path(f"/proc/{path.stem}").exists()}
    if arguments.of is None and len(files) != 1:
        there = ", ".join(map(str, sorted(files)))
        raise LookupError(f"several networks stand; choose with --of: {there}" if files else "no network stands")
    if arguments.of is not None and arguments.of not in files:
        raise LookupError(f"no network of process {arguments.of} stands; there are: {', '.join(map(str, files))}")
    saved = json.loads(files[arguments.of or next(iter(files))].read_text())
    topology = Topology(saved["topology"]["switch"], tuple(Host(**host) for host in saved["topology"]["hosts"]))
    if not 0 <= arguments.host < len(topology.hosts):
        raise LookupError(f"there are hosts 0 to {len(topology.hosts) - 1}, got {arguments.host}")
    return topology, saved


def _address(address: str) -> dict[str, str]:
    """By which Ray and hogshead find the cluster."""
    return {"RAY_ADDRESS": address} if address else {}


def _facts(hosts: Hosts, arguments: argparse.Namespace) -> str:
    lines = [f"host {host.number}: {host.address}" for host in hosts.network.topology.hosts]
    if not arguments.no_ray:
        lines.append(f"Ray at {hosts.address}; RAY_ADDRESS and RAY_AUTH_TOKEN of this shell say so")
    lines.append(f"this shell is on host 0; elsewhere: python -m tests.hosts run 1; process {os.getpid()}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
