"""Where the shards of a run are served, as known in one process; told by the coordinator when a shard is served anew."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ps.host import Place
from ps.transport.following import Whereabouts

_LOOK_S = 0.05


class Endpoints:
    """Keeps ``ps.transport.following.Directory``.

    Args:
      stopped: asked while waiting for a shard to be served again; may raise to stop waiting.
    """

    def __init__(self, stopped: Callable[[], None] = lambda: None):
        self._known: dict[int, Whereabouts] = {}
        self._changed = threading.Condition()
        self.stopped = stopped

    def update(self, endpoints: Iterable[Mapping[str, Any]]) -> None:
        """Take news in; older ones than known are ignored."""
        with self._changed:
            for facts in endpoints:
                found = from_json(facts)
                known = self._known.get(found.index)
                if known is None or known.generation < found.generation:
                    self._known[found.index] = found
            self._changed.notify_all()

    def current(self, index: int) -> Whereabouts:
        """See ``Directory``."""
        with self._changed:
            return self._known[index]

    def newer(self, index: int, generation: int) -> Whereabouts:
        """See ``Directory``."""
        while True:
            with self._changed:
                found = self._known.get(index)
                if found is not None and found.generation > generation:
                    return found
                self._changed.wait(_LOOK_S)
            self.stopped()


def to_json(endpoint: Whereabouts) -> dict[str, Any]:
    """As plain values."""
    return asdict(endpoint)


def from_json(facts: Mapping[str, Any]) -> Whereabouts:
    """What ``to_json`` gave."""
    return Whereabouts(**{**facts, "place": Place(**facts["place"])})
