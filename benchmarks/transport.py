"""Speed of the ways to a shard: shared memory and gRPC, against a bare copy and a bare TCP socket in the same run.

    python -m benchmarks.transport [--sizes 400 100000 1000000 10000000 100000000] [--repeats 7] [--ways memory grpc] [--out FILE]

The server is another process of this machine. Prints JSON with every sample: seconds per operation, by size of the shard in
bytes, way and operation (``pull``, ``push``, ``exchange``, and ``pipelined``: pushes with a window of answers outstanding); and
from the medians microseconds, GB/s of the vector (an exchange moves it both ways and is counted once), and ``times_peer``, the
peer's median over ours: a copy in memory for shared memory, the same bytes over a bare socket for gRPC.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.shard_process import REQUEST, TOKEN, plan, receive
from ps.errors import UsageError, nearest
from ps.locks import LockFile
from ps.segment import SharedArrays
from ps.shard import Stamp
from ps.state import build_state, state_specs
from ps.transport.port import Port
from ps.transport.remote import RemoteShard

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("memory", "grpc")
SIZES = [400, 100_000, 1_000_000, 10_000_000, 100_000_000]
SAMPLE_S = 0.1  # operations in one sample take about so long

Operation = Callable[[int], None]  # carries itself out so many times


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code (2: wrong usage)."""
    options = _options(argv)
    try:
        report = measure(options.sizes, options.ways, options.repeats)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    text = json.dumps(report, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transport", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="bytes of the shard, multiples of 4")
    parser.add_argument("--repeats", type=int, default=7, help="samples per operation")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--out", help="also write the JSON to this file")
    return parser.parse_args(argv)


def measure(sizes: list[int], ways: list[str], repeats: int) -> dict:
    """The whole report, a dict that JSON can hold.

    Raises:
      UsageError: an unknown way, no sample, or a size that is no whole number of float32.
    """
    if repeats < 1:
        raise UsageError(f"repeats must be >= 1, got {repeats}")
    for size in sizes:
        if size < 4 or size % 4:
            raise UsageError(f"sizes must be multiples of 4 bytes, got {size}")
    for way in ways:
        if way not in WAYS:
            raise UsageError(f"there is no way {way!r}{nearest(way, WAYS)}")
    results = {str(size): _measure_size(size, ways, repeats) for size in sizes}
    return {"benchmark": "transport", "cpus": os.cpu_count(), "sizes": results}


def _measure_size(size: int, ways: list[str], repeats: int) -> dict:
    opened = {"memory": shared_memory, "grpc": served}
    found = {}
    for way in ways:
        with opened[way](size // 4) as (ours, peers):
            samples = _alternating(
                {**{f"ours {k}": v for k, v in ours.items()}, **{f"peer {k}": v for k, v in peers.items()}}, repeats
            )
        found[way] = {name: _summary(name, samples, size) for name in ours}
    return found


def _summary(name: str, samples: dict[str, list[float]], size: int) -> dict:
    ours = statistics.median(samples[f"ours {name}"])
    summary = {
        "microseconds": ours * 1e6,
        "gigabytes_per_second": size / ours / 1e9,
        "samples_s": samples[f"ours {name}"],
    }
    peer = samples.get(f"peer {name}")
    if peer is not None:
        summary |= {"times_peer": statistics.median(peer) / ours, "peer_samples_s": peer}
    return summary


def _alternating(operations: dict[str, Operation], repeats: int) -> dict[str, list[float]]:
    """Seconds of one operation: ``repeats`` samples of each, in turn, after one that says how many make up a sample."""
    counts = {}
    for name, operation in operations.items():
        operation(1)
        counts[name] = max(1, min(1000, round(SAMPLE_S / max(_seconds(operation, 2), 1e-6))))
    samples: dict[str, list[float]] = {name: [] for name in operations}
    for _ in range(repeats):
        for name, operation in operations.items():
            samples[name].append(_seconds(operation, counts[name]))
    return samples


def _seconds(operation: Operation, times: int) -> float:
    started = time.perf_counter()
    operation(times)
    return (time.perf_counter() - started) / times


# -- the ways ---------------------------------------------------------------------------------------------------------


@contextmanager
def shared_memory(elements: int) -> Iterator[tuple[dict[str, Operation], dict[str, Operation]]]:
    """A shard in a segment that this process maps, and a copy of as many bytes."""
    facts = plan(elements)
    with ExitStack() as stack:
        locks, arrays = LockFile("benchmark"), SharedArrays.create(state_specs(*facts), "benchmark")
        stack.callback(arrays.close)
        stack.callback(locks.close)
        (shard,) = build_state(*facts, arrays, locks.lock).shards
        source, target = np.ones(elements, np.float32), np.zeros(elements, np.float32)
        copy = _repeated(lambda: np.copyto(target, source))
        yield _operations(shard, elements), {"pull": copy, "push": copy, "exchange": copy}


@contextmanager
def served(elements: int) -> Iterator[tuple[dict[str, Operation], dict[str, Operation]]]:
    """A shard behind gRPC in another process, and the same bytes over a socket to it."""
    command = [sys.executable, "-m", "benchmarks.shard_process", str(elements)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdin is not None and process.stdout is not None
    try:
        addresses = json.loads(process.stdout.readline())
        layout = plan(elements)[0]
        port = RemoteShard(0, layout.shards(1)[0], layout, lambda: addresses["grpc"], token=TOKEN)
        host, _, number = addresses["tcp"].rpartition(":")
        with socket.create_connection((host, int(number))) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ours = _operations(port, elements)
            ours["pipelined"] = _pipelined(port, elements)
            yield ours, _bare(connection, 4 * elements)
        port.close()
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


SEQUENCE = count(1)


def _operations(port: Port, elements: int) -> dict[str, Operation]:
    gradient, out, x = (np.ones(elements, np.float32) for _ in range(3))
    return {
        "pull": _repeated(lambda: port.pull(out)),
        "push": _repeated(lambda: port.push(gradient, Stamp(0, 1, next(SEQUENCE)), version=0)),
        "exchange": _repeated(lambda: port.exchange(x, 0.25, Stamp(0, 1, next(SEQUENCE)), version=0)),
    }


def _pipelined(port: RemoteShard, elements: int) -> Operation:
    gradient = np.ones(elements, np.float32)

    def push(times: int) -> None:
        started = [port.start_push(gradient, Stamp(0, 1, next(SEQUENCE)), version=0) for _ in range(times)]
        for future in started:
            future.result()

    return push


def _bare(connection: socket.socket, size: int) -> dict[str, Operation]:
    content, answer = memoryview(bytearray(size)), memoryview(bytearray(1))

    def pull() -> None:
        connection.sendall(REQUEST.pack(size, b"p"))
        receive(connection, content)

    def push() -> None:
        connection.sendall(REQUEST.pack(size, b"s"))
        connection.sendall(content)
        receive(connection, answer)

    def exchange() -> None:
        push()
        pull()

    pushing = _repeated(push)
    return {"pull": _repeated(pull), "push": pushing, "pipelined": pushing, "exchange": _repeated(exchange)}


def _repeated(once: Callable[[], object]) -> Operation:
    def repeat(times: int) -> None:
        for _ in range(times):
            once()

    return repeat


if __name__ == "__main__":
    sys.exit(main())
