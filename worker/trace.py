"""Who pulled and pushed what version when: the record of a run's operations, in the order in which they happened.

It can be drawn as a timeline (deploy/timeline.py) and replayed (deploy/replay.py). A recorded run in processes and a simulated
one have the same format: safetensors with one array per column, and plain values as JSON in its header. In processes rows are in
the order of their times, which may be a little off between two workers; at each shard the versions say what came first.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ps.errors import RunDirectoryError

# What happened at a shard; what a replica did by itself: it took a gradient, began, got a range to work on, took over a pull
# that it had not waited for, was told to finish, ended; and what was done to it: all shards were told that it has left.
KINDS = ("pull", "push", "exchange", "contribute", "compute", "begin", "work", "land", "finish", "end", "leave")
PULL, PUSH, EXCHANGE, CONTRIBUTE, COMPUTE, BEGIN, WORK, LAND, FINISH, END, LEAVE = range(11)

TRACE_FILE = "trace.safetensors"  # in a run directory

# Of each column: array's type code, numpy's type, meaning.
COLUMNS = {
    "time": ("d", "float64", "seconds since the start (virtual in a simulation) at which it happened"),
    "seconds": ("d", "float64", "compute: how long it takes from then on"),
    "loss": ("d", "float64", "compute: mean loss over the batch"),
    "kind": ("b", "int8", "index into KINDS"),
    "replica": ("i", "int32", "whose operation it is"),
    "incarnation": ("i", "int32", "of that replica"),
    "shard": ("i", "int32", "where it happened, -1 for none"),
    "version": (
        "q",
        "int64",
        "of the shard: the one read by a pull, the one after any other (of a contribution: after its step,"
        " or that which it came too late for); work: epoch",
    ),
    "staleness": ("q", "int64", "of a push or an exchange, else -1; work: first position in the epoch's order"),
    "clock": ("q", "int64", "steps that the replica had finished; work: position after the last"),
}

ROW = np.dtype([(name, kind) for name, (_, kind, _) in COLUMNS.items()])
ROW_FORMAT = "<" + "".join(code for code, _, _ in COLUMNS.values())  # the same for struct


class Trace:
    """Operations as columns; rows are appended as they happen.

    Args:
      limit: maximum number of rows kept, None for all; what comes later is only counted.
      replicas: replicas whose rows are kept, from the first; None for all. Rows of the others are only counted.

    Attributes:
      facts: plain values about the run.
      left_out: rows beyond the limits.
    """

    def __init__(self, limit: int | None = None, replicas: int | None = None):
        self.facts: dict[str, Any] = {}
        self.left_out = 0
        self._limit, self._replicas = limit, replicas
        self._columns = {name: array(code) for name, (code, _, _) in COLUMNS.items()}
        self._append = [column.append for column in self._columns.values()]

    def __len__(self) -> int:
        return len(self._columns["time"])

    @property
    def is_whole(self) -> bool:
        """Nothing was left out."""
        return self.left_out == 0

    def add(
        self,
        time: float,
        kind: int,
        replica: int,
        incarnation: int,
        shard: int = -1,
        version: int = -1,
        staleness: int = -1,
        clock: int = -1,
        seconds: float = 0.0,
        loss: float = 0.0,
    ) -> None:
        """Append one row; arguments as in ``COLUMNS``."""
        if self._limit is not None and len(self) >= self._limit:
            self.left_out += 1
            return
        if self._replicas is not None and replica >= self._replicas:
            self.left_out += 1
            return
        row = (time, seconds, loss, kind, replica, incarnation, shard, version, staleness, clock)
        for append, value in zip(self._append, row):
            append(value)

    def columns(self) -> dict[str, np.ndarray]:
        """name -> (rows,), views valid until the next row is added."""
        return {name: np.frombuffer(column, COLUMNS[name][1]) for name, column in self._columns.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and self._columns == other._columns

    __hash__ = None  # type: ignore[assignment]

    def extend(self, columns: Mapping[str, np.ndarray]) -> None:
        """Append rows given as columns; the limit does not hold for them."""
        for name, column in self._columns.items():
            column.frombytes(np.ascontiguousarray(columns[name], COLUMNS[name][1]).tobytes())

    def save(self, path: Path) -> None:
        """Write to ``path``.

        Raises:
          RunDirectoryError: it cannot be written.
        """
        from safetensors.numpy import save_file

        facts = {**self.facts, "left_out": self.left_out}
        try:
            save_file(
                {name: column.copy() for name, column in self.columns().items()}, path, {"facts": json.dumps(facts)}
            )
        except Exception as error:  # safetensors has an error class of its own for a full disk
            raise RunDirectoryError(f"{path}: the trace cannot be written: {error}") from error

    @staticmethod
    def load(path: Path) -> Trace:
        """Read what ``save`` has written.

        Raises:
          RunDirectoryError: no such file, or not a trace.
        """
        from safetensors import safe_open

        if not path.is_file():
            raise RunDirectoryError(f"{path}: no such trace; run the job with record = true")
        trace = Trace()
        try:
            with safe_open(path, "np") as file:
                trace.facts = json.loads((file.metadata() or {})["facts"])
                trace.left_out = int(trace.facts.pop("left_out"))
                columns = {name: file.get_tensor(name) for name in COLUMNS}
        except Exception as error:
            raise RunDirectoryError(f"{path}: is no trace: {error}") from error
        trace.extend(columns)
        return trace
