"""The evaluator process: measures snapshots of the center while the workers go on."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

import numpy as np
from threadpoolctl import threadpool_limits

from deploy.setup import Setup
from deploy.worker_loop import error_fields
from deploy.worker_process import die_with_parent, ignore_interrupts, receive, send
from worker.randomness import OF_EVALUATOR, seed_globals
from worker.task_calls import TaskCalls, call_task, numbers

VALIDATION_BATCH = 1024


def evaluator_main(setup: Setup, connection: Connection) -> None:
    """Entry point: answers each ``evaluate`` (number of a snapshot) with ``evaluated`` or ``error``."""
    die_with_parent()
    ignore_interrupts()
    setup.task.rng = np.random.default_rng([setup.job.seed, 3])
    seed_globals(setup.job.seed, *OF_EVALUATOR)
    with threadpool_limits(1):
        while True:
            message = receive(connection)
            started = time.perf_counter()
            try:
                metrics = evaluate(setup, setup.arrays["snapshots"][message["snapshot"]])
            except Exception as error:
                send(connection, "error", **error_fields(error))
                continue
            send(connection, "evaluated", metrics=metrics, seconds=time.perf_counter() - started)


def evaluate(setup: Setup, vector: np.ndarray) -> dict[str, float]:
    """The task's own metrics of ``vector`` (N,), and ``validation_NAME`` over the examples held out.

    Raises:
      TaskError: the task raised, or did not return a dict of numbers.
    """
    views = setup.layout.views(vector)
    metrics = call_task("evaluate", setup.task.evaluate, views)
    return {**validate(setup, vector), **numbers("evaluate", metrics)}


def validate(setup: Setup, vector: np.ndarray) -> dict[str, float]:
    """Means over the held-out examples, in evaluation mode; empty if there are none."""
    held_out = setup.validation
    if not held_out.size:
        return {}
    calls = TaskCalls(setup.task, setup.dataset, setup.layout)
    totals: dict[str, float] = {}
    for start in range(0, held_out.size, VALIDATION_BATCH):
        examples = held_out[start : start + VALIDATION_BATCH]
        for name, value in calls.measure(vector, examples).items():
            totals[name] = totals.get(name, 0.0) + value * examples.size
    return {f"validation_{name}": total / held_out.size for name, total in totals.items()}
