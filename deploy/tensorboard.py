"""TensorBoard's event files with the series of ``metrics.jsonl``: while a run goes on, or of one that has ended.

An event file is a sequence of framed protocol buffers of a handful of fields. They are written here by hand: what there is for
it writes from a thread, which a launcher that forks must not have, and a training machine need not have TensorBoard.

    frame   = length u64, masked crc32c(length) u32, message, masked crc32c(message) u32; all little-endian
    Event   = 1: wall_time f64, 2: step i64, 3: file_version str, 5: Summary, 7: SessionLog
    Summary = 1: Value {1: tag str, 2: simple_value f32}, repeated
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deploy.sinks import Events, Record

FOLDER = "tensorboard"
MOST_WORKERS = 16  # of which each has its own series
_GREATEST = float(np.finfo(np.float32).max)
_START = 1  # of a SessionLog: what was written of later steps is to be forgotten
_NOT_SERIES = {"kind", "seconds", "virtual_seconds", "examples", "workers", "evaluation"}


class TensorBoardSink:
    """Writes each progress and evaluation record as scalars over the number of examples.

    Args:
      folder: of the event files, made if need be; another file of the same folder is an earlier part of the run.
      start: wall-clock time (seconds since 1970) of the run's second 0; that of the first record if None.

    Raises:
      OSError: in every method, if the disk is full or the like.
    """

    name = "tensorboard"

    def __init__(self, folder: Path, start: float | None = None):
        self._folder, self._start = folder, start
        self._file: Any = None

    def record(self, record: Record) -> Events:
        values = dict(series(record))
        if values:
            self._write(self._time_of(record), int(record.get("examples") or 0), summary_message(values))
        return ()

    def forget_after(self, examples: int) -> Events:
        session = _field(7, _varint_field(1, _START))
        self._write(time.time() if self._start is None else self._start, examples + 1, session)
        return ()

    def finish(self, summary: Record) -> Events:
        return ()

    def close(self) -> Events:
        if self._file is not None:
            self._file.close()
            self._file = None
        return ()

    def _time_of(self, record: Record) -> float:
        # Of a simulated run the axis of time is the virtual one.
        seconds = record.get("virtual_seconds", record.get("seconds")) or 0.0
        if self._start is None:
            self._start = time.time() - seconds
        return self._start + seconds

    def _write(self, wall_time: float, step: int, body: bytes) -> None:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = _create(self._folder)
            self._file.write(frame(event_message(time.time(), 0, _field(3, b"brain.Event:2"))))
        self._file.write(frame(event_message(wall_time, step, body)))
        self._file.flush()


def convert(run: Path, folder: Path) -> Path:
    """Write the series of a run that has been recorded.

    Args:
      run: a run directory.
      folder: for the event file.

    Returns:
      The event file.

    Raises:
      RunDirectoryError: no run directory, or not readable. UsageError: there are event files in ``folder``, or nothing to write.
    """
    from deploy.run_directory import read_metrics, require_run
    from ps.errors import UsageError

    records = read_metrics(require_run(run))
    if any(folder.glob("events.out.tfevents.*")):
        raise UsageError(f"{folder} has event files already; remove them, or give another --out")
    if not any(dict(series(record)) for record in records):
        raise UsageError(f"{run}: its metrics.jsonl has nothing to show yet")
    last = max(record.get("virtual_seconds", record.get("seconds")) or 0.0 for record in records)
    sink = TensorBoardSink(folder, start=(run / "metrics.jsonl").stat().st_mtime - last)
    try:
        for record in records:
            sink.record(record)
    finally:
        sink.close()
    return next(folder.glob("events.out.tfevents.*"))


def series(record: Record) -> Iterator[tuple[str, float]]:
    """Tags and finite values of a progress or evaluation record; nothing of others."""
    kind = record.get("kind")
    if kind not in ("progress", "evaluation"):
        return
    plain = {name: value for name, value in record.items() if name not in _NOT_SERIES}
    named = {f"{kind}/{name}": value for name, value in plain.items()}
    named |= {f"evaluation/{name}": value for name, value in (record.get("evaluation") or {}).items()}
    workers = record.get("workers") or []
    for worker in workers if len(workers) <= MOST_WORKERS else []:
        rest = {name: value for name, value in worker.items() if name != "worker"}
        named |= {f"worker_{name}/{worker['worker']}": value for name, value in rest.items()}
    for tag, value in named.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield tag, min(max(float(value), -_GREATEST), _GREATEST)


# -- the format -------------------------------------------------------------------------------------------------------


def event_message(wall_time: float, step: int, body: bytes) -> bytes:
    """An Event with one more field."""
    return b"\x09" + struct.pack("<d", wall_time) + _varint_field(2, step) + body


def summary_message(values: Mapping[str, float]) -> bytes:
    """The field of an Event that holds scalars."""
    entries = (_field(1, tag.encode()) + b"\x15" + struct.pack("<f", value) for tag, value in values.items())
    return _field(5, b"".join(_field(1, entry) for entry in entries))


def frame(message: bytes) -> bytes:
    """A message as it stands in the file."""
    length = struct.pack("<Q", len(message))
    return length + _masked(length) + message + _masked(message)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _table() -> Iterable[int]:
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


_CRC_TABLE = tuple(_table())


def crc32c(content: bytes) -> int:
    """Castagnoli's checksum, as in RFC 3720, B.4."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _create(folder: Path) -> Any:
    """A new file that sorts after all that are there, as parts of a run are read in the order of their names."""
    numbers = [
        int(path.name.split(".")[3])
        for path in folder.glob("events.out.tfevents.*")
        if path.name.split(".")[3].isdecimal()
    ]
    number = max([int(time.time()), *(number + 1 for number in numbers)])
    return open(folder / f"events.out.tfevents.{number}.hogshead.{os.getpid()}", "xb")
