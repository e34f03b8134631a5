"""Starting nodes of Ray with patience; Ray itself is stood in for."""

from __future__ import annotations

import os
import socket

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'hogshead[ray]'")

from ray._private import services  # noqa: E402

from deploy.cluster.patience import patient_start, reserve_port  # noqa: E402

LISTEN, NODE = "dashboard_agent_listen_port", "0123456789abcdef" * 3 + "01234567"


def test_a_node_that_registers_late_is_waited_for(monkeypatch):
    answers = [RuntimeError("no node yet"), RuntimeError("Deadline Exceeded"), {"node": 1}]

    def look(*arguments):
        assert arguments == ("10.0.0.4:6379", "n")
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(services, "get_node", look)
    with patient_start():
        assert services.get_node("10.0.0.4:6379", "n") == {"node": 1}
    assert services.get_node is look
    answers.append(RuntimeError("no node yet"))
    with patient_start(register_s=0.0), pytest.raises(RuntimeError):
        services.get_node("10.0.0.4:6379", "n")


def test_the_agents_are_told_their_ports(monkeypatch, tmp_path):
    """And the node finds those that it would wait for; one that was given stays."""
    started = {}

    def start(
        node_id, session_dir, metrics_agent_port=None, metrics_export_port=None,
        dashboard_agent_listen_port=0, runtime_env_agent_port=None,
    ):  # fmt: skip
        started["export"] = metrics_export_port
        started["chosen"] = [dashboard_agent_listen_port, metrics_agent_port, runtime_env_agent_port]

    monkeypatch.setattr(services, "start_raylet", start)
    with patient_start():
        services.start_raylet(NODE, str(tmp_path), metrics_export_port=8080, metrics_agent_port=0)
    assert services.start_raylet is start and started["export"] == 8080
    ports = started["chosen"]
    assert len(set(ports)) == 3 and all(20_000 <= port < 32_000 for port in ports)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(f"{LISTEN}_{NODE}", str(ports[0]))]


def test_ray_still_has_what_is_told():
    """In another version of Ray's, which has it not, nothing is changed."""
    from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME

    assert DASHBOARD_AGENT_LISTEN_PORT_NAME == LISTEN
    own = services.get_node
    with patient_start():
        assert services.get_node is not own


def test_a_ray_that_starts_nodes_otherwise_is_left_alone(monkeypatch):
    def start(node, folder):
        pass

    own = services.get_node
    monkeypatch.setattr(services, "start_raylet", start)
    with patient_start():
        assert services.start_raylet is start and services.get_node is own


def test_a_dashboard_is_started_only_where_one_is_wanted(monkeypatch):
    monkeypatch.setattr(services, "start_api_server", lambda include, *_, **__: (f"started with {include}", "process"))
    with patient_start():
        assert services.start_api_server(False, raise_on_failure=False) == ("", None)
        assert services.start_api_server(None)[0] == "started with None"
        assert services.start_api_server(True)[0] == "started with True"


def test_rays_settings_are_ours_in_there_only(monkeypatch):
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "7")
    monkeypatch.delenv("RAY_gcs_server_port_wait_time_s", raising=False)
    with patient_start():
        assert os.environ["RAY_agent_register_timeout_ms"] == "7"
        assert int(os.environ["RAY_gcs_server_port_wait_time_s"]) > 60
    assert os.environ["RAY_agent_register_timeout_ms"] == "7" and "RAY_gcs_server_port_wait_time_s" not in os.environ


def test_a_port_is_free_and_given_once():
    ports = [reserve_port() for _ in range(50)]
    assert len(set(ports)) == 50
    for port in ports:
        socket.create_server(("", port)).close()
