"""The web page's answers: for whom, about what, and what they leave out."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import ssl
import threading
from contextlib import ExitStack, suppress

import pytest

from deploy.service.ray_jobs import ClusterAway
from deploy.service.states import State
from deploy.service.tickets import GOOD_SECONDS, Tickets
from deploy.service.web import Web
from ps.errors import UsageError
from ps.transport.tls import Tls
from tests.deploy.service.pages import TOKEN, Served, progress
from tests.deploy.service.serving import until
from tests.ps.transport.test_tls import Authority

ASKED = ["jobs", "jobs/digits-1", "jobs/digits-1/records", "jobs/digits-1/log", "jobs/digits-1/files"]


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path) as served:
        yield served


@pytest.mark.parametrize("path", ASKED)
def test_everything_about_jobs_needs_the_token(served, path):
    served.add()
    assert served.get(f"/api/{path}").status == 200
    for given in (None, "", "wrong", TOKEN[:-1], TOKEN + "x", "tökén"):
        header = {} if given is None else {"Authorization": f"Bearer {given}".encode().decode("latin-1")}
        answer = served.get(f"/api/{path}", token=None, **header)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="hogshead"')
        assert "token" in answer.json()["error"] and b"digits" not in answer.body
    assert served.get(f"/api/{path}", token=None, Authorization=f"Basic {TOKEN}").status == 401
    assert served.get(f"/api/{path}?token={TOKEN}", token=None).status == 401


def test_the_page_itself_needs_none_and_is_whole(served):
    page = served.get("/", token=None)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    parts = [text.split(b'"')[0].decode() for mark in (b'src="', b'href="') for text in page.body.split(mark)[1:]]
    for name in [*{part for part in parts if not part.startswith("#")}, "list.js", "job.js", "chart.js"]:
        part = served.get(f"/{name}", token=None)
        assert part.status == 200, name
        assert served.get(f"/{name}", token=None, If_None_Match=part.headers["etag"]).status == 304
    assert served.get("/healthz", token=None).body == b"ok\n"


def test_nothing_comes_from_elsewhere_and_nothing_runs_inline(served):
    folder = os.path.join(os.path.dirname(__import__("deploy").__file__), "service", "page")
    for name in os.listdir(folder):
        text = served.get(f"/{name}", token=None).body.decode()
        assert set(re.findall(r"https?:[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}, name
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text and " style=" not in text, name
    page = served.get("/", token=None).body.decode()
    assert (
        "<script>" not in page and "<style" not in page and " on" not in page.partition("<body>")[2].partition("<p")[0]
    )


@pytest.mark.parametrize(
    "path", ["/", "/main.js", "/api/jobs", "/api/jobs/none-1", "/nothing", "/a/b/c", "/files/a-1/x"]
)
def test_every_answer_carries_the_policy(served, path):
    headers = served.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert "aiohttp" not in headers["server"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_reads(served, method):
    answer = served.get("/api/jobs", method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET,HEAD")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("job", ["none-1", "..", "%2e%2e", "a%2f..%2f..-1", "digits-01", "x" * 300, "%00-1", "%ff-1"])
@pytest.mark.parametrize("rest", ["", "/records", "/log", "/files"])
def test_a_job_that_is_not_there(served, job, rest):
    served.add()
    answer = served.get(f"/api/jobs/{job}{rest}")
    assert answer.status == 404 and answer.json()["error"]


def test_jobs_are_listed_in_pages(served):
    for number in range(5):
        served.add(
            state=State.QUEUED if number == 2 else State.SUCCEEDED, client_token=f"secret {number}", priority=number
        )
    first = served.get("/api/jobs?limit=3").json()
    assert [job["id"] for job in first["jobs"]] == ["digits-5", "digits-4", "digits-3"]
    assert first["active"] == {"queued": 1} and first["jobs"][2]["queue_position"] == 1
    rest = served.get(f"/api/jobs?limit=3&before={first['next']}").json()
    assert ([job["id"] for job in rest["jobs"]], rest["next"]) == (["digits-2", "digits-1"], "")
    queued = served.get("/api/jobs?state=queued&state=failed").json()
    assert [job["id"] for job in queued["jobs"]] == ["digits-3"]


@pytest.mark.parametrize(
    "query",
    ["state=lost", "limit=0", "limit=201", "limit=x", "limit=-1", "before=x", "before=" + "9" * 40, "limit=%C2%B2"],
)
def test_a_wrong_question_is_refused_in_words(served, query):
    answer = served.get(f"/api/jobs?{query}")
    assert answer.status == 400 and "must be" in answer.json()["error"]


def test_no_secret_is_told(served):
    job = served.add(reason="because").id
    told = [served.get(f"/api/{path}").body for path in ASKED]
    assert b"because" in told[0] and b"because" in told[1] and job.encode() in told[1]
    assert not any(b"secret" in body or TOKEN.encode() in body for body in told)


def test_a_job_is_told_with_what_its_run_says(served):
    job = served.add().id
    (served.run(job) / "job.toml").write_text("[stop]\nepochs = 4\n")
    served.write(job, progress(1, 500), progress(2, 1000))
    [row] = served.get("/api/jobs").json()["jobs"]
    assert (row["state"], row["share_done"], row["curve"]) == ("running", 0.25, [1.0, 0.6667])
    view = served.get(f"/api/jobs/{job}/records").json()
    assert (view["share_done"], view["seconds_left"]) == (0.25, 6.0)
    assert [worker["node"] for worker in view["workers"]] == ["node0", "node1"]
    assert view["shards"][0]["per_second"]["version"] == 50
    (served.run(job) / "summary.json").write_text('{"status": "done", "evaluation": {"accuracy": 0.9}, "job": "x"}')
    told = served.get(f"/api/jobs/{job}").json()
    assert (told["summary"], told["evaluation"]) == ({"status": "done"}, {"accuracy": 0.9})


def test_what_has_not_changed_is_not_sent_again(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.service.web.Tickets", lambda: Tickets(lambda: 1e9))  # new ones come every ten minutes
    with Served(tmp_path) as served:
        asked_twice(served)


def asked_twice(served):
    job = served.add().id
    served.cluster_told()
    served.write(job, progress(1, 500))
    for path in ASKED:
        tag = served.get(f"/api/{path}").headers["etag"]
        again = served.get(f"/api/{path}", If_None_Match=tag)
        assert (again.status, again.body) == (304, b""), path
    tag = served.get(f"/api/jobs/{job}/records").headers["etag"]
    served.write(job, progress(2, 1000))
    assert served.get(f"/api/jobs/{job}/records", If_None_Match=tag).status == 200


def test_much_is_sent_compressed(served):
    job = served.add().id
    served.write(job, *(progress(second, 10 * second) for second in range(1, 300)))
    plain = served.get(f"/api/jobs/{job}/records")
    packed = served.get(f"/api/jobs/{job}/records", Accept_Encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip" and len(packed.body) < len(plain.body) / 3


def test_a_log_is_told_from_its_end_on(served):
    job = served.add().id
    assert served.get(f"/api/jobs/{job}/log").json() == {"text": "", "start": 0, "end": 0, "size": 0, "anew": False}
    log = served.jobs / job / "log.txt"
    log.write_text("".join(f"line {number}\n" for number in range(20_000)))
    told = served.get(f"/api/jobs/{job}/log").json()
    assert told["text"].startswith("line ") and told["text"].endswith("line 19999\n")
    assert (told["end"], told["start"] > 0, len(told["text"]) <= 65536) == (told["size"], True, True)
    with open(log, "ab") as file:
        file.write("more ü€🎉".encode()[:-2])  # in the middle of a character
    more = served.get(f"/api/jobs/{job}/log?offset={told['end']}").json()
    assert more["text"] == "more ü€"
    with open(log, "ab") as file:
        file.write("🎉".encode()[-2:])
    assert served.get(f"/api/jobs/{job}/log?offset={more['end']}").json()["text"] == "🎉"
    log.write_bytes(b"anew \xff\xfe\n")
    told = served.get(f"/api/jobs/{job}/log?offset={more['end']}").json()
    assert (told["text"], told["anew"]) == ("anew \ufffd\ufffd\n", True)
    assert served.get(f"/api/jobs/{job}/log?offset=-1").status == 400


def test_a_file_is_opened_by_its_ticket_and_only_so(served):
    job, other = served.add().id, served.add("other").id
    report = "<script>parent.document</script>"
    for name in (job, other):
        (served.run(name) / "report.html").write_text(report)
    (served.run(job) / "x y&ü.bin").write_bytes(b"\0" * 600_000)
    os.symlink("/etc/passwd", served.run(job) / "link.txt")
    (served.run(job) / "endpoints.json").write_text('{"token": "of the shards"}')
    files = {file["path"]: file["href"] for file in served.get(f"/api/jobs/{job}/files").json()["files"]}
    assert sorted(files) == ["report.html", "x y&ü.bin"]
    opened = served.get(f"/{files['report.html']}", token=None)
    assert (opened.status, opened.body.decode(), opened.headers["content-type"]) == (
        200,
        report,
        "text/html; charset=utf-8",
    )
    policy = opened.headers["content-security-policy"]
    assert (
        policy.startswith("sandbox allow-scripts;") and "same-origin" not in policy and "default-src 'none'" in policy
    )
    saved = served.get(f"/{files['report.html']}&download", token=None)
    assert saved.headers["content-disposition"] == "attachment; filename*=UTF-8''report.html"
    data = served.get(f"/{files['x y&ü.bin']}", token=None)
    assert (len(data.body), data.headers["content-type"]) == (600_000, "application/octet-stream")
    assert data.headers["content-disposition"].startswith("attachment")
    ticket = files["report.html"].partition("?ticket=")[2]
    for path in (f"{other}/run/report.html", f"{job}/run/x%20y&%C3%BC.bin", f"{job}/run/link.txt", f"{job}/job.toml"):
        assert served.get(f"/files/{path}?ticket={ticket}").status == 403
    for wrong in ("", ticket[:-1], "9" + ticket, "x", "1.2.3"):
        assert served.get(f"/files/{job}/run/report.html?ticket={wrong}").status == 403
    (served.run(job) / "report.html").unlink()
    os.symlink("/etc/passwd", served.run(job) / "report.html")
    gone = served.get(f"/{files['report.html']}")
    assert gone.status == 404 and b"root:" not in gone.body


def test_a_ticket_is_good_for_a_while():
    now = [1_000_000.0]
    tickets = Tickets(lambda: now[0])
    ticket = tickets.issue("a-1", "run/x")
    assert tickets.good(ticket, "a-1", "run/x")
    assert not tickets.good(ticket, "a-1", "run/y") and not Tickets(lambda: now[0]).good(ticket, "a-1", "run/x")
    now[0] += GOOD_SECONDS
    assert tickets.good(ticket, "a-1", "run/x")  # for as long at least
    now[0] += GOOD_SECONDS
    assert not tickets.good(ticket, "a-1", "run/x")


def test_without_a_token_only_a_browser_on_this_machine_is_answered(tmp_path):
    with Served(tmp_path, token=None) as served:
        for host in (f"127.0.0.1:{served.port}", f"localhost:{served.port}", "localhost"):
            assert served.get("/api/jobs", token=None, Host=host).status == 200
        for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1.evil.example", "localhost.evil.example"):
            assert served.get("/api/jobs", token=None, Host=host).status == 403


def test_a_cluster_that_is_away_is_told_and_holds_up_nothing(served, monkeypatch):
    monkeypatch.setattr("deploy.service.views.FIRST_SECONDS", 0.1)
    served.add()
    served.cluster.hold = threading.Event()
    told = served.get("/api/jobs").json()
    assert (told["cluster"]["reachable"], len(told["jobs"])) == (None, 1)
    served.cluster.error = ClusterAway("Ray does not answer\nTraceback")
    served.cluster.hold.set()
    cluster = served.cluster_told()
    assert (cluster["reachable"], cluster["reason"]) == (False, "Ray does not answer")


def test_what_is_taken_of_the_cluster(served):
    served.add("a", cpus=2.0, memory_bytes=5)
    served.add("b", State.SUCCEEDED, cpus=64.0)
    served.add("c", State.QUEUED, cpus=64.0)
    cluster = served.cluster_told()
    assert cluster["taken"] == {"cpus": 2.0, "gpus": 0.0, "memory_bytes": 5}
    assert [(node["head"], node["cpus"]) for node in cluster["nodes"]] == [(True, 0.0), (False, 8.0)]


def test_a_fault_of_ours_is_logged_and_not_told(served, monkeypatch, caplog):
    monkeypatch.setattr(served.store, "list", lambda *_: 1 / 0)
    answer = served.get("/api/jobs")
    assert (answer.status, answer.json()) == (500, {"error": "fault of the service; see its log"})
    assert "ZeroDivisionError" in caplog.text


def test_too_many_at_once_are_sent_away(served, monkeypatch):
    monkeypatch.setattr("deploy.service.web.MOST_AT_ONCE", 0)
    answer = served.get("/api/jobs")
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")


def test_a_request_with_a_body_or_a_giant_header_is_refused(served):
    assert served.get("/api/jobs", X_Large="x" * 20_000).status == 400
    assert served.get("/api/jobs").status == 200


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        bytes(range(256)),
    ],
)
def test_a_malformed_request_is_refused_and_not_logged(served, knocking, caplog, junk):
    (connection,) = knocking(served)
    connection.sendall(junk)
    assert connection.recv(1 << 16).startswith(b"HTTP/1.0 400")
    assert served.get("/healthz").status == 200
    assert not caplog.records


@pytest.fixture
def knocking(tmp_path):
    """Makes connections to a page; all are closed with the test."""
    with ExitStack() as stack:

        def knock(served: Served, count: int = 1) -> list[socket.socket]:
            address = ("127.0.0.1", served.port)
            return [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(count)]

        yield knock


def asked(connection: socket.socket, path: str, token: str = TOKEN) -> bytes:
    """The first bytes of the answer to a request on a connection."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return connection.recv(1 << 16)


