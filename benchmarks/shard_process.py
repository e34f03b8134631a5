"""A process that serves one shard over gRPC, and bytes over a bare TCP socket, until its standard input ends.

    python -m benchmarks.shard_process ELEMENTS

Prints one line of JSON: the addresses of both. Over the socket: eight bytes of length and a letter, ``p`` (that many bytes come
back) or ``s`` (that many bytes follow; one comes back).
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading

import numpy as np

from ps.layout import Layout
from ps.rules import Add
from ps.shard import ShardOptions
from ps.state import State, build_state, private_arrays, state_specs
from ps.transport.server import ShardServer

TOKEN = "of the benchmark"
REQUEST = struct.Struct("<Qc")


def plan(elements: int) -> tuple[Layout, int, Add, ShardOptions]:
    """One shard of one vector, whose rule adds: the cheapest, so that the way to it is what is measured."""
    return Layout.of({"w": np.zeros(elements, np.float32)}), 1, Add(), ShardOptions(replicas=2)


def private(elements: int) -> State:
    """The shard in this process's own memory."""
    facts = plan(elements)
    return build_state(*facts, private_arrays(state_specs(*facts)))


def serve_bytes(listener: socket.socket, largest: int) -> None:
    """Answer one connection after another."""
    buffer = memoryview(bytearray(largest))
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while head := receive(connection, memoryview(bytearray(REQUEST.size))):
                length, kind = REQUEST.unpack(head)
                if kind == b"p":
                    connection.sendall(buffer[:length])
                else:
                    receive(connection, buffer[:length])
                    connection.sendall(b"k")


def receive(connection: socket.socket, into: memoryview) -> memoryview | None:
    """Fill ``into``; None where the peer has gone."""
    filled = 0
    while filled < len(into):
        count = connection.recv_into(into[filled:])
        if count == 0:
            return None
        filled += count
    return into


def main(argv: list[str]) -> int:
    """Serve until standard input ends."""
    elements = int(argv[0])
    server = ShardServer(private(elements).shards[0], token=TOKEN, bind="127.0.0.1")
    server.start()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve_bytes, args=(listener, 4 * elements), daemon=True).start()
    print(json.dumps({"grpc": server.address, "tcp": f"127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    sys.stdin.read()
    listener.close()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
