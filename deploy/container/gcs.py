"""Ray's GCS server, started again in place when it dies: ``python -m deploy.container.gcs``, as ``kept_gcs`` arranges it.

The server ends itself when its connection to Redis breaks, for it does not connect again, and ``ray start`` then ends the whole
head with the drivers and coordinators on it. What the server must know is in Redis, so another one goes on with it within a
second. Nodes, drivers and actors wait meanwhile (``RAY_gcs_rpc_server_reconnect_timeout_s``).

Redis' password reaches the server in its environment. Ray by itself writes it into the command lines of the server, the node
and each worker, where every user of the machine can read it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from deploy.container.keeper import listens

_COMMAND, _FLAG_FROM_ENVIRONMENT = "HOGSHEAD_GCS_COMMAND", "FLAGS_redis_password"  # the latter is gflags' name
_ADDRESS, _PORT, _PASSWORD = "--redis_address=", "--redis_port=", "--redis_password="
_PATCHED = ("start_ray_process", "start_raylet")
_SERVER = "gcs_server"  # Ray's name of the kind of process
_SHORT_S = 10.0  # a server that lived no longer has failed
_MOST_FAILURES = 5  # in a row; then the head is cleaned up and started anew
_FIRST_PAUSE_S, _LOOK_S = 0.2, 0.5
_PR_SET_PDEATHSIG = 1


@contextmanager
def kept_gcs() -> Iterator[None]:
    """Have a head of Ray's that is started in here keep its GCS server, and the password of its Redis out of command lines.

    A server without Redis has nothing to go on with, and is started as Ray does it.
    """
    from ray._private import services

    own = {name: getattr(services, name) for name in _PATCHED}
    services.start_ray_process = _keeping(own["start_ray_process"])
    services.start_raylet = _without_password(own["start_raylet"])
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(services, name, value)


def _keeping(start: Callable[..., Any]) -> Callable[..., Any]:
    def start_kept(command: list[str], process_type: str, *arguments: Any, **options: Any) -> Any:
        if process_type == _SERVER and any(word.startswith(_ADDRESS) for word in command):
            command, environment = keeper_of(command)
            environment = {**(options.get("env_updates") or {}), **environment}
            # What the keeper says goes to the log of the container.
            options = {**options, "env_updates": environment, "stdout_file": None, "stderr_file": None}
        return start(command, process_type, *arguments, **options)

    return start_kept


def _without_password(start: Callable[..., Any]) -> Callable[..., Any]:
    """Start a node, which like its workers asks the server and never Redis."""

    def start_without(*arguments: Any, **options: Any) -> Any:
        return start(*arguments, **{**options, "redis_password": None})

    return start_without


def keeper_of(command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line of a process that keeps a server, and what its environment must have more.

    Args:
      command: of the server, as Ray makes it.
    """
    words = [word for word in command if not word.startswith(_PASSWORD)]
    password = next((word.removeprefix(_PASSWORD) for word in command if word.startswith(_PASSWORD)), None)
    environment = {}
    if password is not None:
        words.append("--fromenv=redis_password")
        environment[_FLAG_FROM_ENVIRONMENT] = password
    return [sys.executable, "-m", __name__], {**environment, _COMMAND: json.dumps(words)}


class Server(Protocol):
    """A process; see ``subprocess.Popen``."""

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        ...


def keep(
    start: Callable[[], Server],
    redis: str,
    is_over: Callable[[], bool],
    *,
    say: Callable[[str], None],
    is_there: Callable[[str], bool] = listens,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run a server, and another one when it has died, once its Redis is there.

    Args:
      start: starts one. redis: host:port. is_over: whether none is wanted any more.
      say: prints a line. is_there: whether something listens. clock: seconds that only rise. sleep: waits for so many seconds.

    Returns:
      0 where none was wanted any more; else the exit code of the last of several that died soon after their start.
    """
    failures = 0
    while True:
        begun = clock()
        code = start().wait()
        if is_over():
            return 0
        failures = failures + 1 if clock() - begun < _SHORT_S else 0
        if failures >= _MOST_FAILURES:
            say(f"Ray's GCS server ended with {code}, {failures} times soon after its start; the head starts anew")
            return code or 1
        say(f"Ray's GCS server ended with {code}; it is started again")
        sleep(_FIRST_PAUSE_S * 2**failures)
        if not _awaited(redis, is_over, say, is_there, sleep):
            return 0


def _awaited(
    redis: str,
    is_over: Callable[[], bool],
    say: Callable[[str], None],
    is_there: Callable[[str], bool],
    sleep: Callable[[float], None],
) -> bool:
    """Wait until Redis takes connections; False: the server is not wanted any more."""
    said = False
    while not is_over():
        if is_there(redis):
            return True
        if not said:
            say(f"Ray's GCS server waits for Redis at {redis}")
            said = True
        sleep(_LOOK_S)
    return False


def address_of(command: Sequence[str]) -> str:
    """host:port of the Redis that a server's command line names."""
    found = {name: word.removeprefix(name) for word in command for name in (_ADDRESS, _PORT) if word.startswith(name)}
    return f"{found[_ADDRESS]}:{found[_PORT]}"


def main(environment: Mapping[str, str]) -> int:
    """Keep the server whose command line stands in the environment, until SIGTERM."""
    command = json.loads(environment[_COMMAND])
    passed = {name: value for name, value in environment.items() if name != _COMMAND}
    running: list[subprocess.Popen[bytes]] = []
    over = False

    def end(*_: object) -> None:
        nonlocal over
        over = True
        for server in running:
            server.terminate()

    def start() -> Server:
        server = subprocess.Popen(
            command, env=passed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_end_with_parent
        )
        running[:] = [server]
        if over:  # it was told while the server was being started
            server.terminate()
        return server

    signal.signal(signal.SIGTERM, end)
    return keep(start, address_of(command), lambda: over, say=lambda line: print(f"hogshead: {line}", flush=True))


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(os.environ))
