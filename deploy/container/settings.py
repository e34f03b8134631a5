"""What the environment says to a container; docker-compose.yml sets it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from deploy.service.arguments import DEFAULT_PORT, DEFAULT_WEB_PORT

_REDIS_PASSWORD = "/run/secrets/redis-password"


class SettingsError(ValueError):
    """A variable of the environment says something that cannot be."""


@dataclass(frozen=True)
class Settings:
    """Attributes:
    head: HOGSHEAD_HEAD, host:port of Ray's head. Its name, not its address, which a restart may change.
    cpus, gpus: HOGSHEAD_CPUS, HOGSHEAD_GPUS: what Ray may give away here; "": what there is,
      and one CPU more for shards.
    object_store_bytes: HOGSHEAD_OBJECT_STORE_MB; pulls and pushes do not go through it.
    metrics_port: METRICS_PORT.
    redis: RAY_REDIS_ADDRESS, host:port; "": a restart of the head forgets the cluster.
    redis_password_file: HOGSHEAD_REDIS_PASSWORD_FILE, with the password of that Redis.
    jobs: HOGSHEAD_JOBS, folder of the jobs. state: HOGSHEAD_STATE, file of their states.
    bind, port, web_port: HOGSHEAD_BIND, HOGSHEAD_SERVICE_PORT, HOGSHEAD_WEB_PORT: where the job service listens.
    address: HOGSHEAD_HOST_ADDRESS, that other machines reach this one at; "": Ray finds it, which is right in a container.
    serve_options: HOGSHEAD_SERVE_OPTIONS, more words for ``hogshead serve``.
    leave_s: HOGSHEAD_LEAVE_SECONDS, for the runs' last checkpoint before the container ends.
    """

    head: str = "head:6379"
    cpus: str = ""
    gpus: str = ""
    object_store_bytes: int = 256 << 20
    metrics_port: int = 8080
    redis: str = ""
    redis_password_file: str = ""
    jobs: str = "/jobs"
    state: str = "/state/jobs.sqlite"
    bind: str = "0.0.0.0"
    port: int = DEFAULT_PORT
    web_port: int = DEFAULT_WEB_PORT
    address: str = ""
    serve_options: tuple[str, ...] = ()
    leave_s: int = 30

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Read them.

        Raises:
          SettingsError: no number where there must be one, or a file cannot be read; the variable is named.
        """
        named = {name: value.strip() for name, value in environment.items() if value.strip()}
        redis = named.get("RAY_REDIS_ADDRESS", "")
        return cls(
            head=_address("HOGSHEAD_HEAD", named.get("HOGSHEAD_HEAD", cls.head)),
            cpus=_count("HOGSHEAD_CPUS", named.get("HOGSHEAD_CPUS", "")),
            gpus=_count("HOGSHEAD_GPUS", named.get("HOGSHEAD_GPUS", "")),
            object_store_bytes=int(_count("HOGSHEAD_OBJECT_STORE_MB", named.get("HOGSHEAD_OBJECT_STORE_MB", "256")))
            << 20,
            metrics_port=int(_count("METRICS_PORT", named.get("METRICS_PORT", str(cls.metrics_port)))),
            redis=_address("RAY_REDIS_ADDRESS", redis) if redis else "",
            redis_password_file=_secret("HOGSHEAD_REDIS_PASSWORD_FILE", named, _REDIS_PASSWORD) if redis else "",
            jobs=named.get("HOGSHEAD_JOBS", cls.jobs),
            state=named.get("HOGSHEAD_STATE", cls.state),
            bind=named.get("HOGSHEAD_BIND", cls.bind),
            port=int(_count("HOGSHEAD_SERVICE_PORT", named.get("HOGSHEAD_SERVICE_PORT", str(cls.port)))),
            web_port=int(_count("HOGSHEAD_WEB_PORT", named.get("HOGSHEAD_WEB_PORT", str(cls.web_port)))),
            address=named.get("HOGSHEAD_HOST_ADDRESS", ""),
            serve_options=tuple(shlex.split(named.get("HOGSHEAD_SERVE_OPTIONS", ""))),
            leave_s=int(_count("HOGSHEAD_LEAVE_SECONDS", named.get("HOGSHEAD_LEAVE_SECONDS", str(cls.leave_s)))),
        )

    @property
    def service(self) -> str:
        """host:port at which the job service is reached from here."""
        everywhere = self.bind in ("0.0.0.0", "::")
        return f"{'127.0.0.1' if everywhere else self.bind}:{self.port}"


def _count(name: str, text: str) -> str:
    if text and not (text.isascii() and text.isdigit()):
        raise SettingsError(f"{name} must be a whole number, got {text!r}")
    return text


def _address(name: str, text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit()):
        raise SettingsError(f"{name} must be host:port, got {text!r}")
    return text


def _secret(name: str, named: Mapping[str, str], default: str) -> str:
    """The path of a secret's file, which can be read."""
    path = Path(named.get(name, default))
    try:
        path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return str(path)
