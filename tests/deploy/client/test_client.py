"""The client against a real gRPC server: what it asks, what it gives back, and what it does when the service goes away."""

from __future__ import annotations

import io
import random
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc

from deploy.client.client import connect
from deploy.client.failures import ServiceAway, ServiceBusy, ServiceError, UnknownJob, WrongToken
from deploy.client.settings import find_settings
from deploy.client.wire import Patience, Wire
from deploy.resolve import apply_overrides, overrides_of
from deploy.service.states import BUSY, State
from deploy.wire import jobs_pb2 as pb
from ps.errors import HogsheadError, JobError, UsageError
from tests.deploy.client.fake import TOKEN, UNAVAILABLE, Server
from tests.ports import port_of, reserved

JOB = {"task": "mlp", "data": {"train": "points.csv"}, "strategy": "downpour", "rule": "sgd"}
LOST = (UNAVAILABLE, "the service is stopping")


@pytest.fixture
def points():
    """Data that travel in more than one piece, also when packed."""
    Path("points.csv").write_bytes(random.Random(1).randbytes(1_500_000))


def records(*epochs: int) -> pb.WatchReply:
    return pb.WatchReply(records=[f'{{"kind": "evaluation", "epoch": {epoch}}}' for epoch in epochs])


def numbered(*replies: pb.WatchReply) -> list[pb.WatchReply]:
    for index, reply in enumerate(replies):
        reply.position = str(index + 1)
    return list(replies)


def test_submit(client, fake, points):
    job = client.submit(JOB, set={"strategy.n_push": 3, "data.batch_size": None}, name="mine", priority=-2)
    assert (job.id, job.state, job.priority, job.demand.cpus) == ("mine-1", State.QUEUED, -2, 2.1)
    submission, archive = fake.asked("Submit")[0]
    assert len(archive) > 1 << 20 and zipfile.ZipFile(io.BytesIO(archive)).namelist() == ["points.csv"]
    assert "n_push = 3" in submission.job and submission.HasField("priority") and not submission.overrides
    assert client.submit(JOB).priority == 0 and not fake.asked("Submit")[1][0].HasField("priority")
    tokens = {submission.client_token for submission, _ in fake.asked("Submit")}
    assert len(tokens) == 2 and all(len(token) == 32 for token in tokens)


def test_a_wrong_job_is_not_sent(client, fake):
    with pytest.raises(JobError, match="did you mean 'n_push'"):
        client.submit({**JOB, "data": {"train": "sklearn:iris"}}, set={"strategy.n_psuh": 1})
    assert fake.calls == []


def test_a_submission_that_is_lost_runs_once(client, fake, points):
    """It was kept, and the connection broke before the answer came."""
    fake.failures["Submit"] = [LOST, LOST, None]
    job = client.submit(JOB)
    sent = fake.asked("Submit")
    assert len(sent) == 3 and len({submission.client_token for submission, _ in sent}) == 1
    assert len(fake.jobs) == 1 and job.id in fake.jobs


def test_what_the_service_refuses_is_not_sent_again(client, fake, points):
    fake.failures["Submit"] = [(grpc.StatusCode.INVALID_ARGUMENT, "[workers] count: too many")]
    with pytest.raises(UsageError, match=r"^\[workers\] count: too many$"):
        client.submit(JOB)
    fake.failures["Submit"] = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "it takes 64 CPUs, a job may take 8")]
    with pytest.raises(ServiceError, match="a job may take 8") as error:
        client.submit(JOB)
    assert error.value.code == "RESOURCE_EXHAUSTED" and len(fake.asked("Submit")) == 2


def test_get_and_what_a_job_says(client, fake):
    fake.add(
        "a-1",
        pb.FAILED,
        reason="it\x1b[2J broke\nthere",
        started_at=5.0,
        queue_position=0,
        latest_progress='{"epoch": 2}',
        latest_evaluation="not json",
        summary="[1]",
        demand=pb.Demand(cpus=1.5, gpus=1, memory_bytes=7),
    )
    job = client.get("a-1")
    assert (job.state, job.reason, job.started_at, job.ended_at) == ("failed", "it [2J broke there", 5.0, None)
    assert (job.progress, job.evaluation, job.summary, job.queue_position) == ({"epoch": 2}, None, None, None)
    assert job.ended and job.to_dict()["demand"] == {"cpus": 1.5, "gpus": 1.0, "memory_bytes": 7}
    assert type(job.to_dict()["state"]) is str


