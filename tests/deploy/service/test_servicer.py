"""What the job service answers about its jobs, over a real channel, without a cluster."""

from __future__ import annotations

import json

import grpc
import pytest

from deploy.service import servicer as servicer_module
from deploy.service.states import ENDED, State
from deploy.wire import jobs_pb2 as pb

from .serving import JOB, end, folder, progress, records, refused, tree

Code = grpc.StatusCode


# -- Get, List --------------------------------------------------------------------------------------------------------


def test_a_job_tells_its_newest_records_and_its_summary(service, client):
    client.submit()
    evaluation = {"kind": "evaluation", "evaluation": {"accuracy": 0.5}}
    records(service, "tiny-1", progress(1), evaluation, *[progress(step) for step in range(2, 400)])
    job = client.get(id="tiny-1")
    assert json.loads(job.latest_progress) == progress(399) and json.loads(job.latest_evaluation) == evaluation
    records(service, "tiny-1", progress(400))
    with open(folder(service, "tiny-1").run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "progress", "torn')
    (folder(service, "tiny-1").run / "summary.json").write_text('{"status": "done"}')
    job = client.get(id="tiny-1")
    assert json.loads(job.latest_progress) == progress(400) and json.loads(job.latest_evaluation) == evaluation
    assert job.summary == '{"status": "done"}'


def test_links_in_a_run_are_not_followed(service, client, tmp_path):
    client.submit()
    place = folder(service, "tiny-1")
    place.run.mkdir()
    (tmp_path / "secret").write_text('{"kind": "progress", "secret": 1}\n')
    for name in ("metrics.jsonl", "summary.json", "model.bin"):
        (place.run / name).symlink_to(tmp_path / "secret")
    (place.run / "folder").symlink_to(tmp_path)
    place.log.symlink_to(tmp_path / "secret")
    job = client.get(id="tiny-1")
    assert job.latest_progress == job.summary == ""
    assert [reply.records for reply in client.watch(id="tiny-1")] == [[]]
    assert not list(client.logs(id="tiny-1"))
    assert [reply.WhichOneof("part") for reply in client.fetch(id="tiny-1")] == ["done"]


def test_listing(service, client, monkeypatch):
    for name in ("a", "b", "c"):
        client.submit(name=name, priority={"b": 5}.get(name, 0))
    service.store.change("a-1", {State.QUEUED}, state=State.RUNNING)
    reply = client.list()
    assert [(job.id, job.queue_position) for job in reply.jobs] == [
        ("c-1", 2),
        ("b-1", 1),
        ("a-1", 0),
    ] and not reply.next
    assert [job.id for job in client.list(states=[pb.RUNNING]).jobs] == ["a-1"]
    page = client.list(limit=2)
    assert [job.id for job in page.jobs] == ["c-1", "b-1"]
    rest = client.list(limit=2, before=page.next)
    assert [job.id for job in rest.jobs] == ["a-1"] and not rest.next
    monkeypatch.setattr(servicer_module, "_LIST_BYTES", 1)  # a page ends where a message would grow too large
    pages, before = [], ""
    while True:
        page = client.list(before=before)
        pages.append([job.id for job in page.jobs])
        before = page.next
        if not before:
            break
    assert sum(pages, []) == ["c-1", "b-1", "a-1"] and len(pages) == 3


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"limit": 1001}, "limit must be at most 1000"),
        ({"before": "x"}, "page before"),
        ({"states": [99]}, "no state 99"),
        ({"states": [0]}, "no state 0"),
    ],
)
def test_a_wrong_listing_is_refused(client, fields, reason):
    refused(Code.INVALID_ARGUMENT, reason, client.list, **fields)


@pytest.mark.parametrize("job", ["tiny-2", "", "../tiny-1", "tiny-1/files", "x" * 5000, "tiny-1\0"])
def test_a_job_that_is_not_there_is_not_found(service, client, job):
    service.store.add(name="tiny", job=JOB, priority=0, cpus=1.0, gpus=0.0, memory_bytes=0, on_loss="fail", most_attempts=1,
                      strategy="easgd", task="mlp")  # fmt: skip
    for method in ("get", "watch", "logs", "stop", "resume", "fetch", "delete"):
        refused(Code.NOT_FOUND, "there is no job", getattr(client, method), id=job)


# -- Stop, Resume, Delete ---------------------------------------------------------------------------------------------


