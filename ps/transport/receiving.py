"""What a port makes of the answers that come back over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ps.elastic import attract
from ps.shard import Applied
from ps.transport.peer import Passing, Peer
from ps.transport.requests import Incoming, Refused
from ps.wire import parameters_pb2 as pb
from ps.wire.framing import MalformedMessage, crc32, unframe


class ExchangeAnswer:
    """Puts the answer to an exchange together, and then changes ``x``.

    Args:
      x: (n,), changed in place.
      alpha: moving rate.
      peer: who answers.
      incoming: shared by exchanges that are answered one after another.
    """

    def __init__(self, x: np.ndarray, alpha: float, peer: Peer, incoming: Incoming):
        self._x, self._alpha, self._peer, self._incoming = x, alpha, peer, incoming
        self._header: pb.Exchanged | None = None

    def begin(self) -> None:
        """Forget what has come."""
        self._header, self._incoming.expecting = None, False

    def take(self, raw: bytes) -> Applied | None:
        """One message; the result once it is whole."""
        try:
            header, chunk = unframe(raw, pb.ExchangeReply)
            if header is not None:
                if header.bytes != self._x.nbytes:
                    raise MalformedMessage(f"of {header.bytes} bytes, expected {self._x.nbytes}")
                self._header = header
                self._incoming.begin(header.bytes, header.crc32 if header.HasField("crc32") else None)
            content = self._incoming.take(chunk)
        except (MalformedMessage, Refused) as error:
            raise Passing(self._peer.error(f"answered an exchange with a damaged message: {error}")) from error
        if content is None or self._header is None:
            return None
        theirs = content.view(self._x.dtype)
        if self._header.center:
            attract(self._x, self._x, theirs, self._alpha)
        else:
            np.copyto(self._x, theirs)
        return applied_of(self._header.applied)


def fill(call: Iterator[bytes], envelope: Any, place: Callable[[Any], memoryview], progress: Callable[[], None]) -> Any:
    """Read a header and its content from a call."""
    head, out, filled = None, memoryview(b""), 0
    for raw in call:
        progress()
        header, chunk = unframe(raw, envelope)
        if header is not None:
            head, out, filled = header, place(header), 0
            if len(out) != header.bytes:
                raise MalformedMessage(f"of {header.bytes} bytes, expected {len(out)}")
        if head is None or filled + len(chunk) > len(out):
            raise MalformedMessage("out of bounds")
        out[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    if head is None or filled < len(out):
        raise MalformedMessage(f"of {filled} bytes, expected {len(out)}")
    if head.HasField("crc32") and crc32(out) != head.crc32:
        raise MalformedMessage("of another CRC-32 than it says")
    return head


def applied_of(reply: pb.PushReply) -> Applied:
    """What a shard answered."""
    return Applied(reply.version, reply.staleness, reply.duplicate, reply.round, reply.dropped)
