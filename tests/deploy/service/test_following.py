"""Following a job over a real channel: its states and records, its log, its run directory."""

from __future__ import annotations

import json
import os
import threading

import grpc

from deploy.service.states import State
from deploy.wire import jobs_pb2 as pb

from .serving import Client, Serving, end, folder, progress, records, refused, until

Code = grpc.StatusCode


def test_watching_without_following_brings_what_there_is(service, client):
    client.submit()
    records(service, "tiny-1", progress(1), progress(2))
    (reply,) = client.watch(id="tiny-1")
    assert reply.job.state == pb.QUEUED and [json.loads(line) for line in reply.records] == [progress(1), progress(2)]
    assert not reply.anew
    records(service, "tiny-1", progress(3))
    (reply,) = client.watch(id="tiny-1", position=reply.position)
    assert [json.loads(line) for line in reply.records] == [progress(3)] and reply.HasField("job")
    refused(Code.INVALID_ARGUMENT, "position must be that of a reply", client.watch, id="tiny-1", position="x")


def test_watching_goes_with_the_job_to_its_end(service, client):
    client.submit()
    stream = client.watch(id="tiny-1", follow=True)
    assert next(stream).job.state == pb.QUEUED
    service.store.change("tiny-1", {State.QUEUED}, state=State.RUNNING)
    assert next(stream).job.state == pb.RUNNING
    records(service, "tiny-1", progress(1))
    assert json.loads(next(stream).records[0]) == progress(1)
    records(service, "tiny-1", progress(2))
    end(service, "tiny-1")
    rest = list(stream)
    assert [json.loads(line) for reply in rest for line in reply.records] == [progress(2)]
    assert [reply.job.state for reply in rest if reply.HasField("job")] == [pb.SUCCEEDED]


def test_a_run_that_goes_on_from_a_checkpoint_begins_its_records_anew(service, client):
    client.submit()
    records(service, "tiny-1", progress(1), progress(2))
    stream = client.watch(id="tiny-1", follow=True)
    first = next(stream)
    beside = folder(service, "tiny-1").run / "beside"
    beside.write_text(json.dumps(progress(1)) + "\n" + json.dumps(progress(7)) + "\n")
    beside.rename(folder(service, "tiny-1").run / "metrics.jsonl")
    reply = next(stream)
    assert reply.anew and [json.loads(line) for line in reply.records] == [progress(1), progress(7)]
    (again,) = client.watch(id="tiny-1", position=first.position)  # as one that was cut off meanwhile
    assert again.anew and list(again.records) == list(reply.records)
    (same,) = client.watch(id="tiny-1", position=reply.position)
    assert not same.anew and not same.records
    end(service, "tiny-1")
    list(stream)


def test_many_records_come_in_messages_of_bounded_size(service, client):
    client.submit()
    lines = [{"kind": "progress", "step": step, "text": "x" * 1000} for step in range(4000)]
    records(service, "tiny-1", *lines)
    replies = list(client.watch(id="tiny-1"))
    assert [json.loads(line) for reply in replies for line in reply.records] == lines
    assert len(replies) > 3 and max(reply.ByteSize() for reply in replies) < 3 << 20


def test_a_job_that_is_deleted_ends_who_watches_it(service, client):
    client.submit()
    stream = client.watch(id="tiny-1", follow=True)
    next(stream)
    service.store.remove("tiny-1", set(State))
    refused(Code.NOT_FOUND, "there is no job", lambda: stream)


def test_logs(service, client):
    client.submit()
    stream = client.logs(id="tiny-1", follow=True)
    log = folder(service, "tiny-1").log
    log.write_bytes("one\ntwö\nthree\n".encode())
    assert next(stream).data.decode() == "one\ntwö\nthree\n"
    with open(log, "ab") as file:
        file.write(b"four")
    reply = next(stream)
    assert (reply.data, reply.offset) == (b"four", 19)
    end(service, "tiny-1", State.FAILED)
    assert not list(stream)
    assert b"".join(reply.data for reply in client.logs(id="tiny-1", offset=4)).decode() == "twö\nthree\nfour"
    for lines, text in ((1, b"four"), (2, b"three\nfour"), (9, log.read_bytes())):
        assert b"".join(reply.data for reply in client.logs(id="tiny-1", tail_lines=lines)) == text
    refused(Code.INVALID_ARGUMENT, "tail_lines", client.logs, id="tiny-1", tail_lines=1, offset=1)
    assert not list(client.logs(id="tiny-1", offset=2**63))


def fetched(client, **fields) -> dict[str, bytes]:
    files, sizes, name, done = {}, {}, "", None
    for reply in client.fetch(**fields):
        assert done is None
        part = reply.WhichOneof("part")
        if part == "file":
            name = reply.file.path
            files[name], sizes[name] = b"", reply.file.size
        elif part == "data":
            files[name] += reply.data
        else:
            done = reply.done
    assert done is not None and done.files == len(files) and done.bytes == sum(map(len, files.values()))
    assert sizes == {name: len(data) for name, data in files.items()}
    return files


