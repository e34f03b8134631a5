"""The link for shards that lie apart: each has a port of its own, mapped where its owner is on this host, remote elsewhere.

Operations on several shards overlap: those that travel are started first, those in mapped memory are done meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import numpy as np

from ps.layout import Layout
from ps.shard import Applied, Stamp
from ps.stepper import Payload, split_payload
from ps.transport.port import Port
from ps.transport.together import Together


class ShardedLink:
    """Keeps the contract of ``ps.transport.link.Link`` over one port per shard.

    Args:
      layout: of the whole vector.
      ports: of all shards, in their order. One with methods ``start_pull``, ``start_push``, ``start_exchange`` and a true
        ``remote`` is overlapped with the others.
      replica: this replica's id.
      incarnation: of the process that is this replica now.
      consistent: pull each shard so that it is of one version.
      abandoned: asked while waiting for a synchronous step; raise in it to stop waiting.

    Attributes:
      seen: of each shard: the generation of its owner, 0 where ports know none, and the highest version in its answers.
    """

    def __init__(
        self,
        layout: Layout,
        ports: Sequence[Port],
        replica: int = 0,
        incarnation: int = 1,
        *,
        consistent: bool = False,
        abandoned: Callable[[], None] = lambda: None,
    ):
        self.layout, self.ports, self.replica, self.incarnation = layout, tuple(ports), replica, incarnation
        self.consistent = consistent
        self._sequence = 0
        self._steps = Together(self.ports, abandoned)
        self._transfers = threading.Lock()
        self._under_way: list[Future] = []
        self._places = {id(port): index for index, port in enumerate(self.ports)}
        self.seen = [(0, 0)] * len(self.ports)

    @property
    def center(self) -> np.ndarray | None:
        """The whole center (N,) where a single shard holds it and is mapped."""
        return getattr(self.ports[0], "center", None) if len(self.ports) == 1 else None

    def hold(self, timeout_s: float) -> bool:
        """Begin no operation from now on, and wait for those under way; False if that takes too long."""
        deadline = time.monotonic() + timeout_s
        if not self._transfers.acquire(timeout=timeout_s):
            return False
        if wait(self._under_way, max(deadline - time.monotonic(), 0.0)).not_done:
            self._transfers.release()
            return False
        return True

    def release(self) -> None:
        """End a ``hold`` that succeeded."""
        self._transfers.release()

    def pull(self, out: np.ndarray) -> np.ndarray:
        """See ``Link.pull``."""
        self.layout.check_vector(out)
        calls = [(port, (port.range.of(out), self.replica, self.consistent), {}) for port in self.ports]
        return np.array(self._together("pull", calls), np.int64)

    def push(
        self,
        payload: Payload,
        versions: np.ndarray,
        *,
        count: int = 1,
        gradient_norm: float | None = None,
        epoch: int = 0,
    ) -> np.ndarray:
        """See ``Link.push``."""
        return self.begin_push(payload, versions, count=count, gradient_norm=gradient_norm, epoch=epoch)()

    def begin_push(
        self,
        payload: Payload,
        versions: np.ndarray,
        *,
        count: int = 1,
        gradient_norm: float | None = None,
        epoch: int = 0,
    ) -> Callable[[], np.ndarray]:
        """Send a push; what is returned waits for the staleness. Leave ``payload`` as it is until then."""
        if isinstance(payload, np.ndarray):
            self.layout.check_vector(payload)
        stamp = self._stamp()
        touched, calls = [], []
        for index, (port, version) in enumerate(zip(self.ports, versions.tolist())):
            part = split_payload(payload, self.layout, port.range)
            if part is not None:
                facts = {"version": version, "count": count, "gradient_norm": gradient_norm, "epoch": epoch}
                touched.append(index)
                calls.append((port, (part, stamp), facts))
        with self._transfers:
            answers = self._start("push", calls)

        def staleness() -> np.ndarray:
            found = np.full(len(self.ports), -1, np.int64)
            for index, applied in zip(touched, self._settle(answers)):
                found[index] = applied.staleness
            return found

        return staleness

    def push_together(self, payload: np.ndarray, versions: np.ndarray, *, epoch: int = 0) -> np.ndarray:
        """See ``Link.push_together``."""
        self.layout.check_vector(payload)
        parts = [port.range.of(payload) for port in self.ports]

        def lay(indices: Iterable[int], number: int) -> list[Applied]:
            stamp = self._stamp()  # a new one each time: nothing is taken for a retry
            facts = [{"version": int(versions[index]), "epoch": epoch, "number": number} for index in indices]
            calls = [(self.ports[i], (parts[i], stamp), fact) for i, fact in zip(indices, facts)]
            return self._together("contribute", calls)

        return self._steps.step(lay)

    def exchange(self, x: np.ndarray, alpha: float, versions: np.ndarray) -> np.ndarray:
        """See ``Link.exchange``."""
        self.layout.check_vector(x)
        stamp = self._stamp()
        calls = [
            (port, (port.range.of(x), alpha, stamp), {"version": version})
            for port, version in zip(self.ports, versions.tolist())
        ]
        answers: list[Applied] = self._together("exchange", calls)
        versions[:] = [answer.version for answer in answers]
        return np.array([answer.staleness for answer in answers], np.int64)

    def versions(self) -> np.ndarray:
        """See ``Link.versions``."""
        return np.array([port.version for port in self.ports], np.int64)

    def note_updates(self, count: int) -> int:
        """See ``Link.note_updates``."""
        return [port.note_updates(count) for port in self.ports][0]

    def _together(self, name: str, calls: list[tuple[Any, tuple, dict[str, Any]]]) -> list[Any]:
        """Call ``name`` on several ports; their answers in order."""
        with self._transfers:
            return self._settle(self._start(name, calls))

    def _start(self, name: str, calls: list[tuple[Any, tuple, dict[str, Any]]]) -> list[Any]:
        """Call ``name`` on several ports: first all that travel, then, meanwhile, the others; answers or futures, in order."""
        travelling = {
            index: getattr(port, f"start_{name}")(*args, **facts)
            for index, (port, args, facts) in enumerate(calls)
            if getattr(port, "remote", False)
        }
        self._under_way = [future for future in self._under_way if not future.done()] + list(travelling.values())
        for index, future in travelling.items():
            future.add_done_callback(partial(self._note_travelled, calls[index][0]))
        try:
            return [
                travelling[index] if index in travelling else self._note(port, getattr(port, name)(*args, **facts))
                for index, (port, args, facts) in enumerate(calls)
            ]
        except BaseException:  # those that travel still read and write the caller's arrays
            wait(travelling.values())
            raise

    def _settle(self, answers: list[Any]) -> list[Any]:
        """Wait for what travels; raises what failed once nothing is under way any more."""
        wait(answer for answer in answers if isinstance(answer, Future))
        return [answer.result() if isinstance(answer, Future) else answer for answer in answers]

    def _note_travelled(self, port: Any, future: Future) -> None:
        if not future.cancelled() and future.exception() is None:
            self._note(port, future.result())

    def _note(self, port: Any, answer: Any) -> Any:
        """Remember the version in an answer as soon as it is there: before the port can know of a later owner."""
        index, version = self._places[id(port)], answer.version if isinstance(answer, Applied) else int(answer)
        generation = getattr(port, "generation", 0)
        known, highest = self.seen[index]
        self.seen[index] = (generation, max(version, highest) if generation == known else version)
        return answer

    def _stamp(self) -> Stamp:
        self._sequence += 1
        return Stamp(self.replica, self.incarnation, self._sequence)
