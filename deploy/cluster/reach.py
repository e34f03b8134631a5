"""Whether a Ray cluster can be reached, and what keeps it from being: found out without joining it, and within seconds.

``ray.init`` itself waits 20 s with a wrong token, 40 s for a closed port, and for ever on a machine that is no node of the
cluster. So the port is tried first, and Ray is asked in a process of its own, which can be ended.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from deploy.cluster.findings import Finding
from ps.errors import HogsheadError, UsageError

DEFAULT_PORT = 6379
CONNECT_S, GREET_S, ASK_S = 5.0, 20.0, 60.0  # a machine answers at once, its programs perhaps when they get to it
UNKNOWN = "unknown"  # version of a head that does not say it
_SETTINGS = 4  # type of frame, RFC 9113 section 6.5
_ROOT = Path(__file__).resolve().parents[2]


def require_reachable(address: str) -> bool:
    """Say why a cluster cannot be joined from here, if it cannot.

    Returns:
      Whether it wants the token of this machine, which Ray presents to an address only where RAY_AUTH_MODE says so.

    Raises:
      UsageError: that is no address. HogsheadError: the first thing that is in the way, and the remedy.
    """
    if address == "auto":  # Ray looks for a cluster of this machine's
        return False
    findings, cluster = check_reachable(address)
    for finding in findings:
        if finding.fatal:
            raise HogsheadError(str(finding))
    return bool(cluster.get("token"))


def check_reachable(address: str) -> tuple[list[Finding], dict[str, Any]]:
    """What keeps this machine from joining the cluster at ``address``, and what is known of the cluster.

    Returns:
      The findings; and {"ray", "python" (of the head), "nodes": [{"id", "address", "name"}, …], "token": whether the cluster
      wants one}, empty if it was not reached.

    Raises:
      UsageError: that is no address.
    """
    host, port = parse_address(address)
    missing = _own_ray()
    if missing:
        return [missing], {}
    closed = _port_closed(host, port)
    if closed:
        return [closed], {}
    if os.environ.get("RAY_AUTH_MODE") == "token" and token_source() is None:  # Ray's client would end its process
        return [_token_finding(f"{host}:{port}")], {}
    answer = _asked(f"{_resolved(host)}:{port}")
    refused = _refused(f"{host}:{port}", answer)
    if refused:
        return [refused], {}
    return [*judge_versions(own_versions(), answer, f"{host}:{port}"), *_not_a_node(answer)], answer


def _asked(address: str) -> dict[str, Any]:
    """The head's answer, at first as ``ray.init`` asks: with the token only if RAY_AUTH_MODE says so.

    A cluster that wants none cannot be asked with one: its nodes call the driver back without it, and the driver refuses that.
    """
    answer = next(talk({"address": address}, ASK_S))
    if answer.get("type") == "AuthenticationError" and "RAY_AUTH_MODE" not in os.environ and token_source():
        answer = {**next(talk({"address": address, "token": True}, ASK_S)), "token": True}
    return answer


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``"10.0.0.4:6379"`` or ``"head"``.

    Raises:
      UsageError: something else.
    """
    if "://" in address:
        raise UsageError(
            f"the cluster's address must be HOST:PORT of its head, e.g. 10.0.0.4:{DEFAULT_PORT}, got {address!r}; "
            "Ray Client and job submission have other ports and are not used"
        )
    host, colon, port = address.rpartition(":")
    if not colon:
        host, port = address, str(DEFAULT_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"the cluster's address must be HOST:PORT, e.g. 10.0.0.4:{DEFAULT_PORT}, got {address!r}")
    return host.strip("[]"), int(port)


def own_versions() -> dict[str, str]:
    """Of Ray and Python, in this process."""
    return {"ray": metadata.version("ray"), "python": platform.python_version()}


def judge_versions(own: Mapping[str, str], cluster: Mapping[str, Any], where: str) -> list[Finding]:
    """Ray joins only where both are equal; Python may differ in its last number if Ray is told so."""
    findings = []
    if cluster["ray"] not in (own["ray"], UNKNOWN):
        findings.append(
            Finding(
                "ray-version",
                where,
                f"it runs Ray {cluster['ray']}, here is Ray {own['ray']}",
                f"install the cluster's: pip install 'ray[default]=={cluster['ray']}'",
            )
        )
    if cluster["python"] not in (own["python"], UNKNOWN):
        alike = own["python"].split(".")[:2] == cluster["python"].split(".")[:2]
        allowed = os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor"
        remedy = f"use Python {cluster['python']} here"
        if alike:
            remedy += ", or set RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL=minor, here and on the nodes"
        findings.append(
            Finding(
                "python-version",
                where,
                f"it runs Python {cluster['python']}, here is Python {own['python']}",
                remedy,
                fatal=not (alike and allowed),
            )
        )
    return findings


