"""A network between a port and its server that loses connections, or goes silent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable


class Proxy:
    """Forwards TCP connections to a server.

    Args:
      address: of the server, ``HOST:PORT``.
      budgets: bytes that each connection carries towards the server, in turn, before it is cut; after the last: for ever.
    """

    def __init__(self, address: str, budgets: Iterable[int] = ()):
        host, _, port = address.rpartition(":")
        self._server, self._budgets = (host, int(port)), iter(budgets)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._silent = threading.Event()
        self._closed = False
        self.connections = 0
        self._start(self._accept)

    def go_silent(self) -> None:
        """Take everything and deliver nothing, as a network that is cut."""
        self._silent.set()

    def heal(self) -> None:
        """Deliver again, on new connections."""
        self._silent.clear()

    def close(self) -> None:
        """Cut everything."""
        self._closed = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            _cut(each)
        for thread in list(self._threads):
            thread.join()

    def _start(self, work: Callable, *args) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                theirs, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self._silent.is_set():
                self._open.append(theirs)
                continue
            ours = socket.create_connection(self._server)
            self._open += [theirs, ours]
            self._start(self._carry, theirs, ours, next(self._budgets, None))
            self._start(self._carry, ours, theirs, None)

    def _carry(self, source: socket.socket, target: socket.socket, budget: int | None) -> None:
        try:
            while data := source.recv(1 << 16):
                if self._silent.is_set():
                    continue
                target.sendall(data if budget is None else data[:budget])
                if budget is not None:
                    budget -= len(data)
                    if budget <= 0:
                        break
        except OSError:
            pass
        _cut(source)
        _cut(target)


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()
