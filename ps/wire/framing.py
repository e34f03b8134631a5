"""Messages of a header and a chunk, without copying the chunk more often than it must be.

``PullReply``, ``PushRequest``, ``ExchangeRequest``, ``ExchangeReply`` and ``SnapshotReply`` all have ``header = 1`` and
``bytes chunk = 2``. Written here, a chunk is copied once, into the message; read here, it stays where the message lies. The bytes
are those that any protobuf library writes and reads.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

_HEADER, _CHUNK = b"\x0a", b"\x12"  # fields 1 and 2, both with a length
CHUNK_BYTES = 1 << 20
MESSAGE_BYTES = 4 << 20  # largest message that is taken: a chunk, its header, and room for other clients' chunks

Envelope = type[Message]


class MalformedMessage(Exception):
    """Bytes that are no message of the type expected."""


def parse(raw: bytes, kind: type[Any]) -> Any:
    """The message of type ``kind`` in ``raw``.

    Raises:
      MalformedMessage: there is none.
    """
    try:
        return kind.FromString(raw)
    except (DecodeError, ValueError) as error:
        raise MalformedMessage(f"not a {kind.DESCRIPTOR.name}") from error


def frame(header: Message | None, chunk: memoryview | bytes = b"") -> bytes:
    """The message with this header and chunk."""
    parts: list[bytes | memoryview] = []
    if header is not None:
        body = header.SerializeToString()
        parts += [_HEADER, _varint(len(body)), body]
    if len(chunk):
        parts += [_CHUNK, _varint(len(chunk)), chunk]
    return b"".join(parts)


def frames(header: Message, content: memoryview, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The messages that carry a header and its content, the header with the first chunk."""
    yield frame(header, content[:chunk_bytes])
    for at in range(chunk_bytes, len(content), chunk_bytes):
        yield frame(None, content[at : at + chunk_bytes])


def unframe(raw: bytes, envelope: Envelope) -> tuple[Any | None, memoryview]:
    """Header (None if there is none) and chunk (perhaps empty) of a message; the chunk is a view of ``raw``.

    Raises:
      MalformedMessage: it is no such message.
    """
    header, at = None, 0
    if raw[:1] == _HEADER:
        size, start = _read_varint(raw, 1)
        at = start + size
        if start == 0 or at > len(raw):
            raise MalformedMessage(f"not a {envelope.DESCRIPTOR.name}")
        header = parse(raw[start:at], _header_of(envelope))
    if at == len(raw):
        return header, memoryview(b"")
    if raw[at : at + 1] == _CHUNK:
        size, start = _read_varint(raw, at + 1)
        if start and start + size == len(raw):
            return header, memoryview(raw)[start:]
    whole = parse(raw, envelope)  # another order of fields, a field that we do not know, or nonsense
    return (whole.header if whole.HasField("header") else None), memoryview(whole.chunk)


@cache
def _header_of(envelope: Envelope) -> Envelope:
    return GetMessageClass(envelope.DESCRIPTOR.fields_by_name["header"].message_type)


def content_of(vector: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, to be read or written."""
    return memoryview(vector.reshape(-1).view(np.uint8))


def crc32(content: memoryview) -> int:
    """The checksum of a content: CRC-32 as in zlib, gzip and PNG."""
    return zlib.crc32(content)


def padded(size: int) -> int:
    """``size`` in bytes, up to the next multiple of 8, where the next section begins."""
    return -(-size // 8) * 8


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at`` and the place after it; the place is 0 where there is no number."""
    value = 0
    for count, byte in enumerate(raw[at : at + 5]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    return 0, 0