def talk(request: Mapping[str, Any], timeout_s: float) -> Iterator[dict[str, Any]]:
    """Answers of a new process that asks Ray, see ``deploy.cluster.asking``; the last is {"ended": code or None if too late}.

    A true ``request["token"]`` has it present the token, whatever the environment says.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}
    if request.get("token"):
        env["RAY_AUTH_MODE"] = "token"
    command = [sys.executable, "-P", "-m", "deploy.cluster.asking"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            out, _ = process.communicate(json.dumps(request), timeout=timeout_s)
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            out, code = process.communicate()[0], None
        except BaseException:
            process.kill()
            raise
    yield from (json.loads(line) for line in out.splitlines())
    yield {"ended": code}


def token_source() -> str | None:
    """Where Ray finds the token on this machine, in words, or None."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path:
        return path if Path(path).is_file() else None
    default = Path.home() / ".ray" / "auth_token"
    return str(default) if default.is_file() else None


def is_local(address: str) -> bool:
    """Whether an address is one of this machine's own."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(place)
        return True
    except OSError:
        return False


def _own_ray() -> Finding | None:
    try:
        metadata.version("ray")
        return None
    except metadata.PackageNotFoundError:
        remedy = "install it: pip install 'hogshead[ray]'"
        return Finding("ray-missing", "this machine", "Ray is not installed", remedy)


def _resolved(host: str) -> str:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]


def _port_closed(host: str, port: int) -> Finding | None:
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S) as peer:
            peer.settimeout(GREET_S)
            return None if os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(peer) else _not_ray(where, "no HTTP/2")
    except socket.gaierror as error:
        return Finding("name", host, f"the name is not known here ({error.strerror})", "give the head's IP address")
    except ConnectionRefusedError:
        remedy = f"start the head there: `ray start --head --port={port}`, or give the port that it has"
        return Finding("port-closed", where, "the host is there, but nothing listens on that port", remedy)
    except OSError as error:  # also TimeoutError
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror
        remedy = f"is the host up, and does a firewall let TCP port {port} through?"
        return Finding("port-filtered", where, f"it cannot be reached ({reason})", remedy)


def _speaks_http2(peer: socket.socket) -> bool:
    """Whether the peer greets as gRPC does, with a SETTINGS frame: asking Ray's own client takes 40 s where it does not."""
    try:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0]))
        return peer.recv(9)[3:4] == bytes([_SETTINGS])
    except OSError:
        return False


def _not_ray(where: str, said: str) -> Finding:
    remedy = "give the address that `ray start --head` printed, and see that the head still runs (`ray status` there)"
    return Finding("not-ray", where, f"something listens there that is no head of Ray, or is stuck ({said})", remedy)


def _refused(where: str, answer: Mapping[str, Any]) -> Finding | None:
    """Why the head did not answer as one, or None if it did."""
    if answer.get("stage") == "cluster":
        return None
    error = str(answer.get("error", ""))
    if answer.get("type") == "AuthenticationError":
        return _token_finding(where)
    if "ended" in answer:
        said = (
            "it did not answer in time" if answer["ended"] is None else f"asking it ended with code {answer['ended']}"
        )
    else:
        said = f"it answered: {error[:300]}"
    return _not_ray(where, said)


def _token_finding(where: str) -> Finding:
    source = token_source()
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        what = f"it wants a token, but RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']!r} here"
        return Finding("token-missing", where, what, "unset RAY_AUTH_MODE, and give the token")
    how = "`ray get-auth-token` prints it on the head; set RAY_AUTH_TOKEN, or put it into ~/.ray/auth_token"
    if source is None:
        return Finding("token-missing", where, "it wants a token, and there is none here", how)
    return Finding("token-wrong", where, f"the token here (from {source}) is not the cluster's", how)


def _not_a_node(answer: Mapping[str, Any]) -> list[Finding]:
    addresses = [node["address"] for node in answer["nodes"]]
    if any(map(is_local, addresses)):
        return []
    what = f"it is no node of the cluster (those are {', '.join(addresses[:8]) or 'none'})"
    remedy = "run hogshead on a node, or make this machine one: `ray start --address=…` (with --num-cpus=0 to add no workers)"
    return [Finding("not-a-node", "this machine", what, remedy)]
