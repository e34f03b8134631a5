"""What keeps a cluster from being joined, without one: addresses, ports, versions, tokens."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress

import pytest

from deploy.cluster import reach
from ps.errors import HogsheadError, UsageError


@contextmanager
def listening(answer=b""):
    """A port that answers everybody with ``answer``; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer, suppress(OSError):  # who looked only whether somebody answers may be gone
                    peer.recv(1 << 10)
                    peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def head(monkeypatch):
    """An address whose head answers as ``head.answer`` says."""

    class Head:
        answer = {
            "stage": "cluster",
            **reach.own_versions(),
            "nodes": [{"id": "1", "address": "127.0.0.1", "name": ""}],
        }

    monkeypatch.setattr(reach, "talk", lambda request, timeout_s: iter([Head.answer]))
    with listening(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as Head.address:
        yield Head


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10.0.0.4:7000", ("10.0.0.4", 7000)), ("head", ("head", 6379)), ("[::1]:99", ("::1", 99))],
)
def test_addresses_are_host_and_port(text, expected):
    assert reach.parse_address(text) == expected


@pytest.mark.parametrize("text", ["ray://head:10001", "http://head:8265", ":6379", "head:", "head:x", "head:70000", ""])
def test_other_addresses_are_refused(text):
    with pytest.raises(UsageError, match="must be HOST:PORT"):
        reach.parse_address(text)


def test_a_cluster_that_can_be_joined_has_no_findings(head):
    findings, cluster = reach.check_reachable(head.address)
    assert findings == []
    assert cluster["nodes"][0]["id"] == "1"
    reach.require_reachable(head.address)


def test_a_closed_port_is_found():
    with socket.socket() as silent:  # it has a port, so nobody else has it, and does not listen
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        (finding,), cluster = reach.check_reachable(f"127.0.0.1:{port}")
        assert finding.kind == "port-closed" and cluster == {}
        assert f"ray start --head --port={port}" in finding.remedy
        with pytest.raises(HogsheadError, match="nothing listens on that port; start the head there"):
            reach.require_reachable(f"127.0.0.1:{port}")


def test_a_port_of_something_else_is_found():
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        (finding,), _ = reach.check_reachable(address)
    assert finding.kind == "not-ray"


def test_an_unknown_name_is_found(monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    (finding,), _ = reach.check_reachable("head.example")
    assert (finding.kind, finding.where) == ("name", "head.example")


@pytest.mark.parametrize(
    ("error", "words"),
    [(TimeoutError("timed out"), "no answer"), (OSError(113, "No route to host"), "No route to host")],
)
def test_a_port_that_does_not_answer_is_found(monkeypatch, error, words):
    def silent(*args, **options):
        raise error

    monkeypatch.setattr(socket, "create_connection", silent)
    (finding,), _ = reach.check_reachable("10.0.0.4:7000")
    assert finding.kind == "port-filtered" and words in finding.what and "firewall" in finding.remedy


@pytest.mark.parametrize("wanted", [False, True])
def test_a_token_is_presented_only_where_the_cluster_wants_one(head, monkeypatch, wanted):
    """One that wants none cannot call back a driver that does; its nodes then seem to start no process."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    requests = []

    def talk(request, timeout_s):
        requests.append(request.get("token", False))
        refused = {"stage": "error", "type": "AuthenticationError", "error": "RPC error"}
        return iter([refused if wanted and not request.get("token") else head.answer])

    monkeypatch.setattr(reach, "talk", talk)
    findings, cluster = reach.check_reachable(head.address)
    assert findings == [] and bool(cluster.get("token")) is wanted
    assert requests == ([False, True] if wanted else [False])
    assert reach.require_reachable(head.address) is wanted


@pytest.mark.parametrize(
    ("environment", "kind", "words"),
    [
        ({}, "token-missing", "there is none here"),
        ({"RAY_AUTH_TOKEN": "abc"}, "token-wrong", "the token here (from RAY_AUTH_TOKEN) is not the cluster's"),
        ({"RAY_AUTH_MODE": "disabled"}, "token-missing", "RAY_AUTH_MODE is 'disabled' here"),
        ({"RAY_AUTH_TOKEN_PATH": "nowhere"}, "token-missing", "there is none here"),
    ],
)
def test_a_refused_token_is_found(head, monkeypatch, tmp_path, environment, kind, words):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    head.answer = {"stage": "error", "type": "AuthenticationError", "error": "RPC error"}
    (finding,), _ = reach.check_reachable(head.address)
    assert finding.kind == kind and words in finding.what
    assert "abc" not in str(finding)


def test_a_token_file_is_found(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert reach.token_source() == str(tmp_path / ".ray" / "auth_token")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"stage": "error", "type": "RpcError", "error": "Timed out"}, "it answered: Timed out"),
        ({"ended": None}, "did not answer in time"),
        ({"ended": -6}, "ended with code -6"),
    ],
)
def test_a_head_that_is_stuck_is_found(head, answer, words):
    head.answer = answer
    (finding,), _ = reach.check_reachable(head.address)
    assert finding.kind == "not-ray" and words in finding.what


def test_a_machine_that_is_no_node_is_found(head):
    head.answer = {**head.answer, "nodes": [{"id": "1", "address": "192.0.2.7", "name": ""}]}
    (finding,), cluster = reach.check_reachable(head.address)
    assert finding.kind == "not-a-node" and "192.0.2.7" in finding.what
    assert cluster


OWN = {"ray": "2.60.0", "python": "3.11.7"}


@pytest.mark.parametrize(
    ("cluster", "level", "expected"),
    [
        ({"ray": "2.60.0", "python": "3.11.7"}, None, []),
        ({"ray": reach.UNKNOWN, "python": reach.UNKNOWN}, None, []),
        ({"ray": "2.59.0", "python": "3.11.7"}, None, [("ray-version", True)]),
        ({"ray": "2.60.0", "python": "3.12.7"}, "minor", [("python-version", True)]),
        ({"ray": "2.60.0", "python": "3.11.9"}, None, [("python-version", True)]),
        ({"ray": "2.60.0", "python": "3.11.9"}, "minor", [("python-version", False)]),
        ({"ray": "2.59.0", "python": "3.10.1"}, None, [("ray-version", True), ("python-version", True)]),
    ],
)
def test_versions_must_be_what_ray_wants_them_to_be(monkeypatch, cluster, level, expected):
    monkeypatch.delenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", raising=False)
    if level:
        monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", level)
    findings = reach.judge_versions(OWN, cluster, "10.0.0.4:6379")
    assert [(finding.kind, finding.fatal) for finding in findings] == expected


def test_a_missing_ray_is_found(monkeypatch):
    def missing(name):
        raise reach.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(reach.metadata, "version", missing)
    (finding,), _ = reach.check_reachable("10.0.0.4:6379")
    assert finding.kind == "ray-missing" and "hogshead[ray]" in finding.remedy
