"""What a shard's server makes of a request: is it in order, and what does it ask for? No gRPC here, and nothing is changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ps.layout import Parameter, Range
from ps.rows import Rows
from ps.shard import Shard, Stamp
from ps.stepper import Payload
from ps.wire import parameters_pb2 as pb
from ps.wire.framing import crc32, padded

DTYPES = {"float32": pb.FLOAT32, "float64": pb.FLOAT64, "int64": pb.INT64}
LARGEST = (1 << 62) - 1  # of versions, incarnations and sequence numbers: sums of two stay within int64
NOT_FINITE = "not finite (NaN or infinity)"  # how such a refusal begins
_ROW = 8  # bytes of a row number


class Refused(Exception):
    """A request that is not carried out.

    Args:
      code: name of the gRPC status.
      reason: what is wrong, with the bound and what was got.
      version: of the shard, where the reason depends on its state.
    """

    def __init__(self, code: str, reason: str, version: int | None = None):
        super().__init__(reason)
        self.code, self.reason, self.version = code, reason, version


def invalid(reason: str) -> Refused:
    """A request that is wrong in itself."""
    return Refused("INVALID_ARGUMENT", reason)


def beyond(reason: str) -> Refused:
    """A request that names what is not there."""
    return Refused("OUT_OF_RANGE", reason)


def not_finite(what: str, stamp: Stamp, wrong: str) -> Refused:
    """A change that would put a NaN or an infinity into the center."""
    return invalid(
        f"{NOT_FINITE} in this {what} of replica {stamp.replica}: {wrong}; nothing was changed; lower the step size, clip the "
        "gradient, or leave such gradients out"
    )


def slice_of(shard: Shard) -> pb.Slice:
    """What a request to this shard must say of it."""
    return slice_message(shard.index, shard.layout.dtype, shard.range)


def slice_message(index: int, dtype: str, part: Range) -> pb.Slice:
    """The ``Slice`` of shard ``index``."""
    return pb.Slice(shard=index, dtype=DTYPES[dtype], start=part.start, stop=part.stop)


def table_in(table: Parameter, part: Range) -> tuple[int, int, int]:
    """First row and number of rows of ``table`` that lie in ``part``, and the element of ``part`` at which they begin."""
    first, last = (min(max(edge, table.offset), table.stop) - table.offset for edge in (part.start, part.stop))
    return first // table.width, (last - first) // table.width, max(table.offset, part.start) - part.start


def largest_content(shard: Shard) -> int:
    """Bytes of the largest content that is taken: every row of a table once, with its number, fits four times over."""
    return max(4 * shard.center.nbytes, 64 << 20)


def check_shard(index: int, shard: Shard) -> None:
    """Refuse a request that is meant for another shard."""
    if index != shard.index:
        raise invalid(f"this is shard {shard.index}, the request is for shard {index}")


def check_slice(given: pb.Slice, shard: Shard) -> None:
    """Refuse a request whose sender believes something else of this shard."""
    check_shard(given.shard, shard)
    if given.dtype != DTYPES[shard.layout.dtype]:
        names = {number: name for name, number in DTYPES.items()}
        raise invalid(f"dtype must be {shard.layout.dtype}, got {names.get(given.dtype, f'number {given.dtype}')}")
    if (given.start, given.stop) != (shard.range.start, shard.range.stop):
        raise beyond(f"the range must be [{shard.range.start}, {shard.range.stop}), got [{given.start}, {given.stop})")


def check_replica(replica: int, shard: Shard) -> None:
    """Refuse the id of a replica that the job has no room for."""
    if replica >= shard.options.replicas:
        raise beyond(f"replica must be < {shard.options.replicas}, got {replica}")


def stamp_of(given: pb.Stamp, shard: Shard) -> Stamp:
    """The stamp of a change, if it can be one."""
    check_replica(given.replica, shard)
    for name in ("incarnation", "sequence"):
        if not 1 <= getattr(given, name) <= LARGEST:
            raise beyond(f"{name} must be >= 1 and <= {LARGEST}, got {getattr(given, name)}")
    return Stamp(given.replica, given.incarnation, given.sequence)


def check_version(version: int) -> None:
    """Refuse a version that none can be."""
    if not 0 <= version <= LARGEST:
        raise beyond(f"version must be >= 0 and <= {LARGEST}, got {version}")


@dataclass(frozen=True)
class Pushing:
    """A push that is in order as far as its header says.

    Attributes:
      stamp, version, count, gradient_norm, epoch: as ``Shard.push`` takes them.
      synchronous: a contribution to a synchronous step.
      round: which one, 0: the open one.
      parts: of the content; none: the content is the whole range.
    """

    stamp: Stamp
    version: int
    count: int
    gradient_norm: float | None
    epoch: int
    synchronous: bool
    parts: tuple[Piece, ...]
    round: int = 0


@dataclass(frozen=True)
class Piece:
    """One parameter's part of a content: where its bytes lie.

    Attributes:
      name: of the parameter.
      rows: number of rows, or None for a dense part.
      width: elements of a row.
      limit: rows that there are.
      size: elements.
      at: byte at which the row numbers (or the values, where it is dense) begin.
    """

    name: str
    rows: int | None
    width: int
    limit: int
    size: int
    at: int

    def stop(self, itemsize: int) -> int:
        """Byte after the last."""
        return self.values_at + self.size * itemsize

    @property
    def values_at(self) -> int:
        """Byte at which the values begin."""
        return self.at + _ROW * (self.rows or 0)

    def of(self, content: np.ndarray, dtype: str) -> Rows | np.ndarray:
        """This part of a content, uint8 (bytes,), as views.

        Raises:
          Refused: a row is not in the table.
        """
        values = content[self.values_at : self.stop(np.dtype(dtype).itemsize)].view(dtype)
        if self.rows is None:
            return values
        rows = content[self.at : self.values_at].view(np.int64)
        check_rows(rows, self.limit, self.name)
        return Rows(rows, values.reshape(self.rows, self.width))


def pushing(header: pb.Push, shard: Shard) -> Pushing:
    """What a push asks for.

    Raises:
      Refused: its header is not in order.
    """
    check_slice(header.slice, shard)
    parts = tuple(_pieces(header, shard))
    expected = _stop(parts, shard) if parts else shard.center.nbytes
    if header.bytes != expected:
        what = "its parts" if parts else "the range"
        raise beyond(f"push: {what} of this shard take {expected} bytes, got {header.bytes}")
    if header.synchronous:
        _check_synchronous(header, shard)
    norm = header.gradient_norm if header.HasField("gradient_norm") else None
    if not 0 <= header.round <= LARGEST:
        raise beyond(f"push: round must be >= 0 and <= {LARGEST}, got {header.round}")
    return _pushing(header, norm, shard, header.synchronous, parts, header.round)


def rows_pushing(request: pb.PushRowsRequest, shard: Shard) -> tuple[Pushing, Payload]:
    """What a ``PushRows`` asks for, and its payload.

    Raises:
      Refused: it is not in order.
    """
    check_slice(request.slice, shard)
    table, limit = _table(request.table, shard)
    rows = row_numbers(request.rows, limit, request.table)
    expected = rows.size * table.width * shard.center.itemsize
    if len(request.values) != expected:
        raise beyond(f"push: {rows.size} rows of {request.table!r} take {expected} bytes, got {len(request.values)}")
    values = np.frombuffer(bytearray(request.values), shard.center.dtype).reshape(rows.size, table.width)
    norm = request.gradient_norm if request.HasField("gradient_norm") else None
    return _pushing(request, norm, shard, False, ()), {request.table: Rows(rows, values)}


def payload_of(asked: Pushing, content: np.ndarray, shard: Shard) -> Payload:
    """The payload in a whole content, uint8 (bytes,), as views.

    Raises:
      Refused: a row is not in its table.
    """
    if not asked.parts:
        return content.view(shard.layout.dtype)
    return {piece.name: piece.of(content, shard.layout.dtype) for piece in asked.parts}


def row_numbers(raw: bytes, limit: int, table: str) -> np.ndarray:
    """Row numbers of a message, int64 (k,).

    Raises:
      Refused: no whole numbers, or not in the table.
    """
    if len(raw) % _ROW:
        raise invalid(f"row numbers take {_ROW} bytes each, got {len(raw)} bytes")
    rows = np.frombuffer(bytearray(raw), np.int64)
    check_rows(rows, limit, table)
    return rows


def check_rows(rows: np.ndarray, limit: int, table: str) -> None:
    """Refuse rows that are not in the table."""
    if rows.size and not 0 <= rows.min() <= rows.max() < limit:
        raise invalid(f"{table!r}: rows must lie in [0, {limit}), got {rows.min()} to {rows.max()}")


def sparse_rows(name: str, shard: Shard) -> tuple[Parameter, int, int]:
    """A sparse table, its rows in this shard, and the element of the shard at which they begin.

    Raises:
      Refused: there is no such table, or none of it in this shard.
    """
    table, rows = _table(name, shard)
    return table, rows, table_in(table, shard.range)[2]


def check_exchange(header: pb.Exchange, shard: Shard) -> Stamp:
    """The stamp of an exchange that is in order.

    Raises:
      Refused: it is not.
    """
    check_slice(header.slice, shard)
    if not (math.isfinite(header.alpha) and 0 <= header.alpha <= 1):
        raise beyond(f"exchange: alpha must be >= 0 and <= 1, got {header.alpha}")
    if header.bytes != shard.center.nbytes:
        raise beyond(f"exchange: the range takes {shard.center.nbytes} bytes, got {header.bytes}")
    check_version(header.version)
    return stamp_of(header.stamp, shard)


class Incoming:
    """Puts the chunks of one content together; nothing is done with it before it is whole.

    Args:
      limit: bytes of the largest content that is taken.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._buffer = np.empty(0, np.uint8)
        self._size, self._filled, self._crc = 0, 0, None
        self.expecting = False

    def begin(self, size: int, crc: int | None) -> None:
        """A content of ``size`` bytes follows, with this checksum if any."""
        if size > self._limit:
            raise Refused("RESOURCE_EXHAUSTED", f"a content may have {self._limit} bytes, got {size}")
        if self._buffer.size < size:
            self._buffer = np.empty(size, np.uint8)
        self._size, self._filled, self._crc, self.expecting = size, 0, crc, True

    def take(self, chunk: memoryview) -> np.ndarray | None:
        """Add a chunk; returns the content, uint8 (bytes,) valid until the next ``begin``, once it is whole."""
        if not self.expecting:
            raise invalid("a chunk came before its header")
        stop = self._filled + len(chunk)
        if stop > self._size:
            raise beyond(f"the content has {self._size} bytes by its header, got {stop}")
        self._buffer[self._filled : stop] = chunk
        self._filled = stop
        if stop < self._size:
            return None
        self.expecting = False
        content = self._buffer[: self._size]
        if self._crc is not None and crc32(memoryview(content)) != self._crc:
            raise invalid("the content's CRC-32 is not that of its header: it was damaged on its way; send it again")
        return content

    def write_to(self, buffer: np.ndarray | None) -> None:
        """Put the next content there, uint8 (bytes,): somebody keeps the last one."""
        self._buffer = np.empty(0, np.uint8) if buffer is None else buffer


