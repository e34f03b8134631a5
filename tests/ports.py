"""Ports for tests that name one before anybody listens there, or while nobody does."""

from __future__ import annotations

import socket


def reserved(port: int = 0) -> socket.socket:
    """A socket that holds a port of this machine, a free one if it is 0: the system gives it to nobody else until it is closed.

    Whoever names the port may listen there meanwhile, as nobody listens at this socket.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", port))
    return held


def port_of(held: socket.socket) -> int:
    """The port that a socket holds."""
    return held.getsockname()[1]
