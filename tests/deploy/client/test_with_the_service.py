"""The client against the service itself, with a stand-in for the cluster: both read proto/jobs.proto the same way."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from deploy.cli import main
from deploy.client.client import connect
from deploy.client.failures import ServiceError, UnknownJob, WrongToken
from deploy.client.packing import pack_job
from deploy.client.wire import Patience
from deploy.service import fetching
from deploy.service.refusals import Refused
from deploy.service.states import State
from ps.errors import UsageError
from tests.deploy.service import serving
from tests.deploy.service.serving import TOKEN, Serving


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.service.servicer._LOOK_S", 0.02)  # files that grow are looked at often
    (tmp_path / "service").mkdir()
    with Serving(tmp_path / "service") as made:
        yield made


@pytest.fixture
def client(service):
    with connect(f"127.0.0.1:{service.port}", TOKEN, patience=Patience(call_s=60, lost_s=60, pause_s=0.05)) as made:
        yield made


@pytest.fixture
def job(job_file) -> Path:
    """A job file with its task and data."""
    (job_file.parent / "points.csv").write_text("1,2\n")
    (job_file.parent / "helper.py").write_text("")
    (job_file.parent / "points.py").write_text("import helper\n" + (job_file.parent / "points.py").read_text())
    return job_file


def test_what_is_submitted_lies_there(client, service, job):
    submitted = client.submit(job, set={"strategy.tau": 8, "cluster.replica_cpus": 1.5}, priority=3)
    assert (submitted.id, submitted.state, submitted.priority) == ("try-1", State.QUEUED, 3)
    assert (submitted.strategy, submitted.demand.cpus) == ("easgd", 3.1)
    there = serving.folder(service, "try-1")
    assert sorted(path.name for path in there.files.iterdir()) == ["helper.py", "points.csv", "points.py"]
    assert "tau = 8" in there.job.read_text()
    assert client.get("try") == client.jobs()[0] == client.get("try-1")


def test_the_same_submission_twice_is_one_job(client, service, job, monkeypatch):
    packed = pack_job(job)
    monkeypatch.setattr("deploy.client.client.secrets.token_hex", lambda size: "the same")
    assert client.submit_packed(packed).id == client.submit_packed(packed).id
    assert len(client.jobs()) == 1


def test_jobs_that_the_service_refuses(client, service, job):
    with pytest.raises(UsageError, match="count must be >= 1|count"):
        client.submit(job, set={"shards.count": 0}, checked=False)
    with pytest.raises(UsageError, match="priority"):
        client.submit(job, priority=1_000_001)
    assert client.jobs() == [] and serving.tree(service.jobs) <= {".incoming"}


def test_watch_until_it_ends(client, service, job):
    id = client.submit(job).id
    serving.records(service, id, serving.progress(1), serving.progress(2))
    updates = client.watch(id)
    first = next(updates)
    assert first.job.state == "queued" and [record["loss"] for record in first.records] == [1.0, 0.5]

    def go_on() -> None:
        service.store.change(id, {State.QUEUED}, state=State.RUNNING)
        serving.records(service, id, serving.progress(4))
        serving.end(service, id)

    thread = threading.Thread(target=go_on)
    thread.start()
    rest = list(updates)
    thread.join()
    assert [record["loss"] for update in rest for record in update.records] == [0.25]
    assert rest[-1].job.state == "succeeded" and not any(update.anew for update in rest)
    (again,) = client.watch(id, position=first.position, follow=False)
    assert len(again.records) == 1 and client.wait(id).ended


def test_a_run_that_goes_back(client, service, job):
    id = client.submit(job).id
    serving.records(service, id, serving.progress(1), serving.progress(2))
    updates = client.watch(id)
    assert len(next(updates).records) == 2
    new = serving.folder(service, id).run / "new"
    new.write_text("".join(json.dumps(serving.progress(step)) + "\n" for step in (5, 10, 20)))
    new.replace(new.with_name("metrics.jsonl"))  # at once: whoever looked in between would find that there is none
    anew = next(update for update in updates if update.records)
    assert anew.anew and [record["loss"] for record in anew.records] == [0.2, 0.1, 0.05]
    updates.close()


def test_logs_and_files(client, service, job, capfdbinary, monkeypatch):
    id = client.submit(job).id
    there = serving.folder(service, id)
    there.log.write_text("eins\nzwei\n")
    assert b"".join(client.logs(id)) == b"eins\nzwei\n" and b"".join(client.logs(id, tail=1)) == b"zwei\n"
    with pytest.raises(UsageError, match=f"the run directory of {id} holds nothing yet"):
        client.fetch(id, "out")
    assert not Path("out").exists()
    (there.run / "checkpoint").mkdir(parents=True)
    (there.run / "summary.json").write_text("{}")
    (there.run / "checkpoint" / "shard.safetensors").write_bytes(b"x" * 3_000_000)
    assert sorted(client.fetch(id, "out").files) == ["checkpoint/shard.safetensors", "summary.json"]
    assert Path("out/checkpoint/shard.safetensors").stat().st_size == 3_000_000
    with pytest.raises(UsageError, match="holds nothing that matches '\\*.txt'"):
        client.fetch(id, "out", ["*.txt"], overwrite=True)
    assert client.read(id, "summary.json") == b"{}" and client.read(id, "absent") is None


def test_to_its_end_and_beyond(client, service, job):
    id = client.submit(job).id
    with pytest.raises(ServiceError, match="queued"):
        client.delete(id)
    with pytest.raises(ServiceError, match="queued"):
        client.resume(id)
    assert client.stop(id).state == "stopped"
    assert client.resume(id, set={"stop.epochs": 9}, priority=-5).priority == -5
    assert service.store.get(id).overrides == ("stop.epochs=9",)
    with pytest.raises(UsageError, match="epohs"):
        client.stop(id)
        client.resume(id, set={"stop.epohs": 9})
    service.store.change(id, {State.STOPPED}, state=State.RUNNING)
    assert client.stop(id, kill=True).state == "stopping" and service.store.get(id).wish == "kill"
    serving.end(service, id)
    client.delete(id)
    with pytest.raises(UnknownJob):
        client.get(id)


def test_cluster_and_token(client, service):
    assert [node.address for node in client.cluster().nodes] == ["10.0.0.4", "10.0.0.5"]
    service.cluster.away = "Ray does not answer"
    with connect(f"127.0.0.1:{service.port}", "another token") as stranger, pytest.raises(WrongToken):
        stranger.jobs()


def test_the_service_stops_while_it_is_watched(client, service, job, tmp_path):
    """Its streams end so that clients look for it, and give up in words when it does not come back."""
    id = client.submit(job).id
    brief = Patience(call_s=60, lost_s=0.2, pause_s=0.05)
    with connect(f"127.0.0.1:{service.port}", TOKEN, patience=brief) as other:
        updates = other.watch(id)
        next(updates)
        service.server.stop()
        with pytest.raises(ServiceError, match="no job service listens|was lost"):
            next(updates)


def test_the_commands_find_it_by_a_file(service, job, capsys, monkeypatch, tmp_path):
    """As `hogshead init` writes it."""
    Path("secrets").mkdir()
    Path("secrets/token").write_text(TOKEN + "\n")
    Path(".hogshead.toml").write_text(
        f'[service]\naddress = "127.0.0.1:{service.port}"\ntoken_file = "secrets/token"\n'
    )
    assert main(["submit", str(job), "--name", "mine"]) == 0
    assert main(["jobs"]) == 0
    shown = capsys.readouterr().out
    assert "submitted mine-1: queued, takes 2.1 CPUs; 3 files went along" in shown
    assert main(["submit", str(job), "--set", "service.priority=x"]) == 2
    assert main(["submit", str(job), "--unchecked", "--set", "strategy.tua=3"]) == 2
    assert "did you mean 'tau'" in capsys.readouterr().err


def test_a_submission_and_a_fetch_wait_for_their_turns(service, job):
    said: list[str] = []
    uploading, fetches = service.servicer._uploading, service.servicer._fetching
    uploading.most = fetches.most = 0

    def there_is_a_turn(message: str) -> None:
        said.append(message)
        uploading.most = fetches.most = 8 if len(said) == 1 else 0

    patience = Patience(call_s=60, lost_s=60, pause_s=0.05)
    with connect(f"127.0.0.1:{service.port}", TOKEN, patience=patience, on_lost=said.append) as client:
        client._wire.say = there_is_a_turn
        submitted = client.submit(job)
        assert said == ["there are 0 submissions under way, as many as there may be; try later; waiting for a turn"]
        run = serving.folder(service, submitted.id).run
        run.mkdir()
        (run / "a").write_text("1")
        fetches.most, said[:] = 0, []
        client.fetch(submitted.id, "out")
        assert len(said) == 1 and "0 fetches under way" in said[0]
    assert len(service.store.active()) == 1 and Path("out/a").read_text() == "1"


def test_a_fetch_that_is_cut_off_goes_on(client, service, job, monkeypatch):
    submitted = client.submit(job)
    run = serving.folder(service, submitted.id).run
    run.mkdir()
    content = {"a": bytes(range(100)), "b": b"b" * 30}
    for name, data in content.items():
        (run / name).write_bytes(data)
    monkeypatch.setattr(fetching, "PIECE_BYTES", 10)
    whole, cuts = fetching.replies, [6, 0, 3]

    def cut(*args):
        after = cuts.pop(0) if cuts else -1
        for index, reply in enumerate(whole(*args)):
            if index == after:
                raise Refused("UNAVAILABLE", "the service is being stopped; try again")
            yield reply

    monkeypatch.setattr(fetching, "replies", cut)
    fetched = client.fetch(submitted.id, "out")
    assert {name: Path("out", name).read_bytes() for name in fetched.files} == content
    assert not cuts