def _pushing(
    given: Any, norm: float | None, shard: Shard, synchronous: bool, parts: tuple[Piece, ...], number: int = 0
) -> Pushing:
    """The fields that both kinds of push have."""
    check_version(given.version)
    if not 1 <= given.count < 1 << 31:
        raise beyond(f"push: count must be >= 1 and < 2**31, got {given.count}")
    if given.epoch >= 1 << 31:
        raise beyond(f"push: epoch must be < 2**31, got {given.epoch}")
    if norm is not None and not 0 <= norm < math.inf:
        raise beyond(f"push: gradient_norm must be >= 0 and finite, got {norm}")
    stamp = stamp_of(given.stamp, shard)
    return Pushing(stamp, given.version, given.count, norm, given.epoch, synchronous, parts, number)


def _check_synchronous(header: pb.Push, shard: Shard) -> None:
    if shard.round is None:
        raise Refused("FAILED_PRECONDITION", "this job makes no synchronous steps; leave `synchronous` out")
    if header.parts:
        raise invalid("a contribution to a synchronous step must be the whole range, got parts")


def _pieces(header: pb.Push, shard: Shard):
    """Where the parts of a push lie in its content."""
    at, seen, itemsize = 0, set(), shard.center.itemsize
    for part in header.parts:
        if part.name in seen:
            raise invalid(f"push: {part.name!r} stands twice among the parts")
        seen.add(part.name)
        if part.sparse:
            table, limit = _table(part.name, shard)
            # Before it is multiplied: sizes beyond the largest content are refused by it.
            rows = min(part.rows, largest_content(shard))
            piece = Piece(part.name, rows, table.width, limit, rows * table.width, at)
        else:
            if part.rows:
                raise invalid(f"push: {part.name!r} is not said to be sparse, but to have {part.rows} rows")
            parameter = _parameter(part.name, shard)
            size = min(parameter.stop, shard.range.stop) - max(parameter.offset, shard.range.start)
            piece = Piece(part.name, None, 1, 0, size, at)
        yield piece
        at = padded(piece.stop(itemsize))


def _stop(parts: tuple[Piece, ...], shard: Shard) -> int:
    return parts[-1].stop(shard.center.itemsize)


def _parameter(name: str, shard: Shard) -> Parameter:
    """A parameter of which something lies in this shard."""
    for parameter in shard.layout.parameters:
        if parameter.name == name:
            if parameter.offset < shard.range.stop and parameter.stop > shard.range.start:
                return parameter
            raise beyond(f"nothing of parameter {name!r} lies in shard {shard.index}")
    raise invalid(f"there is no parameter {name!r}")


def _table(name: str, shard: Shard) -> tuple[Parameter, int]:
    """A sparse table and how many rows of it lie in this shard."""
    parameter = _parameter(name, shard)
    if not parameter.sparse:
        raise invalid(f"{name!r} is not declared sparse: push it whole")
    return parameter, table_in(parameter, shard.range)[1]
