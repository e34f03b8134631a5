"""The cluster of docker-compose.yml, really: what dies in it comes back, and the job ends well."""

from __future__ import annotations

import json
import subprocess

import pytest

import hogshead
from deploy.exit_codes import INTERRUPTED
from tests.compose.clone import PATIENCE_S, readme_commands, until
from tests.compose.watching import JOB, address_of, check_page, check_placement, finish, go_on, places, whole
from tests.deploy.cluster.stage import LONG

pytestmark = pytest.mark.timeout(1500)  # one process has all of them, see tests/conftest.py


KILL = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline").read().split(chr(0))
    except OSError:
        continue
    if "serve" in words and any(word.endswith("/hogshead") for word in words):
        os.kill(int(pid), signal.SIGKILL)
        print("killed", pid)
"""

KILL_GCS = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        name = open(f"/proc/{pid}/comm").read().strip()
    except OSError:
        continue
    if name == "gcs_server":
        os.kill(int(pid), signal.SIGKILL)
        print("killed", pid)
"""


@pytest.fixture
def client(cluster):
    with hogshead.connect(cluster.address, token=cluster.token) as made:
        yield made


def test_the_commands_of_readme(cluster):
    """The first of the four has started the cluster."""
    _, submit, jobs, fetch = readme_commands()
    assert "succeeded" in cluster.line(submit)
    assert "digits_easgd-1" in cluster.line(jobs)
    cluster.line(fetch)
    assert (cluster.folder / "out" / "report.html").exists()


def test_a_job_outlives_a_node_the_head_its_gcs_redis_and_the_service(cluster, client):
    """``submit --follow`` does too: it sees all of it. Stopped then, and resumed, the job ends well."""
    until("two nodes have joined", lambda: len(client.cluster().nodes) == 3)
    job = "tough-1"
    follower = cluster.begin("submit", "examples/digits_easgd.toml", "--follow", "--name", "tough", *JOB)
    try:
        placed = until("all train", lambda: whole(client, job))
        check_placement(placed)
        check_page(cluster, job)

        victim = cluster.containers("node")[0]
        lost = next(node.id[:8] for node in client.cluster().nodes if node.address == address_of(victim))
        assert lost in places(placed)
        for verb in ("kill", "start"):
            subprocess.run(("docker", verb, victim), check=True, capture_output=True)
        until("all train without what died", lambda: lost not in places(whole(client, job)))

        assert "killed" in cluster.compose("exec", "-T", "head", "python", "-c", KILL_GCS)
        go_on(client, job, "after Ray's GCS server was killed")
        cluster.compose("restart", "redis")
        go_on(client, job, "after Redis was restarted")
        cluster.compose("restart", "head")
        go_on(client, job, "after the head was restarted")

        assert "killed" in cluster.compose("exec", "-T", "head", "python", "-c", KILL)
        go_on(client, job, "after the service was killed")
        cluster.hogshead("stop", job)
        assert follower.wait(PATIENCE_S) == INTERRUPTED, (cluster.folder / "said.txt").read_text()[-3000:]
    finally:
        follower.kill()
        follower.wait()
    stopped = client.wait(job)
    assert stopped.reason.replace("stopped after", "stopped: after") in (cluster.folder / "said.txt").read_text()
    finish(cluster, client, job)
    assert [json.loads(line)["id"] for line in cluster.hogshead("jobs", "--json").splitlines()][0] == job


def test_the_containers_are_nobodys_root(cluster):
    """Neither root nor with privileges, and the secrets are those that each needs."""
    for service, secrets in (("head", {"token", "ray-token", "redis-password"}), ("node", {"ray-token"})):
        assert cluster.compose("exec", "-T", service, "id", "-u").strip() == "10001"
        assert set(cluster.compose("exec", "-T", service, "ls", "/run/secrets").split()) == secrets
        status = cluster.compose("exec", "-T", service, "cat", "/proc/1/status")
        assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
    password = (cluster.folder / "secrets" / "redis-password").read_text().strip()
    lines = cluster.compose("exec", "-T", "head", "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null || true")
    assert "gcs_server" in lines and password not in lines
    published = cluster.compose("ps", "--format", "{{.Ports}}")
    assert "0.0.0.0" not in published and "127.0.0.1" in published


@LONG
def test_a_backup_is_restored(cluster, client, tmp_path):
    """As README says, on the cluster itself: what was deleted since is there again."""
    job = client.jobs()[-1].id if client.jobs() else pytest.skip("no job has run")
    cluster.run("sh", "-ec", BACKUP.format(archive=tmp_path / "backup.tgz"))
    until("the service answers", lambda: client.get(job))
    client.delete(job)
    assert job not in [found.id for found in client.jobs()]
    cluster.run("sh", "-ec", RESTORE.format(archive=tmp_path / "backup.tgz"))
    until("the service answers", lambda: client.get(job))
    assert client.read(job, "summary.json")


BACKUP = """
docker compose stop head
docker compose run --rm --no-deps -T head tar -C / -cz jobs state > {archive}
docker compose start head
"""
RESTORE = """
docker compose stop head
docker compose run --rm --no-deps -T head tar -C / -xz < {archive}
docker compose start head
"""


def test_down_leaves_nothing(cluster):
    """The last one in this file, as nothing runs after it."""
    assert cluster.left()
    cluster.compose("down", "-v")
    assert cluster.left() == []
