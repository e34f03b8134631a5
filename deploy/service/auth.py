"""Who may call, and from where: the service's token, and the addresses at which it may do without one."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import stat
from pathlib import Path

from ps.errors import UsageError

log = logging.getLogger("hogshead.service")

_LEAST = 16  # characters; what is shorter can be guessed


def find_token(file: str | None) -> str | None:
    """The token that calls must carry: from a file, else HOGSHEAD_TOKEN, else the file HOGSHEAD_TOKEN_FILE; None: there is none.

    Raises:
      UsageError: the file cannot be read, or what it has is no token.
    """
    said = os.environ.get("HOGSHEAD_TOKEN")
    path = file or (None if said else os.environ.get("HOGSHEAD_TOKEN_FILE"))
    if path is None:
        return _checked(said.strip(), "HOGSHEAD_TOKEN") if said else None
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8").strip()
        mode = stat.S_IMODE(Path(path).expanduser().stat().st_mode)
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise UsageError(
            f"the token file {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if mode & 0o022:
        log.warning("%s can be written by others than its owner; chmod go-w %s", path, path)
    return _checked(text, path)


def _checked(token: str, origin: str) -> str:
    if len(token) < _LEAST or not (token.isascii() and token.isprintable()) or " " in token:
        raise UsageError(
            f"the token from {origin} must be one word of at least {_LEAST} printable ASCII characters; make one with "
            "`openssl rand -hex 32`"
        )
    return token


def check_exposure(bind: str, token: str | None, encrypted: bool) -> None:
    """Refuse to let strangers in, and say what others could see.

    Raises:
      UsageError: others than this machine can reach ``bind``, and there is no token.
    """
    if is_loopback(bind):
        if token is None:
            log.warning("there is no token: everybody on this machine can run programs as this user; give --token-file")
        return
    if token is None:
        raise UsageError(
            f"--bind {bind} can be reached from other machines, and there is no token: everybody could run programs here; give "
            "--token-file FILE or HOGSHEAD_TOKEN (`openssl rand -hex 32` makes one), or --bind 127.0.0.1"
        )
    if not encrypted:
        log.warning(
            "%s is not encrypted: the token can be read on the way, if the network is not trusted; see --tls-cert", bind
        )


def is_loopback(bind: str) -> bool:
    """Only this machine can reach the address."""
    host = bind.strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None) if host else []
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(entry[4][0].partition("%")[0]).is_loopback for entry in found)
