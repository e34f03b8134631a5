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
    for index, part in enumerate(layout.shards(count)):
        specs |= {f"{index}.{name}": spec for name, spec in _word_specs(layout, part, rule, options).items()}
    return specs


def shard_specs(layout: Layout, part: Range, rule: UpdateRule, options: ShardOptions) -> Specs:
    """Names, shapes and dtypes of the arrays of one shard that lies somewhere by itself; see ``build_shard``."""
    specs: dict[str, tuple[tuple[int, ...], str]] = {"center": ((part.size,), layout.dtype)}
    for slot in rule.slots:
        specs[f"slot.{slot}"] = ((part.size,), layout.dtype)
    for table in layout.tables:
        first, last = _rows_of(table, part)
        specs[f"row_steps.{table.name}"] = ((last - first,), "int64")
    return {**specs, **_word_specs(layout, part, rule, options)}


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
        _part_of_state(index, part, layout, rule, options, arrays, lock(index))
        for index, part in enumerate(layout.shards(count))
    )
    return State(layout, shards, arrays)


def initialise(state: State, parameters: Mapping[str, np.ndarray]) -> None:
    """Write initial parameters into the center and initial values into the slots."""
    state.layout.flatten(parameters, out=state.center)
    for shard in state.shards:
        shard.rule.initialise(shard.center, shard.slots)


def build_shard(
    index: int, part: Range, layout: Layout, rule: UpdateRule, options: ShardOptions, arrays: Arrays, lock: Lock
) -> Shard:
    """One shard over arrays of its own (of ``shard_specs``)."""
    slots = {slot: arrays[f"slot.{slot}"] for slot in rule.slots}
    row_steps = {table.name: arrays[f"row_steps.{table.name}"] for table in layout.tables}
    return _shard(index, part, layout, rule, options, arrays["center"], slots, row_steps, arrays, lock)


def _word_specs(layout: Layout, part: Range, rule: UpdateRule, options: ShardOptions) -> Specs:
    """What a shard needs besides its part of the vectors."""
    specs: dict[str, tuple[tuple[int, ...], str]] = {
        "header": ((HEADER_WORDS,), "int64"),
        "watermarks": ((options.replicas, 2), "int64"),
    }
    readers = _readers(layout, rule, options)
    if readers:
        specs["memory"] = ((readers, part.size), layout.dtype)
        specs["owners"] = ((readers,), "int64")
    if options.rounds:
        specs["contributions"] = ((options.replicas, part.size), layout.dtype)
        specs["mean"] = ((part.size,), layout.dtype)
        specs["laid"] = ((options.replicas,), "int64")
        specs["members"] = ((options.replicas,), "int64")
    return specs


def _readers(layout: Layout, rule: UpdateRule, options: ShardOptions) -> int:
    if rule.remembers is None:
        return 0
    return capacity(options.memory_bytes, layout.nbytes, options.replicas)


def _part_of_state(
    index: int, part: Range, layout: Layout, rule: UpdateRule, options: ShardOptions, arrays: Arrays, lock: Lock
) -> Shard:
    """A shard as a view of the whole vectors."""
    slots = {slot: part.of(arrays[f"slot.{slot}"]) for slot in rule.slots}
    row_steps = {
        table.name: arrays[f"row_steps.{table.name}"][slice(*_rows_of(table, part))] for table in layout.tables
    }
    words = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{index}.")}
    return _shard(index, part, layout, rule, options, part.of(arrays["center"]), slots, row_steps, words, lock)


def _shard(
    index: int,
    part: Range,
    layout: Layout,
    rule: UpdateRule,
    options: ShardOptions,
    center: np.ndarray,
    slots: dict[str, np.ndarray],
    row_steps: dict[str, np.ndarray],
    words: Arrays,
    lock: Lock,
) -> Shard:
    memory = None
    if rule.remembers is not None:
        memory = ReaderMemory(
            words.get("memory", np.zeros((0, part.size), layout.dtype)), words.get("owners", np.zeros(0, np.int64))
        )
    synchronous = None
    if options.rounds:
        names = ("contributions", "mean", "laid", "members")
        synchronous = Round(*(words[name] for name in names), backups=options.backups)
    return Shard(
        index=index,
        range=part,
        layout=layout,
        rule=rule,
        center=center,
        slots=slots,
        header=words["header"],
        watermarks=words["watermarks"],
        row_steps=row_steps,
        lock=lock,
        options=options,
        memory=memory,
        round=synchronous,
    )


def _rows_of(table: Parameter, part: Range) -> tuple[int, int]:
    """First and last + 1 of the rows of ``table`` that lie in ``part``."""
    first = (min(max(part.start, table.offset), table.stop) - table.offset) // table.width
    last = (min(max(part.stop, table.offset), table.stop) - table.offset) // table.width
    return first, last
