"""Jobs whose pieces do not fit just anywhere, on a real Ray of two nodes: who waits, and where the others come to lie."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import tomli_w

from deploy.service.ray_jobs import RayCluster
from deploy.service.room import Room
from tests.deploy.cluster.stage import LONG
from tests.patient_ray import RAY
from tests.ports import port_of, reserved

from .on_ray import Head, Service, wait_until

pytestmark = [LONG, pytest.mark.timeout(480), pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture
def head(monkeypatch):
    """A head of one CPU and a node of three."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "5" * 64)  # the node joins with it
    folder = tempfile.mkdtemp(prefix="hs-", dir="/tmp")
    try:
        with Head(folder, cpus=1) as head, reserved() as held:
            log = Path(folder, "head.log")
            found = wait_until(lambda: re.search(r"--address='([0-9.]+:[0-9]+)'", log.read_text()), log.read_text)
            ports = ["--dashboard-agent-listen-port", str(port_of(held))]
            node = subprocess.Popen(
                [*RAY, "start", "--block", f"--address={found[1]}"]
                + ["--num-cpus=3", "--object-store-memory=100000000", *ports],
                stdout=(output := open(Path(folder, "node.log"), "wb")),
                stderr=subprocess.STDOUT,
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
            )
            try:
                yield head
            finally:
                node.terminate()
                try:
                    node.wait(60)
                finally:
                    node.kill()
                    output.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_place(folder: Path, name: str, workers: int, seconds: float) -> Path:
    """A job of Hogwild!, whose workers must be on one node."""
    data = folder / "data.svm"
    data.write_text("".join(f"{(-1) ** row} {row % 7 + 1}:1 {row % 5 + 8}:0.5\n" for row in range(200)))
    job = {
        "task": {"name": "sparse_linear", "train": str(data)},
        "strategy": "hogwild",
        "workers": {"count": workers},
        "stop": {"seconds": seconds, "epochs": 10**15},
    }
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(job))
    return path


def test_workers_that_must_be_on_one_node(head, tmp_path):
    service = Service(tmp_path, head)
    try:
        cluster = RayCluster(f"http://127.0.0.1:{head.dashboard}")
        wait_until(lambda: len(cluster.nodes()) == 2, Path(head.folder, "node.log").read_text)
        large = next(node.id for node in cluster.nodes() if node.cpus == 3.0)
        with service.client() as client:
            never = client.submit(in_place(tmp_path, "never", 3, 1.0)).id
            first = client.submit(in_place(tmp_path, "first", 2, 1000.0)).id
            wait_until(lambda: client.get(first).state == "running", lambda: (client.get(first), service.log))
            assert "it needs 3.1 CPUs on one node, the largest has 3" in client.get(never).reason

            def lying():
                return [one for one in cluster.held() if one.job == first and one.room != Room()]

            held = wait_until(lambda: len(lying()) == 3 and lying(), lambda: (lying(), service.log))
            places = sorted((one.kind, one.room.cpus) for one in held)
            assert places == [("shard", 0.1), ("worker", 1.0), ("worker", 1.0)]
            assert {one.node for one in held} == {large}
            second = client.submit(in_place(tmp_path, "second", 1, 1.0)).id
            lacks = "waits for room: it needs 1.1 CPUs on one node, at most 1 are free on one"
            wait_until(lambda: client.get(second).reason == lacks, lambda: (client.get(second), service.log))
            client.stop(first)
            assert client.wait(second).state == "succeeded", service.log
            assert client.get(never).state == "queued"
        service.clear()
    finally:
        service.close()