def test_connections_without_the_token_give_way_to_new_ones(tmp_path, knocking, monkeypatch):
    monkeypatch.setattr("deploy.service.web.MOST_CONNECTIONS", 8)
    monkeypatch.setattr("deploy.service.web.STRANGER_S", 600.0)
    with Served(tmp_path) as served:
        (known,) = knocking(served)
        assert asked(known, "/api/jobs").startswith(b"HTTP/1.1 200")
        idle = knocking(served, 50)
        assert [connection.recv(1) for connection in idle[:43]] == [b""] * 43  # closed: only so many are kept
        for _ in range(20):
            (fresh,) = knocking(served)
            assert asked(fresh, "/healthz").startswith(b"HTTP/1.1 200")
        assert asked(known, "/healthz").startswith(b"HTTP/1.1 200")


def test_all_with_the_token_keep_their_places(tmp_path, knocking, monkeypatch):
    monkeypatch.setattr("deploy.service.web.MOST_CONNECTIONS", 3)
    monkeypatch.setattr("deploy.service.web.STRANGER_S", 600.0)
    with Served(tmp_path) as served:
        known = knocking(served, 3)
        assert all(asked(connection, "/api/jobs").startswith(b"HTTP/1.1 200") for connection in known)
        (late,) = knocking(served)
        assert late.recv(1) == b""
        assert all(asked(connection, "/api/jobs").startswith(b"HTTP/1.1 200") for connection in known)


