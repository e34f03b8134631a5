"""The loop of a worker: one replica, told by its launcher what to train on and when to stop.

Messages to the worker: ``work`` (a range), ``stop`` (at the end of this step; ``flush`` says whether the strategy is to finish),
``end``, and what a launcher's own workers understand besides. From it: ``joined``, ``done`` (a range), ``finished``.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np

from deploy.blueprint import Blueprint
from deploy.memory import worker_words
from ps.errors import HogsheadError, NonFiniteError, UsageError, shortened
from worker.driver import Driver, Work
from worker.effects import Range
from worker.randomness import restore_globals, seed_globals
from worker.replica import Replica
from worker.statistics import Statistics


class Stopped(Exception):
    """The launcher asked the worker to stop.

    Args:
      flush: push what has accrued, as the strategy does at its end; otherwise keep it for a run that goes on later.
    """

    def __init__(self, flush: bool):
        super().__init__()
        self.flush = flush


def error_fields(error: Exception, setup: Blueprint | None = None) -> dict[str, Any]:
    """What the launcher has to know of an error; only what is a fault of ours needs its traceback.

    Args:
      setup: the job made ready, once it is, to say what memory a worker needs.
    """
    import traceback

    lacking = error if isinstance(error, MemoryError) else error.__cause__
    if isinstance(lacking, MemoryError):  # the next process with the same limit would lack it as well
        taken = "" if setup is None else f"; this job takes at least {worker_words(setup)}"
        text = f"a worker lacks memory: {str(lacking) or 'an allocation failed'}{taken}; use a smaller model or batch"
        return {"type": "MemoryShortage", "message": text, "fatal": True}

    expected = isinstance(error, (HogsheadError, UsageError))
    text = str(error) if expected else "".join(traceback.format_exception(error)).rstrip()
    return {
        "type": type(error).__name__,
        "message": shortened(text),
        "fatal": isinstance(error, (NonFiniteError, UsageError)),
    }


def new_replica(setup: Blueprint, replica: int, incarnation: int) -> Replica:
    """The replica of a worker; the task draws from its generator, or from the process's own, which are seeded likewise."""
    made = Replica(
        setup.layout,
        id=replica,
        peers=setup.job.workers.count,
        incarnation=incarnation,
        local_rule=setup.local_rule,
        averaging=setup.averaging,
        seed=setup.job.seed,
        sweeps=setup.sweeps,
    )
    seed_globals(setup.job.seed, replica, incarnation)
    setup.task.rng = made.rng
    if hasattr(setup.task, "replica"):
        setup.task.replica = made.id
    return made


class WorkerLoop:
    """Takes ranges, trains on them, says so. Messages come and go as a launcher's worker fills in."""

    replica: Replica
    statistics: Statistics
    driver: Driver

    def __init__(self) -> None:
        self.queue: deque[Work] = deque()
        self.stopping = self.ended = False

    # -- what a launcher's worker fills in ----------------------------------------------------------------------------

    def send(self, kind: str, **fields: Any) -> None:
        """Say something to the launcher."""
        raise NotImplementedError

    def receive(self) -> dict[str, Any]:
        """Wait for one message."""
        raise NotImplementedError

    def has_mail(self) -> bool:
        """A message has come in; asked after every step."""
        raise NotImplementedError

    def examples_of(self, part: Range) -> np.ndarray:
        """Indices of the examples of a range, int64, in the order to be used; an array of its own."""
        raise NotImplementedError

    def finishing(self) -> None:
        """The strategy is about to make its last commands."""

    def ended_training(self) -> None:
        """No more steps will be made."""

    def handle_more(self, message: dict[str, Any]) -> None:
        """A message that only this worker understands."""

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, restored: Any = None) -> None:
        """Work until told to stop.

        Args:
          restored: (arrays, scalars) of this replica from a checkpoint, or None to start from the center.
        """
        if restored is None:
            self.driver.begin()
        else:
            self.replica.restore(*restored)
            restore_globals(restored[0])
            self.driver.resumed()
        self.send("joined")
        try:
            while True:
                while not self.queue:
                    waited = time.perf_counter()
                    self.handle(self.receive())
                    self.statistics.wait_seconds += time.perf_counter() - waited
                work = self.queue[0]
                started, waited = time.perf_counter(), self.statistics.wait_seconds
                self.driver.run(work, self.between_steps)
                waited = self.statistics.wait_seconds - waited  # for others, between steps
                self.statistics.busy_seconds += time.perf_counter() - started - waited
                self.finished_range(work)
        except Stopped as stopped:
            self.stopping = True
            if stopped.flush:
                self.finishing()
                self.driver.finish()
            self.driver.settle()
        self.ended_training()
        self.send("finished")
        while not self.ended:
            self.handle(self.receive())

    def finished_range(self, work: Work) -> None:
        """The range at hand is done."""
        self.queue.popleft()
        self.send("done", range=work.id)

    def between_steps(self) -> None:
        """Take messages that have come in; called after each step and while waiting for others."""
        self.statistics.heartbeat += 1
        while self.has_mail():
            self.handle(self.receive())

    def handle(self, message: dict[str, Any]) -> None:
        """Do what a message says."""
        kind = message["kind"]
        if kind == "work":
            part = Range(**message["range"])
            self.queue.append(Work(part.id, part.epoch, self.examples_of(part)))
        elif kind == "stop" and not self.stopping:
            raise Stopped(message["flush"])
        elif kind == "end":
            self.ended = True
        else:
            self.handle_more(message)
