"""The commands: what they print, for people and as JSON, and their exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cli import main
from deploy.wire import jobs_pb2 as pb
from tests.deploy.client.fake import TOKEN

ROOT = Path(__file__).resolve().parents[3]
PROGRESS = (
    '{"kind": "progress", "seconds": %d, "epoch": %d, "loss": 0.5, "examples_per_second": 10.0, "workers_alive": 2}'
)
EVALUATION = '{"kind": "evaluation", "seconds": %d, "epoch": %d, "train_loss": 0.25, "evaluation": {"accuracy": 0.5}}'
SUMMARY = (
    '{"status": "done", "stop_reason": "2 epochs", "epochs": 2, "run": "/jobs/there", "evaluation": {"accuracy": 0.75}}'
)
RUN_JOB = b"[stop]\nepochs = 4\n[workers]\ncount = 3\n[shards]\ncount = 2\n"


@pytest.fixture
def job_of_mine(job_file, monkeypatch):
    """A job file with a task and data beside it."""
    (job_file.parent / "points.csv").write_text("1,2\n")
    monkeypatch.chdir(job_file.parent)
    return job_file.name


@pytest.fixture
def running(at):
    """A job that waits, trains and succeeds while it is watched."""
    at.fake.add("try-1", pb.RUNNING, strategy="easgd", task="mlp", demand=pb.Demand(cpus=3.2))

    def job(state: int, **fields) -> pb.WatchReply:
        return pb.WatchReply(job=pb.Job(id="try-1", state=state, strategy="easgd", task="mlp", **fields))

    at.fake.watched = [
        job(pb.QUEUED, reason="waits for 3.2 CPUs, 1 is free"),
        job(pb.STARTING),
        job(pb.RUNNING),
        pb.WatchReply(records=[PROGRESS % (6, 1), EVALUATION % (7, 1)]),
        pb.WatchReply(
            records=[PROGRESS % (12, 2), '{"kind": "event", "event": "worker_died", "message": "worker 1\\u001b[2J"}']
        ),
        job(pb.SUCCEEDED, summary=SUMMARY),
    ]
    for index, reply in enumerate(at.fake.watched):
        reply.position = str(index + 1)
    at.fake.files = {"job.toml": RUN_JOB}
    return at.fake


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def objects(capsys) -> list[dict]:
    return [json.loads(line) for line in lines(capsys)]


def test_submit(at, job_of_mine, capsys):
    assert main(["submit", job_of_mine, "--set", "strategy.tau=9", "--name", "mine", "--priority", "3"]) == 0
    assert lines(capsys) == [
        "submitted mine-1: queued, takes 2.1 CPUs; 2 files went along",
        "follow it with `hogshead watch mine-1`",
    ]
    submission, archive = at.fake.asked("Submit")[0]
    assert "tau = 9" in submission.job and submission.priority == 3 and len(archive) == submission.archive_bytes
    assert main(["submit", job_of_mine, "--json"]) == 0
    assert [(entry["id"], entry["state"]) for entry in objects(capsys)] == [("try-2", "queued")]


def test_submit_says_what_does_not_travel(at, job_of_mine, capsys):
    assert main(["submit", job_of_mine, "--set", 'data.train="/there.csv"', "--json"]) == 0
    captured = capsys.readouterr()
    assert "note: [data] train: /there.csv does not travel" in captured.err
    assert json.loads(captured.out)["id"] == "try-1"


def test_submit_refuses_before_anything_is_sent(at, job_of_mine, capsys):
    assert main(["submit", job_of_mine, "--set", "strategy.tua=9"]) == 2
    assert "[strategy] tua: unknown key; did you mean 'tau'" in capsys.readouterr().err
    assert main(["submit", "nothing.toml"]) == 2
    assert at.fake.calls == []


def test_submit_and_follow(running, job_of_mine, capsys):
    running.by_token["earlier"] = "x"
    assert main(["submit", job_of_mine, "--follow"]) == 0
    assert lines(capsys)[0] == "submitted try-2"


def test_watch(running, capsys):
    assert main(["watch", "try-1"]) == 0
    assert lines(capsys) == [
        "queued: waits for 3.2 CPUs, 1 is free",
        "starting: its workers are being started",
        "running: its workers train",
        "easgd on mlp: 3 workers, 2 shards",
        "epoch 1.00  loss 0.5  10 examples/s  2 workers",
        "epoch 1  7.0 s  train loss 0.25  accuracy 0.5",
        "epoch 2.00  loss 0.5  10 examples/s  2 workers",
        "worker died: worker 1 [2J",
        "succeeded: 2 epochs",
        "2 epochs",
        "accuracy 0.75",
        "files   hogshead fetch try-1",
    ]


def test_watch_as_json(running, capsys):
    assert main(["watch", "try-1", "--json"]) == 0
    kinds = [(entry["kind"], entry.get("state")) for entry in objects(capsys)]
    assert kinds == [
        ("state", "queued"),
        ("state", "starting"),
        ("state", "running"),
        ("progress", None),
        ("evaluation", None),
        ("progress", None),
        ("event", None),
        ("state", "succeeded"),
        ("job", "succeeded"),
    ]


@pytest.mark.parametrize(
    ("state", "reason", "code", "said"),
    [
        (
            pb.FAILED,
            "the task raised ZeroDivisionError in line 3",
            1,
            "failed: the task raised ZeroDivisionError in line 3",
        ),
        (pb.STOPPED, "stopped after 3 epochs", 130, "stopped: after 3 epochs"),
        (pb.SUCCEEDED, "", 0, "succeeded"),
    ],
)
def test_the_exit_code_is_the_jobs(running, capsys, state, reason, code, said):
    running.watched = [pb.WatchReply(job=pb.Job(id="try-1", state=state, reason=reason), position="1")]
    assert main(["watch", "try-1"]) == code
    assert lines(capsys) == [said, "files   hogshead fetch try-1"]


def test_a_run_that_goes_back_is_not_shown_twice(running, capsys):
    """The records begin anew, those before the checkpoint as they were; then come others. And once more."""
    first = [EVALUATION % (1, 1), EVALUATION % (2, 2), EVALUATION % (3, 3)]
    second = [*first[:2], EVALUATION % (9, 3)]
    third = [*second, EVALUATION % (10, 4)]
    running.watched[3:5] = [
        pb.WatchReply(records=first, position="4"),
        pb.WatchReply(anew=True, records=second, position="5"),
        pb.WatchReply(anew=True, records=third, position="6"),
    ]
    running.watched[-1].position = "7"
    assert main(["watch", "try-1"]) == 0
    shown = [line.partition("  train")[0] for line in lines(capsys)]
    assert [line for line in shown if line.startswith(("epoch", "went"))] == [
        "epoch 1  1.0 s",
        "epoch 2  2.0 s",
        "epoch 3  3.0 s",
        "went back: the run goes on from its checkpoint",
        "epoch 3  9.0 s",
        "went back: the run goes on from its checkpoint",
        "epoch 4  10.0 s",
    ]
    assert main(["watch", "try-1", "--json"]) == 0
    kinds = [entry["kind"] for entry in objects(capsys) if entry["kind"] not in ("state", "job")]
    assert kinds == ["evaluation"] * 3 + ["anew"] + ["evaluation"] * 3 + ["anew"] + ["evaluation"] * 4


def test_watch_survives_records_of_another_kind(running, capsys):
    running.watched[3:5] = [
        pb.WatchReply(records=['{"kind": "progress"}', '{"kind": "new"}', '{"kind": 3}', "[]"], position="4")
    ]
    assert main(["watch", "try-1"]) == 0
    assert "succeeded: 2 epochs" in lines(capsys)


def test_interrupted_the_job_goes_on(running, at):
    """^C in a real process: exit code 130, and how to go on."""

    def never(request, context):
        yield running.watched[0]
        while context.is_active():
            signal.sigtimedwait([], 0.01)

    running.watch = never
    environment = {**os.environ, "HOGSHEAD_ADDRESS": at.address, "HOGSHEAD_TOKEN": TOKEN}
    command = [sys.executable, "-m", "deploy.cli", "watch", "try-1"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "queued: waits for 3.2 CPUs, 1 is free\n"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert said == (
        "hogshead: try-1 goes on; `hogshead watch try-1` follows it again, `hogshead stop try-1` ends it with a checkpoint\n"
    )
    assert running.asked("Stop") == []


def test_the_job_goes_on_when_the_reader_of_its_progress_has_gone(running, capsys, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        code = main(["watch", "try-1"])
        monkeypatch.undo()
    assert code == 130 and "try-1 goes on" in capsys.readouterr().err and running.asked("Stop") == []


def test_jobs(at, capsys, monkeypatch):
    assert main(["jobs"]) == 0
    assert lines(capsys) == ["no jobs"]
    monkeypatch.setenv("COLUMNS", "80")
    at.fake.add("old_but_at_work-1", pb.RUNNING, started_at=1e9, latest_progress='{"epoch": 2.5, "loss": 0.125}')
    for number in range(2, 30):
        at.fake.add(f"a-{number}", pb.SUCCEEDED, started_at=1e9, ended_at=1e9 + 61)
    at.fake.add("broken-30", pb.FAILED, reason="because of " + "this and that " * 20, started_at=1e9, ended_at=1e9 + 5)
    at.fake.add("next-31", pb.QUEUED, queue_position=1, reason="waits for room")
    assert main(["jobs"]) == 0
    shown = lines(capsys)
    assert shown[0].split() == ["JOB", "STATE", "EPOCH", "TIME"]
    assert shown[1].split()[:3] == ["next-31", "queued", "(1)"] and shown[1].endswith("waits for room")
    assert shown[2].startswith("broken-30") and shown[2].endswith("…") and len(shown[2]) == 80
    assert shown[3].split() == ["a-29", "succeeded", "1:01"]
    assert shown[-2].split()[:3] == ["old_but_at_work-1", "running", "2.5"] and shown[-2].endswith("loss 0.125")
    assert len(shown) == 1 + 20 + 1 + 1 and shown[-1] == "older ones with --all"
    assert main(["jobs", "--all", "--json"]) == 0
    assert len(objects(capsys)) == 31
    assert main(["jobs", "--state", "queued", "--state", "failed"]) == 0
    assert [line.split()[0] for line in lines(capsys)] == ["JOB", "next-31", "broken-30"]
    assert main(["jobs", "--state", "stopped"]) == 0
    assert lines(capsys) == ["no jobs that are stopped"]
    assert main(["jobs", "--state", "quued"]) == 2
    assert "there is no state 'quued'; did you mean 'queued'?" in capsys.readouterr().err


def test_status(at, capsys):
    at.fake.add(
        "try-1",
        pb.FAILED,
        reason="lost 5 times",
        started_at=1e9,
        strategy="easgd",
        task="mlp",
        attempt=5,
        on_loss="fail",
        priority=2,
        demand=pb.Demand(cpus=2.5, gpus=1, memory_bytes=3_000_000_000),
        latest_evaluation='{"evaluation": {"accuracy": 0.5, "note": "text"}}',
    )
    assert main(["status", "try"]) == 0
    shown = [line.split(maxsplit=1) for line in lines(capsys)]
    assert shown[0] == ["try-1", "failed: lost 5 times"]
    for entry in (
        ["trains", "easgd on mlp"],
        ["takes", "2.5 CPUs, 1 GPU, 3 GB"],
        ["attempts", "5"],
        ["if", "lost    fails"],
    ):
        assert entry in shown
    assert ["metrics", "accuracy 0.5"] in shown and ["priority", "2"] in shown
    at.fake.add("end-2", pb.STOPPED, reason="stopped after 3 epochs")
    assert main(["status", "end-2"]) == 0
    assert lines(capsys)[0].split(maxsplit=1)[1] == "stopped: after 3 epochs"
    assert main(["status", "try", "--json"]) == 0
    assert objects(capsys)[0]["on_loss"] == "fail"
    assert main(["status", "other"]) == 1
    assert "there is no job 'other'" in capsys.readouterr().err


def test_logs(at, capfdbinary):
    at.fake.add("try-1")
    at.fake.log = "oft größer\nals eins\n".encode()
    assert main(["logs", "try-1"]) == 0
    assert capfdbinary.readouterr().out == at.fake.log
    assert main(["logs", "try-1", "-f", "--tail", "1"]) == 0
    assert capfdbinary.readouterr().out == b"als eins\n"
    assert main(["logs", "try-1", "--json"]) == 0
    texts = [json.loads(line)["text"] for line in capfdbinary.readouterr().out.splitlines()]
    assert "".join(texts) == "oft größer\nals eins\n"  # the fake cuts it within a letter
    assert main(["logs", "try-1", "--tail", "-1"]) == 2


def test_stop_resume_delete(at, capsys):
    at.fake.add("go-1", pb.RUNNING)
    at.fake.add("wait-2", pb.QUEUED)
    at.fake.add("done-3", pb.SUCCEEDED)
    assert main(["stop", "go-1", "wait-2", "nothing-9", "done-3"]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "go-1 ends with a checkpoint; `hogshead watch go-1` waits for it",
        "wait-2 is stopped",
        "done-3 has succeeded",
    ]
    assert "there is no job 'nothing-9'" in captured.err
    assert main(["stop", "--kill", "go-1"]) == 0
    assert "is being killed" in lines(capsys)[0]
    assert main(["resume", "done-3", "--set", "stop.epochs=9", "--priority", "1"]) == 0
    assert lines(capsys) == ["done-3 is queued; follow it with `hogshead watch done-3`"]
    assert list(at.fake.asked("Resume")[0].overrides) == ["stop.epochs=9"]
    assert main(["resume", "done-3", "--set", "nonsense"]) == 2
    assert main(["delete", "go-1"]) == 1
    assert "stop it first" in capsys.readouterr().err
    assert main(["delete", "wait-2", "--json"]) == 0
    assert objects(capsys) == [{"id": "wait-2", "deleted": True}]


def test_resume_and_follow(running, capsys):
    assert main(["resume", "try-1", "--follow", "--json"]) == 0
    assert objects(capsys)[-1]["kind"] == "job"


def test_fetch(at, capsys):
    at.fake.add("try-1", pb.SUCCEEDED)
    at.fake.files = {"summary.json": b"{}", "checkpoint/x": b"y" * 1200}
    assert main(["fetch", "try-1"]) == 0
    assert lines(capsys) == ["2 files, 1.2kB, in try-1"]
    assert main(["fetch", "try-1"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["fetch", "try-1", "out", "summary.json", "--json"]) == 0
    assert objects(capsys) == [{"folder": "out", "files": ["summary.json"], "bytes": 2}]
    assert list(at.fake.asked("Fetch")[-1].patterns) == ["summary.json"]


def test_cluster(at, capsys):
    assert main(["cluster"]) == 0
    assert [line.split() for line in lines(capsys)][1:] == [
        ["abababababab", "10.0.0.4", "4", "0", "8.59", "GB", "head"],
        ["in", "all", "1", "node", "4", "0", "8.59", "GB"],
        ["taken", "1.1", "0", "by", "jobs", "of", "this", "service"],
    ]
    assert main(["cluster", "--json"]) == 0
    assert objects(capsys)[0]["nodes"][0]["address"] == "10.0.0.4"
    at.fake.cluster = lambda request, context: pb.ClusterReply(reason="Ray does not answer")
    assert main(["cluster"]) == 1
    assert lines(capsys) == ["the service has no cluster: Ray does not answer"]


@pytest.mark.parametrize(
    "command",
    [["jobs"], ["status", "a-1"], ["watch", "a-1"], ["stop", "a-1"], ["fetch", "a-1"], ["cluster"], ["logs", "a-1"]],
)
def test_without_a_service_one_line_says_so(command, capsys, monkeypatch):
    monkeypatch.setenv("HOGSHEAD_ADDRESS", "127.0.0.1:1")
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.startswith("hogshead: no job service listens at 127.0.0.1:1; ") and said.count("\n") == 1


def test_flags_win(at, capsys, monkeypatch):
    monkeypatch.setenv("HOGSHEAD_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("HOGSHEAD_TOKEN", "wrong")
    Path("token").write_text(TOKEN)
    assert main(["jobs", "--address", at.address, "--token-file", "token"]) == 0
    assert main(["jobs", "--address", at.address]) == 1
    assert "refuses the token from HOGSHEAD_TOKEN" in capsys.readouterr().err
