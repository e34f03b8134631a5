"""What is shown may get lost, the training may not: readers that go, full disks, closed streams."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from contextlib import suppress

import pytest

import hogshead
from deploy.cli import main
from deploy.output import Lenient
from ps import checkpoint
from tests.deploy.conftest import LEAST_SQUARES


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(f'strategy = "easgd"\n[task]\nname = "{LEAST_SQUARES}"\nfault = "print"\n[stop]\nepochs = 2\n')
    return path


@pytest.fixture(params=["no reader", "full disk", "closed"])
def lost(request):
    """A stream that nothing can be written to."""
    if request.param == "no reader":  # it has gone, as `| head -1` goes
        reading, writing = os.pipe()
        os.close(reading)
        stream = open(writing, "w")
    else:
        stream = open("/dev/full", "w")
    if request.param == "closed":
        stream.close()
    yield stream
    with suppress(OSError):
        stream.close()


def whole(run):
    """The run has everything that a run whose progress was read has."""
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "done" and summary["epochs"] == 2 and summary["worker_deaths"] == 0
    assert checkpoint.checkpoints(run / "checkpoint") and (run / "report.html").exists()
    return True


@pytest.mark.parametrize("option", [None, "--json", "--quiet"])
def test_training_goes_on_without_its_output(lost, option, job, tmp_path, monkeypatch, capsys):
    """Also that of a task whose workers print."""
    monkeypatch.setattr(sys, "stdout", lost)
    code = main(["train", str(job), "--run", str(tmp_path / "run"), *([option] if option else [])])
    monkeypatch.undo()
    assert code == 0 and whole(tmp_path / "run")
    said = capsys.readouterr().err
    assert said == "" if option == "--quiet" else said.count("standard output cannot be written any more") == 1


def test_messages_without_standard_error_are_dropped(lost, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", lost)
    code = main(["train", "no such job.toml"])
    monkeypatch.undo()
    assert code == 2 and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_training_with_closed_streams(streams, job, tmp_path):
    """No file of the run takes the number of a closed one, where it would get what is printed."""
    command = shlex.join([sys.executable, "-m", "deploy.cli", "train", str(job), "--run", str(tmp_path / "run")])
    done = subprocess.run(["sh", "-c", f"exec {command} {streams}"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stderr == "" and whole(tmp_path / "run")
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


def test_training_from_python_goes_on_without_its_output(lost, job, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", lost)
    result = hogshead.train(job, run=tmp_path / "run")
    assert sys.stdout is lost
    monkeypatch.undo()
    assert result.summary["status"] == "done" and whole(tmp_path / "run")


def test_a_comparison_goes_on_without_its_output(lost, job, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", lost)
    code = main(["compare", str(job), "--vary", "workers=1,2", "--out", str(tmp_path / "out")])
    monkeypatch.undo()
    assert code == 0 and len(json.loads((tmp_path / "out" / "compare.json").read_text())["cells"]) == 2


def test_a_command_that_is_its_output_fails_without(lost, monkeypatch):
    monkeypatch.setattr(sys, "stdout", lost)
    code = main(["rules"])
    monkeypatch.undo()
    assert code == 1


def test_characters_that_a_stream_lacks_are_replaced():
    raw = io.BytesIO()
    stream = Lenient(io.TextIOWrapper(raw, "ascii"))
    print("━ done", file=stream, flush=True)
    assert raw.getvalue() == b"? done\n"


def test_the_first_error_is_told_and_nothing_more_is_tried():
    class Failing(io.StringIO):
        tries = 0

        def write(self, text):
            self.tries += 1
            raise OSError("gone")

    stream, told = Failing(), []
    lenient = Lenient(stream, told.append)
    print("one", file=lenient, flush=True)
    print("two", file=lenient, flush=True)
    assert stream.tries == 1 and [str(error) for error in told] == ["gone"]
