"""Actors killed with SIGKILL in the middle of a job: it goes on to its end, nothing is left out and nothing counted twice."""

from __future__ import annotations

import numpy as np
import pytest

from ps.checkpoint import Checkpoint
from ps.errors import MemoryShortage
from tests.deploy.cluster.stage import (
    LONG,
    Script,
    applied,
    events,
    finished_training,
    happened,
    nothing,
    pushes,
    training,
    wait_until,
)


def check_whole(stage, result, epochs=2):
    """Done; every example was computed in every epoch, and no push is in the center twice."""
    assert result.summary["status"] == "done"
    computed = stage.computed()
    assert computed.min() >= epochs
    assert (applied(result) <= computed).all()
    versions = [shard["version"] for shard in Checkpoint.newest(result.run / "checkpoint").manifest["shards"]]
    assert [versions[0], versions[-1]] == pushes(result)


@LONG
def test_nobody_killed(stage):
    result = stage.ledger()
    check_whole(stage, result)
    assert (stage.computed() == 2).all() and (applied(result) == 2).all()
    assert pushes(result) == [256, 256] and result.evaluation["applied"] == 1024
    assert {frozenset(facts["links"]) for facts in result.summary["nodes"]} == {frozenset(["shared memory", "gRPC"])}
    assert len({facts["node"] for facts in result.summary["nodes"]}) == 2


def test_a_killed_replica_is_replaced(stage):
    script = Script((training, stage.kill("replica-1-1")), (happened("worker_replaced"), stage.go))
    result = stage.ledger(script, {"free": 60})
    check_whole(stage, result)
    assert result.summary["worker_deaths"] == 1 and events(result)["worker_replaced"] == 1
    # What it computed last may not have been pushed; everything that was replaced was done again.
    assert (applied(result) >= 2).all()


@LONG
def test_a_shard_killed_before_the_first_checkpoint(stage):
    script = Script((training, stage.kill("shard-1")), (happened("shard_replaced"), stage.go))
    result = stage.ledger(script, {"free": 60})
    check_whole(stage, result)
    first, second = pushes(result)
    assert result.summary["shards_replaced"] == 1 and first >= 256 > second
    assert second + result.summary["lost_updates"] <= first


def test_a_shard_killed_after_a_checkpoint(stage):
    saved = happened("checkpoint")
    script = Script(
        (training, nothing), (saved, nothing), (saved, stage.kill("shard-0")), (happened("shard_replaced"), stage.go)
    )
    result = stage.ledger(script, {"free": 100}, checkpoint={"every_seconds": 0.3})
    check_whole(stage, result)
    (replaced,) = [record for record in result.metrics if record.get("event") == "shard_replaced"]
    assert replaced["version"] > 0, "it should have gone on from the checkpoint"


@LONG
def test_a_shard_that_is_away_while_it_is_evaluated_and_saved_is_waited_for(stage):
    def kill():
        stage.kill("shard-1")()
        stage.look()

    script = Script((finished_training, kill))
    options = {"evaluation": {"every_epochs": 0}, "checkpoint": {"every_seconds": 0.2}, "stop": {"epochs": 1}}
    result = stage.ledger(script, {"patient": True, "n": 128}, **options)
    assert result.summary["status"] == "done" and "applied" in result.evaluation
    assert pushes(result)[0] == 32 and pushes(result)[1] + result.summary["lost_updates"] == 32


@LONG
def test_the_coordinator_killed_twice(stage):
    script = Script(
        (training, stage.kill("coordinator")),
        (happened("coordinator_replaced"), stage.kill("coordinator")),
        (happened("coordinator_replaced"), stage.go),
    )
    result = stage.ledger(script, {"free": 60})
    check_whole(stage, result)
    assert np.array_equal(applied(result), stage.computed())
    assert events(result)["coordinator_replaced"] == 2 and result.summary["worker_deaths"] == 0


@LONG
def test_the_coordinator_killed_while_a_shard_is_away(stage):
    def both():
        stage.kill("shard-1")()
        stage.kill("coordinator")()

    # Told by the one that takes over, when it has; the shard may have come back before.
    script = Script((training, both), (happened("coordinator_replaced"), stage.go))
    result = stage.ledger(script, {"free": 60})
    check_whole(stage, result)
    assert events(result)["coordinator_replaced"] == 1 and result.summary["shards_replaced"] == 1
    assert pushes(result)[0] >= 256


@LONG
def test_the_coordinator_killed_while_a_checkpoint_is_written(stage):
    def at_the_pen():
        stage.await_file("checkpoint/.partial*")
        stage.kill("coordinator")()

    script = Script((training, nothing), (happened("checkpoint"), at_the_pen), (happened("checkpoint"), stage.go))
    result = stage.ledger(script, {"free": 100}, checkpoint={"every_seconds": 0.1})
    check_whole(stage, result)
    assert np.array_equal(applied(result), stage.computed()) and events(result)["coordinator_replaced"] == 1
    assert not list((result.run / "checkpoint").glob(".partial*"))


