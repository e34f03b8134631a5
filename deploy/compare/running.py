"""Running the cells: simulations side by side, one process each; real processes one run after another.

What a run came to is read from its run directory; only what never got that far travels as a message.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import time
import warnings
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from deploy.compare.pace import paced
from deploy.interruption import termination_as_interrupt
from deploy.job import Job
from deploy.progress import Observer, Record
from deploy.run_directory import read_metrics, read_summary
from deploy.worker_process import die_with_parent
from ps.errors import NonFiniteError

PROGRESS_S = 0.2
PATIENCE_S = 10.0  # until an interrupted simulation has written what it has
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Trial:
    """One run to be made.

    Attributes:
      cell: index of its cell. job: with its run directory. keep_pace: the job says itself when it is evaluated.
    """

    cell: int
    job: Job
    keep_pace: bool = False


@dataclass(frozen=True)
class Run:
    """What came of a run.

    Attributes:
      status: "done", "diverged" (its numbers were no longer finite), "failed" or "interrupted".
      message: why it did not end well.
      evaluations: records of ``metrics.jsonl``. summary: ``summary.json``; both may be empty.
    """

    status: str
    message: str = ""
    path: Path | None = None
    evaluations: Sequence[Mapping[str, Any]] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)


class Watcher:
    """Sees the runs come and go, and says nothing."""

    def started(self, trial: Trial) -> None:
        """A run begins."""

    def progress(self, trial: Trial, record: Record) -> None:
        """Some training was done."""

    def ended(self, trial: Trial, run: Run) -> None:
        """A run has ended, well or not."""

    def idle(self) -> None:
        """Some time has passed."""


def run_all(trials: Iterable[Trial], watcher: Watcher, most: int | None = None) -> bool:
    """Run everything, simulations first.

    Args:
      watcher: told of each run, in this process.
      most: simulations at once; the number of cores if None.

    Returns:
      False if it was interrupted (SIGINT); what has ended by then was told to the watcher.
    """
    trials = list(trials)
    simulated = [trial for trial in trials if trial.job.backend == "simulation"]
    pool = _Pool(watcher, most or len(os.sched_getaffinity(0)))
    try:
        pool.run(simulated)
        for trial in trials:
            if trial.job.backend != "simulation" and not _run_here(trial, watcher):
                return False
    except KeyboardInterrupt:
        pool.interrupt()
        return False
    return True


def launch(trial: Trial, observer: Observer) -> Any:
    """Run the trial's job by the launcher of its backend."""
    from deploy.launchers import run

    job = trial.job if trial.keep_pace else paced(trial.job, lambda: _examples(trial.job))
    # A mirror is of one run.
    return run(replace(job, checkpoint=replace(job.checkpoint, url=None)), observer)


def untrained(job: Job) -> dict[str, float]:
    """Metrics of the job's model before training; empty where they cannot be had, as they only help to choose a target."""
    import numpy as np

    try:
        task = job.build_task()
        found = task.evaluate(task.parameters(np.random.default_rng([job.seed, 1])))
        return {str(name): float(value) for name, value in found.items() if math.isfinite(value)}
    except Exception:  # the runs will say what is wrong with the task
        return {}


def _examples(job: Job) -> int:
    from worker.data.dataset import as_dataset

    return len(as_dataset(job.build_task().dataset()))


def _run_here(trial: Trial, watcher: Watcher) -> bool:
    """Run in this process, which starts workers; False if interrupted."""
    watcher.started(trial)
    verdict = _verdict(trial, _Telling(lambda record: watcher.progress(trial, record)))
    run = _with_records(trial, *verdict)
    watcher.ended(trial, run)
    return run.status != "interrupted"


def _verdict(trial: Trial, observer: Observer) -> tuple[str, str]:
    """Run, and say (status, message)."""
    try:
        with observer:
            result = launch(trial, observer)
    except KeyboardInterrupt:
        return "interrupted", "interrupted"
    except Exception as error:  # of whatever kind: one cell must not end the others
        return _name_of(error), str(error) or type(error).__name__
    if result.error is not None:
        return _name_of(result.error), str(result.error)
    return result.summary["status"], result.summary.get("error") or ""


