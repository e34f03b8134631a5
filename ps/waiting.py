"""Waiting for a word in shared memory: spin for a moment, then look again ever less often."""

from __future__ import annotations

import time
from collections.abc import Callable

_SPINS, _SPIN_S = 200, 1e-3  # whichever is over first: a look may be a call to another host
_FIRST_PAUSE_S, _LAST_PAUSE_S = 20e-6, 1e-3


def wait_until(done: Callable[[], bool], abandoned: Callable[[], None]) -> None:
    """Return once ``done()`` holds; ``abandoned`` is called between two looks and may raise to stop waiting."""
    until = time.perf_counter() + _SPIN_S
    for _ in range(_SPINS):
        if done():
            return
        if time.perf_counter() > until:
            break
    pause = _FIRST_PAUSE_S
    while not done():
        abandoned()
        time.sleep(pause)
        pause = min(pause * 1.5, _LAST_PAUSE_S)
