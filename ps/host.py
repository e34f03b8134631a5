"""A shard by itself: its segment of shared memory, its lock file, and what a process of the same host needs to map them.

The owner serves the shard to other hosts; replicas beside it map the segment and step it in place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ps.admission import Clocks
from ps.checkpoint import load_shard, shard_arrays
from ps.layout import Layout
from ps.locks import LockFile
from ps.rules.base import UpdateRule
from ps.segment import SharedArrays, Specs, start_time
from ps.shard import Shard, ShardOptions
from ps.state import build_shard, shard_specs


@dataclass(frozen=True)
class Place:
    """Where the memory of a shard lies on its host.

    Attributes:
      segment, locks: names to attach by.
      pid, started: the owner's process and its start time (see ``ps.segment.start_time``).
    """

    segment: str
    locks: str
    pid: int
    started: str

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class ShardPlan:
    """Which shard of what: the same for its owner and for everybody who maps it.

    Attributes:
      index: of the shard. count: shards of the job.
      layout: of the whole vector. rule: of the shards. options: of the shards.
      more: further arrays that share the segment, e.g. the locks of a sweep.
    """

    index: int
    count: int
    layout: Layout
    rule: UpdateRule
    options: ShardOptions
    more: Specs

    def specs(self) -> Specs:
        """All arrays of the segment; the clocks of all replicas lie at shard 0."""
        part = self.layout.shards(self.count)[self.index]
        clocks = Clocks.specs(self.options.replicas) if self.index == 0 else {}
        return {**shard_specs(self.layout, part, self.rule, self.options), **clocks, **self.more}

    def build(self, arrays: Mapping[str, np.ndarray], lock: Any) -> Shard:
        """The shard over arrays of ``specs``."""
        part = self.layout.shards(self.count)[self.index]
        return build_shard(self.index, part, self.layout, self.rule, self.options, arrays, lock)


class ShardHost:
    """The owner of one shard.

    Args:
      plan: which shard.

    Raises:
      MemoryShortage: shared memory has no room for it.
    """

    def __init__(self, plan: ShardPlan):
        self.plan = plan
        self._segment = SharedArrays.create(plan.specs(), f"shard{plan.index}")
        self._locks = LockFile()
        self.shard = plan.build(self._segment, self._locks.lock(0))
        self.clocks = Clocks.of(self._segment) if plan.index == 0 else None

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """Everything in the segment."""
        return self._segment

    def place(self) -> Place:
        """For processes of this host."""
        pid = os.getpid()
        return Place(self._segment.name, self._locks.path.name, pid, start_time(pid))

    def begin(self, center: np.ndarray) -> None:
        """Take initial values (n,) of this shard's part of the center."""
        np.copyto(self.shard.center, center)
        self.shard.rule.initialise(self.shard.center, self.shard.slots)

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from what ``cut`` gave."""
        with self.shard.lock:
            load_shard(self.shard, arrays)

    def cut(self) -> dict[str, np.ndarray]:
        """Copies of all that the shard must not forget, as of one moment."""
        with self.shard.lock:
            return shard_arrays(self.shard)

    def close(self) -> None:
        """Give the shared memory back."""
        self._segment.close()
        self._locks.close()