def test_the_beginning_of_an_id_is_enough(client, fake):
    for id in ("digits-1", "other-2", "other-3", "digits_easgd-4"):
        fake.add(id)
    assert client.get("digits_").id == "digits_easgd-4"
    assert client.get("digits").id == "digits-1"  # the whole name of one
    with pytest.raises(UsageError, match="2 jobs begin with 'other': other-3, other-2; say which"):
        client.get("other")
    with pytest.raises(UnknownJob, match="there is no job 'digist-1'"):
        client.get("digist-1")
    with pytest.raises(UnknownJob, match="'digist'; did you mean 'digits-1'"):
        client.get("digist")
    with pytest.raises(UsageError, match="which job"):
        client.get("")


@pytest.mark.parametrize("act", ["stop", "delete"])
def test_what_ends_or_removes_a_job_is_not_guessed(client, fake, act):
    fake.add("digits-1", pb.SUCCEEDED)
    with pytest.raises(UsageError, match="must be whole"):
        getattr(client, act)("digits")
    getattr(client, act)("digits-1")


def test_jobs_are_listed_page_by_page(client, fake):
    for number in range(1, 251):
        fake.add(f"a-{number}", pb.RUNNING if number % 50 == 0 else pb.SUCCEEDED)
    assert [job.id for job in client.jobs()] == [f"a-{number}" for number in range(250, 0, -1)]
    assert len(fake.asked("List")) == 3
    assert [job.id for job in client.jobs(limit=120)] == [f"a-{number}" for number in range(250, 130, -1)]
    assert [job.id for job in client.jobs(["running"])] == ["a-250", "a-200", "a-150", "a-100", "a-50"]
    with pytest.raises(UsageError, match="no state 'runing'; did you mean 'running'"):
        client.jobs(["runing"])


def test_watch_goes_on_where_it_was(client, fake):
    job = fake.add("a-1")
    ended = pb.Job(id="a-1", state=pb.SUCCEEDED)
    fake.watched = numbered(pb.WatchReply(job=job), records(1, 2), records(3), pb.WatchReply(job=ended))
    fake.cuts["Watch"] = [1, 0, 2, None]
    told: list[str] = []
    patience = Patience(call_s=60, lost_s=60, pause_s=0.05)
    with connect(client.address, TOKEN, patience=patience, on_lost=told.append) as client:
        updates = list(client.watch("a-1"))
    assert len(told) == 2  # lost, found, lost again
    assert [record["epoch"] for update in updates for record in update.records] == [1, 2, 3]
    assert [update.job.state for update in updates if update.job] == ["running", "succeeded"]
    assert [request.position for request in fake.asked("Watch")] == ["", "1", "1", "3"]
    assert all(request.follow for request in fake.asked("Watch"))


def test_watch_from_a_position_and_without_staying(client, fake):
    fake.add("a-1")
    fake.watched = numbered(records(1), records(2))
    assert [update.position for update in client.watch("a-1", position="1", follow=False)] == ["2"]
    assert not fake.asked("Watch")[0].follow


def test_lines_that_are_no_records_are_left_out(client, fake):
    fake.add("a-1")
    fake.watched = numbered(pb.WatchReply(records=["{", "[]", '{"kind": "event"}', "", "NaN"]))
    assert [update.records for update in client.watch("a-1")] == [({"kind": "event"},)]


def test_wait(client, fake):
    fake.add("a-1")
    fake.watched = numbered(pb.WatchReply(job=pb.Job(id="a-1", state=pb.STOPPED, reason="so")))
    assert (client.wait("a-1").state, client.wait("a-1").reason) == ("stopped", "so")


def test_logs_go_on_where_they_were(client, fake):
    fake.add("a-1")
    fake.log = b"erste\nzweite\ndritte Zeile\n"
    assert b"".join(client.logs("a-1")) == fake.log
    fake.cuts["Logs"] = [1, 0, 1]
    assert b"".join(client.logs("a-1", follow=True, tail=2)) == b"zweite\ndritte Zeile\n"
    asked = fake.asked("Logs")[1:]
    assert [(request.tail_lines, request.offset) for request in asked] == [(2, 0), (0, 13), (0, 13), (0, 20)]
    assert list(client.logs("a-1", tail=0)) == []