def test_a_job_that_waits_is_stopped_at_once(service, client):
    client.submit()
    job = client.stop(id="tiny-1")
    assert (job.state, job.reason) == (pb.STOPPED, "stopped while it waited") and job.ended_at > 0


@pytest.mark.parametrize("state", [State.STARTING, State.RUNNING])
def test_a_job_at_work_is_asked_to_end(service, client, state):
    client.submit()
    service.store.change("tiny-1", {State.QUEUED}, state=state)
    wishes = []
    for kill in (False, True, False):
        assert client.stop(id="tiny-1", kill=kill).state == pb.STOPPING
        wishes.append(service.store.get("tiny-1").wish)
    assert wishes == ["stop", "kill", "kill"]  # what was to be killed is not let off


@pytest.mark.parametrize("state", sorted(ENDED))
def test_a_job_that_has_ended_is_left_as_it_is(service, client, state):
    client.submit()
    service.store.change("tiny-1", {State.QUEUED}, state=state, reason="why", ended_at=9.0)
    before = service.store.get("tiny-1")
    assert client.stop(id="tiny-1").reason == "why" and service.store.get("tiny-1") == before


@pytest.mark.parametrize("state", sorted(ENDED))
def test_a_job_that_has_ended_goes_on(service, client, state):
    client.submit(overrides=["seed=1"])
    service.store.change("tiny-1", {State.QUEUED}, state=state, reason="why", ended_at=9.0, wish="stop", started_at=3.0)
    job = client.resume(id="tiny-1", overrides=["workers.count=5"], priority=3)
    assert (job.state, job.reason, job.ended_at, job.started_at, job.priority) == (pb.QUEUED, "", 0.0, 3.0, 3)
    record = service.store.get("tiny-1")
    assert record.overrides == ("seed=1", "workers.count=5") and record.cpus == 6.0
    assert (record.resume, record.wish, record.ended_at) == (True, "", None)


@pytest.mark.parametrize("state", sorted(ENDED))
def test_a_job_that_is_stopped_before_it_goes_on_is_what_it_was(service, client, state):
    client.submit(overrides=["seed=1"])
    service.store.change("tiny-1", {State.QUEUED}, state=state, reason="why", ended_at=9.0, wish="kill", started_at=3.0)
    before = service.store.get("tiny-1")
    for _ in range(2):
        client.resume(id="tiny-1", overrides=["workers.count=5"], priority=3)
        assert client.stop(id="tiny-1").state == pb.State.Value(state.name)
        assert service.store.get("tiny-1") == before


def test_a_job_goes_on_only_with_overrides_that_fit(service, client):
    client.submit()
    refused(Code.FAILED_PRECONDITION, "job tiny-1 is queued", client.resume, id="tiny-1")
    end(service, "tiny-1")
    before = service.store.get("tiny-1")
    refused(Code.INVALID_ARGUMENT, "did you mean 'count'", client.resume, id="tiny-1", overrides=["workers.cuont=1"])
    refused(Code.INVALID_ARGUMENT, "at most 1000 overrides", client.resume, id="tiny-1", overrides=["seed=1"] * 1001)
    assert service.store.get("tiny-1") == before


def test_deleting(service, client):
    client.submit()
    refused(Code.FAILED_PRECONDITION, "job tiny-1 is queued; this needs one that is", client.delete, id="tiny-1")
    end(service, "tiny-1")
    client.delete(id="tiny-1")
    refused(Code.NOT_FOUND, "no job", client.get, id="tiny-1")
    assert tree(service.jobs) == {".incoming"}
    assert client.submit().id == "tiny-2"


# -- Cluster ----------------------------------------------------------------------------------------------------------


def test_the_cluster(service, client, monkeypatch):
    monkeypatch.setattr(servicer_module, "_NODES_S", 3600.0)
    client.submit()
    client.submit()
    service.store.change("tiny-1", {State.QUEUED}, state=State.RUNNING)
    reply = client.cluster()
    assert reply.reachable and reply.version
    assert [(node.address, node.head, node.total.cpus) for node in reply.nodes] == [
        ("10.0.0.4", True, 0),
        ("10.0.0.5", False, 8),
    ]
    assert (reply.total.cpus, reply.total.gpus, reply.taken.cpus) == (8.0, 1.0, 4.0)
    client.cluster()
    assert service.cluster.asked == 1  # answers are good for a moment
    service.cluster.away = "nobody home"
    service.servicer._nodes._until = 0.0
    reply = client.cluster()
    assert not reply.reachable and reply.reason == "nobody home" and reply.taken.cpus == 4.0
