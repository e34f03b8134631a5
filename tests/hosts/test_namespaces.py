"""The hosts themselves: what they share, what cutting, limiting and killing do, and that nothing is left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hosts import __main__ as script
from tests.hosts import namespaces
from tests.hosts.cluster import Hosts

SERVE = """
import socket, sys
server = socket.create_server((sys.argv[1], 7000))
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    peer.sendall(b"x" * int(sys.argv[2]))
    peer.close()
"""
FETCH = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), timeout=float(sys.argv[2])) as server:
    got = 0
    while chunk := server.recv(1 << 16):
        got += len(chunk)
print(got)
"""
SIZE = 300_000


@pytest.fixture(scope="module")
def hosts():
    with Hosts(2, ray=()) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def server(hosts):
    process = serve(hosts, 0)
    yield hosts[0].address
    hosts.stop(process)
    process.stdout.close()


def serve(hosts, number):
    command = [sys.executable, "-c", SERVE, hosts[number].address, SIZE]
    process = hosts.start(number, command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def until(condition, patience_s=60):
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def fetch(hosts, number, where, patience_s=60):
    """Bytes that ``number`` gets from ``where``, or the name of the exception."""
    done = hosts.run(number, [sys.executable, "-c", FETCH, where, patience_s])
    return int(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1].partition(":")[0]


def test_hosts_reach_each_other_by_address_and_name(hosts, server):
    assert fetch(hosts, 1, server) == SIZE
    assert fetch(hosts, 1, hosts[0].name) == SIZE
    assert hosts.run(1, ["hostname"]).stdout == "host-1\n"


def test_a_cut_host_is_silent_until_it_is_healed(hosts, server):
    hosts.cut(1)
    try:
        assert fetch(hosts, 1, server, patience_s=0.5) in ("TimeoutError", "OSError")
    finally:
        hosts.heal(1)
    assert fetch(hosts, 1, server) == SIZE


def test_a_limit_holds_packets_back_in_both_directions(hosts, server):
    topology = hosts.network.topology
    hosts.limit(1, "20mbit")
    try:
        assert hosts.held_back(1) == 0
        assert fetch(hosts, 1, server) == SIZE
        assert hosts.held_back(1) > 0
        for shown in (topology.on_switch("tc", "qdisc"), topology.on(1, "tc", "qdisc")):
            assert "tbf" in shown and "rate 20Mbit" in shown
    finally:
        hosts.limit(1, None)
    assert "tbf" not in topology.on(1, "tc", "qdisc") + topology.on_switch("tc", "qdisc")


def test_hosts_share_no_memory_processes_or_private_folders(tmp_path):
    (tmp_path / "seen").touch()
    with Hosts(2, ray=(), private=[tmp_path], shm_mb=3) as hosts:
        for folder in ("/dev/shm", namespaces.SCRATCH):
            hosts.run(0, ["touch", f"{folder}/mine"])
            assert hosts.run(0, ["ls", folder]).stdout.split().count("mine") == 1
            assert "mine" not in hosts.run(1, ["ls", folder]).stdout
        assert hosts.file(0, f"{namespaces.SCRATCH}/mine").exists()
        assert hosts.run(0, ["ls", tmp_path]).stdout == "seen\n"
        assert hosts.run(1, ["ls", tmp_path]).stdout == ""
        assert hosts.run(1, ["df", "--output=size", "-m", "/dev/shm"]).stdout.split()[-1] == "3"
        sleeper = hosts.start(1, ["sleep", "1000"])
        try:
            until(lambda: "sleep 1000" in hosts.run(1, ["ps", "ax"]).stdout)  # it takes a moment to get there
            assert "sleep" not in hosts.run(0, ["ps", "ax"]).stdout
        finally:
            hosts.stop(sleeper)


def test_killing_a_host_kills_all_of_it_and_nothing_else():
    with Hosts(3, ray=()) as hosts:
        victim, other = serve(hosts, 1), serve(hosts, 2)
        daemon = hosts.start(1, ["setsid", "--fork", "sleep", "1000"])
        assert daemon.wait(60) == 0
        hosts.kill(1)
        assert victim.wait(60) != 0
        assert not Path(f"/proc/{hosts[1].pid}/root/proc/self").exists()
        assert fetch(hosts, 0, hosts[1].address, patience_s=0.5) in ("TimeoutError", "OSError")
        assert fetch(hosts, 0, hosts[2].address) == SIZE
        victim.stdout.close()
        hosts.stop(other)
        other.stdout.close()


def test_a_command_over_its_time_ends_with_what_it_started(hosts):
    with pytest.raises(subprocess.TimeoutExpired):
        hosts.run(1, ["sh", "-c", "sleep 997 & sleep 998"], timeout_s=0.3)
    until(lambda: "sleep 99" not in hosts.run(1, ["ps", "ax"]).stdout)  # killed, but perhaps not gone yet


def test_nothing_is_left_of_hosts_that_could_not_be_finished(monkeypatch):
    made = []
    keep = namespaces._keep

    def keep_two(*arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(keep(*arguments))
        return made[-1]

    monkeypatch.setattr(namespaces, "_keep", keep_two)
    with pytest.raises(KeyboardInterrupt), Hosts(3, ray=()):
        pass
    assert len(made) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in made)


@pytest.fixture
def by_hand(tmp_path, monkeypatch):
    """The script with two hosts in a process of its own, and a function that calls it again as another terminal does."""
    monkeypatch.setattr(script.tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-m", "tests.hosts", "up", "2", "--no-ray", "--", "sh", "-c", "echo up; exec sleep 1000"]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=root) as process:
        try:
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def test_another_terminal_cuts_limits_and_kills(by_hand, capfd):
    def call(*arguments):
        return script.main(list(map(str, arguments)))

    def port():
        return topology.on_switch("ip", "link", "show", topology.hosts[1].port)

    topology, _ = script.standing(script.parse(["heal", "1"]))
    assert call("run", 1, "--", "sh", "-c", "echo $RAY_AUTH_MODE; exit 3") == 3
    assert capfd.readouterr().out == "token\n"
    assert call("cut", 1) == 0
    assert "master" not in port()
    assert call("heal", 1) == 0
    assert "master br0" in port()
    assert call("cut", 1, "--seconds", 0) == 0
    assert "master br0" in port()
    assert call("limit", 1, "10mbit") == 0
    assert "tbf" in port()
    assert call("limit", 1, "off") == 0
    assert "tbf" not in port()
    assert call("limit", 1, "much") == 1
    assert "much" in capfd.readouterr().err
    assert call("kill", 1) == 0
    assert not Path(f"/proc/{topology.hosts[1].pid}/root/proc/self").exists()
    assert call("cut", 2) == 1
    assert "there are hosts 0 to 1, got 2" in capfd.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_runs_on_when_the_script_is_killed(by_hand, how):
    topology, _ = script.standing(script.parse(["heal", "0"]))
    waiting = [os.pidfd_open(pid) for pid in (topology.switch, *(host.pid for host in topology.hosts))]
    by_hand.send_signal(how)
    for first in waiting:
        assert select.select([first], [], [], 60)[0]
        os.close(first)
    if how == signal.SIGTERM:
        assert by_hand.wait(60) == 128 + signal.SIGTERM
        assert script.main(["heal", "0"]) == 1  # and it is no longer registered


def test_only_a_network_that_stands_can_be_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script.tempfile, "tempdir", str(tmp_path))
    assert script.main(["cut", "1"]) == 1
    assert "no network stands" in capsys.readouterr().err
    assert script.main(["cut", "1", "--of", "1"]) == 1
    assert "no network of process 1 stands" in capsys.readouterr().err
