"""How a replica takes part in synchronous steps of several shards, of which any may be lost and begin anew.

Steps are numbered, and a contribution says for which one it is. That keeps replicas in step where something was lost: a shard
that was restored from a checkpoint is some steps behind; whoever was waiting lays its contribution down there again, and whoever
has seen that step made everywhere comes with the next one, which tells the shard that the step is over (``Shard.contribute``).
A replica that joins finds out which step is open: it is told so where its contribution is refused.

Nobody waits for ever: of the replicas that wait, take one with the lowest number g, and the shard where it waits. Each of the
others has laid a contribution down there, at the owner that lives. One with a higher number ends step g; if all are for g, it is
made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ps.shard import Applied
from ps.transport.link import LATE
from ps.transport.port import Port
from ps.waiting import wait_until


class Together:
    """Counts the synchronous steps of one replica and waits for them.

    Args:
      ports: of all shards, in their order. Where one has a ``generation``, it changes with the shard's owner.
      abandoned: asked while waiting; raise in it to stop waiting.
    """

    def __init__(self, ports: Sequence[Port], abandoned: Callable[[], None]):
        self._ports, self._abandoned = tuple(ports), abandoned
        self._number = 0  # of the last step

    def step(self, lay: Callable[[Iterable[int], int], list[Applied]]) -> np.ndarray:
        """Take part in the next step and wait until all shards have made it.

        Args:
          lay: lays the contribution down at these shards, to the step of this number; gives their answers, in order.

        Returns:
          int64 (S,), as of ``Link.push_together``.
        """
        everywhere = range(len(self._ports))
        number = self._number + 1
        while True:
            generations = [_generation(port) for port in self._ports]  # before: to lay one down twice changes nothing
            answers = lay(everywhere, number)
            if any(map(_is_late, answers)):
                return _staleness(answers)
            made = [answer.round for answer in answers if answer.dropped]
            if len(made) < len(answers):
                break
            number = _open_step(made)
        self._number = max(number, _open_step(made) - 1) if made else number
        self._wait(number, lay, answers, generations)
        return _staleness(answers)

    def _wait(self, number: int, lay: Callable, answers: list[Applied], generations: list[int]) -> None:
        """Wait for the step at all shards, and lay the contribution down again where the owner that had it is gone."""
        waiting = {index for index, answer in enumerate(answers) if not answer.dropped}
        while waiting:
            first = min(waiting)
            if self._made(first, answers[first].round, generations):
                waiting.discard(first)
                continue
            for index in self._moved(generations):  # also where the step was made: others may still wait for it there
                generations[index] = _generation(self._ports[index])
                (answers[index],) = lay([index], number)
                if answers[index].dropped:
                    waiting.discard(index)
                else:
                    waiting.add(index)

    def _made(self, index: int, number: int, generations: list[int]) -> bool:
        """Wait for a shard to make the step ``number``; False if any shard has another owner now."""

        def abandoned() -> None:
            self._abandoned()
            if self._moved(generations):
                raise _Moved

        try:
            _wait_for_round(self._ports[index], number, abandoned)
        except _Moved:
            return False
        return True

    def _moved(self, generations: list[int]) -> list[int]:
        for port in self._ports:
            if hasattr(port, "generation") and not getattr(port, "remote", False):
                _ = port.rounds  # one that is mapped moves on when it is used
        return [index for index, port in enumerate(self._ports) if _generation(port) != generations[index]]


class _Moved(Exception):
    """A shard is served by another owner now."""


def _generation(port: Port) -> int:
    return getattr(port, "generation", 0)


def _open_step(made: list[int]) -> int:
    """The step that replicas are at where shards have made so many: not all have made it, or all have made the one before."""
    return max(min(made) + 1, max(made))


def _is_late(answer: Applied) -> bool:
    """Backup workers have made the step without it, see ``Applied.round``."""
    return answer.dropped and answer.round == 0


def _staleness(answers: Iterable[Applied]) -> np.ndarray:
    return np.array([LATE if _is_late(answer) else answer.staleness for answer in answers], np.int64)


def _wait_for_round(port: Port, number: int, abandoned: Callable[[], None]) -> None:
    """Return once ``port`` has made the synchronous step ``number``: asked of the shard itself where it can wait for us."""
    await_round = getattr(port, "await_round", None)
    if await_round is not None and getattr(port, "remote", False):
        await_round(number, abandoned)
        return
    wait_until(lambda: port.rounds >= number, abandoned)