def test_fetching_a_run(service, client):
    client.submit()
    assert fetched(client, id="tiny-1") == {}
    run = folder(service, "tiny-1").run
    (run / "checkpoint" / "step-1").mkdir(parents=True)
    content = {
        "summary.json": b"{}",
        "checkpoint/step-1/shard-0": bytes(range(256)) * 10_000,
        "empty": b"",
        "report.html": b"<p>",
    }
    hidden = {".lock": b"1", "checkpoint/.partial": b"2", "endpoints.json": b'{"token": "secret"}'}
    for name, data in {**content, **hidden}.items():
        (run / name).write_bytes(data)
    assert fetched(client, id="tiny-1") == content
    assert set(fetched(client, id="tiny-1", patterns=["checkpoint/*"])) == {"checkpoint/step-1/shard-0"}
    assert set(fetched(client, id="tiny-1", patterns=["*.json", "*.html"])) == {"summary.json", "report.html"}
    assert fetched(client, id="tiny-1", patterns=["../job.toml", "/etc/passwd", "endpoints.json"]) == {}
    refused(Code.INVALID_ARGUMENT, "at most 100 patterns", client.fetch, id="tiny-1", patterns=["*"] * 101)


def test_a_file_that_is_cut_short_while_it_is_fetched_is_told(service, client, monkeypatch):
    from deploy.service import fetching

    monkeypatch.setattr(fetching, "PIECE_BYTES", 4)
    client.submit()
    run = folder(service, "tiny-1").run
    run.mkdir()
    (run / "a").write_bytes(b"x" * 10_000)
    real = fetching._facts

    def cut(file):
        facts = real(file)
        (run / "a").write_bytes(b"x" * 10)
        return facts

    monkeypatch.setattr(fetching, "_facts", cut)
    refused(Code.ABORTED, "a was cut short while it was sent", client.fetch, id="tiny-1")


def test_what_is_known_is_not_sent_again_unless_it_has_changed(service, client):
    client.submit()
    run = folder(service, "tiny-1").run
    run.mkdir()
    content = {name: name.encode() * 1000 for name in ("appended", "begun", "replaced", "touched", "whole")}
    for name, data in content.items():
        (run / name).write_bytes(data)
        os.utime(run / name, (1e9, 1e9))  # long ago: what is written in the same tick of the clock looks the same
    marks = {reply.file.path: reply.file.mark for reply in client.fetch(id="tiny-1") if reply.HasField("file")}
    with open(run / "appended", "ab") as file:
        file.write(b"more")
    (run / "other").write_bytes(content["replaced"])
    (run / "other").replace(run / "replaced")
    (run / "touched").write_bytes(content["touched"])  # the same again, which nobody can know
    (run / "new").write_bytes(b"new")
    sizes = {name: len(data) for name, data in content.items()} | {"begun": 1234}
    known = [pb.FetchRequest.Known(path=name, mark=marks[name], size=size) for name, size in sizes.items()]
    known.append(pb.FetchRequest.Known(path="gone", mark="m", size=7))
    sent, offsets, now = {}, {}, {name: (run / name).read_bytes() for name in (*content, "new")}
    for reply in client.fetch(id="tiny-1", known=known):
        if reply.HasField("file"):
            name, offsets[reply.file.path] = reply.file.path, reply.file.offset
            assert reply.file.size == len(now[name])
            assert (reply.file.mark == marks.get(name)) == (name in ("begun", "whole"))
        sent[name] = sent.get(name, b"") + reply.data
    assert (reply.done.files, reply.done.bytes) == (len(now), sum(map(len, now.values())))
    assert {name: offset for name, offset in offsets.items() if offset} == {"begun": 1234, "whole": len(now["whole"])}
    assert sent == {name: data[offsets[name] :] for name, data in now.items()}
    huge = [pb.FetchRequest.Known(path="whole", mark=marks["whole"], size=1 << 60)]
    assert {reply.file.offset for reply in client.fetch(id="tiny-1", patterns=["whole"], known=huge)} == {0, 5000}
    many = [pb.FetchRequest.Known()] * 10_001
    refused(Code.INVALID_ARGUMENT, "at most 10000 files that are known", client.fetch, id="tiny-1", known=many)


# -- how many, how long, and the end ----------------------------------------------------------------------------------


def test_streams_are_bounded_and_others_go_on(service, client, monkeypatch):
    client.submit()
    service.servicer._following.most = 2
    streams = [client.watch(id="tiny-1", follow=True) for _ in range(2)]
    for stream in streams:
        next(stream)
    refused(Code.RESOURCE_EXHAUSTED, "2 streams that follow jobs under way", client.logs, id="tiny-1", follow=True)
    assert client.get(id="tiny-1").id == "tiny-1"
    streams[0].cancel()
    until(lambda: len(service.servicer._following._open) == 1)
    next(client.watch(id="tiny-1"))


def test_when_the_service_ends_its_streams_say_try_again(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.service.server._GRACE_S", 60.0)
    with Serving(tmp_path) as service:
        client = Client(service.channel())
        client.submit()
        stream = client.watch(id="tiny-1", follow=True)
        next(stream)
        ending = threading.Thread(target=service.server.stop)
        ending.start()
        refused(Code.UNAVAILABLE, "the service is being stopped; try again", lambda: stream)
        ending.join(60)
        assert not ending.is_alive()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("jobs", "streams"))]