def test_stop_and_resume(client, fake):
    fake.add("a-1", pb.RUNNING)
    assert client.stop("a-1", kill=True).state == "stopping"
    assert fake.asked("Stop")[0].kill
    assert client.resume("a-1", set={"stop.epochs": 9, "data.train": "x y"}, priority=4).state == "queued"
    asked = fake.asked("Resume")[0]
    assert (list(asked.overrides), asked.priority) == (["stop.epochs=9", 'data.train="x y"'], 4)


def test_delete(client, fake):
    fake.add("a-1", pb.RUNNING)
    with pytest.raises(ServiceError, match="stop it first") as error:
        client.delete("a-1")
    assert error.value.code == "FAILED_PRECONDITION"
    fake.jobs["a-1"].state = pb.FAILED
    client.delete("a-1")
    assert not fake.jobs


def test_cluster(client):
    cluster = client.cluster()
    assert cluster.reachable and cluster.nodes[0].head and cluster.total.memory_bytes == 8 << 30
    assert cluster.to_dict()["taken"] == {"cpus": 1.1, "gpus": 0.0, "memory_bytes": 0}


def test_who_is_not_let_in(server):
    with connect(server.address) as client, pytest.raises(WrongToken, match="wants a token: .*HOGSHEAD_TOKEN"):
        client.jobs()
    with connect(server.address, "wrong") as client, pytest.raises(WrongToken, match="refuses the token from"):
        client.submit({**JOB, "data": {"train": "sklearn:iris"}})
    assert server.fake.calls == []


def test_nobody_is_there(server):
    """At once, not after the patience for a connection that was lost."""
    server.stop()
    with connect(server.address, TOKEN, patience=Patience(lost_s=1e6)) as client:
        for ask in (client.jobs, lambda: client.submit({**JOB, "data": {"train": "sklearn:iris"}})):
            with pytest.raises(ServiceAway, match="no job service listens at 127.0.0.1:.*docker compose up"):
                ask()


def test_patience_ends(fake):
    server = Server(fake)
    fake.add("a-1")
    told: list[str] = []
    fake.watched = numbered(records(1))
    fake.cuts["Watch"] = [1, *[0] * 100]
    patience = Patience(call_s=60, lost_s=0.3, pause_s=0.05)
    with connect(server.address, TOKEN, patience=patience, on_lost=told.append) as client:
        updates = client.watch("a-1")
        assert next(updates).records == ({"kind": "evaluation", "epoch": 1},)
        with pytest.raises(ServiceAway, match="was lost"):
            next(updates)
    server.stop()
    assert told == [f"the connection to {server.address} was lost; looking for it"]


def test_the_service_is_started_again_elsewhere_in_time(fake):
    """Another process at the same port."""
    held = reserved()
    server = Server(fake, port=port_of(held))
    fake.add("a-1")
    fake.watched = numbered(records(1), records(2))
    fake.cuts["Watch"] = [1]
    again: list[Server] = []
    lost = threading.Event()

    def restart() -> None:
        lost.wait(60)
        again.append(Server(fake, port=server.port))

    thread = threading.Thread(target=restart)
    thread.start()
    patience = Patience(call_s=60, lost_s=60, pause_s=0.05)
    with connect(server.address, TOKEN, patience=patience, on_lost=lambda message: lost.set()) as client:
        updates = client.watch("a-1")
        first = next(updates)
        server.stop()
        assert [first, *updates][-1].records[0]["epoch"] == 2
    thread.join()
    again[0].stop()
    held.close()


def test_who_was_never_there_is_not_looked_for():
    told: list[str] = []
    wire = Wire(find_settings({"address": "127.0.0.1:1"}), Patience(lost_s=1e6), told.append)
    with pytest.raises(ServiceAway, match="no job service listens"):
        next(wire.stream("Watch", pb.WatchRequest))
    with pytest.raises(ServiceAway, match="no job service listens"):
        wire.insist("Get", pb.GetRequest, 60)
    wire.close()
    assert told == []


