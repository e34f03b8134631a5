"""How often the runs of a comparison are evaluated: often enough to see when each reaches the target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from deploy.job import Job

WANTED = 100  # evaluations of a run
ENOUGH = 50
SECONDS = 1.0  # between evaluations of processes whose duration nobody knows


def paced(job: Job, examples: Callable[[], int]) -> Job:
    """The job, evaluated about ``WANTED`` times unless it says itself that it wants at least ``ENOUGH``.

    Evaluations after whole epochs come after the same number of examples in every cell; where there are too few epochs, or
    the job ends by another bound, the clock is used as well.

    Args:
      examples: number of training examples; asked for only where it is needed, as it takes loading the data.
    """
    evaluation, stop = job.evaluation, job.stop
    if stop.epochs is not None:
        every = evaluation.every_epochs
        if every == 0 or stop.epochs / every < ENOUGH:
            every = max(1, stop.epochs // WANTED)
        evaluation = replace(evaluation, every_epochs=every)
        if stop.epochs / every >= ENOUGH:
            return replace(job, evaluation=evaluation)
    seconds = _duration(job, examples) / WANTED
    return replace(
        job, evaluation=replace(evaluation, every_seconds=min(evaluation.every_seconds or math.inf, seconds))
    )


def _duration(job: Job, examples: Callable[[], int]) -> float:
    """Seconds that the run will take at most, virtual ones for a simulation; a guess for processes."""
    stop = job.stop
    if job.backend != "simulation":
        return min(stop.seconds or math.inf, SECONDS * WANTED)
    bounds = [stop.seconds or math.inf, _steps(job, examples) * step_seconds(job) / job.workers.count]
    return min(bounds)


def _steps(job: Job, examples: Callable[[], int]) -> float:
    """Local steps of all replicas within the job's bounds."""
    stop, batch = job.stop, job.data.batch_size
    bounds = [float(stop.steps or math.inf)]
    if stop.epochs is not None or stop.examples is not None:
        size = examples()
        batch = size if batch == "all" else min(int(batch), size)
        bounds += [(stop.epochs or math.inf) * size / batch, (stop.examples or math.inf) / batch]
    return min(bounds)


def step_seconds(job: Job) -> float:
    """Mean virtual seconds of a local step, over the workers' speeds."""
    from deploy.simulator.distributions import build_distribution

    mean = build_distribution("[simulation] step_seconds", job.simulation.step_seconds).mean
    speeds = job.simulation.speeds or [1.0]
    used = [speeds[worker % len(speeds)] for worker in range(job.workers.count)]
    return mean * len(used) / sum(used)
