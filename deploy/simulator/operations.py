"""What a simulated replica asks of the shards: a call, with one part for each shard that it concerns.

The parts are carried out one by one, at the moment that the timing decides; each does to its shard what
``ps.transport.direct.DirectLink`` would do there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ps.errors import TransportError
from ps.rows import Rows
from ps.shard import Shard, Stamp
from ps.state import State
from ps.stepper import Payload, split_payload
from worker import trace

if TYPE_CHECKING:
    from deploy.simulator.replica import SimulatedReplica

HEADER_BYTES = 64  # of a message beside its payload


class Call:
    """One command on its way through the shards.

    Attributes:
      kind: ``trace.PULL``, ``PUSH``, ``EXCHANGE`` or ``CONTRIBUTE``.
      sender: who asks.
      parts: one per shard concerned; none once all have been answered.
      versions: int64 (S,), those that it was sent with; a pull and an exchange write theirs into it.
      staleness: the largest that a shard has answered with, -1 before.
      wait: the sender goes on when all parts have been answered.
      left: parts not answered yet. arrived: when the last answer arrives.
      where, vector: of a pull: gives the vector (N,) to read into, and that vector once it was asked for.
      asked, dropped: shards that were asked, and those that have refused it as too late.
    """

    __slots__ = (
        "arrived", "asked", "dropped", "kind", "left", "parts", "sender", "staleness", "vector", "where", "versions", "wait",
    )  # fmt: skip

    def __init__(self, kind: int, sender: SimulatedReplica, versions: np.ndarray, wait: bool):
        self.kind, self.sender, self.versions, self.wait = kind, sender, versions, wait
        self.parts: list[Part] = []
        self.staleness = -1
        self.arrived, self.asked, self.left, self.dropped = 0.0, 0, 0, 0
        self.where: Callable[[], np.ndarray] | None = None
        self.vector: np.ndarray | None = None

    def read_into(self) -> np.ndarray:
        """The vector (N,) of a pull."""
        if self.vector is None:
            assert self.where is not None
            self.vector = self.where()
        return self.vector

    def note_answer(self) -> bool:
        """One part has been answered; True if it was the last."""
        self.left -= 1
        if self.left == 0:
            self.parts = []  # each part knows its call: without this only the garbage collector could free them
        return self.left == 0

    def detach(self) -> None:
        """Copy what would be changed under a call that its sender does not wait for."""
        for part in self.parts:
            part.payload = _copy(part.payload)


class Part:
    """A call's part at one shard.

    Attributes:
      out_bytes, back_bytes: of the message there and of its answer.
      payload: of a push or a contribution; the vector to read into or to exchange, cut to the shard.
      round: of a contribution that waits: the synchronous step it is for, else 0.
    """

    __slots__ = ("arguments", "back_bytes", "call", "out_bytes", "payload", "round", "shard", "stamp")

    def __init__(
        self, call: Call, shard: Shard, stamp: Stamp | None, payload: Any, out: int, back: int, **arguments: Any
    ):
        self.call, self.shard, self.stamp, self.payload = call, shard, stamp, payload
        self.out_bytes, self.back_bytes, self.arguments = out, back, arguments
        self.round = 0

    @property
    def is_read(self) -> bool:
        """It changes nothing."""
        return self.call.kind == trace.PULL

    def variables(self) -> list[int]:
        """Rows of sparse tables that it touches, as indices into the whole vector; for a lock per variable."""
        if isinstance(self.payload, np.ndarray):
            return [self.shard.range.start]
        layout = self.shard.layout
        found: list[int] = []
        for name, values in self.payload.items():
            if isinstance(values, Rows):
                found += (values.rows * layout[name].width + layout[name].offset).tolist()
            else:
                found.append(layout[name].offset)
        return found

    def execute(self, time: float, log: trace.Trace) -> None:
        """Do it to the shard, now."""
        call, shard, sender = self.call, self.shard, self.call.sender
        version, index = call.versions.item(shard.index), shard.index
        if call.kind == trace.PULL:
            call.versions[index] = read = shard.pull(shard.range.of(call.read_into()), sender.replica.id)
            log.add(
                time, trace.PULL, sender.replica.id, sender.replica.incarnation, index, read, -1, sender.replica.clock
            )
            return
        assert self.stamp is not None
        try:
            applied = self._apply(shard, version)
        except TransportError:
            return  # a message of a dead incarnation that comes after its successor's
        if call.kind == trace.EXCHANGE:
            call.versions[index] = applied.version
        self.round = 0 if applied.dropped else applied.round
        if applied.duplicate:
            return  # sent once more after a crash of the shard, which had it already
        call.dropped += applied.dropped
        call.staleness = max(call.staleness, applied.staleness)
        after = applied.version
        if call.kind == trace.CONTRIBUTE and not applied.dropped:
            after = version + applied.staleness + 1  # of the shard once the step has been made
        log.add(
            time, call.kind, sender.replica.id, sender.replica.incarnation, index, after, applied.staleness,
            sender.replica.clock,
        )  # fmt: skip

    def _apply(self, shard: Shard, version: int) -> Any:
        kind = self.call.kind
        if kind == trace.PUSH:
            return shard.push(self.payload, self.stamp, version=version, **self.arguments)
        if kind == trace.EXCHANGE:
            return shard.exchange(self.payload, stamp=self.stamp, version=version, **self.arguments)
        return shard.contribute(self.payload, self.stamp, version=version, **self.arguments)


def pull(sender: SimulatedReplica, state: State, where: Callable[[], np.ndarray], wait: bool) -> Call:
    """Read the center into the vector (N,) that ``where`` gives when the first shard is read."""
    call = Call(trace.PULL, sender, np.zeros(len(state.shards), np.int64), wait)
    call.where = where
    for shard in state.shards:
        back = HEADER_BYTES + shard.range.size * state.center.itemsize
        call.parts.append(Part(call, shard, None, None, HEADER_BYTES, back))
    call.asked = call.left = len(call.parts)
    return call


def push(
    sender: SimulatedReplica,
    state: State,
    payload: Payload,
    versions: np.ndarray,
    stamp: Stamp,
    wait: bool,
    **arguments: Any,
) -> Call:
    """Have a gradient or an update applied by the rule; ``arguments`` as of ``Shard.push``."""
    call = Call(trace.PUSH, sender, versions, wait)
    for shard in state.shards:
        part = split_payload(payload, state.layout, shard.range)
        if part is not None:
            call.parts.append(Part(call, shard, stamp, part, HEADER_BYTES + _bytes(part), HEADER_BYTES, **arguments))
    call.asked = call.left = len(call.parts)
    return call


def contribute(
    sender: SimulatedReplica, state: State, payload: np.ndarray, versions: np.ndarray, stamp: Stamp, epoch: int
) -> Call:
    """Take part in a synchronous step with ``payload`` (N,)."""
    call = Call(trace.CONTRIBUTE, sender, versions, True)
    for shard in state.shards:
        part = shard.range.of(payload)
        call.parts.append(Part(call, shard, stamp, part, HEADER_BYTES + part.nbytes, HEADER_BYTES, epoch=epoch))
    call.asked = call.left = len(call.parts)
    return call


def exchange(
    sender: SimulatedReplica, state: State, x: np.ndarray, versions: np.ndarray, stamp: Stamp, alpha: float
) -> Call:
    """EASGD's elastic step with ``x`` (N,), changed in place."""
    call = Call(trace.EXCHANGE, sender, versions, True)
    for shard in state.shards:
        part = shard.range.of(x)
        size = HEADER_BYTES + part.nbytes
        call.parts.append(Part(call, shard, stamp, part, size, size, alpha=alpha))
    call.asked = call.left = len(call.parts)
    return call


def _bytes(payload: Payload) -> int:
    if isinstance(payload, np.ndarray):
        return payload.nbytes
    return sum(p.rows.nbytes + p.values.nbytes if isinstance(p, Rows) else p.nbytes for p in payload.values())


def _copy(payload: Payload) -> Payload:
    if isinstance(payload, np.ndarray):
        return payload.copy()
    return {n: Rows(p.rows.copy(), p.values.copy()) if isinstance(p, Rows) else p.copy() for n, p in payload.items()}
