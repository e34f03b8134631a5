"""All shards of one host over one set of arrays: the whole center lies there as one vector, each shard sees its range of it.

That the vector is whole lets a Hogwild! sweep step it without knowing of shards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ps.layout import Layout, Parameter, Range
from ps.locks import Lock
from ps.reader_memory import ReaderMemory, capacity
from ps.rounds import Round
from ps.rules.base import UpdateRule
from ps.segment import Specs
from ps.shard import HEADER_WORDS, Shard, ShardOptions

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class State:
    """The shards of one host.

    Attributes:
      layout: of the whole vector.
      shards: in the order of their ranges.
      arrays: what they are views of; ``center`` (N,) and ``slot.NAME`` (N,) are whole.
    """

    layout: Layout
    shards: tuple[Shard, ...]
    arrays: Arrays

    @property
    def center(self) -> np.ndarray:
        """The whole center (N,), to be changed in place by Hogwild! only."""
        return self.arrays["center"]


def state_specs(layout: Layout, count: int, rule: UpdateRule, options: ShardOptions) -> Specs:
    """Names, shapes and dtypes of the arrays that ``count`` shards need."""
    specs: dict[str, tuple[tuple[int, ...], str]] = {"center": ((layout.size,), layout.dtype)}
    for slot in rule.slots:
        specs[f"slot.{slot}"] = ((layout.size,), layout.dtype)
    for table in layout.tables:
        specs[f"row_steps.{table.name}"] = ((table.shape[0],), "int64")
    readers = _readers(layout, rule, options)
    for index, part in enumerate(layout.shards(count)):
        specs[f"{index}.header"] = ((HEADER_WORDS,), "int64")
        specs[f"{index}.watermarks"] = ((options.replicas, 2), "int64")
        if readers:
            specs[f"{index}.memory"] = ((readers, part.size), layout.dtype)
            specs[f"{index}.owners"] = ((readers,), "int64")
        if options.rounds:
            specs[f"{index}.contributions"] = ((options.replicas, part.size), layout.dtype)
            specs[f"{index}.mean"] = ((part.size,), layout.dtype)
            specs[f"{index}.laid"] = ((options.replicas,), "int64")
            specs[f"{index}.members"] = ((options.replicas,), "int64")
    return specs


def private_arrays(specs: Specs) -> dict[str, np.ndarray]:
    """The arrays in this process's own memory, as zeros."""
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in specs.items()}


def build_state(
    layout: Layout,
    count: int,
    rule: UpdateRule,
    options: ShardOptions,
    arrays: Arrays,
    lock: Callable[[int], Lock] = lambda _index: threading.Lock(),
) -> State:
    """Shards over ``arrays`` (of ``state_specs`` with the same arguments). ``lock(i)`` is the lock of shard i."""
    shards = tuple(
        _shard(index, part, layout, rule, options, arrays, lock(index))
        for index, part in enumerate(layout.shards(count))
    )
    return State(layout, shards, arrays)


def initialise(state: State, parameters: Mapping[str, np.ndarray]) -> None:
    """Write initial parameters into the center and initial values into the slots."""
    state.layout.flatten(parameters, out=state.center)
    for shard in state.shards:
        shard.rule.initialise(shard.center, shard.slots)


def _readers(layout: Layout, rule: UpdateRule, options: ShardOptions) -> int:
    if rule.remembers is None:
        return 0
    return capacity(options.memory_bytes, layout.nbytes, options.replicas)


def _shard(
    index: int, part: Range, layout: Layout, rule: UpdateRule, options: ShardOptions, arrays: Arrays, lock: Lock
) -> Shard:
    memory = None
    if rule.remembers is not None:
        memory = ReaderMemory(
            arrays.get(f"{index}.memory", np.zeros((0, part.size), layout.dtype)),
            arrays.get(f"{index}.owners", np.zeros(0, np.int64)),
        )
    synchronous = None
    if options.rounds:
        names = ("contributions", "mean", "laid", "members")
        synchronous = Round(*(arrays[f"{index}.{name}"] for name in names), backups=options.backups)
    return Shard(
        index=index,
        range=part,
        layout=layout,
        rule=rule,
        center=part.of(arrays["center"]),
        slots={slot: part.of(arrays[f"slot.{slot}"]) for slot in rule.slots},
        header=arrays[f"{index}.header"],
        watermarks=arrays[f"{index}.watermarks"],
        row_steps={table.name: _rows_of(table, part, arrays[f"row_steps.{table.name}"]) for table in layout.tables},
        lock=lock,
        options=options,
        memory=memory,
        round=synchronous,
    )


def _rows_of(table: Parameter, part: Range, row_steps: np.ndarray) -> np.ndarray:
    """Step counts of the rows of ``table`` that lie in ``part``."""
    first = (min(max(part.start, table.offset), table.stop) - table.offset) // table.width
    last = (min(max(part.stop, table.offset), table.stop) - table.offset) // table.width
    return row_steps[first:last]
