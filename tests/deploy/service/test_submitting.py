"""Handing in jobs over a real channel: what is acknowledged is whole, what is refused leaves nothing."""

from __future__ import annotations

import hashlib
import threading

import grpc
import pytest

from deploy.service.demand import Limits
from deploy.wire import jobs_pb2 as pb

from .serving import JOB, TASK, Client, Serving, folder, refused, tree, until, zipped

Code = grpc.StatusCode


def test_a_submitted_job_is_whole_on_the_disk(service, client):
    job = client.submit(
        overrides=["seed=3"], priority=7, files={"points.py": TASK, "data/d.csv": "1,2\n"}, client_token="t"
    )
    assert (job.id, job.name, job.state, job.priority, job.queue_position) == ("tiny-1", "tiny", pb.QUEUED, 7, 1)
    assert (job.demand.cpus, job.strategy, job.task, job.on_loss) == (4.0, "easgd", "points.py:Points", "resume")
    place = folder(service, "tiny-1")
    assert place.job.read_text() == JOB and (place.files / "data" / "d.csv").read_text() == "1,2\n"
    assert tree(place.path) == {"job.toml", "files", "files/points.py", "files/data", "files/data/d.csv"}
    assert service.store.get("tiny-1").overrides == ("seed=3",)
    assert tree(service.jobs / ".incoming") == set()


def test_a_second_submission_with_the_same_token_is_the_first_job(service, client):
    first = client.submit(client_token="t")
    assert client.submit(client_token="t") == first
    # It is known before its archive is looked at, as the client that lost the answer sends it again.
    assert client.send([pb.SubmitRequest(submission=pb.Submission(client_token="t"))]) == first
    assert client.submit(client_token="u").id == "tiny-2"
    assert {path.name for path in service.jobs.iterdir()} == {".incoming", "tiny-1", "tiny-2"}


def test_the_same_submission_at_once_from_many_makes_one_job(service, client):
    start, ids = threading.Barrier(6), []

    def run() -> None:
        start.wait()
        ids.append(client.submit(client_token="t").id)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids == ["tiny-1"] * 6
    assert {path.name for path in service.jobs.iterdir()} == {".incoming", "tiny-1"} and not tree(
        service.jobs / ".incoming"
    )


def test_pieces_may_have_any_size(client):
    files = {"points.py": TASK, "d.csv": "1,2\n" * 3000}
    for number, piece in enumerate((17, 1000, 1 << 20), 1):
        assert client.submit(files=files, piece=piece).id == f"tiny-{number}"


def test_a_job_of_a_built_in_task_needs_no_files(service, client):
    job = client.submit('task = "mlp"\nstrategy = "easgd"\n[data]\ntrain = "/data/d.csv"\n', files={}, name="mine")
    assert job.id == "mine-1" and tree(folder(service, "mine-1").path) == {"job.toml", "files"}


ARCHIVE = zipped({"points.py": TASK})
GOOD = {"job": JOB, "archive_bytes": len(ARCHIVE), "archive_sha256": hashlib.sha256(ARCHIVE).digest()}


def submission(**fields) -> pb.SubmitRequest:
    return pb.SubmitRequest(submission=pb.Submission(**{**GOOD, **fields}))


def piece(data: bytes = ARCHIVE) -> pb.SubmitRequest:
    return pb.SubmitRequest(archive=data)


