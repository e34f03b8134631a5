"""Checkpoints of a whole run: shards, replicas, coordinator, counters and the job, as one consistent cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deploy.blueprint import Blueprint, averaged_result
from deploy.job import Job
from deploy.setup import Setup
from ps.checkpoint import Checkpoint, Writer, restore_state, save_arrays, shard_arrays
from ps.errors import CheckpointError
from ps.state import State
from worker.coordinator import Coordinator

RESULT = "result"  # a file of its own where the shards hold another moment


def write_checkpoint(
    writer: Writer,
    partial: Path,
    setup: Blueprint,
    shards: list[dict[str, np.ndarray]],
    replicas: Mapping[int, dict[str, Any]],
    run: Mapping[str, Any],
    described: Mapping[str, Any],
) -> Path:
    """Write what was copied while everybody held still, and make it the newest checkpoint.

    Args:
      partial: from ``writer.begin``; the replicas have put their files there.
      shards: ``shard_arrays`` of each shard.
      replicas: id -> its scalars.
      run: ``coordinator`` state, ``counters``, ``seconds``, ``incarnations``.
      described: ``describe_state`` of the shards.

    Raises:
      CheckpointError: the disk is full or the like; ``partial`` is gone, older checkpoints are intact.
    """
    try:
        for index, arrays in enumerate(shards):
            save_arrays(partial / f"shard-{index}.safetensors", arrays)
    except CheckpointError:
        writer.abandon(partial)
        raise
    manifest = {
        "task": setup.job.task.name,
        "strategy": setup.job.strategy.name,
        "evaluated_slot": setup.strategy.evaluated_slot,
        "rows": _rows_digest(setup.task),
        **described,
        "replicas": {str(replica): scalars for replica, scalars in replicas.items()},
        **run,
    }
    return writer.commit(partial, manifest)


def save_result(partial: Path, setup: Setup) -> None:
    """Put the result beside shards that are saved as they were before the replicas' last pushes.

    Args:
      partial: from ``Writer.begin``.

    Raises:
      CheckpointError: the disk is full or the like.
    """
    arrays, slot = {"center": setup.state.center}, setup.strategy.evaluated_slot
    if slot is not None:
        arrays[f"slot.{slot}"] = setup.state.arrays[f"slot.{slot}"]
    save_arrays(partial / f"{RESULT}.safetensors", arrays)


def cut(setup: Setup) -> list[dict[str, np.ndarray]]:
    """Copies of all shards; a cross-shard cut if nobody pushes meanwhile."""
    return [shard_arrays(shard) for shard in setup.state.shards]


def restore_run(checkpoint: Checkpoint, setup: Setup, coordinator: Coordinator) -> dict[int, tuple[Any, Any]]:
    """Write a checkpoint into a run that has been set up.

    Returns:
      replica -> (arrays, scalars) for the replicas that go on where they were: all of them if the number of workers and the
      strategy are as they were, else none (they start from the center).

    Raises:
      CheckpointError: the checkpoint is of another task, model or rule.
    """
    manifest = checkpoint.manifest
    check_same_task(checkpoint, setup.job)
    check_same_rows(checkpoint, setup.task)
    restore_state(checkpoint, setup.state)
    replicas = manifest["replicas"]
    same = (
        len(manifest["incarnations"]) == setup.job.workers.count
        and manifest["strategy"] == setup.job.strategy.name
        and len(replicas) == setup.job.workers.count
    )
    restored = {}
    for replica, scalars in replicas.items() if same else ():
        arrays = checkpoint.arrays(f"replica-{replica}")
        if _fits(arrays, setup):
            restored[int(replica)] = (arrays, scalars)
    if not restored:
        restore_result(checkpoint, setup.state)
    return restored


def restore_result(checkpoint: Checkpoint, state: State) -> None:
    """For replicas that start from the center: what those of the checkpoint had accrued is in its result only."""
    for name, array in (checkpoint.arrays(RESULT) if checkpoint.has(RESULT) else {}).items():
        if name in state.arrays:
            np.copyto(state.arrays[name], array)


def _fits(arrays: Mapping[str, np.ndarray], setup: Setup) -> bool:
    """The replica's local rule has the slots that were saved."""
    slots = {name.removeprefix("slot.") for name in arrays if name.startswith("slot.")}
    return slots == set(() if setup.local_rule is None else setup.local_rule.slots)


def check_same_task(checkpoint: Checkpoint, job: Job) -> None:
    """Refuse a checkpoint of another task, or one that is not of a run; raises CheckpointError."""
    missing = {"task", "strategy", "replicas", "coordinator", "counters", "incarnations", "seconds"} - set(
        checkpoint.manifest
    )
    if "coordinator" in missing and "layout" in checkpoint.manifest:
        raise CheckpointError(
            f"{checkpoint.path}: holds the parameters of a simulated run, which cannot be resumed; run the job again"
        )
    if missing:
        raise CheckpointError(f"{checkpoint.path}: its manifest lacks {', '.join(sorted(missing))}")
    if checkpoint.manifest["task"] != job.task.name:
        raise CheckpointError(
            f"{checkpoint.path}: is of task {checkpoint.manifest['task']}, the job's task is {job.task.name}"
        )


def check_same_rows(checkpoint: Checkpoint, task: Any) -> None:
    """Refuse a checkpoint whose rows stand for other users, items or nodes than the task's; raises CheckpointError."""
    saved, present = checkpoint.manifest.get("rows"), _rows_digest(task)
    if None not in (saved, present) and saved != present:
        raise CheckpointError(
            f"{checkpoint.path}: the training data hold other ids now than when this model was trained on them, so that its "
            "rows would be taken for those of others; bring the file back as it was, or train anew"
        )


def check_run(run: Path, task: Any) -> None:
    """As ``check_same_rows``, for the newest checkpoint of a run; nothing to check where the task does not tell."""
    if hasattr(task, "rows_digest"):
        check_same_rows(Checkpoint.newest(Path(run) / "checkpoint"), task)


def _rows_digest(task: Any) -> str | None:
    return task.rows_digest() if hasattr(task, "rows_digest") else None


def load_parameters(run: Path) -> dict[str, np.ndarray]:
    """The trained parameters of a run directory, from its newest checkpoint: name -> array.

    Raises:
      CheckpointError: it has none, or it is corrupt.
    """
    checkpoint = Checkpoint.newest(Path(run) / "checkpoint")
    result = checkpoint.arrays(RESULT) if checkpoint.has(RESULT) else {}
    vector, slot = result.get("center"), checkpoint.manifest.get("evaluated_slot")
    if vector is None:
        vector = checkpoint.vector()
    if slot is not None:
        average = result.get(f"slot.{slot}")
        vector = averaged_result(checkpoint.layout, vector, checkpoint.vector(slot) if average is None else average)
    return checkpoint.layout.views(vector)
