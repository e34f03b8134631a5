"""The calls of ``hogshead.v1.Parameters`` on one shard: bytes in, bytes out. ``ps.transport.server`` makes a server of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from threading import Condition, Lock
from typing import Any, Protocol

import numpy as np

from ps.admission import Clocks
from ps.errors import TransportError, UsageError
from ps.finite import wrong_value
from ps.shard import Applied, Shard, Stamp
from ps.stepper import Payload
from ps.transport import requests
from ps.transport.answers import Answer, Answers
from ps.transport.describing import describe, guard, snapshot
from ps.transport.requests import Incoming, Pushing, Refused, beyond, invalid, not_finite
from ps.wire import parameters_pb2 as pb
from ps.wire.framing import MalformedMessage, content_of, crc32, frames, parse, unframe

_LONGEST_WAIT_S = 30.0
_LOOK_S = 2e-3  # between two looks at words that others in shared memory may write
WINDOW = 8


class Caller(Protocol):
    """What a call says of itself; ``grpc.ServicerContext`` has it."""

    def is_active(self) -> bool:
        """False once the caller has gone."""
        ...


@dataclass(frozen=True)
class ServiceOptions:
    """How a shard is served.

    Attributes:
      shards: number of the job's shards.
      peers: gives the addresses of the job's shards by their index, as far as known.
      clocks: of all replicas, at the one shard that keeps them.
      answers_bytes: bound on the answers to exchanges that are kept for a retry.
    """

    shards: int = 1
    peers: Callable[[], Mapping[int, str]] = dict
    clocks: Clocks | None = None
    answers_bytes: int = 256 << 20


class ShardService:
    """Carries out the calls.

    Args:
      shard: applies updates as it does for replicas beside it: under its lock, or without.
      options: see there.
    """

    def __init__(self, shard: Shard, options: ServiceOptions):
        self.shard, self.options = shard, options
        self._answers = Answers(options.answers_bytes)
        # One change of a replica at a time: a retry must not overtake the first try, which may be at work still.
        self._turns = [Lock() for _ in range(shard.options.replicas)]
        self._last: dict[int, tuple[Stamp, Applied]] = {}  # what each replica was told of its last push, for a retry
        self._changed = Condition()  # a synchronous step was made, or a clock has risen
        self._snapshot = Lock()
        self._limit = requests.largest_content(shard)
        self._counts: Counter[str] = Counter()
        self._counting = Lock()

    def counts(self) -> dict[str, int]:
        """What was carried out so far: ``pulls``, ``pushes``, ``exchanges``, ``bytes_in`` and ``bytes_out`` of content."""
        with self._counting:
            return {name: self._counts[name] for name in ("pulls", "pushes", "exchanges", "bytes_in", "bytes_out")}

    def _count(self, name: str, bytes_in: int = 0, bytes_out: int = 0) -> None:
        with self._counting:
            self._counts[name] += 1
            self._counts["bytes_in"] += bytes_in
            self._counts["bytes_out"] += bytes_out

    # -- reading ------------------------------------------------------------------------------------------------------

    def describe(self, raw: bytes, _caller: Caller) -> bytes:
        """``Describe``."""
        _read(raw, pb.DescribeRequest)
        described = describe(
            self.shard, self.options.shards, dict(self.options.peers()), self.options.clocks is not None
        )
        described.limits.content_bytes, described.limits.window = self._limit, WINDOW
        return described.SerializeToString()

    def status(self, raw: bytes, _caller: Caller) -> bytes:
        """``Status``."""
        requests.check_shard(_read(raw, pb.StatusRequest).shard, self.shard)
        shard = self.shard
        words = {"version": shard.version, "rounds": shard.rounds, "dropped": shard.dropped, **shard.counts()}
        return pb.StatusReply(**words).SerializeToString()

    def pull(self, raw: bytes, _caller: Caller) -> Iterator[bytes]:
        """``Pull``."""
        asked, shard = _read(raw, pb.PullRequest), self.shard
        requests.check_slice(asked.slice, shard)
        reader = asked.reader if asked.HasField("reader") else None
        if reader is not None:
            requests.check_replica(reader, shard)
        if asked.consistent or asked.checksum or (reader is not None and shard.memory is not None):
            vector = np.empty_like(shard.center)
            version = shard.pull(vector, reader, asked.consistent)
        else:  # torn anyway: straight from the center
            vector, version = shard.center, shard.version
        self._count("pulls", bytes_out=vector.nbytes)
        yield from _pulled(vector, version, asked.checksum)

    def pull_rows(self, raw: bytes, _caller: Caller) -> Iterator[bytes]:
        """``PullRows``."""
        asked, shard = _read(raw, pb.PullRowsRequest), self.shard
        requests.check_slice(asked.slice, shard)
        table, count, start = requests.sparse_rows(asked.table, shard)
        rows = requests.row_numbers(asked.rows, count, asked.table)
        if rows.size * table.width * shard.center.itemsize > self._limit:
            raise Refused("RESOURCE_EXHAUSTED", f"{rows.size} rows are more than {self._limit} bytes; ask for fewer")
        held = shard.center[start : start + count * table.width].reshape(count, table.width)
        with guard(shard) if asked.consistent else nullcontext():
            version, values = shard.version, held[rows]
        self._count("pulls", bytes_out=values.nbytes)
        yield from _pulled(values, version, asked.checksum)

    def snapshot(self, raw: bytes, _caller: Caller) -> Iterator[bytes]:
        """``Snapshot``."""
        asked = _read(raw, pb.SnapshotRequest)
        requests.check_shard(asked.shard, self.shard)
        with self._snapshot:  # so much memory once, not once per caller
            header, content = snapshot(self.shard)
            if asked.checksum:
                header.crc32 = crc32(content)
            yield from frames(header, content)

    # -- writing ------------------------------------------------------------------------------------------------------

    def push(self, messages: Iterator[bytes], _caller: Caller) -> Iterator[bytes]:
        """``Push``: changes nothing before the content is whole, and answers in order."""
        for header, content in self._contents(messages, pb.PushRequest, self._pushing):
            self._count("pushes", bytes_in=content.received.nbytes)
            yield self._push(header, requests.payload_of(header, content.received, self.shard))

    def push_rows(self, raw: bytes, _caller: Caller) -> bytes:
        """``PushRows``."""
        asked, payload = requests.rows_pushing(_read(raw, pb.PushRowsRequest), self.shard)
        self._count("pushes", bytes_in=len(raw))
        return self._push(asked, payload)

    def exchange(self, messages: Iterator[bytes], _caller: Caller) -> Iterator[bytes]:
        """``Exchange``: changes nothing before the content is whole, and answers in order."""
        for (header, stamp), content in self._contents(messages, pb.ExchangeRequest, self._exchanging):
            yield from self._exchange(header, stamp, content)

    def note_updates(self, raw: bytes, _caller: Caller) -> bytes:
        """``NoteUpdates``."""
        asked = _read(raw, pb.NoteUpdatesRequest)
        requests.check_shard(asked.shard, self.shard)
        if asked.count >= 1 << 31:
            raise beyond(f"count must be < 2**31, got {asked.count}")
        return pb.NoteUpdatesReply(version_before=self.shard.note_updates(asked.count)).SerializeToString()

    # -- waiting ------------------------------------------------------------------------------------------------------

    def await_round(self, raw: bytes, caller: Caller) -> bytes:
        """``AwaitRound``."""
        asked = _read(raw, pb.AwaitRoundRequest)
        requests.check_shard(asked.shard, self.shard)
        self._wait(lambda: self.shard.rounds >= asked.round, asked.wait_s, caller)
        return pb.AwaitRoundReply(rounds=self.shard.rounds).SerializeToString()

    def clocks(self, raw: bytes, caller: Caller) -> bytes:
        """``Clocks``."""
        asked, clocks = _read(raw, pb.ClocksRequest), self._clocks()
        self._check_clock(asked.replica)
        if asked.HasField("above"):
            self._wait(lambda: clocks.minimum() > asked.above, asked.wait_s, caller)
        reply = pb.ClocksReply(
            clock=clocks.clock(asked.replica),
            minimum=clocks.minimum(),
            member=bool(clocks.members[asked.replica]),
            members=np.flatnonzero(clocks.members).tolist() if asked.members else (),
        )
        return reply.SerializeToString()

    def advance(self, raw: bytes, _caller: Caller) -> bytes:
        """``Advance``: a clock never goes back, so that a retry that comes late does no harm."""
        asked, clocks = _read(raw, pb.AdvanceRequest), self._clocks()
        self._check_clock(asked.replica)
        requests.check_version(asked.to)
        with self._turn(asked.replica):
            if asked.to > clocks.clock(asked.replica):
                clocks.advance(asked.replica, asked.to)
        self._tell()
        return pb.AdvanceReply(minimum=clocks.minimum()).SerializeToString()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _contents(self, messages: Iterator[bytes], envelope: Any, check: Any) -> Iterator[tuple[Any, _Content]]:
        """Each header, as ``check`` has read it, with its whole content."""
        incoming, asked = _Content(self._limit), None
        for raw in messages:
            header, chunk = _unframe(raw, envelope)
            if header is not None:
                if incoming.expecting:
                    raise invalid("a header came before the content of the last was whole")
                asked = check(header)
                incoming.begin(header.bytes, header.crc32 if header.HasField("crc32") else None)
            elif not len(chunk):
                raise invalid("a message with neither header nor chunk")
            incoming.received = incoming.take(chunk)
            if incoming.received is not None:
                yield asked, incoming
        if incoming.expecting:
            raise invalid("the stream ended within a content")

    def _pushing(self, header: pb.Push) -> Pushing:
        return requests.pushing(header, self.shard)

    def _exchanging(self, header: pb.Exchange) -> tuple[pb.Exchange, Stamp]:
        return header, requests.check_exchange(header, self.shard)

    def _push(self, asked: Pushing, payload: Any) -> bytes:
        if self._leaves_out(asked, payload):
            return _applied(asked.stamp, self.shard.drop(asked.version)).SerializeToString()
        with self._turn(asked.stamp.replica), _said_in_words():
            if asked.synchronous:
                applied = self.shard.contribute(
                    payload, asked.stamp, version=asked.version, epoch=asked.epoch, number=asked.round
                )
            else:
                applied = self.shard.push(
                    payload,
                    asked.stamp,
                    version=asked.version,
                    count=asked.count,
                    gradient_norm=asked.gradient_norm,
                    epoch=asked.epoch,
                )
            applied = self._as_told(asked.stamp, applied)
        if asked.synchronous:
            self._tell()
        return _applied(asked.stamp, applied).SerializeToString()

    def _leaves_out(self, asked: Pushing, payload: Payload) -> bool:
        """Whether a push is to be skipped for a NaN or an infinity in it.

        Replicas beside the shard look at each gradient before they push. What comes over the network is another program's.

        Raises:
          Refused: it holds one, and the job does not skip these; or others wait for this contribution.
        """
        wrong = wrong_value(payload)
        if not wrong:
            return False
        if self.shard.options.skip_nonfinite and not asked.synchronous:
            return True
        raise not_finite("push", asked.stamp, wrong)

    def _as_told(self, stamp: Stamp, applied: Applied) -> Applied:
        """For a retry of the last push what was told then: only then was it known whether a contribution came late."""
        last = self._last.get(stamp.replica)
        if applied.duplicate and last is not None and last[0] == stamp:
            return replace(last[1], duplicate=True)
        if not applied.duplicate:
            self._last[stamp.replica] = (stamp, applied)
        return applied

    def _exchange(self, header: pb.Exchange, stamp: Stamp, content: _Content) -> Iterator[bytes]:
        assert content.received is not None
        x, kept_center = content.received, False
        wrong = wrong_value(x.view(self.shard.center.dtype))
        if wrong:
            raise not_finite("exchange", stamp, wrong)
        with self._turn(stamp.replica), _said_in_words():
            applied = self.shard.exchange(x.view(self.shard.center.dtype), header.alpha, stamp, version=header.version)
            if not applied.duplicate:
                content.write_to(self._answers.keep(Answer(stamp, applied, x)))
            elif (answer := self._answers.find(stamp)) is not None:
                x, applied = answer.content, replace(answer.applied, duplicate=True)
            else:
                kept_center = True
                np.copyto(x.view(self.shard.center.dtype), self.shard.center)
        view = memoryview(x)
        self._count("exchanges", bytes_in=len(view), bytes_out=len(view))
        reply = pb.Exchanged(applied=_applied(stamp, applied), center=kept_center, bytes=len(view))
        if header.checksum:
            reply.crc32 = crc32(view)
        yield from frames(reply, view)

    def _turn(self, replica: int) -> Lock:
        return self._turns[replica]

    def _clocks(self) -> Clocks:
        if self.options.clocks is None:
            raise Refused("FAILED_PRECONDITION", f"shard {self.shard.index} does not keep the clocks; ask shard 0")
        return self.options.clocks

    def _check_clock(self, replica: int) -> None:
        count = min(self._clocks().clocks.size, self.shard.options.replicas)
        if replica >= count:
            raise beyond(f"replica must be < {count}, got {replica}")

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _wait(self, done: Callable[[], bool], wait_s: float, caller: Caller) -> None:
        """Until ``done()`` holds, the time is over or the caller has gone."""
        if not 0 <= wait_s <= _LONGEST_WAIT_S:
            raise beyond(f"wait_s must be >= 0 and <= {_LONGEST_WAIT_S:g}, got {wait_s}")
        until = time.monotonic() + wait_s
        with self._changed:
            while not done() and time.monotonic() < until and caller.is_active():
                self._changed.wait(_LOOK_S)


class _Content(Incoming):
    """A content under way; ``received`` is it, uint8 (bytes,), once it is whole."""

    received: np.ndarray | None = None


class _said_in_words:
    """What a shard refuses becomes a refusal of the call."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, UsageError):
            raise invalid(str(error)) from error
        if isinstance(error, TransportError):
            raise Refused("FAILED_PRECONDITION", str(error), error.version) from error


def _read(raw: bytes, kind: Any) -> Any:
    try:
        return parse(raw, kind)
    except MalformedMessage as error:
        raise invalid(str(error)) from error


def _unframe(raw: bytes, envelope: Any) -> tuple[Any, memoryview]:
    try:
        return unframe(raw, envelope)
    except MalformedMessage as error:
        raise invalid(str(error)) from error


def _pulled(vector: np.ndarray, version: int, checksum: bool) -> Iterator[bytes]:
    content = content_of(vector)
    header = pb.Pulled(version=version, bytes=len(content))
    if checksum:
        header.crc32 = crc32(content)
    return frames(header, content)


def _applied(stamp: Stamp, applied: Applied) -> pb.PushReply:
    return pb.PushReply(
        sequence=stamp.sequence,
        version=applied.version,
        staleness=applied.staleness,
        duplicate=applied.duplicate,
        round=applied.round,
        dropped=applied.dropped,
    )
