"""The connections to the web page: how many there may be, and how long one may stay without showing the token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

MOST_CONNECTIONS = 256
STRANGER_S = 10.0


class Doorway:
    """Makes the protocol of each new connection, and closes connections that take room from others.

    A connection that has not shown the token within ``STRANGER_S`` seconds is closed. Where there are as many as there may be,
    the oldest of these gives way to a new one. So connections without the token never keep one with it out.

    Args:
      make: makes the protocol that does the work.
      most: number of connections at one time.
      stranger_s: seconds that one may stay without the token.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol], most: int, stranger_s: float):
        self._make, self._most, self._stranger_s = make, most, stranger_s
        self._open: dict[asyncio.BaseTransport, _Guarded] = {}  # the oldest first

    def __call__(self) -> asyncio.Protocol:
        return _Guarded(self._make(), self)

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, transport: asyncio.BaseTransport | None) -> None:
        """A request on this connection has shown the token: it stays as long as it is used."""
        guarded = self._open.get(transport) if transport is not None else None
        if guarded is not None:
            guarded.admit()

    def entered(self, guarded: _Guarded, transport: asyncio.Transport) -> asyncio.TimerHandle:
        """A connection was made; returns what will end it."""
        self._open[transport] = guarded
        if len(self._open) > self._most:
            strangers = (known for known, protocol in self._open.items() if not protocol.admitted)
            oldest = next(strangers)
            del self._open[oldest]  # now: it hears of its end later, when more may have come
            _abort(oldest)
        return asyncio.get_running_loop().call_later(self._stranger_s, _abort, transport)

    def left(self, transport: asyncio.BaseTransport) -> None:
        """A connection has ended."""
        self._open.pop(transport, None)


class _Guarded(asyncio.Protocol):
    """Hands everything on to another protocol.

    Attributes:
      admitted: the token was shown.
    """

    def __init__(self, inner: asyncio.Protocol, doorway: Doorway):
        self._inner, self._doorway = inner, doorway
        self._transport: Any = None
        self._end: asyncio.TimerHandle | None = None
        self.admitted = False

    def admit(self) -> None:
        """The token was shown."""
        self.admitted = True
        self._stop_clock()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._end = self._doorway.entered(self, transport)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._doorway.left(self._transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def _stop_clock(self) -> None:
        if self._end is not None:
            self._end.cancel()


def _abort(transport: asyncio.Transport) -> None:
    transport.abort()
