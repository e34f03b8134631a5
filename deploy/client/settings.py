"""Where the job service is, and how it is reached: flags over environment over a configuration file.

The file is the nearest ``.hogshead.toml`` in the working directory or one above it, else ``~/.config/hogshead/config.toml``::

    [service]
    address = "127.0.0.1:50700"
    token_file = "secrets/token"        # relative to this file
    tls_ca = "ca.pem"                   # or tls = true for the system's certificates

It must belong to the caller or to root, and other users must not be able to write to it or to its folder.
"""

from __future__ import annotations

import os
import pwd
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deploy.schema import check_keys, check_type
from ps.errors import UsageError

DEFAULT_ADDRESS = "127.0.0.1:50700"
FILE = ".hogshead.toml"
# Key of the file -> (variable of the environment, type).
KEYS: dict[str, tuple[str, type]] = {
    "address": ("HOGSHEAD_ADDRESS", str),
    "token_file": ("HOGSHEAD_TOKEN_FILE", str),
    "tls": ("HOGSHEAD_TLS", bool),
    "tls_ca": ("HOGSHEAD_TLS_CA", str),
    "tls_cert": ("HOGSHEAD_TLS_CERT", str),
    "tls_key": ("HOGSHEAD_TLS_KEY", str),
    "tls_server_name": ("HOGSHEAD_TLS_SERVER_NAME", str),
}
PATHS = ("token_file", "tls_ca", "tls_cert", "tls_key")
_INSTEAD = "give --address and --token-file, or set HOGSHEAD_ADDRESS and HOGSHEAD_TOKEN"
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class Settings:
    """How to reach a job service.

    Attributes:
      address: ``host:port``.
      token: that every call carries; None: none.
      tls: encrypt, and trust the system's certificates unless ``tls_ca`` says whom.
      tls_ca: certificates (PEM) that the service's must be signed by; turns TLS on.
      tls_cert, tls_key: of this client, if the service asks for one.
      tls_server_name: the name in the service's certificate, where that is not the address.
      token_from: where the token came from, for messages.

    Raises:
      UsageError: the address is no ``host:port``, the token cannot be one, or a certificate lacks its key.
    """

    address: str = DEFAULT_ADDRESS
    token: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_server_name: str | None = None
    token_from: str = ""

    def __post_init__(self) -> None:
        _check_address(self.address)
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            raise UsageError(f"the token{self._origin} must be one line of printable ASCII")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("tls_cert and tls_key go together: a certificate without its private key proves nothing")
        if self.tls_ca or self.tls_cert:
            object.__setattr__(self, "tls", True)

    @property
    def _origin(self) -> str:
        return f" from {self.token_from}" if self.token_from else ""


def find_settings(given: Mapping[str, Any] | None = None, token: str | None = None) -> Settings:
    """The settings that hold here.

    Args:
      given: values of ``KEYS`` that win over everything else; None is not given. Relative paths are relative to the working
        directory, as are those in the environment.
      token: wins over every token file.

    Raises:
      UsageError: a file cannot be read or says something wrong, a variable is no truth value, or see ``Settings``.
    """
    flags = {name: value for name, value in (given or {}).items() if value is not None}
    surroundings = _environment()
    enough = {**surroundings, **flags}
    named = token or os.environ.get("HOGSHEAD_TOKEN") or "token_file" in enough
    found = enough if "address" in enough and named else {**_from_file(), **enough}
    secret = _token(flags, found, token)
    return replace(
        Settings(**{name: value for name, value in found.items() if name != "token_file"}),
        token=secret[0],
        token_from=secret[1],
    )


def _environment() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (variable, kind) in KEYS.items():
        text = os.environ.get(variable)
        if text is None or (not text and kind is str):
            continue
        found[name] = _truth(variable, text) if kind is bool else text
    return found


def _truth(variable: str, text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise UsageError(f"{variable} must be 1 or 0, got {text!r}")
    return text.lower() in _TRUE


def _token(flags: Mapping[str, Any], found: Mapping[str, Any], token: str | None) -> tuple[str | None, str]:
    """The token, and where it came from."""
    variable = os.environ.get("HOGSHEAD_TOKEN")
    if token is not None:
        return token, "the argument"
    if variable and "token_file" not in flags:
        return variable.strip(), "HOGSHEAD_TOKEN"
    path = found.get("token_file")
    if path is None:
        return None, ""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"the token file {path} cannot be read: {reason}") from error
    if not text:
        raise UsageError(f"the token file {path} is empty")
    return text, str(path)


def _from_file() -> dict[str, Any]:
    path = _nearest_file()
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("service", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as TOML: {error}") from error
    try:
        check_keys("service", table, KEYS)
        checked = {name: check_type("service", name, value, KEYS[name][1]) for name, value in table.items()}
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    for name in PATHS:
        if name in checked:
            checked[name] = str(path.parent / Path(checked[name]).expanduser())
    return checked


def _nearest_file() -> Path | None:
    here = Path.cwd()
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "hogshead" / "config.toml"
    for path in (*(folder / FILE for folder in (here, *here.parents)), home):
        if path.is_file():
            _refuse_foreign(path)
            return path
    return None


def _refuse_foreign(path: Path) -> None:
    """Refuse a file that another user may have put there: its author is sent the caller's token.

    Root is asked for the same as all others. It reads every file, so that an owner says more than a permission.
    """
    for file in {path, path.resolve()}:  # where a link lies, and where it leads
        facts, folder = file.lstat(), file.parent.stat()
        if facts.st_uid not in (os.getuid(), 0):
            raise UsageError(
                f"{path} belongs to {_user(facts.st_uid)} and is not read, as it says where your token is sent; {_INSTEAD}"
            )
        if not file.is_symlink() and _written_by_others(facts):
            raise UsageError(
                f"{path} can be written by other users and is not read; `chmod go-w {path}`, or {_INSTEAD}"
            )
        if _written_by_others(folder) and not folder.st_mode & stat.S_ISVTX:
            raise UsageError(
                f"{path} is not read, as other users can write to {file.parent}; `chmod go-w {file.parent}`, or {_INSTEAD}"
            )


def _written_by_others(facts: os.stat_result) -> bool:
    """Everyone may write there, or a group that is not the caller's own."""
    return bool(facts.st_mode & stat.S_IWOTH or (facts.st_mode & stat.S_IWGRP and facts.st_gid != os.getgid()))


def _user(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user with id {uid}"


def _check_address(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if "://" in address:
        raise UsageError(f"the service's address is host:port, without a scheme, got {address!r}")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"the service's address must be host:port, e.g. {DEFAULT_ADDRESS}, got {address!r}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise UsageError(f"an IPv6 address stands in brackets, e.g. [::1]:50700, got {address!r}")
