"""The bound on the memory of an actor: Ray keeps it free on the node, and whoever takes more is told of."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ps.errors import MemoryShortage

_LOOK_S = 0.5
MB = 1_000_000


def reserved(limit_mb: float | None) -> dict[str, int]:
    """Keyword argument of an actor's options: what Ray keeps free for it."""
    return {} if limit_mb is None else {"memory": int(limit_mb * MB)}


def watch(limit_mb: float | None, what: str, key: str, exceeded: Callable[[MemoryShortage], None]) -> None:
    """Look at this process's own memory from time to time; once it is over the bound, ``exceeded`` is called, once.

    Memory that processes share, such as the data set and a shard's arrays, is not counted.

    Args:
      limit_mb: in MB (10^6 bytes); None: no bound.
      what: name of the actor. key: the key of ``[cluster]`` with its bound.
    """
    if limit_mb is None:
        return

    def look() -> None:
        while (taken := own_memory()) <= limit_mb * MB:
            time.sleep(_LOOK_S)
        exceeded(
            MemoryShortage(
                f"{what} took {taken / MB:.0f} MB of memory, its bound is {limit_mb:g} MB; raise [cluster] {key}, or lower "
                "[data] batch_size"
            )
        )

    threading.Thread(target=look, name="memory", daemon=True).start()


def own_memory() -> int:
    """Bytes of memory that this process shares with nobody."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next((int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:")), 0)
