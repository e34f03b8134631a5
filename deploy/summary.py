"""What a run says of itself: at its start to whoever watches, at its end in ``summary.json``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deploy.blueprint import Blueprint
from deploy.job import Job
from deploy.monitor import Monitor
from deploy.run_directory import versions
from worker.coordinator import Coordinator
from worker.task_calls import call_task


def start_facts(setup: Blueprint, run: Path, coordinator: Coordinator) -> dict[str, Any]:
    """For ``Observer.started``."""
    job = setup.job
    return {
        "run": str(run),
        "task": job.task.name,
        "strategy": job.strategy.name,
        "workers": job.workers.count,
        "shards": job.shards.count,
        "parameters": setup.layout.size,
        "examples": setup.order.examples.size,
        "epoch": coordinator.ended,
        "notes": [str(note) for note in call_task("notes", setup.task.notes)] if hasattr(setup.task, "notes") else [],
    }


def trace_facts(job: Job) -> dict[str, Any]:
    """What a trace says of its run."""
    return {
        "backend": job.backend,
        "workers": job.workers.count,
        "shards": job.shards.count,
        "seed": job.seed,
        "resumed": job.resume,
    }


def total_counts(shards: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The counts of several shards, added up."""
    total: dict[str, int] = {}
    for counts in shards:
        for name, value in counts.items():
            total[name] = total.get(name, 0) + value
    return total


def summarise(
    setup: Blueprint,
    run: Path,
    coordinator: Coordinator,
    monitor: Monitor,
    *,
    status: str,
    seconds: float,
    evaluation: dict[str, float],
    deaths: int,
    error: Exception | None,
    shard_counts: Mapping[str, int],
    virtual_seconds: float | None = None,
) -> dict[str, Any]:
    """``summary.json``.

    Args:
      status: "done", "failed" or "interrupted".
      seconds: of training, earlier parts of a resumed run included.
      evaluation: the last one.
      deaths: of workers.
      error: why it failed.
      shard_counts: ``Shard.counts`` of all shards together.
      virtual_seconds: of a simulation; rates are then per virtual second.
    """
    job, goal, finished = setup.job, coordinator.goal, coordinator.finished
    best = None
    if goal is not None and goal.best is not None:
        mode = "min" if goal.smaller else "max"
        best = {"metric": goal.metric, "mode": mode, "value": goal.best, "epoch": goal.best_epoch + 1}
    return {
        "status": status,
        "backend": job.backend,
        "strategy": job.strategy.name,
        "admission": setup.policy.name,
        "rule": None if job.rule is None else job.rule["name"],
        "local_rule": None if job.local_rule is None else job.local_rule["name"],
        "task": job.task.name,
        "workers": job.workers.count,
        "shards": job.shards.count,
        "epochs": coordinator.ended,
        **monitor.summary(seconds if virtual_seconds is None else virtual_seconds),
        "wall_seconds": seconds,
        "virtual_seconds": virtual_seconds,
        "train_loss": monitor.train_loss,
        "evaluation": evaluation,
        "best": best,
        "seed": job.seed,
        "stop_reason": finished.reason if finished else None,
        "error": str(error) if error else None,
        "worker_deaths": deaths,
        **shard_counts,
        "versions": versions(),
        "run": str(run),
        "job": job.path,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
