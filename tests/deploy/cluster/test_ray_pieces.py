"""Prometheus metrics and Ray Data on a private Ray, in a program of its own (ray_program.py), which takes half a minute."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.job import Job
from ps.errors import DataError, JobError

ROOT = Path(__file__).parents[3]
EXPECTED = {
    "loss": 0.25,
    "epoch": 0.5,
    "examples_total": 150,
    "steps_total": 10,
    "updates_total": 7 + 5 + 2,
    "examples_per_second": 20,
    "staleness": 1.5,
    "workers_alive": 2,
    "deaths_total": 1,
    "checkpoints_total": 1,
    "checkpoint_failures_total": 1,
    "checkpoint_age_seconds": 3,
    "evaluation{job=try-1,metric=test_accuracy}": 0.875,
    "shard_version{job=try-1,node=abc,shard=0}": 9,
    "shard_pushes_total{job=try-1,node=abc,shard=0,transport=gRPC}": 2,
    "shard_pulls_total{job=try-1,node=abc,shard=0,transport=gRPC}": 3 + 1,  # it began to count anew
    "shard_bytes_total{direction=in,job=try-1,node=abc,shard=0,transport=gRPC}": 15,
    "shard_bytes_total{direction=out,job=try-1,node=abc,shard=0,transport=gRPC}": 20,
    "replica_examples_total{job=try-1,node=,replica=1,transport=}": 40,
    "replica_staleness{job=try-1,node=abc,replica=0,transport=gRPC+shared memory}": 0,
}
METRICS = {
    f"ray_hogshead_{name}" if "{" in name else f"ray_hogshead_{name}{{job=try-1}}": EXPECTED[name] for name in EXPECTED
}


@pytest.fixture(scope="module")
def answer():
    """What the program has printed."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'hogshead[ray]'")
    what = "data" if importlib.util.find_spec("pyarrow") and importlib.util.find_spec("pandas") else "metrics"
    command = [sys.executable, str(Path(__file__).with_name("ray_program.py")), what, json.dumps(METRICS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(600)
def test_the_nodes_endpoint_serves_the_metrics(answer):
    found = answer["metrics"]
    assert {name: found.get(name) for name in METRICS} == METRICS
    assert found["ray_hogshead_staleness_seen_count{job=try-1}"] >= 2


@pytest.mark.timeout(600)
def test_a_data_set_becomes_arrays_on_every_node(answer):
    data = answer["data"]
    if data is None:
        pytest.skip("Ray Data needs pyarrow and pandas: pip install 'ray[data]'")
    assert data["option"].startswith("ray-data://") and data["toml"]
    assert data["here"] == data["node"] == {
        "shapes": {"x": [200, 3], "y": [200], "z": [200]},
        "sums": {"x": 600 * 599 / 2, "y": 100, "z": 200},
        "first": [3, 4, 5],
        "second_label": 1,
        "writeable": False,
    }  # fmt: skip
    assert data["mlp"] == 200


@pytest.mark.timeout(600)
def test_data_sets_that_cannot_be_had_are_refused(answer):
    if answer["data"] is None:
        pytest.skip("Ray Data needs pyarrow and pandas: pip install 'ray[data]'")
    backend, detached, empty, text, gone = answer["data"]["refused"]
    assert 'needs backend = "ray"' in backend
    assert "goes when this program ends" in detached
    assert "holds no row" in empty
    assert "column 'x' must be numeric" in text and "drop_columns" in text
    assert "gone" in gone and "give it again" in gone


def test_a_saved_job_whose_data_set_is_gone():
    """Without any Ray."""
    job = {"strategy": "sequential", "task": {"name": "mlp"}, "data": {"train": "ray-data://0123456789ab"}}
    with pytest.raises(JobError, match='train: a Ray Data set needs backend = "ray"'):
        Job.from_dict(job)
    with pytest.raises(DataError, match="train: the Ray Data set of this job is gone"):
        Job.from_dict({**job, "backend": "ray"}).build_task()
