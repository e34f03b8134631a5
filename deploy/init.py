"""``hogshead init``: what a clone needs before its cluster is started. It needs nothing but Python: ``python3 -m deploy.init``.

Writes ``.env`` (the project's name, free ports), ``secrets/`` and ``.hogshead.toml`` (where the client finds the service). Two
clones get different names and ports, so their clusters do not meet.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from deploy.exit_codes import DONE, WRONG_USAGE
from ps.errors import UsageError

SECRETS = ("token", "ray-token", "redis-password")
PORTS = {"SERVICE_PORT": 50700, "WEB_PORT": 50780, "GRAFANA_PORT": 50730}
_STEP = 100  # to the next clone's ports, which stay alike: 50700, 50800, …

_ENV = """\
# What docker-compose.yml takes from here; written by `hogshead init`. Of this clone alone, not for the repository.
# After a change of SERVICE_PORT `hogshead init` again tells the client.
COMPOSE_PROJECT_NAME={project}
SERVICE_PORT={SERVICE_PORT}
WEB_PORT={WEB_PORT}
GRAFANA_PORT={GRAFANA_PORT}

# NODES=2                   # containers of nodes, where --scale does not say it
# BIND=127.0.0.1            # address at which the ports are published; before opening it: README, "Who may do what"
# NODE_CPUS=4               # bound on a node's cores; 0: none. Also HEAD_CPUS
# NODE_MEMORY=4g            # bound on a node's memory. Also HEAD_MEMORY
# NODE_RAY_CPUS=4           # CPUs that jobs may ask of a node (default: its cores, and one for shards). HEAD_RAY_CPUS:
#                           # of the head (0)
# SHM_SIZE=2g               # shared memory of a container: parameters and data sets
# EXTRAS=torch              # optional dependencies to build into the image
# HOST_ADDRESS=10.0.0.4     # of this machine, with COMPOSE_FILE: README, "More machines". Also HEAD_ADDRESS, REDIS_PORT
# BASE_IMAGE=python:3.11.13-slim-bookworm
# PIP_INDEX_URL=            # where the build finds packages. Also PIP_EXTRA_INDEX_URL
# SERVE_OPTIONS=--most-cpus 32 --most-jobs-running 4
# AWS_ACCESS_KEY_ID=        # for s3:// on head and nodes. Also AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_DEFAULT_REGION,
#                           # AWS_ENDPOINT_URL
# LOG_SIZE=10m              # of a file of a container's log; three are kept
# PROMETHEUS_IMAGE=         # of the profile monitoring. Also GRAFANA_IMAGE; REDIS_IMAGE and HOGSHEAD_IMAGE: built here, or
#                           # from elsewhere with PULL_POLICY=missing
# REDIS_MEMORY=512m         # Also PROMETHEUS_MEMORY, GRAFANA_MEMORY
"""

_CLIENT = """\
# Where `hogshead submit`, `jobs`, … find this clone's cluster; written by `hogshead init`.
[service]
address = "127.0.0.1:{port}"
token_file = "secrets/token"
"""


def init(arguments: Namespace) -> int:
    """The command."""
    folder = Path.cwd()
    made = prepare(folder, force=arguments.force)
    print(f"written: {', '.join(made)}" if made else "all is there already; --force makes new secrets")
    web = read_env(folder / ".env").get("WEB_PORT", PORTS["WEB_PORT"])
    command = ".venv/bin/hogshead" if (folder / ".venv/bin/hogshead").exists() else "hogshead"
    print(
        "Next:\n"
        "  docker compose up -d --build --scale node=3\n"
        f"  {command} submit examples/digits_easgd.toml --follow\n"
        f"and look at http://127.0.0.1:{web} with the token in secrets/token"
    )
    return DONE


def prepare(folder: Path, *, force: bool = False) -> list[str]:
    """Write what is missing.

    Args:
      folder: top of a clone.
      force: write all anew, secrets too; a cluster that runs must be started anew then. What else stands in ``.env`` stays.

    Returns:
      Names of the files that were written.

    Raises:
      UsageError: this is no clone, or a file cannot be written.
    """
    if not (folder / "docker-compose.yml").is_file():
        raise UsageError(f"init: there is no docker-compose.yml in {folder}; run it at the top of a clone of Hogshead")
    made = []
    try:
        (folder / "secrets").mkdir(mode=0o700, exist_ok=True)
        (folder / "secrets").chmod(0o700)
        # Readable, as the containers' user is another one; the folder keeps everybody else out.
        for name in SECRETS:
            if _write(folder / "secrets" / name, secrets.token_hex(32) + "\n", force):
                made.append(f"secrets/{name}")
        if force or not (folder / ".env").exists():
            made += [".env"] if _write(folder / ".env", _env(folder), force) else []
        port = read_env(folder / ".env").get("SERVICE_PORT", PORTS["SERVICE_PORT"])
        client, wanted = folder / ".hogshead.toml", _CLIENT.format(port=port)
        if _write(client, wanted, force or _differs_in_port(client, wanted)):
            made.append(".hogshead.toml")
    except OSError as error:
        raise UsageError(f"init: {error.filename or folder} cannot be written: {error.strerror}") from error
    return made


def project_name(folder: Path) -> str:
    """Compose's name for what belongs to the clone: its folder's, and what tells it from one of that name elsewhere."""
    path = str(folder.resolve())
    readable = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")[:24] or "hogshead"
    return f"{readable}-{hashlib.sha256(path.encode()).hexdigest()[:6]}"


def free_ports() -> dict[str, int]:
    """Ports of 127.0.0.1 that nobody listens at now, by variable."""
    for shift in range(0, 10_000, _STEP):
        ports = {name: port + shift for name, port in PORTS.items()}
        if all(map(_is_free, ports.values())):
            return ports
    raise UsageError("init: found no free ports between 50700 and 60780; set SERVICE_PORT and WEB_PORT in .env")


def read_env(path: Path) -> dict[str, str]:
    """The variables that a ``.env`` sets."""
    pairs = (line.partition("=") for line in _settings(path))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def _settings(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line for line in lines if "=" in line and not line.lstrip().startswith("#")]


def _env(folder: Path) -> str:
    made = _ENV.format(project=project_name(folder), **free_ports())
    own = ("COMPOSE_PROJECT_NAME", *PORTS)
    kept = [line for line in _settings(folder / ".env") if line.partition("=")[0].strip() not in own]
    return made + "".join(f"{line}\n" for line in kept)


def _differs_in_port(client: Path, wanted: str) -> bool:
    """Whether a file is the one that we wrote before the port in ``.env`` was changed, and nobody else has changed it."""
    said = client.read_text(encoding="utf-8") if client.exists() else wanted
    port = re.compile(r"127\.0\.0\.1:\w+")
    return said != wanted and port.sub("", said) == port.sub("", wanted)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do; else a port is taken for a minute after its server ended.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _write(path: Path, text: str, force: bool) -> bool:
    if path.exists() and not force:
        return False
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return True


def main(argv: Sequence[str]) -> int:
    """``python3 -m deploy.init [--force]``, where the command is not installed."""
    if set(argv) - {"--force"}:
        print("usage: python3 -m deploy.init [--force]", file=sys.stderr)
        return WRONG_USAGE
    try:
        return init(Namespace(force="--force" in argv))
    except UsageError as error:
        print(f"hogshead: {error}", file=sys.stderr)
        return WRONG_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
