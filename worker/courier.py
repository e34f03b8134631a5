"""Transfers in the background: one thread per replica carries pulls and pushes in order while the replica computes.

Copies and compiled updates release the GIL, so they run beside the computation of the gradient.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ps.rows import Rows
from worker.gradients import Gradient

UNDER_WAY_BYTES = 8 << 20
_MOST_UNDER_WAY = 2
_LARGE_BYTES = 64 << 20  # from here on another copy of the vector costs more than it gains


def window_of(nbytes: int) -> int:
    """Pushes of vectors of ``nbytes`` that may wait to be sent."""
    return 1 if nbytes >= _LARGE_BYTES else 2


def buffers_of(nbytes: int) -> int:
    """Copies of a vector of ``nbytes`` that pushes under way take."""
    return window_of(nbytes) + min(UNDER_WAY_BYTES // nbytes, _MOST_UNDER_WAY)


class Courier:
    """Carries operations one after another, in the order they were given.

    A push may be answered later than it is sent: small ones follow each other without waiting for answers, as many as fit a few
    megabytes.

    Args:
      size, dtype: of the flat vector.
      window: pushes waiting to be sent; one more waits for the oldest, so a slow link slows the replica down instead of
        filling its memory. None: as ``window_of`` says.
    """

    def __init__(self, size: int, dtype: str, window: int | None = None):
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="courier")
        self._arriving = np.zeros(size, dtype)
        self._under_way = min(UNDER_WAY_BYTES // self._arriving.nbytes, _MOST_UNDER_WAY)
        self._window = window_of(self._arriving.nbytes) if window is None else window
        self._buffers = [np.zeros(size, dtype) for _ in range(self._window + self._under_way)]
        self._pushes: deque[Future] = deque()
        self._answers: deque[Callable[[], None]] = deque()  # touched by the thread only
        self._pull: Future | None = None
        self._next = 0

    def fetch(self, pull: Callable[[np.ndarray], np.ndarray]) -> None:
        """Start ``pull`` unless one is under way already."""
        if self._pull is None:
            self._pull = self._thread.submit(pull, self._arriving)

    def arrived(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The vector fetched (valid until the next ``fetch``) and its versions, once it is there."""
        if self._pull is None or not self._pull.done():
            return None
        versions, self._pull = self._pull.result(), None
        return self._arriving, versions

    def send(self, payload: Gradient, push: Callable[[Gradient], Callable[[], None]]) -> None:
        """Start ``push`` with a copy of ``payload``, so that the caller may go on writing to its own.

        Args:
          push: sends; what it returns waits for the answer, and is called in the thread.
        """
        while len(self._pushes) >= self._window:
            self._pushes.popleft().result()
        self._pushes.append(self._thread.submit(self._carry, self._copy(payload), push))

    def drain(self) -> None:
        """Wait until everything under way is done; raises what a transfer raised."""
        while self._pushes:
            self._pushes.popleft().result()
        self._thread.submit(self._await_answers, 0).result()
        if self._pull is not None:
            self._pull.result()

    def close(self) -> None:
        """End the thread once its work is done."""
        self._thread.shutdown(wait=True)

    def _carry(self, payload: Gradient, push: Callable[[Gradient], Callable[[], None]]) -> None:
        self._await_answers(self._under_way)
        self._answers.append(push(payload))
        if not self._under_way:
            self._await_answers(0)

    def _await_answers(self, left: int) -> None:
        """Wait for the oldest answers, until only so many are open."""
        while len(self._answers) > max(left - 1, 0):
            self._answers.popleft()()

    def _copy(self, payload: Gradient) -> Gradient:
        if not isinstance(payload, np.ndarray):
            return {
                name: Rows(part.rows.copy(), part.values.copy()) if isinstance(part, Rows) else part.copy()
                for name, part in payload.items()
            }
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        np.copyto(buffer, payload)
        return buffer
