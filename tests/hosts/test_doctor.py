"""``hogshead doctor --address`` over hosts of their own, each with another fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import deploy
from tests.deploy.cluster.stage import LONG
from tests.hosts import Hosts

pytestmark = pytest.mark.timeout(300)

JOB = """
[task]
name = "sparse_linear"
[data]
train = "{data}"
[strategy]
name = "downpour"
[rule]
name = "adagrad"
lr = 0.1
[shards]
count = 3
"""


def doctor(hosts, number, *arguments, **env):
    """Exit code, and what was found."""
    done = hosts.run(number, ["hogshead", "doctor", "--json", *arguments], env=env, timeout_s=90)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def kinds(found):
    return [(finding["kind"], finding["where"]) for finding in found["findings"]]


@LONG
def test_what_keeps_a_host_from_joining_is_found():
    cases = [
        (1, "host-0", {"RAY_AUTH_TOKEN": "another"}, ("token-wrong", "host-0:6379")),
        (1, "host-0", {"RAY_AUTH_TOKEN": "", "HOME": "/nowhere"}, ("token-missing", "host-0:6379")),
        (1, "host-0", {}, ("not-a-node", "this machine")),
        (0, "host-1", {}, ("port-closed", "host-1:6379")),
        (0, "10.83.0.99", {}, ("port-filtered", "10.83.0.99:6379")),
    ]
    with Hosts(2, ray=[0]) as hosts:
        for number, address, env, expected in cases:
            code, found = doctor(hosts, number, "--address", address, **env)
            assert (code, kinds(found)) == (1, [expected])


@LONG
def test_the_fault_of_each_node_is_found(tmp_path):
    data, job = tmp_path / "train.svm", tmp_path / "job.toml"
    data.write_text("+1 1:0.5 7:1\n-1 2:1\n")
    job.write_text(JOB.format(data=data))
    with Hosts(3) as hosts:
        code, found = doctor(hosts, 1, "--address", hosts.address, str(job))
        assert (code, kinds(found)) == (0, [])
        assert sorted(node["name"] for node in found["nodes"]) == ["host-0", "host-1", "host-2"]

        def breaks(number, *command):
            done = hosts.run(number, command)
            assert done.returncode == 0, done.stderr

        breaks(0, "mount", "-o", "remount,size=8m", "/dev/shm")
        breaks(1, "mount", "-t", "tmpfs", "tmpfs", tmp_path)  # its own: the data are elsewhere
        breaks(1, "ip", "route", "add", "unreachable", f"{hosts[2].address}/32")
        breaks(2, "mount", "-t", "tmpfs", "tmpfs", Path(deploy.__file__).parent)
        code, found = doctor(hosts, 0, "--address", hosts.address, str(job))
        assert code == 1
        assert set(kinds(found)) == {
            ("shared-memory", "node 10.83.0.10 (host-0)"),
            ("data", "node 10.83.0.11 (host-1)"),
            ("link", "node 10.83.0.11 (host-1)"),
            ("link", "node 10.83.0.12 (host-2)"),
            ("hogshead-missing", "node 10.83.0.12 (host-2)"),
        }
        said = " ".join(finding["what"] for finding in found["findings"])
        assert "it cannot connect to shards on 10.83.0.12 (No route to host)" in said
        assert "hogshead cannot be imported there (ImportError" in said