@pytest.mark.parametrize("healthy", [False, True])
def test_something_else_answers(healthy):
    with ThreadPoolExecutor(2) as threads:
        other = grpc.server(threads)
        if healthy:
            health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), other)
        port = other.add_insecure_port("127.0.0.1:0")
        other.start()
        with connect(f"127.0.0.1:{port}") as client:
            for ask in (client.jobs, lambda: client.submit({**JOB, "data": {"train": "sklearn:iris"}})):
                with pytest.raises(ServiceError, match="no Hogshead job service, or an older one"):
                    ask()
        other.stop(0).wait()


@pytest.mark.parametrize(
    ("code", "details", "kind", "said"),
    [
        ("INTERNAL", "fault of the service; see its log", ServiceError, "^fault of the service; see its log$"),
        ("FAILED_PRECONDITION", "a\x1b[31mb", ServiceError, r"^a \[31mb$"),
        ("DEADLINE_EXCEEDED", "", ServiceError, "did not answer in time"),
        ("PERMISSION_DENIED", "", ServiceError, "failed: PERMISSION_DENIED"),
        ("OUT_OF_RANGE", "no such position", UsageError, "^no such position$"),
    ],
)
def test_what_the_service_says_becomes_an_error_of_ours(client, fake, code, details, kind, said):
    fake.failures["Cluster"] = [(grpc.StatusCode[code], details)]
    with pytest.raises(kind, match=said):
        client.cluster()
    assert issubclass(ServiceError, HogsheadError)


def test_overrides_as_text():
    given = {"a.b": 1, "c": "two words", "d": [1, 2], "e": True, "f": None, "g": 0.5, "h": {"x": 1}}
    texts = overrides_of(given)
    assert texts[:2] == ["a.b=1", 'c="two words"'] and texts[5] == "g=0.5" and texts[4] == "f="
    tables: dict = {}
    apply_overrides(tables, texts)
    assert tables == {"a": {"b": 1}, "c": "two words", "d": [1, 2], "e": True, "g": 0.5, "h": {"x": 1}}


def test_it_is_among_the_public_names():
    import hogshead

    assert hogshead.connect is connect and "connect" in hogshead.__all__


def test_a_submission_waits_for_its_turn_with_the_same_token(server, fake):
    said: list[str] = []
    busy = (grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are 8 submissions under way, {BUSY}")
    fake.failures["Submit"] = [busy] * 6
    patience = Patience(call_s=60, lost_s=60, pause_s=0.01)
    with connect(server.address, TOKEN, patience=patience, on_lost=said.append) as client:
        job = client.submit({**JOB, "data": {"train": "sklearn:iris"}}, name="mine")
    tokens = {submission.client_token for submission, _ in fake.asked("Submit")}
    assert job.id == "mine-1" and len(fake.asked("Submit")) == 7 and len(tokens) == 1
    assert said == [f"there are 8 submissions under way, {BUSY}; waiting for a turn"]


def test_a_turn_is_waited_for_at_the_first_call_too(server, fake):
    fake.add("a-1")
    fake.watched = numbered(records(1))
    fake.failures["Watch"] = [(grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are 64 streams under way, {BUSY}")]
    wire = Wire(find_settings({"address": server.address}, TOKEN), Patience(lost_s=60, pause_s=0.01))
    assert len(list(wire.stream("Watch", lambda: pb.WatchRequest(id="a-1")))) == 1
    wire.close()


def test_who_waits_for_a_turn_too_long_is_told_why(server, fake):
    fake.failures["Submit"] = [(grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are 8 submissions under way, {BUSY}")] * 500
    patience = Patience(call_s=60, lost_s=0.1, pause_s=0.01)
    with connect(server.address, TOKEN, patience=patience) as client:
        with pytest.raises(ServiceBusy, match="there are 8 submissions under way"):
            client.submit({**JOB, "data": {"train": "sklearn:iris"}})


def test_a_disk_that_is_full_is_not_waited_for(client, fake):
    fake.failures["Submit"] = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "too little space on the service's disk")]
    with pytest.raises(ServiceError, match="too little space"):
        client.submit({**JOB, "data": {"train": "sklearn:iris"}})
    assert len(fake.asked("Submit")) == 1
