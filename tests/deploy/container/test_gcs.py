"""Ray's GCS server is started again where it dies, and Redis' password is in no command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'hogshead[ray]'")

from ray._private import services  # noqa: E402

from deploy.container.gcs import address_of, keep, keeper_of, kept_gcs  # noqa: E402

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[3]
PASSWORD = "sesame"
COMMAND = ["gcs_server", "--redis_address=redis", "--redis_port=6379", f"--redis_password={PASSWORD}"]


class Play:
    """Servers that live for a given time each, on a clock of their own.

    Attributes:
      lives: seconds that one server after another lives; after the last, none is wanted any more.
      redis: what looking for Redis finds, one after another; then always True.
    """

    def __init__(self, lives, redis=()):
        self.lives, self.redis, self.now = list(lives), list(redis), 0.0
        self.started, self.slept, self.said = 0, [], []

    def start(self):
        self.started += 1
        return self

    def wait(self):
        self.now += self.lives.pop(0)
        return -9

    def sleep(self, seconds):
        self.slept.append(seconds)

    def keep(self):
        return keep(
            self.start,
            "redis:6379",
            lambda: not self.lives,
            say=self.said.append,
            is_there=lambda address: self.redis.pop(0) if self.redis else True,
            clock=lambda: self.now,
            sleep=self.sleep,
        )


def test_a_server_that_dies_is_followed_by_another_within_a_second():
    play = Play([3600.0, 3600.0, 3600.0])
    assert play.keep() == 0 and play.started == 3
    assert sum(play.slept) < 1.0 and play.said == ["Ray's GCS server ended with -9; it is started again"] * 2


def test_the_next_server_waits_for_redis():
    play = Play([3600.0, 3600.0], redis=[False, False, True])
    assert play.keep() == 0 and play.started == 2
    assert play.said[1:] == ["Ray's GCS server waits for Redis at redis:6379"]


def test_servers_that_fail_again_and_again_end_the_head_which_starts_anew():
    play = Play([3600.0] + [1.0] * 10)
    assert play.keep() == -9 and play.started == 6
    assert "5 times soon after its start" in play.said[-1]


def test_failures_with_a_long_life_between_do_not_add_up():
    play = Play([1.0, 1.0, 1.0, 3600.0] * 5)
    assert play.keep() == 0 and play.started == 20


def test_the_password_goes_through_the_environment():
    command, environment = keeper_of(COMMAND)
    assert PASSWORD not in " ".join(command)
    assert PASSWORD not in environment["HOGSHEAD_GCS_COMMAND"]
    assert environment["FLAGS_redis_password"] == PASSWORD
    assert json.loads(environment["HOGSHEAD_GCS_COMMAND"])[-1] == "--fromenv=redis_password"
    assert address_of(COMMAND) == "redis:6379"


@pytest.fixture
def started(monkeypatch):
    """Commands and options of the processes that Ray would start."""
    made = []
    monkeypatch.setattr(services, "start_ray_process", lambda *words, **options: made.append((words[0], options)))
    return made


def start_server(redis_address):
    services.start_gcs_server(
        redis_address, log_dir="/nowhere", stdout_filepath="/nowhere/out", stderr_filepath="/nowhere/err",
        session_name="session", redis_password=PASSWORD, config={}, gcs_server_port=6379, node_ip_address="10.0.0.4",
    )  # fmt: skip


def test_ray_starts_a_keeper_where_the_server_has_a_redis(started):
    """As Ray's version of today makes the command."""
    with kept_gcs():
        start_server("redis:6379")
    ((command, options),) = started
    assert command[1:] == ["-m", "deploy.container.gcs"]
    kept = json.loads(options["env_updates"]["HOGSHEAD_GCS_COMMAND"])
    assert "--gcs_server_port=6379" in kept and PASSWORD not in " ".join(kept)
    assert options["env_updates"]["FLAGS_redis_password"] == PASSWORD


def test_without_redis_the_server_is_started_as_ray_does_it(started):
    with kept_gcs():
        start_server(None)
    ((command, options),) = started
    assert "gcs_server" in command[0] and not options.get("env_updates")


def test_nodes_and_workers_do_not_learn_the_password(monkeypatch):
    given = {}
    monkeypatch.setattr(services, "start_raylet", lambda *_, **options: given.update(options))
    with kept_gcs():
        services.start_raylet(1, redis_password=PASSWORD, session_name="session")
    assert given == {"redis_password": None, "session_name": "session"}


def test_a_server_that_is_killed_comes_back_and_ends_with_its_keeper(tmp_path):
    pids = tmp_path / "pids"
    os.mkfifo(pids)
    with socket.create_server(("127.0.0.1", 0)) as redis:
        script = f"test $FLAGS_redis_password = {PASSWORD} && echo $$ > {pids}; exec sleep 600"
        port = redis.getsockname()[1]
        command = ["sh", "-c", script, "--redis_address=127.0.0.1", f"--redis_port={port}"]
        words, environment = keeper_of([*command, f"--redis_password={PASSWORD}"])
        keeper = subprocess.Popen(
            words, env={**os.environ, **environment, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
        )
        try:
            first = int(pids.read_text())
            os.kill(first, signal.SIGKILL)
            second = int(pids.read_text())
            assert second != first
            keeper.terminate()
            assert "ended with -9; it is started again" in keeper.communicate(timeout=120)[0]
            assert keeper.returncode == 0
            with pytest.raises(ProcessLookupError):
                os.kill(second, 0)
        finally:
            keeper.kill()
            keeper.wait()
    assert words[0] == sys.executable
