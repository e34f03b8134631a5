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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from deploy.recording import Recorder
from deploy.setup import Setup
from deploy.worker_loop import WorkerLoop, error_fields, new_replica
from ps.admission import Clocks
from ps.checkpoint import save_arrays
from ps.errors import HogsheadError
from ps.transport.direct import DirectLink
from worker.driver import Driver, Work
from worker.effects import Range
from worker.gate import Gate
from worker.randomness import global_arrays
from worker.statistics import Statistics
from worker.trace import FINISH

_PR_SET_PDEATHSIG = 1


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


def ignore_interrupts() -> None:
    """Leave ^C, SIGTERM and SIGHUP, which may go to the whole process group, to the launcher."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def worker_main(setup: Setup, replica_id: int, incarnation: int, connection: Connection, restored: Any = None) -> None:
    """Entry point of a forked worker process.

    Args:
      restored: (arrays, scalars) of this replica from a checkpoint, or None to start from the center.
    """
    die_with_parent()
    ignore_interrupts()
    with threadpool_limits(1):
        worker = None
        try:
            worker = _Worker(setup, replica_id, incarnation, connection)
            worker.run(restored)
        except Exception as error:
            if worker is not None:
                worker.end_record()
            send(connection, "error", **error_fields(error, setup))
            os._exit(1)
    os._exit(0)  # the launcher's own exit handlers, inherited by the fork, are not this process's business


class _Worker(WorkerLoop):
    """A worker around the shards of this machine, at the other end of a pipe."""

    def __init__(self, setup: Setup, replica_id: int, incarnation: int, connection: Connection):
        super().__init__()
        self.setup, self.id, self.connection = setup, replica_id, connection
        self.mail = setup.arrays["mail"]
        self.read = 0  # messages taken from the pipe
        job = setup.job
        self.replica = new_replica(setup, replica_id, incarnation)
        self.statistics = Statistics.of(setup.arrays, replica_id)
        self.recorder = None if setup.record_to is None else Recorder(setup.record_to, self.replica)
        link = DirectLink(
            setup.state if self.recorder is None else self.recorder.watch(setup.state),
            replica_id,
            incarnation,
            consistent=job.shards.reads == "consistent",
            abandoned=self.between_steps,
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

    def send(self, kind: str, **fields: Any) -> None:
        send(self.connection, kind, **fields)

    def receive(self) -> dict[str, Any]:
        message = receive(self.connection)
        self.read += 1
        return message

    def has_mail(self) -> bool:
        return self.mail[self.id] > self.read

    def between_steps(self) -> None:
        if self.setup.epoch_ends is not None:
            self.setup.epoch_ends.stepped()
        super().between_steps()

    def finished_range(self, work: Work) -> None:
        if self.setup.epoch_ends is not None:
            self.setup.epoch_ends.look()
        super().finished_range(work)

    def examples_of(self, part: Range) -> np.ndarray:
        if self.recorder is not None:
            self.recorder.note_range(part)
        orders = self.setup.arrays["orders"]
        order = orders[part.epoch % len(orders)]
        # A copy, because the buffer is written again when a later epoch takes its place.
        return np.array(order[part.start : part.stop])

    def finishing(self) -> None:
        if self.recorder is not None:
            self.recorder.add(FINISH)

    def ended_training(self) -> None:
        self.end_record()

    def end_record(self) -> None:
        """Nothing more will be recorded."""
        if self.recorder is not None:
            self.recorder.close()
            self.recorder = None

    def handle_more(self, message: dict[str, Any]) -> None:
        if message["kind"] == "save":
            self._save(Path(message["folder"]), message["number"])

    def _save(self, folder: Path, number: int) -> None:
        """Write this replica's state; hold still until the launcher has copied the shards."""
        self.driver.settle()
        try:
            save_arrays(folder / f"replica-{self.id}.safetensors", self.replica.arrays() | global_arrays())
            failure = None
        except HogsheadError as error:
            failure = str(error)
        work = self.queue[0] if self.queue else None
        at_hand = (work.id, work.position) if work else (-1, 0)
        self.send("saved", number=number, failure=failure, scalars=self.replica.scalars(), at_hand=at_hand)
        while (message := self.receive())["kind"] != "go":
            self.handle(message)