def test_a_connection_that_does_not_show_the_token_is_closed_in_time(tmp_path, knocking, monkeypatch):
    monkeypatch.setattr("deploy.service.web.STRANGER_S", 0.2)
    with Served(tmp_path) as served:

        def answered(token: str) -> socket.socket:
            """A connection whose request came in time; a busy machine may need another."""
            while True:
                (connection,) = knocking(served)
                with suppress(ConnectionError):
                    if asked(connection, "/api/jobs", token).startswith(
                        b"HTTP/1.1 200" if token == TOKEN else b"HTTP/1.1 401"
                    ):
                        return connection

        known, wrong = answered(TOKEN), answered("wrong")
        silent, slow = knocking(served, 2)
        with suppress(ConnectionError):  # it may be closed already
            slow.sendall(b"GET /api/jobs HTTP/1.1\r\nHost:")
        for connection in (silent, slow, wrong):
            with suppress(ConnectionResetError):  # aborted with what it had sent unread
                assert connection.recv(1) == b""
        assert asked(known, "/api/jobs").startswith(b"HTTP/1.1 200")


def test_over_tls(tmp_path):
    pytest.importorskip("cryptography", reason="the package cryptography makes the certificates of these tests")
    authority = Authority(tmp_path, "ours")
    tls = Tls(**authority.certificate("localhost", "127.0.0.1"), ca=authority.path, require_client_cert=True)
    with Served(tmp_path, tls=tls) as served:
        context = ssl.create_default_context(cafile=authority.path)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            served.get("/api/jobs", tls=context)
        client = authority.certificate("client")
        context.load_cert_chain(client["cert"], client["key"])
        assert served.get("/api/jobs", tls=context).status == 200
    (tmp_path / "broken.pem").write_text("x")
    with pytest.raises(UsageError, match="cannot use"):
        Web(served.store, tmp_path, served.cluster, tls=Tls(cert=tmp_path / "broken.pem", key=tmp_path / "broken.pem"))