WRONG = {
    "nothing": ([], "a submission must come first, got nothing"),
    "archive first": ([piece()], "a submission must come first"),
    "empty message": ([pb.SubmitRequest()], "a submission must come first"),
    "two submissions": ([submission(), submission(), piece()], "only its archive must come"),
    "too little": ([submission(), piece(ARCHIVE[:-1])], "ended after"),
    "too much": ([submission(), piece(), piece(b"x")], "larger than the"),
    "damaged": ([submission(), piece(ARCHIVE[:-1] + b"x")], "its SHA-256 is not the one"),
    "wrong sum": ([submission(archive_sha256=b"0" * 32), piece()], "its SHA-256 is not the one"),
    "short sum": ([submission(archive_sha256=b"0"), piece()], "must be the 32 bytes"),
    "no sum": ([submission(archive_sha256=b""), piece()], "must be the 32 bytes"),
    "unannounced": ([submission(archive_bytes=0, archive_sha256=b""), piece()], "larger than the 0 bytes"),
    "too large": ([submission(archive_bytes=10**12), piece()], "this service takes at most 100 MB"),
    "long token": ([submission(client_token="t" * 201), piece()], "client_token must have at most 200"),
    "wrong job": ([submission(job="x"), piece()], "not valid TOML"),
    "wrong name": ([submission(name="../x"), piece()], "a job's name must have"),
    "wrong override": ([submission(overrides=["x"]), piece()], "--set 'x'"),
    "no archive": ([submission(archive_bytes=0, archive_sha256=b"")], "did not come with the job"),
}  # fmt: skip


@pytest.mark.parametrize("messages, reason", WRONG.values(), ids=WRONG)
def test_a_wrong_submission_is_refused_and_leaves_nothing(service, client, messages, reason):
    refused(Code.INVALID_ARGUMENT, reason, client.send, messages)
    assert tree(service.jobs) == {".incoming"} and service.store.list() == ([], "")


def test_limits_of_the_service_are_told_with_both_numbers(tmp_path):
    with Serving(tmp_path, limits=Limits(cpus=3.5, upload_bytes=1000)) as service:
        client = Client(service.channel())
        refused(Code.INVALID_ARGUMENT, "asks for 4 CPUs, this service gives one job at most 3.5", client.submit)
        refused(
            Code.INVALID_ARGUMENT,
            "0.0 MB, this service takes",
            client.submit,
            files={"a": "".join(map(chr, range(9000)))},
        )
        assert client.submit(overrides=["workers.count=2"]).demand.cpus == 3.0


def test_a_full_disk_is_told_as_such(service, client, monkeypatch):
    from deploy.service import submission as submission_module

    usage = submission_module.shutil.disk_usage(service.jobs)
    monkeypatch.setattr(submission_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(Code.RESOURCE_EXHAUSTED, "too little space", client.submit)
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(submission_module, "unpack", full)
    refused(Code.RESOURCE_EXHAUSTED, "disk is full", client.submit)
    assert tree(service.jobs) == {".incoming"}


def test_a_caller_that_goes_in_the_middle_leaves_nothing(service, client):
    gone, cut = threading.Event(), threading.Event()

    def messages():
        yield submission()
        yield piece(ARCHIVE[:10])
        cut.wait(60)
        yield piece(ARCHIVE[10:])

    call = client._channel.stream_unary(
        "/hogshead.jobs.v1.Jobs/Submit", lambda m: m.SerializeToString(), pb.Job.FromString
    )
    future = call.future(messages(), metadata=client._metadata, timeout=60)
    future.add_done_callback(lambda _: gone.set())
    until(lambda: tree(service.jobs / ".incoming"))
    future.cancel()
    cut.set()
    assert gone.wait(60)
    until(lambda: not tree(service.jobs / ".incoming"))
    assert service.store.list() == ([], "") and client.submit().id == "tiny-1"


def test_a_fault_of_ours_is_logged_and_not_told(service, client, monkeypatch, caplog):
    monkeypatch.setattr(service.store, "get", lambda job: 1 / 0)
    refused(Code.INTERNAL, "a fault of the service; see its log", client.get, id="x-1")
    assert "ZeroDivisionError" in caplog.text


def test_an_upload_that_stalls_is_cancelled(service, client, monkeypatch):
    monkeypatch.setattr("deploy.service.streams._LOOK_S", 0.05)
    service.servicer._uploading._idle_s = 0.01
    over = threading.Event()

    def messages():
        yield submission()
        over.wait(60)

    try:
        refused(Code.CANCELLED, "", client.send, messages())
    finally:
        over.set()
    until(lambda: not tree(service.jobs / ".incoming"))
