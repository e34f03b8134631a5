"""The client in another language trains against real shard servers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ps.layout import Layout
from ps.rules import Adagrad
from ps.shard import ShardOptions
from ps.state import build_state, initialise, private_arrays, state_specs
from ps.transport.server import ShardServer

from ..ps.transport.proxy import Proxy

CLIENT = Path(__file__).resolve().parents[2] / "examples" / "node_client"
STEPS = 60


@pytest.fixture
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node.js is not installed")
    if not (CLIENT / "node_modules" / "@grpc" / "grpc-js").is_dir():
        pytest.skip("the client's packages are not installed: run `npm install` in examples/node_client")
    return found


@pytest.fixture
def served():
    """Two shards of a linear model for four replicas, each behind a server: (state, servers)."""
    parameters = {"weights": np.zeros(6, np.float32), "bias": np.zeros(1, np.float32)}
    layout, rule, options = Layout.of(parameters), Adagrad(lr=0.5), ShardOptions(replicas=4)
    state = build_state(layout, 2, rule, options, private_arrays(state_specs(layout, 2, rule, options)))
    initialise(state, parameters)
    servers = [ShardServer(shard, token="of the job", bind="127.0.0.1") for shard in state.shards]
    for server in servers:
        server.start()
    yield state, servers
    for server in servers:
        server.stop()


def write_endpoints(path: Path, state, addresses, token="of the job", replicas=(2, 3)) -> Path:
    shards = [
        {"index": shard.index, "address": address, "start": shard.range.start, "stop": shard.range.stop}
        for shard, address in zip(state.shards, addresses)
    ]
    said = {"token": token, "shards": shards[::-1], "layout": state.layout.to_json(), "replicas": list(replicas)}
    path.write_text(json.dumps(said), encoding="utf-8")
    return path


def examples(path: Path) -> np.ndarray:
    """Writes a file of examples of a linear model; returns its weights, the bias last."""
    rng = np.random.default_rng(2)
    truth = rng.normal(size=7)
    x = rng.normal(size=(300, 6))
    np.savetxt(path, np.c_[x, x @ truth[:6] + truth[6]], delimiter=",")
    return truth


def train(node: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [node, str(CLIENT / "train.js"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_it_trains_a_linear_model(node, served, tmp_path):
    state, servers = served
    truth = examples(tmp_path / "examples.csv")
    endpoints = write_endpoints(tmp_path / "endpoints.json", state, [server.address for server in servers])
    done = train(node, endpoints, tmp_path / "examples.csv", "--steps", STEPS, "--replica", 3)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["replica"], said["steps"], said["duplicates"], said["largest_staleness"]) == (3, STEPS, 0, 0)
    assert [shard.version for shard in state.shards] == [STEPS] * 2
    assert said["last_loss"] < said["first_loss"] / 20
    assert np.abs(state.center - truth).max() < 0.3 * np.abs(truth).max()
    incarnation, sequence = state.shards[0].watermarks[3].tolist()
    assert incarnation > 1 and sequence == STEPS


def test_its_pushes_are_applied_once_over_connections_that_break(node, served, tmp_path):
    state, servers = served
    examples(tmp_path / "examples.csv")
    proxies = [Proxy(server.address, [900, 1500, 400, 3000, 150, 2500] * 2) for server in servers]
    try:
        endpoints = write_endpoints(tmp_path / "endpoints.json", state, [proxy.address for proxy in proxies])
        done = train(node, endpoints, tmp_path / "examples.csv", "--steps", STEPS)
    finally:
        for proxy in proxies:
            proxy.close()
    assert done.returncode == 0, done.stderr
    assert [shard.version for shard in state.shards] == [STEPS] * 2
    assert all(proxy.connections > 3 for proxy in proxies)


def test_what_is_refused_ends_it_with_the_reason(node, served, tmp_path):
    state, servers = served
    examples(tmp_path / "examples.csv")
    addresses = [server.address for server in servers]
    for wrong, reason in (
        ({"token": "of another job"}, "UNAUTHENTICATED"),
        ({"replicas": [4]}, "replica must be < 4, got 4"),
    ):
        endpoints = write_endpoints(tmp_path / "endpoints.json", state, addresses, **wrong)
        done = train(node, endpoints, tmp_path / "examples.csv", "--steps", 1)
        assert done.returncode != 0 and reason in done.stderr
    assert [shard.version for shard in state.shards] == [0, 0]