def test_a_port_that_is_taken_is_said_so(served, tmp_path):
    other = Web(served.store, served.jobs, served.cluster, port=served.port)
    with pytest.raises(UsageError, match="--web-port"):
        other.start()
    other.stop()
    assert served.get("/healthz").status == 200


def test_it_stops_while_somebody_listens_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.service.web.STOP_SECONDS", 0.05)
    before = {thread.name for thread in threading.enumerate()}
    served = Served(tmp_path)
    job = served.add().id
    (served.run(job) / "big.bin").write_bytes(b"\0" * (8 << 20))
    [file] = served.get(f"/api/jobs/{job}/files").json()["files"]
    with socket.create_connection(("127.0.0.1", served.port)) as slow:
        slow.sendall(f"GET /{file['href']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
        served.web.stop()
        served.web.stop()
    served.close()
    assert {thread.name for thread in threading.enumerate()} - before <= {"nodes"}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.port))


def test_odd_requests_change_nothing(served):
    """Whatever is asked: an answer in words, the same files as before, and no descriptor kept."""
    job = served.add().id
    served.write(job, progress(1, 100))
    served.get(f"/api/jobs/{job}/records")
    before = sorted(str(path) for path in served.jobs.rglob("*"))
    open_before = len(os.listdir("/proc/self/fd"))
    pieces = [
        "/api",
        "/jobs",
        "/..",
        "/%2e%2e",
        "/files",
        f"/{job}",
        "/%00",
        "//",
        "?a=%ff",
        "/run",
        "/%C3%A4",
        "/records",
    ]
    for path in map("".join, itertools.product(pieces, pieces)):
        answer = served.get("/" + path.lstrip("/"))
        assert answer.status in (200, 400, 403, 404), path
        if answer.status in (403, 404):
            assert json.loads(answer.body)["error"]
    assert sorted(str(path) for path in served.jobs.rglob("*")) == before
    until(lambda: len(os.listdir("/proc/self/fd")) <= open_before + 4)  # those that were just closed may take a moment
