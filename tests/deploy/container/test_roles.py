"""What a container runs, by what its environment says."""

from __future__ import annotations

import json

import pytest

from deploy.cli import parser
from deploy.container import __main__ as entry
from deploy.container.roles import head_command, node_command, ray_environment, serve_command
from deploy.container.settings import Settings, SettingsError


@pytest.fixture
def password(tmp_path):
    file = tmp_path / "password"
    file.write_text("sesame\n")
    return {"RAY_REDIS_ADDRESS": "redis:6379", "HOGSHEAD_REDIS_PASSWORD_FILE": str(file)}


def test_the_head_has_the_jobs_and_no_training(password):
    command = head_command(Settings.of({**password, "HOGSHEAD_CPUS": "0"}))
    assert command[1:5] == ["-m", "deploy.container.ray_start", "start", "--head"]
    resources = next(word.partition("=")[2] for word in command if word.startswith("--resources="))
    assert json.loads(resources)["hogshead_jobs"] >= 1
    assert {"--num-cpus=0", "--dashboard-host=127.0.0.1"} <= set(command)
    assert f"--redis-password-file={password['HOGSHEAD_REDIS_PASSWORD_FILE']}" in command
    assert "sesame" not in " ".join(command)


def test_a_node_joins_by_the_heads_name():
    command = node_command(Settings.of({"HOGSHEAD_HEAD": "head:6379", "HOGSHEAD_CPUS": "", "HOGSHEAD_GPUS": "2"}))
    assert {"--address=head:6379", "--num-gpus=2", "--spare-cpus=1"} <= set(command)
    assert not [word for word in command if word.startswith(("--num-cpus", "--redis"))]


def test_without_redis_the_head_needs_no_password():
    assert not [word for word in head_command(Settings.of({})) if "redis" in word]


def test_hogshead_knows_the_options_that_it_is_served_with():
    settings = Settings.of({"HOGSHEAD_SERVE_OPTIONS": "--most-cpus 8 --most-jobs-running 2", "HOGSHEAD_JOBS": "/j"})
    arguments = parser().parse_args(serve_command(settings)[1:])
    assert (arguments.jobs, arguments.state, arguments.bind) == ("/j", "/state/jobs.sqlite", "0.0.0.0")
    assert (arguments.most_cpus, arguments.most_jobs_running) == (8, 2)


def test_the_environment_wins_over_our_settings_of_ray(monkeypatch):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "7")
    assert ray_environment()["RAY_gcs_rpc_server_reconnect_timeout_s"] == "7"
    assert ray_environment()["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "0"


def test_ray_knows_our_settings():
    """A name that Ray has not would be passed over in silence."""
    from ray._raylet import Config

    health = {"RAY_health_check_period_ms", "RAY_health_check_timeout_ms", "RAY_health_check_failure_threshold"}
    assert health < set(ray_environment())
    assert all(hasattr(Config, name.removeprefix("RAY_")) for name in health)


@pytest.mark.parametrize(("bind", "host"), [("", "127.0.0.1"), ("::", "127.0.0.1"), ("10.0.0.4", "10.0.0.4")])
def test_the_service_is_looked_for_where_it_listens(bind, host):
    assert Settings.of({"HOGSHEAD_BIND": bind, "HOGSHEAD_SERVICE_PORT": "7"}).service == f"{host}:7"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HOGSHEAD_CPUS": "two"}, "HOGSHEAD_CPUS must be a whole number, got 'two'"),
        ({"METRICS_PORT": "-1"}, "METRICS_PORT must be a whole number"),
        ({"HOGSHEAD_HEAD": "head"}, "HOGSHEAD_HEAD must be host:port, got 'head'"),
        (
            {"RAY_REDIS_ADDRESS": "redis:1", "HOGSHEAD_REDIS_PASSWORD_FILE": "/nowhere"},
            "/nowhere cannot be read: No such file",
        ),
    ],
)
def test_what_cannot_be_is_said(environment, message):
    with pytest.raises(SettingsError, match=message):
        Settings.of(environment)


def test_a_wrong_setting_ends_the_container_in_words(monkeypatch, capsys):
    monkeypatch.setenv("HOGSHEAD_CPUS", "all")
    assert entry.main(["node"]) == 2
    assert capsys.readouterr().err == "hogshead: HOGSHEAD_CPUS must be a whole number, got 'all'\n"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["ls", "-l"], ["ls", "-l"]),
        (["--help"], ["hogshead", "--help"]),
        ([], ["hogshead"]),
        (["head", "-c", "1"], ["head", "-c", "1"]),
    ],
)
def test_anything_else_is_a_command(monkeypatch, arguments, command):
    called = []
    monkeypatch.setattr(entry.os, "execvp", lambda file, words: called.append(words) or (_ for _ in ()).throw(OSError))
    assert entry.main(arguments) == 127
    assert called == [command]
