"""``hogshead doctor --address``: what it prints, its exit code, what a probe sees of a job, and all of it on a local Ray."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from deploy.cli import main
from deploy.cluster import doctor
from deploy.cluster.bundle import pack
from deploy.cluster.findings import Finding
from deploy.cluster.probe import NodeProbe
from deploy.job import load_job

pytestmark = pytest.mark.timeout(600)

TASK = """
{prelude}
import numpy as np


class Points:
    paths = ("train",)

    def __init__(self, *, train):
        pass

    def parameters(self, rng):
        return {{"w": np.zeros(1000, np.float32)}}

    def dataset(self):
        return np.zeros((100, 2))

    def loss_and_gradient(self, parameters, batch):
        return 0.0, {{"w": np.zeros(1000, np.float32)}}

    def evaluate(self, parameters):
        return {{}}
"""
JOB = """
[task]
name = "points.py:Points"
[data]
train = "points.csv"
[strategy]
name = "downpour"
[rule]
name = "adagrad"
lr = 0.1
[shards]
count = 2
[cluster]
shard_cpus = 0.5
[workers]
count = {workers}
"""


@pytest.fixture
def job_file(tmp_path):
    def write(prelude="", workers=2):
        (tmp_path / "points.py").write_text(TASK.format(prelude=prelude))
        (tmp_path / "points.csv").write_text("1,2\n")
        (tmp_path / "job.toml").write_text(JOB.format(workers=workers))
        return tmp_path / "job.toml"

    return write


@pytest.fixture
def cluster(monkeypatch):
    """Stands in for a cluster: ``cluster.findings`` are in the way, ``cluster.answers`` are what asking the nodes gives."""

    class Cluster:
        def __init__(self):
            self.findings, self.answers, self.requests = [], [{"stage": "nodes", "nodes": []}], []

        def check(self, address):
            return self.findings, {"ray": "2.60.0", "python": "3.11.7", "nodes": []}

        def talk(self, request, timeout_s):
            self.requests.append(request)
            return iter(self.answers)

    cluster = Cluster()
    monkeypatch.setattr(doctor, "check_reachable", cluster.check)
    monkeypatch.setattr(doctor, "talk", cluster.talk)
    return cluster


def test_a_fatal_finding_is_told_with_its_remedy_and_nobody_else_is_asked(cluster, capsys):
    cluster.findings = [Finding("token-wrong", "10.0.0.4:6379", "the token is not the cluster's", "set RAY_AUTH_TOKEN")]
    assert main(["doctor", "--address", "10.0.0.4"]) == 1
    out = capsys.readouterr().out
    assert "problem: 10.0.0.4:6379: the token is not the cluster's\n         set RAY_AUTH_TOKEN\n1 problem\n" in out
    assert not cluster.requests


def test_a_warning_leaves_the_exit_code(cluster, capsys):
    cluster.findings = [Finding("clock", "node a", "late", "set it", fatal=False)]
    assert main(["doctor", "--address", "10.0.0.4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"] and found["address"] == "10.0.0.4:6379"
    assert found["findings"] == [
        {"kind": "clock", "where": "node a", "what": "late", "remedy": "set it", "fatal": False}
    ]


def test_problems_come_before_warnings(cluster, capsys):
    cluster.findings = [Finding("clock", "a", "late", "x", fatal=False), Finding("room", "b", "full", "y")]
    assert main(["doctor", "--address", "10.0.0.4"]) == 1
    out = capsys.readouterr().out
    assert out.index("problem: b") < out.index("warning: a")
    assert out.endswith("1 problem, 1 warning\n")


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([{"ended": None}], "no answer within 360 s"),
        ([{"stage": "cluster"}, {"stage": "error", "type": "RuntimeError", "error": "bad\nmore"}], "RuntimeError: bad"),
        ([{"ended": 1}], "it gave no answer"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_a_problem(cluster, capsys, answers, words):
    cluster.answers = answers
    assert main(["doctor", "--address", "10.0.0.4"]) == 1
    out = capsys.readouterr().out
    assert f"joining the cluster failed ({words})" in out


@pytest.mark.parametrize("address", ["ray://10.0.0.4:10001", "10.0.0.4:port"])
def test_a_wrong_address_is_wrong_usage(address, capsys):
    assert main(["doctor", "--address", address]) == 2
    assert "must be HOST:PORT" in capsys.readouterr().err


def test_a_job_needs_an_address(job_file, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["doctor", str(job_file())]) == 2
    assert "give --address HOST:PORT" in capsys.readouterr().err


def test_a_job_is_sent_to_the_nodes_and_its_needs_are_counted(cluster, capsys, job_file):
    assert main(["doctor", "--address", "10.0.0.4", str(job_file())]) == 1
    assert (
        "problem: the cluster: the job asks for 2 shards of 0.5 CPUs and 2 workers of 1 CPUs" in capsys.readouterr().out
    )
    (request,) = cluster.requests
    assert request["job"]["task"]["name"].endswith("points.py:Points") and request["bundle"]["data"]


def test_needs_are_those_of_the_job(job_file):
    needs, findings = doctor._needs(load_job(job_file()))
    assert findings == []
    assert (needs.shards, needs.replicas, needs.shard_cpus, needs.data_bytes) == (2, 2, 0.5, 1600)
    assert needs.state_bytes >= 2 * 4000  # the center, and a slot as large


def test_a_task_that_cannot_be_built_here_is_a_warning(job_file):
    path = job_file()
    (path.parent / "points.py").write_text(TASK.format(prelude="").replace("pass", "raise OSError('no data')"))
    needs, (finding,) = doctor._needs(load_job(path))
    assert needs.state_bytes == 0 and finding.kind == "task" and not finding.fatal and "no data" in finding.what


# -- what a probe sees on its node -------------------------------------------------------------------------------------


def probed(path, change=lambda: None):
    job = load_job(path)
    bundle = pack(job)
    change()
    return NodeProbe().job(job.to_dict(), {"data": bundle.data, "digest": bundle.digest, "base": bundle.base})


def test_a_job_that_a_node_can_load_is_fine(job_file):
    assert probed(job_file()) == {"error": None, "missing": []}


def test_data_that_a_node_lacks_are_named(job_file):
    path = job_file()
    data = path.parent / "points.csv"
    assert probed(path, data.unlink) == {"error": None, "missing": [["train", str(data)]]}


def test_a_task_that_a_node_cannot_import_is_told(job_file):
    path = job_file(
        prelude=f"import os\nif not os.path.exists({str(job_file().parent)!r} + '/points.csv'): import nowhere"
    )
    found = probed(path, (path.parent / "points.csv").unlink)
    assert "No module named 'nowhere'" in found["error"]


def test_a_probe_sees_who_cannot_be_reached():
    probe = NodeProbe()
    port = probe.listen("127.0.0.1")
    with socket.socket() as silent:  # it has a port, so nobody else has it, and does not listen
        silent.bind(("127.0.0.1", 0))
        peers = [["127.0.0.1", port], list(silent.getsockname())]
        assert probe.reach(peers, 60.0) == [["127.0.0.1", "Connection refused"]]
    probe._listener.close()


def test_a_probe_tells_one_checkout_from_another(tmp_path, monkeypatch):
    import deploy

    own = NodeProbe._hogshead()
    assert own == NodeProbe._hogshead() and len(own["digest"]) == 64
    (tmp_path / "other.py").write_text("")
    monkeypatch.setattr(deploy, "__file__", str(tmp_path / "other.py"))
    assert NodeProbe._hogshead()["digest"] != own["digest"]


# -- on a real Ray -----------------------------------------------------------------------------------------------------

HEAD = """
import sys, ray
from deploy.cluster.patience import patient_start
with patient_start():
    context = ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=80_000_000,
                       log_to_driver=False, _temp_dir=sys.argv[1])
