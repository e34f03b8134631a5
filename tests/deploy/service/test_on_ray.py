"""The job service on a real Ray: jobs side by side and in a queue, one that fails, and what is killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from deploy.saving import load_parameters

from .on_ray import Head, Service, wait_until

pytestmark = [pytest.mark.timeout(480), pytest.mark.filterwarnings("ignore::ResourceWarning")]
LEDGER = Path(__file__).parents[1] / "cluster" / "tasks" / "ledger.py"
BROKEN = """
import pathlib
import time

class Broken:
    def __init__(self, fail):
        self.fail = pathlib.Path(fail)
        print("a word of mine")

    def parameters(self, rng):
        import numpy
        return {"w": numpy.zeros(3, "float32")}

    def dataset(self):
        import numpy
        return (numpy.zeros((8, 3)),)

    def loss_and_gradient(self, parameters, batch):
        while not self.fail.exists():
            time.sleep(0.005)
        raise ValueError("a mistake of mine")

    def evaluate(self, parameters):
        return {}
"""


@pytest.fixture(scope="module")
def head():
    folder = tempfile.mkdtemp(prefix="hs-", dir="/tmp")  # short: paths of sockets lie in it
    try:
        with Head(folder, cpus=5) as head:
            yield head
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def service(head, tmp_path):
    service = Service(tmp_path, head)
    try:
        yield service
        service.clear()
    finally:
        service.close()


@pytest.fixture
def client(service):
    with service.client() as client:
        yield client


def ledger(folder: Path, name: str, epochs: int = 2, free: int = 1 << 30) -> Path:
    """A job that counts how often each example was applied; after ``free`` gradients it waits for the file ``go``."""
    (folder / name).mkdir()
    job = {
        "task": {"name": f"{LEDGER}:Ledger", "folder": str(folder / name), "free": free},
        "strategy": {"name": "downpour"},
        "rule": {"name": "sgd", "lr": 1.0},
        "data": {"batch_size": 4},
        "workers": {"count": 2},
        "shards": {"count": 2},
        "stop": {"epochs": epochs},
        "checkpoint": {"every_seconds": 1},
    }
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(job))
    return path


def in_state(client, job, *states):
    return wait_until(
        lambda: next((found for found in [client.get(job)] if found.state in states), None), lambda: client.get(job)
    )


def test_jobs_side_by_side_in_a_queue_and_failing(client, service, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    broken = tmp_path / "broken.toml"
    task = {"name": "broken.py:Broken", "fail": str(tmp_path / "fail")}
    broken.write_text(tomli_w.dumps({"task": task, "strategy": "downpour", "workers": {"count": 1}}))
    first, second = (client.submit(ledger(tmp_path, name, free=8)).id for name in ("first", "second"))
    third = client.submit(ledger(tmp_path, "third")).id
    for job in (first, second):
        in_state(client, job, "running")
    wait_until(lambda: "needs 2.2 CPUs" in client.get(third).reason, lambda: (client.get(third), service.log))
    waiting = client.get(third)
    assert (waiting.state, waiting.queue_position) == ("queued", 1)
    urgent = client.submit(broken, priority=5).id
    assert client.get(urgent).queue_position == 1 and client.get(third).queue_position == 2
    assert client.stop(third).state == "stopped"
    for name in ("first", "second"):
        (tmp_path / name / "go").touch()
    # What a task prints takes its time from its node to the log, and is not waited for long where it fails.
    wait_until(lambda: b"a word of mine" in b"".join(client.logs(urgent)), lambda: service.log)
    (tmp_path / "fail").touch()
    failed = client.wait(urgent)
    assert (failed.state, failed.reason) == (
        "failed",
        "the task's loss_and_gradient raised ValueError: a mistake of mine",
    )
    for job in (first, second):
        ended = client.wait(job)
        assert (ended.state, ended.reason) == ("succeeded", "2 epochs"), service.log
        client.fetch(job, tmp_path / "out" / job)
        run = tmp_path / "out" / job
        summary = json.loads((run / "summary.json").read_text())
        assert summary["status"] == "done" and ended.summary == summary
        np.testing.assert_array_equal(load_parameters(run)["counts"][1:-1], -2)
        kinds = [json.loads(line)["kind"] for news in client.watch(job) for line in map(json.dumps, news.records)]
        assert {"progress", "evaluation", "event"} <= set(kinds)
    client.delete(urgent)
    assert not (service.jobs / urgent).exists() and urgent not in {job.id for job in client.jobs()}


def test_whoever_is_killed_stopped_or_resumed_nothing_is_lost_or_applied_twice(client, service, tmp_path):
    job = client.submit(ledger(tmp_path, "long", epochs=100_000)).id
    before = in_state(client, job, "running").attempt
    service.end(signal.SIGKILL)
    os.kill(service.driver(job), signal.SIGKILL)
    service.start()
    wait_until(lambda: client.get(job).attempt > before, lambda: service.log)
    assert client.get(job).state == "running"
    assert client.stop(job).state == "stopping"
    stopped = client.wait(job)
    assert stopped.state == "stopped" and "stopped after" in stopped.reason
    # The next driver found the run at work: nothing was begun anew.
    assert stopped.summary["worker_deaths"] == 0 and stopped.summary["shards_replaced"] == 0
    assert b"the run goes on; following it" in b"".join(client.logs(job))
    reached = int(stopped.summary["epochs"])
    client.resume(job, set={"stop.epochs": reached + 2})
    ended = client.wait(job)
    assert (ended.state, ended.reason) == ("succeeded", f"{reached + 2} epochs"), service.log
    client.fetch(job, tmp_path / "out", ["checkpoint/*"])
    # Exact: the checkpoint had all that was applied, and who stopped had applied all that was handed out.
    np.testing.assert_array_equal(load_parameters(tmp_path / "out")["counts"][1:-1], -(reached + 2))
    client.resume(job, set={"stop.epochs": 100_000})
    in_state(client, job, "running")
    assert service.end(signal.SIGTERM) == 0
    service.start()
    in_state(client, job, "running")
    client.stop(job, kill=True)
    killed = client.wait(job)
    assert (killed.state, killed.reason) == ("stopped", "killed, as it was asked to be"), service.log