def _name_of(error: Exception) -> str:
    return "diverged" if isinstance(error, NonFiniteError) else "failed"


def _with_records(trial: Trial, status: str, message: str) -> Run:
    """The run with what it has left in its directory."""
    path = Path(str(trial.job.run))
    if not path.is_dir():
        return Run(status, message)
    evaluations = [record for record in read_metrics(path) if record.get("kind") == "evaluation"]
    return Run(status, message, path, evaluations, read_summary(path))


class _Telling(Observer):
    """Hands on progress, a few times a second."""

    def __init__(self, tell: Any):
        self._tell, self._next = tell, 0.0

    def progress(self, record: Record) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_S
            self._tell({name: record.get(name) for name in ("epoch", "loss", "examples", "seconds", "virtual_seconds")})


class _Pool:
    """Processes that run one simulation each."""

    def __init__(self, watcher: Watcher, most: int):
        self._watcher, self._most = watcher, most
        self._running: dict[Connection, tuple[Trial, Any]] = {}
        self._verdicts: dict[Connection, tuple[str, str]] = {}

    def run(self, trials: Sequence[Trial]) -> None:
        """Run them all, in order, as many at once as there may be."""
        _warm_up(trials)
        waiting = deque(trials)
        while waiting or self._running:
            while waiting and len(self._running) < self._most:
                self._start(waiting.popleft())
            self._listen(PROGRESS_S)

    def interrupt(self) -> None:
        """Let those that run write what they have; end those that take too long."""
        for _, process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.suppress(KeyboardInterrupt):  # a second ^C: at once
            while self._running and time.monotonic() < deadline:
                self._listen(PROGRESS_S)
        for connection, (_, process) in list(self._running.items()):
            process.kill()
            self._verdicts.setdefault(connection, ("interrupted", "interrupted"))
            self._end(connection)

    def _start(self, trial: Trial) -> None:
        ours, theirs = _FORK.Pipe()
        process = _FORK.Process(target=_child, args=(trial, theirs), daemon=True)
        with warnings.catch_warnings():  # of other threads: those are idle pools of numerical libraries
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        self._running[ours] = (trial, process)
        self._watcher.started(trial)

    def _listen(self, timeout_s: float) -> None:
        for connection in wait(list(self._running), timeout_s):
            trial, _ = self._running[connection]
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):
                self._end(connection)
                continue
            if kind == "progress":
                self._watcher.progress(trial, content)
            else:
                self._verdicts[connection] = content
        self._watcher.idle()

    def _end(self, connection: Connection) -> None:
        trial, process = self._running.pop(connection)
        connection.close()
        process.join()
        died = ("failed", f"its process died (exit code {process.exitcode})")
        self._watcher.ended(trial, _with_records(trial, *self._verdicts.pop(connection, died)))


def _warm_up(trials: Sequence[Trial]) -> None:
    """Load modules and compiled kernels here, so that the processes inherit them instead of each loading its own."""
    by_strategy = {trial.job.strategy.name: trial for trial in reversed(trials)}
    if not by_strategy:
        return
    import deploy.simulation  # noqa: F401
    from deploy.rehearsal import rehearse
    from deploy.setup import prepare

    for trial in by_strategy.values():
        with contextlib.suppress(Exception):  # the run itself will say what is wrong
            rehearse(prepare(trial.job, shared=False))


def _child(trial: Trial, connection: Connection) -> None:
    """In a process of its own: run, and send how it ended."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C goes to the whole group; the parent decides
    with termination_as_interrupt(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        verdict = _verdict(trial, _Telling(lambda record: connection.send(("progress", record))))
    connection.send(("ended", verdict))


def seconds_of(record: Mapping[str, Any], simulated: bool) -> float:
    """The time of a record, virtual for a simulation; not a number if it has none."""
    value = record.get("virtual_seconds") if simulated else record.get("seconds")
    return math.nan if value is None else float(value)