print("address", context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory):
    """The address of a Ray of this module's own, and its token."""
    import tempfile

    token = "a-token-of-this-test"
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_enable_worker_prestart": "0"}
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:  # short: sockets lie below it
        command = [sys.executable, "-c", HEAD, folder]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=folder
        ) as head:
            try:
                address = next(line.split()[1] for line in head.stdout if line.startswith("address "))
                yield address, token
            finally:
                head.stdin.close()
                head.wait(120)


def test_a_local_ray_is_examined_with_a_job(local_ray, monkeypatch, capsys, job_file):
    address, token = local_ray
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    code = main(["doctor", "--address", address, "--json", str(job_file(prelude="import json"))])
    found = json.loads(capsys.readouterr().out)
    # Machines that test in containers may have little shared memory; that is no fault of the examination.
    others = [finding for finding in found["findings"] if finding["kind"] != "shared-memory"]
    assert others == []
    assert code == (0 if found["healthy"] else 1)
    (node,) = found["nodes"]
    assert node["job"] == {"error": None, "missing": []}
    assert node["resources"]["CPU"] == 4.0 and node["facts"]["token"] is True
    assert abs(node["clock"]["ahead"]) <= node["clock"]["within"]  # it is the same clock
    assert node["facts"]["hogshead"] == NodeProbe._hogshead()


def test_a_local_ray_is_too_small_for_many_workers(local_ray, monkeypatch, capsys, job_file):
    address, token = local_ray
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    assert main(["doctor", "--address", address, str(job_file(workers=9))]) == 1
    assert "on 1 node with 4 CPUs there is room for 2 shards and 3 workers" in capsys.readouterr().out


@pytest.mark.parametrize(("token", "kind"), [("another", "token-wrong"), (None, "token-missing")])
def test_a_local_ray_refuses_other_tokens(local_ray, monkeypatch, capsys, tmp_path, token, kind):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    assert main(["doctor", "--address", local_ray[0], "--json"]) == 1
    assert [finding["kind"] for finding in json.loads(capsys.readouterr().out)["findings"]] == [kind]
