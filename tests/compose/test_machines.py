"""Machines outside the compose network join as README says: here one on a network of its own, where only addresses lead."""

from __future__ import annotations

import re
import socket
import subprocess

import pytest

import hogshead
from deploy.container.keeper import listens
from tests.compose.clone import ROOT, Clone, until, why_no_image
from tests.compose.watching import JOB, check_placement, finish, go_on, places, whole
from tests.deploy.cluster.stage import LONG

pytestmark = [LONG, pytest.mark.timeout(1500)]

THERE = "10.83.70.5"
# The other machine: what deploy/compose.hosts.yml puts into its host's network is a host of its own network instead.
ELSEWHERE = f"""
services:
  node:
    network_mode: !reset null
    networks: !override {{elsewhere: {{ipv4_address: {THERE}}}}}
networks:
  elsewhere: {{ipam: {{config: [{{subnet: 10.83.70.0/24}}]}}}}
"""


@pytest.fixture
def machines(engine, folder):
    """Clones on two machines, after the commands of README on each."""
    here = own_address()
    reason = why_no_image() or next((f"port {port} is taken" for port in (6379, 8265) if listens(f"{here}:{port}")), "")
    if reason:
        pytest.skip(reason)
    made = []
    try:
        for name, commands in zip(("one", "two"), blocks(), strict=True):
            made.append(Clone(folder / name))
            with (made[-1].folder / ".env").open("a") as env:
                env.write("HEAD_RAY_CPUS=5\nNODE_RAY_CPUS=5\n")
            (made[-1].folder / "elsewhere.yml").write_text(ELSEWHERE)
            if name == "two":
                commands = commands.replace("hosts.yml", "hosts.yml:elsewhere.yml")
                commands = commands.replace("scp 10.0.0.4:hogshead/", f"cp {made[0].folder}/")
            commands = commands.replace("10.0.0.4", here).replace("10.0.0.5", THERE)
            made[-1].run("sh", "-ec", commands, timeout=540)
        yield made
    finally:
        for clone in reversed(made):
            clone.down()


def test_a_job_trains_on_a_machine_that_joins_and_is_lost(machines):
    first, other = machines
    with hogshead.connect(first.address, token=first.token) as client:
        until("it has joined", lambda: THERE in [node.address for node in client.cluster().nodes])
        job = "far-1"
        first.hogshead("submit", "examples/digits_easgd.toml", "--name", "far", *JOB)
        placed = until("all train", lambda: whole(client, job))
        check_placement(placed)
        lost = next(node.id[:8] for node in client.cluster().nodes if node.address == THERE)
        assert lost in places(placed)
        subprocess.run(("docker", "kill", *other.containers("node")), check=True, capture_output=True)
        until("all train without it", lambda: lost not in places(whole(client, job)))
        first.compose("restart", "head")
        go_on(client, job, "after the head was restarted")
        first.hogshead("stop", job)
        finish(first, client, job)
    for clone in reversed(machines):
        clone.compose("down", "-v")
        assert clone.left() == []


def blocks() -> list[str]:
    """README's commands on the first machine, and on each of the others."""
    section = (ROOT / "README.md").read_text().partition("\n### More machines\n")[2].partition("\n### ")[0]
    found = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [block for block in found if "docker compose" in block]


def own_address() -> str:
    """This machine's, as others see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((THERE, 9))
        return probe.getsockname()[0]
