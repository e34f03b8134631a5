"""``hogshead serve`` as a process of its own: it starts, refuses what would be unsafe, and ends when it is told."""

from __future__ import annotations

import re
import signal

import grpc
import pytest

from deploy.cli import main

from .process import Process
from .serving import refused, tree

pytestmark = pytest.mark.timeout(300)


def serve(*arguments: str) -> int:
    return main(["serve", *arguments])


def test_it_serves_until_it_is_told_to_end_and_finds_its_jobs_again(tmp_path, capsys):
    jobs = tmp_path / "jobs"
    with Process(jobs, "--web-port", "0") as first:
        assert re.fullmatch(r"web page at http://127\.0\.0\.1:\d+\n", first.process.stdout.readline())
        assert first.client.submit(client_token="t").id == "tiny-1"
        # A second service with the same jobs would start each of them twice.
        assert serve("--jobs", str(jobs), "--port", "0", "--no-web") == 2
        assert f"is held by process {first.process.pid}" in capsys.readouterr().err
        stream = first.client.watch(id="tiny-1", follow=True)
        next(stream)
        code, said = first.end(signal.SIGTERM)
        assert code == 0, said
        refused(grpc.StatusCode.UNAVAILABLE, "", lambda: stream)
        assert "tiny-1: submitted" in said and "stopped; jobs at work go on" in said and "Traceback" not in said
    (jobs / "tiny-9").mkdir()
    (jobs / "tiny-9" / ".unlisted").touch()
    (jobs / ".incoming" / "half").mkdir()
    with Process(jobs, "--no-web") as second:
        assert [job.id for job in second.client.list().jobs] == ["tiny-1"]
        assert second.client.submit(client_token="t").id == "tiny-1"
        assert not second.client.cluster().reachable
        assert {path.name for path in jobs.iterdir() if path.is_dir()} == {".incoming", "tiny-1"}
        assert not tree(jobs / ".incoming")
        assert second.end(signal.SIGINT)[0] == 0


WRONG = [
    (["--bind", "0.0.0.0"], "can be reached from other machines, and there is no token"),
    (["--most-cpus", "0"], "--most-cpus must be > 0, got 0"),
    (["--most-upload-mb", "nan"], "--most-upload-mb must be > 0"),
    (["--most-upload-mb", "5000"], "at most 2000"),
    (["--most-jobs-running", "-1"], "--most-jobs-running must be > 0"),
    (["--most-job-gb", "0"], "--most-job-gb must be > 0"),
    (["--port", "70000"], "--port must be a port, 0 to 65535, got 70000"),
    (["--tls-cert", "absent.pem"], "cert and key must be given together"),
    (["--tls-cert", "absent.pem", "--tls-key", "absent.key"], "Tls: cannot read"),
    (["--tls-mutual"], "require_client_cert needs ca"),
    (["--token-file", "absent"], "the token file absent cannot be read"),
    (["--state", "absent/folder/jobs.sqlite"], "cannot be made: No such file"),
    (["--nonsense"], "unrecognized arguments"),
]


@pytest.mark.parametrize("arguments, reason", WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_what_is_wrong_is_said_before_anything_starts(tmp_path, monkeypatch, capsys, arguments, reason):
    for name in ("HOGSHEAD_TOKEN", "HOGSHEAD_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert serve("--jobs", str(tmp_path / "jobs"), "--port", "0", "--no-web", *arguments) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "jobs" / "jobs.sqlite").exists()


def test_a_file_that_is_no_store_is_left_alone(tmp_path, capsys):
    (tmp_path / "jobs.sqlite").write_text("precious " * 500)
    assert serve("--jobs", str(tmp_path), "--port", "0", "--no-web") == 2
    assert "is no file of jobs" in capsys.readouterr().err
    assert (tmp_path / "jobs.sqlite").read_text() == "precious " * 500


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path, capsys):
    (tmp_path / "jobs").touch()
    assert serve("--jobs", str(tmp_path / "jobs"), "--port", "0") == 2
    assert "cannot be made" in capsys.readouterr().err