@LONG
def test_the_coordinator_killed_when_all_is_done_but_the_last_evaluation(stage):
    """The replicas have said that they are finished, and say it once more."""
    script = Script((finished_training, stage.kill("coordinator")), (happened("coordinator_replaced"), stage.look))
    result = stage.ledger(script, {"patient": True, "n": 128}, evaluation={"every_epochs": 0}, stop={"epochs": 1})
    assert result.summary["status"] == "done" and result.evaluation["applied"] == 128
    assert (applied(result) == 1).all()


@LONG
def test_the_coordinator_killed_before_the_first_step(stage):
    stage.when_there("shard-0", stage.kill("coordinator"))
    result = stage.ledger(task={"n": 128}, stop={"epochs": 1})
    assert result.summary["status"] == "done" and (applied(result) >= 1).all()


@LONG
def test_a_replica_and_then_the_coordinator_killed_while_another_replica_begins(stage):
    script = Script(
        (training, stage.kill("replica-1-1")),
        (happened("worker_replaced"), stage.kill("coordinator")),
        (happened("coordinator_replaced"), stage.go),
    )
    result = stage.ledger(script, {"free": 60})
    check_whole(stage, result)
    assert events(result)["coordinator_replaced"] == 1 and (applied(result) >= 2).all()


@pytest.mark.parametrize(
    "victim", [pytest.param("replica-1-1", marks=LONG), "shard-1", pytest.param("coordinator", marks=LONG)]
)
def test_synchronous_steps_go_on(victim, stage):
    """Nobody waits for the dead, nor for ever."""
    after = {"replica-1-1": "worker_replaced", "shard-1": "shard_replaced", "coordinator": "coordinator_replaced"}
    script = Script((training, stage.kill(victim)), (happened(after[victim]), stage.go))
    result = stage.ledger(script, {"free": 60}, strategy="synchronous")
    assert result.summary["status"] == "done" and stage.computed().min() >= 2


@pytest.mark.parametrize("victim", [pytest.param(victim, marks=LONG) for victim in ("shard-0", "replica-0-1", "group")])
def test_hogwild_goes_on(victim, stage):
    """With the locks of the sweep beside the center, and with a group on each node."""
    grouped = victim == "group"

    def kill():
        stage.kill(next(name for name in stage.actors() if name.startswith(victim)))()

    strategy = {"name": "hogwild", "backoff": 0.98}
    strategy |= {"between_nodes": "easgd", "tau": 2000} if grouped else {"locking": "per_variable"}
    result = stage.train(
        Script((training, kill)),
        task={"name": "sparse_linear", "loss": "hinge", "l2": 1.0},
        data={"train": "hogshead:a9a", "test": "hogshead:a9a.t"},
        strategy=strategy,
        rule={"name": "sgd", "lr": 0.005},
        workers={"count": 2},
        cluster={"replica_cpus": 3 if grouped else 1},
        evaluation={"every_epochs": 0},
        stop={"epochs": 150},
    )
    assert result.summary["status"] == "done" and result.evaluation["test_accuracy"] > 0.83
    assert result.summary["shards_replaced"] == (victim == "shard-0")


@LONG  # tests/hosts and tests/compose kill one, too
def test_a_whole_node_killed(stage):
    """A shard and a replica go with it; both come back on the other nodes."""
    node = stage.add_node(4)

    def kill_it():
        there = {name.partition("-")[0] for name in stage.actors() if stage.node_of(name) == node.node_id}
        assert {"replica", "shard"} <= there and "coordinator" not in there
        stage.remove_node(node)

    script = Script((training, kill_it), (happened("shard_replaced"), stage.go))
    result = stage.ledger(script, {"free": 60}, workers={"count": 3}, shards={"count": 3})
    check_whole(stage, result)
    assert events(result)["worker_left"] == 1 and result.summary["shards_replaced"] == 1


@LONG
@pytest.mark.parametrize("who", ["worker", "shard"])
def test_one_that_takes_more_memory_than_it_may_ends_the_job(stage, who):
    key = {"worker": "replica_memory_mb", "shard": "shard_memory_mb"}[who]
    with pytest.raises(
        MemoryShortage, match=rf"{who} \d took \d+ MB of memory, its bound is 1 MB; raise \[cluster\] {key}"
    ):
        stage.ledger(cluster={"replica_cpus": 3, key: 1.0})


# -- the command itself -----------------------------------------------------------------------------------------------


def test_without_its_driver_a_job_ends_and_leaves_nothing(stage):
    with stage.command({"free": 60}) as process:
        wait_until(lambda: stage.computed().any() or process.poll() is not None)
        assert process.poll() is None
        assert {"coordinator", "shard-0", "shard-1"} <= set(stage.actors())
        process.kill()
    wait_until(lambda: not stage.left(), stage.left)


@LONG  # so do the jobs of tests/deploy/service/test_on_ray.py
def test_a_detached_job_goes_on_without_its_driver(stage):
    with stage.command({"free": 60}, "--detach") as process:
        wait_until(lambda: stage.computed().any() or process.poll() is not None)
        assert process.poll() is None
        process.kill()
    stage.go()
    summary = stage.await_summary()
    assert summary["status"] == "done" and stage.computed().min() >= 2
