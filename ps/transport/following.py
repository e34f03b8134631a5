"""The port that follows a shard from place to place: mapped while its owner lives on this host, remote otherwise.

When the owner dies, whoever uses the port waits here until the shard is served again, and the operation at hand is made there.
What an owner had applied and not saved is lost with it; what was saved is not applied twice, because its watermarks were, too.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ps.host import Place, ShardPlan
from ps.shard import Applied, Stamp
from ps.stepper import Payload
from ps.transport.mapped import MappedShard, OwnerGone


@dataclass(frozen=True)
class Whereabouts:
    """Where a shard is served now.

    Attributes:
      index: of the shard.
      node: where its owner runs; equal for processes that share memory.
      address: of its gRPC service, host:port.
      generation: rises with every owner of this shard, from 1.
      place: of its memory on that node.
    """

    index: int
    node: str
    address: str
    generation: int
    place: Place


class Directory(Protocol):
    """Where the shards are served."""

    def current(self, index: int) -> Whereabouts:
        """Of a shard that has been served before."""
        ...

    def newer(self, index: int, generation: int) -> Whereabouts:
        """Of a shard once it is served by a newer generation than this; waits for it."""
        ...


class FollowingPort:
    """Keeps ``ps.transport.port.Port``.

    Args:
      plan: which shard.
      node: where this process runs.
      directory: knows where the shards are served.
      connect: makes the remote port of a shard that is served elsewhere.
    """

    def __init__(
        self,
        plan: ShardPlan,
        node: str,
        directory: Directory,
        connect: Callable[[ShardPlan], Any],
    ):
        self._plan, self._node, self._directory, self._connect = plan, node, directory, connect
        self.index, self.range = plan.index, plan.layout.shards(plan.count)[plan.index]
        self._generation = 0
        self._port: Any = None
        self._settle()

    @property
    def generation(self) -> int:
        """Of the owner that is served by now, which a remote port finds by itself."""
        return self._directory.current(self.index).generation if self.remote else self._generation

    @property
    def remote(self) -> bool:
        """Operations travel."""
        return not isinstance(self._port, MappedShard)

    @property
    def transport(self) -> str:
        """In words."""
        return "gRPC" if self.remote else MappedShard.transport

    @property
    def mapped(self) -> MappedShard | None:
        """The mapped shard, where it is mapped."""
        return None if self.remote else self._port

    @property
    def center(self) -> np.ndarray | None:
        """The shard's part of the center (n,) where it is mapped."""
        return None if self.remote else self._port.center

    @property
    def inner(self) -> Any:
        """The port at work now."""
        return self._port

    @property
    def version(self) -> int:
        """See ``Port``."""
        return self._do(lambda port: port.version)

    @property
    def rounds(self) -> int:
        """See ``Port``."""
        return self._do(lambda port: port.rounds)

    def pull(self, out: np.ndarray, reader: int | None = None, consistent: bool = False) -> int:
        """See ``Port``."""
        return self._do(lambda port: port.pull(out, reader, consistent))

    def push(self, payload: Payload, stamp: Stamp, **facts: Any) -> Applied:
        """See ``Port``."""
        return self._do(lambda port: port.push(payload, stamp, **facts))

    def exchange(self, x: np.ndarray, alpha: float, stamp: Stamp, *, version: int) -> Applied:
        """See ``Port``."""
        return self._do(lambda port: port.exchange(x, alpha, stamp, version=version))

    def contribute(self, payload: np.ndarray, stamp: Stamp, **facts: Any) -> Applied:
        """See ``Port``."""
        return self._do(lambda port: port.contribute(payload, stamp, **facts))

    def note_updates(self, count: int) -> int:
        """See ``Port``."""
        return self._do(lambda port: port.note_updates(count))

    def start_pull(self, *args: Any, **facts: Any) -> Future[int]:
        """As ``pull``, of a remote shard."""
        return self._port.start_pull(*args, **facts)

    def start_push(self, *args: Any, **facts: Any) -> Future[Applied]:
        """As ``push``, of a remote shard."""
        return self._port.start_push(*args, **facts)

    def start_exchange(self, *args: Any, **facts: Any) -> Future[Applied]:
        """As ``exchange``, of a remote shard."""
        return self._port.start_exchange(*args, **facts)

    def start_contribute(self, *args: Any, **facts: Any) -> Future[Applied]:
        """As ``contribute``, of a remote shard."""
        return self._port.start_contribute(*args, **facts)

    def await_round(self, number: int, abandoned: Callable[[], None]) -> None:
        """Wait until a remote shard has made this synchronous step."""
        self._port.await_round(number, abandoned)

    def close(self) -> None:
        """Let go of the shard."""
        self._port.close()

    def _do(self, operation: Callable[[Any], Any]) -> Any:
        while True:
            try:
                return operation(self._port)
            except OwnerGone:
                self._settle()

    def _settle(self) -> None:
        """Connect to the next owner that lives."""
        while True:
            found = self._directory.newer(self.index, self._generation)
            self._generation = found.generation
            before, self._port = self._port, None
            if before is not None:
                before.close()
            try:
                self._port = (
                    MappedShard(self._plan, found.place) if found.node == self._node else self._connect(self._plan)
                )
                return
            except OwnerGone:
                continue
