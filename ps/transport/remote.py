"""A shard over gRPC: the port of a replica that lives on another host."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import grpc
import numpy as np

from ps.errors import UsageError
from ps.layout import Layout, Range
from ps.rows import Rows
from ps.shard import Applied, Stamp
from ps.stepper import Payload
from ps.transport.describing import sections_of
from ps.transport.lane import Errand, Lane
from ps.transport.peer import Passing, Peer, path, watch
from ps.transport.receiving import ExchangeAnswer, applied_of, fill
from ps.transport.remote_clocks import RemoteClocks
from ps.transport.requests import Incoming, Refused, slice_message
from ps.transport.retry import Retry, outcome
from ps.transport.service import WINDOW
from ps.transport.tls import Tls
from ps.wire import parameters_pb2 as pb
from ps.wire.framing import MalformedMessage, content_of, crc32, frames, padded, parse

_LONG_POLL_S = 0.5  # then it is asked whether to stop waiting
_PULLS = 2  # that are on their way at once


@dataclass(frozen=True)
class RemoteOptions:
    """How a shard is reached.

    Attributes:
      retry: deadline of a call, and for how long it is tried again.
      window: pushes on their way at once.
      checksum: send a CRC-32 with every content, and ask for one.
      stopped: asked, from any thread, while a call is waited for or tried again; raise in it to give up.
      replica: whose port this is, for errors.
    """

    retry: Retry = Retry()
    window: int = WINDOW
    checksum: bool = False
    stopped: Callable[[], None] = lambda: None
    replica: int | None = None


class RemoteShard:
    """Keeps the contract of ``ps.transport.port.Port`` over gRPC.

    Vectors given to ``start_push`` and ``start_exchange`` are not copied: leave them as they are until the future is done.
    Changes reach the shard in the order in which they were started, of whatever kind they are. One replica's thread starts them.

    Args:
      index: of the shard.
      range: its part of the flat vector.
      layout: of the whole vector.
      where: gives the address, ``HOST:PORT``; asked at first and after each failure, for a restarted shard has a new one.
      token: of the job; None: the server asks for none.
      tls: certificates; None: unencrypted.
      options: see there.

    Raises (every call):
      TransportError: not reached within patience, or an older incarnation's change; names the peer.
      UsageError: a shape or a dtype does not fit, or the server refused what was sent.
    """

    remote = True
    transport = "gRPC"

    def __init__(
        self,
        index: int,
        range: Range,
        layout: Layout,
        where: Callable[[], str],
        *,
        token: str | None,
        tls: Tls | None = None,
        options: RemoteOptions | None = None,
    ):
        self.index, self.range, self.layout = index, range, layout
        self.options = options or RemoteOptions()
        self._peer = Peer(
            index,
            where,
            token=token,
            tls=tls,
            retry=self.options.retry,
            stopped=self.options.stopped,
            replica=self.options.replica,
        )
        self._slice = slice_message(index, layout.dtype, range)
        self._dtype = np.dtype(layout.dtype)
        self._pushes = Lane(self._peer, "Push", self.options.window)
        self._exchanges = Lane(self._peer, "Exchange", self.options.window)
        self._answers = Incoming(range.size * self._dtype.itemsize)
        self._pulls = ThreadPoolExecutor(_PULLS, thread_name_prefix=f"pull-{index}")

    @cached_property
    def clocks(self) -> RemoteClocks:
        """Of the replica whose port this is, at the shard that keeps the clocks."""
        assert self.options.replica is not None, "whose clock?"
        return RemoteClocks(self, self.options.replica)

    @property
    def version(self) -> int:
        """See ``Port``."""
        return self.status()["version"]

    @property
    def rounds(self) -> int:
        """See ``Port``."""
        return self.status()["rounds"]

    def status(self) -> dict[str, int]:
        """``version``, ``rounds``, ``dropped`` and what ``Shard.counts`` gives."""
        reply = self._peer.ask("Status", pb.StatusRequest(shard=self.index), pb.StatusReply)
        return {name.name: getattr(reply, name.name) for name in pb.StatusReply.DESCRIPTOR.fields}

    def describe(self) -> pb.Description:
        """What the server says of itself."""
        return self._peer.ask("Describe", pb.DescribeRequest(), pb.Description)

    def close(self) -> None:
        """Give up what is under way and close the connection."""
        self._peer.close()
        self._pushes.close()
        self._exchanges.close()
        self._pulls.shutdown(wait=True)

    # -- reading ------------------------------------------------------------------------------------------------------

    def pull(self, out: np.ndarray, reader: int | None = None, consistent: bool = False) -> int:
        """See ``Port``. After an error ``out`` holds anything."""
        self._check(out, "pull")
        asked = pb.PullRequest(slice=self._slice, consistent=consistent, checksum=self.options.checksum)
        if reader is not None:
            asked.reader = reader
        return self._receive("Pull", asked, pb.PullReply, lambda header: content_of(out)).version

    def start_pull(self, out: np.ndarray, reader: int | None = None, consistent: bool = False) -> Future:
        """Begin ``pull``; the future gives its version."""
        return self._pulls.submit(self.pull, out, reader, consistent)

    def pull_rows(self, table: str, rows: np.ndarray, consistent: bool = False) -> tuple[np.ndarray, int]:
        """Some rows of a sparse table, numbered within the shard's part of it.

        Args:
          table: its name.
          rows: int64 (k,).
          consistent: as of ``pull``.

        Returns:
          (k, width) and the version. Delay-aware rules do not remember this read.
        """
        width = self.layout[table].width
        out = np.empty((rows.size, width), self._dtype)
        numbers = np.ascontiguousarray(rows, np.int64).tobytes()
        asked = pb.PullRowsRequest(
            slice=self._slice, table=table, rows=numbers, consistent=consistent, checksum=self.options.checksum
        )
        return out, self._receive("PullRows", asked, pb.PullReply, lambda header: content_of(out)).version

    def snapshot(self) -> tuple[int, dict[str, np.ndarray]]:
        """The version and, of that version, ``center``, ``slot.NAME``, ``row_steps.TABLE``, ``header`` and ``watermarks``."""
        kept: list[np.ndarray] = []

        def make(header: pb.SnapshotHeader) -> memoryview:
            kept[:] = [np.empty(header.bytes, np.uint8)]
            return content_of(kept[0])

        asked = pb.SnapshotRequest(shard=self.index, checksum=self.options.checksum)
        header = self._receive("Snapshot", asked, pb.SnapshotReply, make)
        return header.version, sections_of(header, kept[0])

    def await_round(self, number: int, abandoned: Callable[[], None] = lambda: None) -> int:
        """Wait until synchronous step ``number`` has been made; returns how many have been.

        ``abandoned`` is asked about twice a second and may raise to stop waiting.
        """
        asked = pb.AwaitRoundRequest(shard=self.index, round=number, wait_s=_LONG_POLL_S)

        def stopped() -> None:
            self._peer.stopped()
            abandoned()

        while True:
            reply = self._peer.ask("AwaitRound", asked, pb.AwaitRoundReply, wait_s=_LONG_POLL_S, stopped=stopped)
            if reply.rounds >= number:
                return reply.rounds
            stopped()

    def read_clocks(self, replica: int, above: int | None = None, wait_s: float = 0.0) -> tuple[int, int, bool]:
        """Clock of a replica, the smallest of the members', and whether it is a member; only of the shard that keeps the clocks.

        Args:
          replica: id.
          above: if given, the answer waits until the smallest clock is above this, at most ``wait_s`` seconds.
        """
        asked = pb.ClocksRequest(replica=replica, above=above, wait_s=wait_s)
        reply = self._peer.ask("Clocks", asked, pb.ClocksReply, wait_s=wait_s)
        return reply.clock, reply.minimum, reply.member

    def clock_members(self) -> tuple[int, ...]:
        """Ids of the replicas that are waited for."""
        return tuple(self._peer.ask("Clocks", pb.ClocksRequest(members=True), pb.ClocksReply).members)

    def advance_clock(self, replica: int, to: int) -> int:
        """Set a replica's clock, which never goes back; returns the smallest of the members'."""
        return self._peer.ask("Advance", pb.AdvanceRequest(replica=replica, to=to), pb.AdvanceReply).minimum

    # -- writing ------------------------------------------------------------------------------------------------------

    def push(
        self,
        payload: Payload,
        stamp: Stamp,
        *,
        version: int,
        count: int = 1,
        gradient_norm: float | None = None,
        epoch: int = 0,
    ) -> Applied:
        """See ``Port``."""
        started = self.start_push(
            payload, stamp, version=version, count=count, gradient_norm=gradient_norm, epoch=epoch
        )
        return outcome(started, self._peer.stopped)

    def start_push(
        self,
        payload: Payload,
        stamp: Stamp,
        *,
        version: int,
        count: int = 1,
        gradient_norm: float | None = None,
        epoch: int = 0,
    ) -> Future:
        """Begin ``push``; waits only while the window is full. The future gives what was ``Applied``."""
        header = self._push_header(stamp, version, count, epoch)
        if gradient_norm is not None:
            header.gradient_norm = gradient_norm
        return self._send_push(header, self._content(payload, header))

    def contribute(
        self, payload: np.ndarray, stamp: Stamp, *, version: int, epoch: int = 0, number: int = 0
    ) -> Applied:
        """See ``Port``; ``await_round`` then waits for the step."""
        started = self.start_contribute(payload, stamp, version=version, epoch=epoch, number=number)
        return outcome(started, self._peer.stopped)

    def start_contribute(
        self, payload: np.ndarray, stamp: Stamp, *, version: int, epoch: int = 0, number: int = 0
    ) -> Future:
        """Begin ``contribute``."""
        header = self._push_header(stamp, version, 1, epoch)
        header.synchronous, header.round = True, number
        return self._send_push(header, self._content(payload, header))

    def exchange(self, x: np.ndarray, alpha: float, stamp: Stamp, *, version: int) -> Applied:
        """See ``Port``. ``x`` changes when the answer is whole, or not at all."""
        return outcome(self.start_exchange(x, alpha, stamp, version=version), self._peer.stopped)

    def start_exchange(self, x: np.ndarray, alpha: float, stamp: Stamp, *, version: int) -> Future:
        """Begin ``exchange``; leave ``x`` alone until the future is done."""
        self._check(x, "exchange")
        self._pushes.drain()  # changes are counted in their order: one that is overtaken would be taken for a retry
        content = content_of(x)
        header = pb.Exchange(
            slice=self._slice,
            stamp=_stamp(stamp),
            version=version,
            alpha=alpha,
            bytes=len(content),
            checksum=self.options.checksum,
        )
        if self.options.checksum:
            header.crc32 = crc32(content)
        answer = ExchangeAnswer(x, alpha, self._peer, self._answers)
        return self._exchanges.start(Errand(lambda: frames(header, content), answer.take, answer.begin))

    def note_updates(self, count: int) -> int:
        """See ``Port``. Not tried again unless ``count`` is 0: nobody knows whether a try that failed was counted."""
        asked = pb.NoteUpdatesRequest(shard=self.index, count=count)
        return self._peer.ask("NoteUpdates", asked, pb.NoteUpdatesReply, once=count > 0).version_before

    # -- inside -------------------------------------------------------------------------------------------------------

    def _check(self, vector: np.ndarray, what: str) -> None:
        if vector.shape != (self.range.size,) or vector.dtype != self._dtype or not vector.flags.c_contiguous:
            raise UsageError(
                f"{what}: shard {self.index} takes a contiguous vector of shape ({self.range.size},) and dtype "
                f"{self.layout.dtype}, got {vector.shape} and {vector.dtype}"
            )

    def _push_header(self, stamp: Stamp, version: int, count: int, epoch: int) -> pb.Push:
        return pb.Push(slice=self._slice, stamp=_stamp(stamp), version=version, count=count, epoch=epoch)

    def _content(self, payload: Payload, header: pb.Push) -> memoryview:
        """The bytes of a payload; what they are is written into the header."""
        if isinstance(payload, np.ndarray):
            self._check(payload, "push")
            content = content_of(payload)
        else:
            content = self._parts(payload, header)
        header.bytes = len(content)
        if self.options.checksum:
            header.crc32 = crc32(content)
        return content

    def _parts(self, payload: Any, header: pb.Push) -> memoryview:
        """Named parts one after another, each from a multiple of 8 bytes on."""
        pieces: list[tuple[int, np.ndarray]] = []
        stop = 0
        for name, part in payload.items():
            sparse = isinstance(part, Rows)
            arrays = (part.rows.astype(np.int64, copy=False), part.values) if sparse else (part,)
            if arrays[-1].dtype != self._dtype:
                raise UsageError(f"push: {name!r} must have dtype {self.layout.dtype}, got {arrays[-1].dtype}")
            header.parts.add(name=name, sparse=sparse, rows=part.size if sparse else 0)
            for array in arrays:
                start = padded(stop)
                pieces.append((start, array))
                stop = start + array.nbytes
        content = np.zeros(stop, np.uint8)
        for start, array in pieces:
            content[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return content_of(content)

    def _send_push(self, header: pb.Push, content: memoryview) -> Future:
        self._exchanges.drain()
        return self._pushes.start(Errand(lambda: frames(header, content), self._push_answer))

    def _push_answer(self, raw: bytes) -> Applied:
        try:
            return applied_of(parse(raw, pb.PushReply))
        except MalformedMessage as error:
            raise self._peer.error(f"answered a push with what is {error}") from error

    def _receive(self, method: str, asked: Any, envelope: Any, place: Callable[[Any], memoryview]) -> Any:
        """Make a call that is answered by a header and a content, which goes where ``place(header)`` says; returns the header."""
        attempts, raw = self._peer.attempts(), asked.SerializeToString()
        while True:
            try:
                return self._receive_once(method, raw, envelope, place)
            except Passing as failure:
                attempts.failed(failure.error)

    def _receive_once(self, method: str, raw: bytes, envelope: Any, place: Callable[[Any], memoryview]) -> Any:
        connection = self._peer.connect()
        try:
            call = connection.channel.unary_stream(path(method))(raw, metadata=self._peer.metadata)
        except ValueError as error:  # the channel was closed by another call that failed
            raise Passing(self._peer.error("the connection was closed")) from error
        with watch(self._peer, call.cancel) as watched:
            try:
                return fill(call, envelope, place, watched.progress)
            except grpc.RpcError as error:
                raise self._peer.meaning(error, connection, watched.expired) from error
            except (MalformedMessage, Refused) as error:
                call.cancel()
                raise Passing(self._peer.error(f"answered {method} with a damaged message: {error}")) from error


def _stamp(stamp: Stamp) -> pb.Stamp:
    return pb.Stamp(replica=stamp.replica, incarnation=stamp.incarnation, sequence=stamp.sequence)


def layout_of(description: pb.Description) -> Layout:
    """The layout that a shard describes."""
    return Layout.from_json(json.loads(description.layout_json))
