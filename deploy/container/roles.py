"""What the two machines of a cluster run: Ray's head with the job service, and Ray's nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from deploy.container.keeper import Keeper, Program
from deploy.container.settings import Settings

_RAY_GRACE_S = 15.0
_START_S = 15  # what a farewell needs besides the checkpoint itself: to join the cluster as a driver
# Orphans of a killed `ray start` hold its ports. Everything in this container's process table is ours.
_CLEAN = ("ray", "stop", "--force")
_START = (sys.executable, "-m", "deploy.container.ray_start", "start")
_SPARE_CPUS = 1  # for shards
_PORT = 6379
_RAY = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # so long nodes wait for a head that is away
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # an end is not delayed: actors of a run never go idle
    # A node that fails to answer five times in a row is given up: after 15 s at most, by default after a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
    # Ray's own watch over memory kills whatever it may restart, that is shards, together with the worker that takes too much. The
    # kernel kills one process: the worker (see deploy.cluster.out_of_memory); but all of a Kubernetes pod, so Ray's stays there.
    "RAY_memory_monitor_refresh_ms": "0",
}


def head(settings: Settings) -> int:
    """Ray's head and the job service; when one of them dies, the other goes on."""
    ray = Program("Ray's head", head_command(settings), ray_environment(), settings.redis or None, _CLEAN, _RAY_GRACE_S)
    service = Program("the job service", serve_command(settings))
    return Keeper([ray, service], lambda: leave(f"127.0.0.1:{_PORT}", settings.leave_s)).run()


def node(settings: Settings) -> int:
    """A node of Ray's, which joins again when it was thrown out, or its head was away for too long."""
    ray = Program("Ray's node", node_command(settings), ray_environment(), settings.head, _CLEAN, _RAY_GRACE_S)
    return Keeper([ray], lambda: leave(settings.head, settings.leave_s)).run()


def head_command(settings: Settings) -> list[str]:
    """``ray start`` for the head. Jobs' drivers and coordinators run there; training does if it has CPUs."""
    command = [*_START, "--head", "--block", f"--port={_PORT}", "--dashboard-host=127.0.0.1"]
    command += ["--resources=" + json.dumps({"hogshead_jobs": 1000}), *_common(settings)]
    if settings.redis_password_file:
        command.append(f"--redis-password-file={settings.redis_password_file}")
    return command


def node_command(settings: Settings) -> list[str]:
    """``ray start`` for a node."""
    return [*_START, f"--address={settings.head}", "--block", *_common(settings)]


def serve_command(settings: Settings) -> list[str]:
    """``hogshead serve``."""
    command = ["hogshead", "serve", "--jobs", settings.jobs, "--state", settings.state, "--bind", settings.bind]
    command += ["--port", str(settings.port), "--web-port", str(settings.web_port)]
    return [*command, *settings.serve_options]


def ray_environment() -> dict[str, str]:
    """The environment of Ray's processes: ours, and what is right for a cluster of Hogshead's where ours does not say it."""
    return {**_RAY, **os.environ}


def leave(address: str, seconds: int) -> None:
    """Ask all runs for a checkpoint, so that they lose next to nothing of what was here."""
    if not seconds:
        return
    command = [sys.executable, "-m", "deploy.cluster.leave", str(seconds)]
    try:
        subprocess.run(command, env={**os.environ, "RAY_ADDRESS": address}, timeout=seconds + _START_S, check=False)
    except subprocess.TimeoutExpired:
        print("hogshead: the runs' checkpoints took too long", flush=True)


def _common(settings: Settings) -> list[str]:
    options = [f"--metrics-export-port={settings.metrics_port}", f"--object-store-memory={settings.object_store_bytes}"]
    options += [f"--node-ip-address={settings.address}"] if settings.address else []
    options += [f"--num-cpus={settings.cpus}" if settings.cpus else f"--spare-cpus={_SPARE_CPUS}"]
    options += [f"--num-gpus={settings.gpus}"] if settings.gpus else []
    return [*options, "--disable-usage-stats", "--log-color=false"]


ROLES = {"head": head, "node": node}
