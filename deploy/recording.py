"""Recording of a run in processes: each worker writes its operations to a file, and the launcher makes one trace of them.

Nothing is shared and nothing waits: a shard's version, which every write raises by one and every pull names, says in which order
things happened there. So recording needs shards that apply one update at a time and reads that are of one version.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ps.errors import RunDirectoryError
from ps.shard import Applied, Shard
from ps.state import State
from worker import trace
from worker.effects import Range
from worker.replica import Replica
from worker.task_calls import TaskCalls
from worker.trace import Trace

FOLDER = "trace"  # of the workers' files, in the run directory while the run lasts


class _Rows:
    """A file of rows, written through a mapping: no call of the system per row, and yet a kill loses none that is in it.

    Args:
      path: must not exist. What lies behind the last row, if the file is not closed, is zeros.
    """

    FIRST_BYTES = 1 << 20

    def __init__(self, path: Path):
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._pack_into = struct.Struct(trace.ROW_FORMAT).pack_into
        self._end = 0
        self._map = self._mapped(self.FIRST_BYTES)

    def append(self, *values: float) -> None:
        """One row, values in the order of ``trace.COLUMNS``."""
        end = self._end + trace.ROW.itemsize
        if end > len(self._map):
            size = 2 * len(self._map)
            self._map.close()
            self._map = self._mapped(size)
        self._pack_into(self._map, self._end, *values)
        self._end = end

    def close(self) -> None:
        """Cut off what was not needed."""
        self._map.close()
        os.ftruncate(self._file, self._end)
        os.close(self._file)

    def _mapped(self, size: int) -> mmap.mmap:
        try:
            os.posix_fallocate(self._file, 0, size)  # a full disk would else be a fatal signal at some later write
        except OSError as error:
            raise RunDirectoryError(
                f"{self._path}: the record cannot be written: {error.strerror}; leave record = true out"
            ) from error
        return mmap.mmap(self._file, size)

    @staticmethod
    def read(path: Path) -> np.ndarray:
        """All whole rows of a file, whether or not it was closed."""
        rows = np.fromfile(path, trace.ROW, path.stat().st_size // trace.ROW.itemsize)
        return rows[rows["incarnation"] > 0]


class Recorder:
    """Writes one incarnation's operations as they happen.

    Args:
      folder: there already.
      replica: whose operations these are; its clock is read at each.
    """

    def __init__(self, folder: Path, replica: Replica):
        self._replica = replica
        self._rows = _Rows(folder / f"{replica.id}-{replica.incarnation}.rows")
        self._append = self._rows.append
        self.add(trace.BEGIN)

    def add(
        self,
        kind: int,
        shard: int = -1,
        version: int = -1,
        staleness: int = -1,
        clock: int | None = None,
        began: float | None = None,
        loss: float = 0.0,
    ) -> None:
        """One row; arguments as in ``trace.COLUMNS``. ``began``: on ``time.perf_counter``, of what has lasted until now.

        Raises:
          RunDirectoryError: the disk is full, or the like.
        """
        now, replica = time.perf_counter(), self._replica
        at, seconds = (now, 0.0) if began is None else (began, now - began)
        clock = replica.clock if clock is None else clock
        self._append(at, seconds, loss, kind, replica.id, replica.incarnation, shard, version, staleness, clock)

    def note_range(self, part: Range) -> None:
        """The replica has got a range."""
        self.add(trace.WORK, -1, part.epoch, part.start, part.stop)

    def close(self) -> None:
        """Nothing more comes."""
        self.add(trace.END)
        self._rows.close()

    def watch(self, state: State) -> State:
        """The same shards, whose operations are recorded."""
        return replace(state, shards=tuple(_RecordedShard(shard, self) for shard in state.shards))

    def watch_task(self, task: Any, dataset: Any, layout: Any) -> TaskCalls:
        """Calls of the task, whose gradients are recorded."""
        return _RecordedCalls(task, dataset, layout, self)


class _RecordedShard:
    """What a link asks of a shard, and a row for each."""

    def __init__(self, shard: Shard, recorder: Recorder):
        self._shard, self._add = shard, recorder.add
        self.range, self.index = shard.range, shard.index

    @property
    def version(self) -> int:
        return self._shard.version

    @property
    def rounds(self) -> int:
        return self._shard.rounds

    def pull(self, out: np.ndarray, reader: int | None = None, consistent: bool = False) -> int:
        version = self._shard.pull(out, reader, consistent)
        self._add(trace.PULL, self.index, version)
        return version

    def push(self, *arguments: Any, **options: Any) -> Applied:
        return self._noted(trace.PUSH, self._shard.push(*arguments, **options))

    def exchange(self, *arguments: Any, **options: Any) -> Applied:
        return self._noted(trace.EXCHANGE, self._shard.exchange(*arguments, **options))

    def contribute(self, payload: np.ndarray, stamp: Any, *, version: int, **facts: Any) -> Applied:
        applied = self._shard.contribute(payload, stamp, version=version, **facts)
        if applied.dropped and applied.round:
            return applied  # nothing has happened, see ``Applied``
        # Who makes the step sees the version after it, the others that before it.
        after = applied.version if applied.dropped else version + applied.staleness + 1
        self._add(trace.CONTRIBUTE, self.index, after, applied.staleness)
        return applied

    def _noted(self, kind: int, applied: Applied) -> Applied:
        if not applied.duplicate:
            self._add(kind, self.index, applied.version, applied.staleness)
        return applied


class _RecordedCalls(TaskCalls):
    def __init__(self, task: Any, dataset: Any, layout: Any, recorder: Recorder):
        super().__init__(task, dataset, layout)
        self._recorder = recorder

    def gradient(self, point: np.ndarray, examples: np.ndarray) -> tuple[float, Any]:
        began = time.perf_counter()
        loss, gradient = super().gradient(point, examples)
        self._recorder.add(trace.COMPUTE, began=began, loss=loss)
        return loss, gradient


class Recording:
    """The launcher's side: where workers write, and the trace at the end.

    Args:
      run: the run directory.
      started: on ``time.perf_counter``; times of the trace count from there.
    """

    def __init__(self, run: Path, started: float):
        self._run, self.folder, self.started = run, run / FOLDER, started
        self._own = Trace()
        try:
            shutil.rmtree(self.folder, ignore_errors=True)  # of a run that is gone on with
            self.folder.mkdir()
        except OSError as error:
            raise RunDirectoryError(f"{self.folder}: cannot be made: {error.strerror}") from error

    def note_leave(self, replica: int, incarnation: int) -> None:
        """All shards are being told that a replica has left."""
        self._own.add(time.perf_counter(), trace.LEAVE, replica, incarnation)

    def finish(self, facts: Mapping[str, Any], shards: Sequence[Shard]) -> None:
        """Make ``trace.safetensors`` of the workers' files, once all have ended.

        Args:
          facts: plain values about the run.
          shards: as they are now.
        """
        own = np.zeros(len(self._own), trace.ROW)
        for name, column in self._own.columns().items():
            own[name] = column
        files = sorted(self.folder.iterdir())
        found = np.concatenate([own, *map(_Rows.read, files)])
        found["time"] -= self.started
        found = found[np.argsort(found["time"], kind="stable")]
        whole = Trace()
        whole.extend({name: found[name] for name in trace.COLUMNS})
        whole.facts = {
            **facts,
            "versions": [shard.version for shard in shards],
            "torn_updates": sum(shard.counts()["torn_updates"] for shard in shards),
        }
        whole.save(self._run / trace.TRACE_FILE)
        shutil.rmtree(self.folder, ignore_errors=True)
