"""A worker process: one replica, told by its launcher what to train on and when to save or stop.

Messages are JSON objects over a pipe. To the worker: ``work`` (a range), ``save`` (a folder; then wait for ``go``), ``stop``
(at the end of this step; ``flush`` says whether the strategy is to finish), ``end``. From it: ``joined``, ``done`` (a range),
``saved``, ``finished``, ``error``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
import traceback
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from deploy.recording import Recorder
from deploy.setup import Setup
from ps.admission import Clocks
from ps.checkpoint import save_arrays
from ps.errors import HogsheadError, NonFiniteError, UsageError
from ps.transport.direct import DirectLink
from worker.driver import Driver, Work
from worker.effects import Range
from worker.gate import Gate
from worker.replica import Replica
from worker.statistics import Statistics
from worker.trace import FINISH

_PR_SET_PDEATHSIG = 1


class Stopped(Exception):
    """The launcher asked the worker to stop.

    Args:
      flush: push what has accrued, as the strategy does at its end; otherwise keep it for a run that goes on later.
    """

    def __init__(self, flush: bool):
        super().__init__()
        self.flush = flush


def send(connection: Connection, kind: str, **fields: Any) -> None:
    """Send one message."""
    connection.send_bytes(json.dumps({"kind": kind, **fields}).encode())


def receive(connection: Connection) -> dict[str, Any]:
    """Wait for one message."""
    return json.loads(connection.recv_bytes())


def die_with_parent() -> None:
    """Have the kernel kill this process when its launcher dies, however that happens."""
    if os.uname().sysname == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def worker_main(setup: Setup, replica_id: int, incarnation: int, connection: Connection, restored: Any = None) -> None:
    """Entry point of a forked worker process.

    Args:
      restored: (arrays, scalars) of this replica from a checkpoint, or None to start from the center.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C goes to the whole group; the launcher decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with threadpool_limits(1):
        worker = _Worker(setup, replica_id, incarnation, connection)
        try:
            worker.run(restored)
        except Exception as error:
            worker.end_record()
            send(connection, "error", **_error_fields(error))
            os._exit(1)
    os._exit(0)  # the launcher's own exit handlers, inherited by the fork, are not this process's business


def _error_fields(error: Exception) -> dict[str, Any]:
    """What the launcher has to know of an error; only what is a fault of ours needs its traceback."""
    expected = isinstance(error, (HogsheadError, UsageError))
    text = str(error) if expected else "".join(traceback.format_exception(error)).rstrip()
    return {"type": type(error).__name__, "message": text, "fatal": isinstance(error, (NonFiniteError, UsageError))}


class _Worker:
    """The worker's loop."""

    def __init__(self, setup: Setup, replica_id: int, incarnation: int, connection: Connection):
        self.setup, self.id, self.connection = setup, replica_id, connection
        self.mail = setup.arrays["mail"]
        self.read = 0  # messages taken from the pipe
        self.queue: deque[Work] = deque()
        self.stopping = self.ended = False
        job = setup.job
        self.replica = Replica(
            setup.layout,
            id=replica_id,
            peers=job.workers.count,
            incarnation=incarnation,
            local_rule=setup.local_rule,
            averaging=setup.averaging,
            seed=job.seed,
            sweeps=setup.sweeps,
        )
        setup.task.rng = self.replica.rng
        self.statistics = Statistics.of(setup.arrays, replica_id)
        self.recorder = None if setup.record_to is None else Recorder(setup.record_to, self.replica)
        link = DirectLink(
            setup.state if self.recorder is None else self.recorder.watch(setup.state),
            replica_id,
            incarnation,
            consistent=job.shards.reads == "consistent",
            abandoned=self._between_steps,
        )
        self.driver = Driver(
            self.replica,
            setup.strategy,
            setup.task,
            setup.dataset,
            link,
            setup.rule,
            self.statistics,
            setup.driver_options(),
            setup.locking(replica_id),
            calls=self.recorder and self.recorder.watch_task(setup.task, setup.dataset, setup.layout),
            gate=Gate(setup.policy, Clocks.of(setup.arrays), replica_id),
        )

    def run(self, restored: Any) -> None:
        """Work until told to stop."""
        if restored is None:
            self.driver.begin()
        else:
            self.replica.restore(*restored)
            self.driver.resumed()
        send(self.connection, "joined")
        try:
            while True:
                while not self.queue:
                    waited = time.perf_counter()
                    self._handle(receive(self.connection))
                    self.statistics.wait_seconds += time.perf_counter() - waited
                work = self.queue[0]
                started, waited = time.perf_counter(), self.statistics.wait_seconds
                self.driver.run(work, self._between_steps)
                waited = self.statistics.wait_seconds - waited  # for others, between steps
                self.statistics.busy_seconds += time.perf_counter() - started - waited
                self.queue.popleft()
                send(self.connection, "done", range=work.id)
        except Stopped as stopped:
            self.stopping = True
            if stopped.flush:
                if self.recorder is not None:
                    self.recorder.add(FINISH)
                self.driver.finish()
            self.driver.settle()
        self.end_record()
        send(self.connection, "finished")
        while not self.ended:
            self._handle(receive(self.connection))

    def end_record(self) -> None:
        """Nothing more will be recorded."""
        if self.recorder is not None:
            self.recorder.close()
            self.recorder = None

    def _between_steps(self) -> None:
        """Take messages that have come in; called after each step and while waiting for others."""
        while self.mail[self.id] > self.read:
            self._handle(receive(self.connection))

    def _handle(self, message: dict[str, Any]) -> None:
        self.read += 1
        kind = message["kind"]
        if kind == "work":
            part = Range(**message["range"])
            if self.recorder is not None:
                self.recorder.note_range(part)
            orders = self.setup.arrays["orders"]
            order = orders[part.epoch % len(orders)]
            # A copy, because the buffer is written again when a later epoch takes its place.
            self.queue.append(Work(part.id, part.epoch, np.array(order[part.start : part.stop])))
        elif kind == "save":
            self._save(Path(message["folder"]))
        elif kind == "stop" and not self.stopping:
            raise Stopped(message["flush"])
        elif kind == "end":
            self.ended = True

    def _save(self, folder: Path) -> None:
        """Write this replica's state; hold still until the launcher has copied the shards."""
        self.driver.settle()
        try:
            save_arrays(folder / f"replica-{self.id}.safetensors", self.replica.arrays())
            failure = None
        except HogsheadError as error:
            failure = str(error)
        work = self.queue[0] if self.queue else None
        at_hand = (work.id, work.position) if work else (-1, 0)
        send(self.connection, "saved", failure=failure, scalars=self.replica.scalars(), at_hand=at_hand)
        while (message := receive(self.connection))["kind"] != "go":
            self._handle(message)
        self.read += 1
