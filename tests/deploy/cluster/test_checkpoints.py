"""Checkpoints taken while a cluster trains: one moment for all shards, from which anything can go on."""

from __future__ import annotations

import shutil

import numpy as np

from deploy.cluster.leave import save_all
from ps.checkpoint import Checkpoint, checkpoints
from tests.deploy.cluster.stage import PATIENCE_S, Script, applied, happened, nothing, training, wait_until

SAVED = happened("checkpoint")


def check_one_cut(path):
    """Every push is in all shards or in none; returns how many there are."""
    checkpoint = Checkpoint(path)
    parts = checkpoint.shards()
    versions = [shard["version"] for shard in checkpoint.manifest["shards"]]
    assert len(set(versions)) == 1
    for part in parts:
        np.testing.assert_array_equal(part["watermarks"], parts[0]["watermarks"])
        assert part["watermarks"][:, 1].sum() == versions[0]
    vector = checkpoint.vector()
    assert [-vector[0], -vector[-1]] == [versions[0]] * 2
    return versions[0]


def keep_only(run, path):
    for other in checkpoints(run / "checkpoint"):
        if other != path:
            shutil.rmtree(other)


def test_a_checkpoint_is_one_cut_and_anything_goes_on_from_it(stage):
    script = Script((training, nothing), (SAVED, nothing), (SAVED, stage.go))
    run = stage.ledger(script, {"free": 60}, workers={"count": 3}, cluster={"replica_cpus": 2},
                       checkpoint={"every_seconds": 0.2, "keep": 1000}).run  # fmt: skip
    pushes = {path: check_one_cut(path) for path in checkpoints(run / "checkpoint")}
    middle = [path for path, count in pushes.items() if 0 < count < 256]
    assert middle, "there must be one in the middle of the training"
    keep_only(run, middle[-1])
    elsewhere = stage.folder / "elsewhere"
    shutil.copytree(run, elsewhere)

    resumed = stage.ledger(run=run, resume=True, workers={"count": 1}, shards={"count": 3})
    assert resumed.summary["status"] == "done" and (applied(resumed) >= 2).all()
    assert resumed.summary["examples"] >= 2 * 512

    summary = stage.resume_in_processes(elsewhere)
    assert summary["status"] == "done" and summary["backend"] == "processes"
    assert (-Checkpoint.newest(elsewhere / "checkpoint").vector()[1:-1] >= 2).all()


def test_before_a_node_leaves_every_run_is_saved(stage):
    asked = []
    script = Script((training, lambda: asked.append(save_all(PATIENCE_S))), (SAVED, stage.go))
    run = stage.ledger(script, {"free": 60}, stop={"epochs": 1}, checkpoint={"every_seconds": 1000}).run
    assert asked == [(1, 1)] and len(checkpoints(run / "checkpoint")) == 2
    wait_until(lambda: save_all(PATIENCE_S) == (0, 0))


def test_a_checkpoint_of_processes_goes_on_here(stage):
    run = stage.train_in_processes({"pause": 0.0})
    assert (-Checkpoint.newest(run / "checkpoint").vector()[1:-1] == 1).all()
    result = stage.ledger(run=run, resume=True, workers={"count": 1}, shards={"count": 1})
    assert (applied(result) == 2).all() and result.summary["examples"] == 2 * 512
