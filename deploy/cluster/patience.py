"""Starting nodes of Ray on a machine that is busy with other things: what Ray gives up after seconds is waited for.

``python -m deploy.cluster.patience start --head …`` is Ray's own command, ``ray start --head …``, with this patience.
"""

from __future__ import annotations

import inspect
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_REGISTER_S, _AGAIN_S = 120.0, 0.1
# Ray's own bounds that can be told to it: on the head's port, and on the agent that prepares environments for workers.
_SETTINGS = {"RAY_gcs_server_port_wait_time_s": "120", "RAY_agent_register_timeout_ms": "120000"}
_PORTS = range(20_000, 32_000)  # between those of Ray's workers and those that a system gives to whoever asks for any
_IN_FILE = "dashboard_agent_listen_port"
_AGENTS = ("metrics_agent_port", "metrics_export_port", _IN_FILE, "runtime_env_agent_port")
_PATCHED = ("get_node", "start_raylet", "start_api_server")


@contextmanager
def patient_start(register_s: float = _REGISTER_S) -> Iterator[None]:
    """Start nodes of Ray in here.

    By itself Ray gives up a node that has not registered within 30 s, and a node ends itself when its agents, programs that take
    seconds to import what they need, have not said within 15 s which ports they have taken. So they are told which to take. And
    where no dashboard is wanted, its program, which Ray starts and waits for all the same, is left out.

    Args:
      register_s: how long is waited for a node to register.
    """
    from ray._private import services

    own = {name: getattr(services, name, None) for name in _PATCHED}
    if not _is_known(own):  # another version of Ray's, with a patience of its own
        yield
        return
    lacking = {name: value for name, value in _SETTINGS.items() if name not in os.environ}
    os.environ.update(lacking)
    services.get_node = _patient(own["get_node"], register_s)
    services.start_raylet = _with_ports(own["start_raylet"])
    services.start_api_server = _if_wanted(own["start_api_server"])
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(services, name, value)
        for name in lacking:
            os.environ.pop(name, None)


def _is_known(own: Mapping[str, Callable[..., Any] | None]) -> bool:
    """Whether Ray starts nodes as it did when this was written."""
    from ray import _raylet

    if None in own.values() or not hasattr(_raylet, "persist_port"):
        return False
    return {"node_id", "session_dir", *_AGENTS} <= set(inspect.signature(own["start_raylet"]).parameters)


def _patient(look: Callable[..., Any], register_s: float) -> Callable[..., Any]:
    def look_again(*arguments: Any) -> Any:
        deadline = time.monotonic() + register_s
        while True:
            try:
                return look(*arguments)
            except RuntimeError:  # not registered yet
                if time.monotonic() > deadline:
                    raise
            time.sleep(_AGAIN_S)

    return look_again


def _with_ports(start: Callable[..., Any]) -> Callable[..., Any]:
    from ray._raylet import persist_port

    signature = inspect.signature(start)

    def start_with_ports(*arguments: Any, **options: Any) -> Any:
        given = signature.bind(*arguments, **options).arguments
        chosen = {name: reserve_port() for name in _AGENTS if not given.get(name)}
        # This one is read from a file, in which its agent says that it could take it.
        port = chosen.get(_IN_FILE) or given[_IN_FILE]
        persist_port(given["session_dir"], given["node_id"], _IN_FILE, port)
        return start(*arguments, **options | chosen)

    return start_with_ports


def _if_wanted(start: Callable[..., Any]) -> Callable[..., Any]:
    def start_if_wanted(include_dashboard: bool | None, *arguments: Any, **options: Any) -> Any:
        return ("", None) if include_dashboard is False else start(include_dashboard, *arguments, **options)

    return start_if_wanted


def reserve_port() -> int:
    """A free TCP port, which no other process gets from this function while this one lives."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # UDP's ports are others: the TCP port stays free
        try:
            mark.bind(("", port))
            with socket.create_server(("", port)):
                pass
        except OSError:
            mark.close()
            continue
        mark.detach()  # it stays until this process ends
        return port


def main() -> None:
    """Ray's command."""
    from ray.scripts.scripts import main

    with patient_start():
        main()


if __name__ == "__main__":
    main()
