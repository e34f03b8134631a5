"""docker-compose.yml as Compose reads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.init import prepare

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(engine, tmp_path):
    def read(folder: str = "clone", *options: str, **variables: str) -> dict:
        clone = tmp_path / folder
        if not clone.exists():
            clone.mkdir(parents=True)
            shutil.copy2(ROOT / "docker-compose.yml", clone)
            prepare(clone)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
        environment = {**kept, **variables}
        environment.pop("BASE_IMAGE", None)
        command = ["docker", "compose", *options, "config", "--format", "json"]
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "variable is not set" not in done.stderr, done.stderr
        return json.loads(done.stdout)

    return read


def test_two_clones_do_not_meet(config):
    """Names of containers, volumes, networks and images all begin with the project's."""
    one, two = config("one/hogshead"), config("two/hogshead")
    assert one["name"] != two["name"]
    for kind in ("volumes", "networks"):
        names = [{entry["name"] for entry in made[kind].values()} for made in (one, two)]
        assert names[0] and not names[0] & names[1]
    images = [{service["image"] for service in made["services"].values()} for made in (one, two)]
    assert not images[0] & images[1]
    assert not [service for service in one["services"].values() if "container_name" in service]


def test_only_loopback_is_published(config):
    services = config("clone", "--profile", "monitoring")["services"]
    published = {
        name: {port["host_ip"] for port in service["ports"]} for name, service in services.items() if "ports" in service
    }
    assert published == {"head": {"127.0.0.1"}, "grafana": {"127.0.0.1"}}


def test_monitoring_is_a_profile(config):
    assert set(config()["services"]) == {"head", "node", "joined", "redis"}
    assert set(config("clone", "--profile", "monitoring")["services"]) == {
        "head", "node", "joined", "redis", "prometheus", "grafana",
    }  # fmt: skip


def test_every_service_is_bounded_restarted_and_unprivileged(config):
    for name, service in config("clone", "--profile", "monitoring")["services"].items():
        assert int(service["mem_limit"]) > 0, name
        assert service["restart"] == "unless-stopped", name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name
    assert config()["services"]["head"]["depends_on"]["redis"]["condition"] == "service_healthy"
    assert config()["services"]["node"]["depends_on"]["head"]["condition"] == "service_healthy"


def test_up_returns_when_the_nodes_have_joined_and_pulls_nothing_that_is_built_here(config):
    services = config("clone", "--profile", "monitoring")["services"]
    assert services["joined"]["depends_on"]["node"]["condition"] == "service_healthy"
    pulled = {name for name, service in services.items() if service.get("pull_policy") != "never"}
    assert pulled == {"prometheus", "grafana"}


def test_keys_of_object_stores_reach_head_and_nodes_where_there_are_any(config, monkeypatch):
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    services = config(AWS_ACCESS_KEY_ID="mine", AWS_ENDPOINT_URL="http://10.0.0.9:9000")["services"]
    for name in ("head", "node"):
        given = services[name]["environment"]
        assert (given["AWS_ACCESS_KEY_ID"], given["AWS_ENDPOINT_URL"]) == ("mine", "http://10.0.0.9:9000")
        assert given["AWS_SESSION_TOKEN"] is None, "an empty one would be taken for a token"


def test_what_env_says_holds(config):
    services = config(
        NODE_CPUS="1.5", NODE_MEMORY="2g", SERVICE_PORT="4000", BIND="10.0.0.1", GRAFANA_IMAGE="mine/grafana"
    )["services"]
    assert services["node"]["cpus"] == 1.5 and int(services["node"]["mem_limit"]) == 2 << 30
    assert ("10.0.0.1", "4000") in [(port["host_ip"], port["published"]) for port in services["head"]["ports"]]


def test_without_init_it_says_so(engine, tmp_path):
    """Before anything is made; without ports Compose would take any, and without secrets the engine complains of paths."""
    shutil.copy2(ROOT / "docker-compose.yml", tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    done = subprocess.run(
        ("docker", "compose", "config", "--quiet"), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode and "hogshead init" in done.stderr


def test_on_several_machines_the_network_is_the_hosts(config):
    """The first machine has head and Redis, which nobody reaches from elsewhere; another one a node alone."""
    files = ("--file", "docker-compose.yml", "--file", str(ROOT / "deploy" / "compose.hosts.yml"))
    services = config("clone", *files, HOST_ADDRESS="10.0.0.5", HEAD_ADDRESS="10.0.0.4")["services"]
    assert services["node"]["environment"]["HOGSHEAD_HEAD"] == "10.0.0.4:6379"
    assert services["node"]["scale"] == services["joined"]["scale"] == 0
    for name in ("head", "node"):
        assert services[name]["network_mode"] == "host" and "ports" not in services[name]
        assert services[name]["environment"]["HOGSHEAD_HOST_ADDRESS"] == "10.0.0.5"
        assert services[name]["cap_drop"] == ["ALL"]
    assert {port["host_ip"] for port in services["redis"]["ports"]} == {"127.0.0.1"}


def test_files_that_are_mounted_exist(config):
    services = config("clone", "--profile", "monitoring")["services"].values()
    mounts = [mount for service in services for mount in service.get("volumes", ()) if mount["type"] == "bind"]
    files = [mount["source"].partition("/clone/")[2] for mount in mounts]
    assert len(files) == 3 and all((ROOT / file).exists() for file in files)
