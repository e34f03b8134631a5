"""Run by test_ray_pieces.py in a process of its own: a private Ray, and what the pieces do on it, printed as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import ray

from deploy.cluster.patience import patient_start, reserve_port
from deploy.cluster.prometheus import PrometheusSink
from deploy.job import Job
from ps.errors import DataError, JobError
from tests.patient_ray import empty_cluster

PATIENCE_S = 90.0
ATTEMPTS, ATTEMPT_S = 6, 30.0
PROGRESS = {
    "kind": "progress",
    "seconds": 5.0,
    "loss": 0.5,
    "examples": 100,
    "steps": 10,
    "epoch": 0.5,
    "examples_per_second": 20.0,
    "staleness": 1.5,
    "workers_alive": 2,
    "workers": [
        {"worker": 0, "examples": 60, "examples_per_second": 12.0, "staleness": 0.0},
        {"worker": 1, "examples": 40, "examples_per_second": 8.0, "staleness": None},
    ],
    "nodes": [{"worker": 0, "node": "abc", "links": ["shared memory", "gRPC", "gRPC"]}],
    "shards": [
        {
            "shard": 0,
            "node": "abc",
            "version": 7,
            "pulls": 3,
            "pushes": 2,
            "exchanges": 0,
            "bytes_in": 10,
            "bytes_out": 20,
        },
        {"shard": 1, "node": "def", "version": 5},
    ],
}


def main() -> None:
    port = reserve_port()
    cluster = empty_cluster()
    with tempfile.TemporaryDirectory(prefix="hp-", dir="/tmp") as folder:
        try:
            with patient_start():
                cluster.add_node(
                    num_cpus=2,
                    include_dashboard=False,
                    object_store_memory=100 << 20,
                    temp_dir=folder,
                    metrics_export_port=port,
                    _system_config={"metrics_report_interval_ms": 200},
                )
            served(port)  # a process whose node does not serve metrics yet looks for it for 30 s, and then no more
            ray.init(address=cluster.address, log_to_driver=False)
            answer = {
                "metrics": scrape(port, json.loads(sys.argv[2])),
                "data": data_set() if sys.argv[1] == "data" else None,
            }
        finally:
            ray.shutdown()
            cluster.shutdown()
    print(json.dumps(answer))


# -- metrics ----------------------------------------------------------------------------------------------------------


def record_all(sink: PrometheusSink) -> None:
    """Progress records, an evaluation, and events."""
    event = {"kind": "event", "message": ""}
    sink.record(PROGRESS)
    sink.record({**event, "seconds": 6.0, "event": "worker_died"})
    sink.record({**event, "seconds": 6.0, "event": "checkpoint"})
    sink.record({**event, "seconds": 6.5, "event": "mirror_failed"})
    sink.record({"kind": "evaluation", "seconds": 7.0, "evaluation": {"test_accuracy": 0.875}})
    record_last(sink)


def record_last(sink: PrometheusSink) -> None:
    """The last progress record, in which a shard has begun to count anew. Again and again, as gauges are to be set."""
    shards = [{**PROGRESS["shards"][0], "version": 9, "pulls": 1, "bytes_in": 15}, PROGRESS["shards"][1]]
    sink.record({**PROGRESS, "seconds": 9.0, "examples": 150, "loss": 0.25, "shards": shards})


def served(port: int) -> str:
    """What the node's endpoint serves, once it does."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as reply:
                return reply.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def scrape(port: int, expected: dict[str, float]) -> dict[str, float]:
    """What comes to the node's endpoint, without Ray's own tags: ``name{tag=value,…}`` -> value; some time after it was told.

    Ray sends what counters have grown by, once: what its agent does not take yet is lost. Then another job counts from the start.
    """
    found: dict[str, float] = {}
    for attempt in range(1, ATTEMPTS + 1):
        sink = PrometheusSink(f"try-{attempt}")
        record_all(sink)
        deadline = time.monotonic() + ATTEMPT_S
        while time.monotonic() < deadline:
            record_last(sink)
            found = parse(served(port), f"try-{attempt}")
            if expected.items() <= found.items():
                return found
            time.sleep(0.2)
    return found


def parse(text: str, job: str) -> dict[str, float]:
    """The series of a job, under the name of the first."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("ray_hogshead_") or f'job="{job}"' not in line:
            continue
        line = line.replace(f'job="{job}"', 'job="try-1"')
        name, _, rest = line.partition("{")
        tags, _, value = rest.rpartition("} ")
        ours = sorted(
            tag.replace('"', "") for tag in tags.split(",") if tag[0].islower() and not tag.startswith("otel_")
        )
        found[f"{name}{{{','.join(ours)}}}"] = float(value)
    return found


# -- a data set -------------------------------------------------------------------------------------------------------


def data_set() -> dict:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    x = np.arange(600, dtype=np.float32).reshape(200, 3)
    dataset = ray.data.from_items([{"x": row, "y": number % 2, "z": 1.0} for number, row in enumerate(x)])
    path = Path(tempfile.mkdtemp(dir=ray._private.worker._global_node.get_session_dir_path())) / "task.py"
    path.write_text(TASK)
    sections = {"strategy": "sequential", "backend": "ray", "data": {"train": dataset}}
    job = Job.from_dict({**sections, "task": f"{path}:Given"})
    on_node = ray.get(ray.remote(lambda tables: describe(Job.from_dict(tables))).remote(job.to_dict()))
    mlp = Job.from_dict({**sections, "task": {"name": "mlp", "hidden": [4]}}).build_task()
    refused = [
        refusal(lambda: Job.from_dict({**sections, "backend": "processes", "task": f"{path}:Given"})),
        refusal(lambda: Job.from_dict({**sections, "cluster": {"detach": True}, "task": f"{path}:Given"})),
        refusal(lambda: Job.from_dict({**sections, "data": {"train": dataset.limit(0)}, "task": f"{path}:Given"})),
        refusal(lambda: Job.from_dict({**sections, "data": {"train": texts()}, "task": f"{path}:Given"})),
        refusal(
            lambda: Job.from_dict(
                {**sections, "data": {"train": "ray-data://gone"}, "task": f"{path}:Given"}
            ).build_task()
        ),
    ]
    return {"option": job.to_dict()["data"]["train"], "here": describe(job), "node": on_node, "mlp": len(mlp.dataset()),
            "toml": "ray-data://" in job.to_toml(), "refused": refused}  # fmt: skip


TASK = """
class Given:
    paths = ("train",)

    def __init__(self, train):
        self.columns = train

    def parameters(self, rng): ...
    def dataset(self): ...
    def loss_and_gradient(self, parameters, batch): ...
    def evaluate(self, parameters): ...
"""


def describe(job: Job) -> dict:
    columns = job.build_task().columns
    order = np.argsort(columns["x"][:, 0])
    return {
        "shapes": {name: list(array.shape) for name, array in columns.items()},
        "sums": {name: float(array.sum()) for name, array in columns.items()},
        "first": columns["x"][order][1].tolist(),
        "second_label": int(columns["y"][order][1]),
        "writeable": any(array.flags.writeable for array in columns.values()),
    }


def texts():
    import ray.data

    return ray.data.from_items([{"x": "one"}, {"x": "two"}])


def refusal(action) -> str:
    try:
        action()
    except (DataError, JobError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
