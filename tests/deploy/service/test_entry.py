"""What a job's driver does when it is started: begin, follow, go on, or give up. The cluster is played."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from deploy.cluster.connection import ClusterError
from deploy.run_directory import to_json
from deploy.service import entry
from deploy.service.folder import JobFolder

JOB = """
[task]
name = "mlp"
hidden = [4]
[data]
train = "digits.svm"
[strategy]
name = "easgd"
[stop]
epochs = 3
[cluster]
address = "elsewhere:1"
"""
DONE = {"status": "done", "stop_reason": "3 epochs", "error": None, "epochs": 3.0}


class Ray:
    """Plays the cluster.

    Attributes:
      living: namespaces with a coordinator. begun: (namespace, whether it resumes) of coordinators that were started.
      ends: what a followed run comes to: a summary, or an exception.
    """

    def __init__(self):
        self.living: set[str] = set()
        self.begun: list[tuple[str, bool]] = []
        self.ends: object = DONE
        self.stopped: list[str] = []
        self.cleared: list[str] = []


@pytest.fixture
def ray(monkeypatch):
    ray = Ray()

    class Played(entry.Attendant):
        def start(self):
            ray.begun.append((self.uid, self.job.resume))
            ray.living.add(self.uid)
            self.path.mkdir(exist_ok=True)

        def attach(self):
            return self.uid in ray.living

        def follow(self, first_s=None):
            self.tend()
            if self._over:
                return
            if isinstance(ray.ends, Exception):
                raise ray.ends
            self.summary = ray.ends

        def stop(self):
            ray.stopped.append(self.uid)

        def kill(self):
            ray.living.discard(self.uid)
            self._over = True

        def end(self):
            pass

    monkeypatch.setattr(entry, "Attendant", Played)
    monkeypatch.setattr(entry, "connected", lambda job, echo: nullcontext())
    monkeypatch.setattr(entry, "_clear", ray.cleared.append)
    monkeypatch.setattr(entry, "_LAST_WORDS_S", 0.0)
    return ray


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = JobFolder(tmp_path, "digits-1")
    folder.files.mkdir(parents=True)
    folder.job.write_text(JOB)
    (folder.files / "digits.svm").write_text("0 1:1\n")
    folder.order = {"overrides": [], "wish": "", "above": 0, "on_loss": "resume", "most_attempts": 3}
    return folder


def save(folder, summary=None):
    """A run directory with a checkpoint, and perhaps a summary."""
    (folder.run / "checkpoint" / "1").mkdir(parents=True)
    if summary:
        (folder.run / "summary.json").write_text(to_json(summary))


def begin(folder, times):
    """So many generations have begun."""
    for _ in range(times):
        folder.begin()


def test_it_begins(ray, folder):
    assert entry.attend(folder) == {"status": "done", "reason": "3 epochs"}
    assert ray.begun == [(folder.uid, False)] and folder.generation == 1


def test_it_follows_a_run_that_goes_on(ray, folder):
    begin(folder, 1)
    ray.living = {folder.uid}
    assert entry.attend(folder)["status"] == "done"
    assert not ray.begun


def test_it_takes_up_the_end_of_a_run_that_ended_unseen(ray, folder):
    begin(folder, 1)
    save(folder, {**DONE, "status": "failed", "error": "the loss is not finite"})
    assert entry.attend(folder) == {"status": "failed", "reason": "the loss is not finite"}
    assert not ray.begun


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_it_goes_on_with_a_run_that_was_lost(ray, folder, has_checkpoint):
    begin(folder, 1)
    lost = folder.uid
    if has_checkpoint:
        save(folder)
    else:
        folder.run.mkdir()
        (folder.run / "job.toml").write_text("")
    assert entry.attend(folder)["status"] == "done"
    assert ray.begun == [(folder.uid, has_checkpoint)] and folder.generation == 2
    assert ray.cleared == [lost] != [folder.uid], "what is left of it must not go on beside"
    assert (folder.run / "job.toml").exists() is False


def test_a_resumed_job_does_not_take_its_earlier_end_for_its_own(ray, folder):
    begin(folder, 2)
    folder.order = {**folder.order, "above": 2}
    save(folder, {**DONE, "status": "interrupted"})
    assert entry.attend(folder)["status"] == "done"
    assert ray.begun == [(folder.uid, True)] and not (folder.run / "summary.json").exists()


def test_a_lost_job_fails_if_it_says_so(ray, folder):
    begin(folder, 1)
    folder.order = {**folder.order, "on_loss": "fail"}
    outcome = entry.attend(folder)
    assert outcome["status"] == "failed" and "on_loss" in outcome["reason"] and not ray.begun


def test_a_job_that_is_lost_again_and_again_is_given_up(ray, folder):
    begin(folder, 5)
    folder.order = {**folder.order, "above": 2}
    outcome = entry.attend(folder)
    assert outcome["status"] == "failed" and "3 times" in outcome["reason"] and not ray.begun


def test_a_job_that_is_to_stop_is_not_begun(ray, folder):
    folder.order = {**folder.order, "wish": "stop"}
    outcome = entry.attend(folder)
    assert (outcome["status"], outcome["begun"]) == ("interrupted", False) and not ray.begun


def test_a_wish_is_carried_out(ray, folder):
    begin(folder, 1)
    ray.living = {folder.uid}
    folder.order = {**folder.order, "wish": "stop"}
    ray.ends = {**DONE, "status": "interrupted"}
    assert entry.attend(folder) == {"status": "interrupted", "reason": "stopped after 3 epochs"}
    assert ray.stopped == [folder.uid]
    folder.order = {**folder.order, "wish": "kill"}
    assert entry.attend(folder)["status"] == "interrupted"
    assert not ray.living and ray.cleared == [folder.uid]


def test_the_job_is_for_this_cluster_with_all_that_came_along(ray, folder):
    job = entry.job_of(folder, ["stop.epochs=7", "seed=3"])
    assert (job.backend, job.cluster.address, job.cluster.detach, job.name) == ("ray", None, True, "digits-1")
    assert (job.stop.epochs, job.seed, job.cluster.files) == (7, 3, ["*"])
    assert job.data.options["train"] == str(folder.files / "digits.svm")


@pytest.fixture
def run_main(folder, capfd):
    """Runs the driver as a process does, with standard output as it is."""

    def run():
        with capfd.disabled():
            code = entry.main([str(folder.path), "1"])
        return code, folder.log.read_text()

    return run


def test_the_log_has_what_it_said_and_the_outcome_how_it_ended(ray, folder, run_main):
    code, log = run_main()
    assert code == 0 and folder.outcome["status"] == "done" and "done: 3 epochs" in log
    assert folder.beat["attempt"] == 1


# What Ray makes of this setting, which it reads when it is imported.
_PRINTED = """
import io, sys
from deploy.service import entry
entry.attend = lambda folder: {"status": "done", "reason": ""}
assert entry.main([sys.argv[1], "1"]) == 0 and "ray" not in sys.modules
from ray._private import worker
sys.stdout = said = io.StringIO()
for pid in (1, 2):
    lines = [f"step {number} of mine" for number in range(3)]
    worker.print_to_stdstream({"pid": pid, "is_err": False, "lines": lines, "ip": "", "localhost": ""}, ignore_prefix=True)
sys.__stdout__.write(said.getvalue())
"""


def test_lines_that_differ_in_a_number_are_all_kept(folder):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'hogshead[ray]'")
    done = subprocess.run([sys.executable, "-c", _PRINTED, folder.path], capture_output=True, text=True, check=True)
    assert [done.stdout.count(f"step {number} of mine") for number in range(3)] == [
        2,
        2,
        2,
    ] and "repeated" not in done.stdout


def test_a_lost_cluster_is_no_outcome(ray, folder, run_main):
    ray.ends = ClusterError("the coordinator does not answer")
    code, log = run_main()
    assert code == entry.LOST and folder.outcome == {} and "does not answer" in log


def test_a_lost_cluster_with_a_summary_is_one(ray, folder, run_main):
    begin(folder, 1)
    ray.living = {folder.uid}
    save(folder, DONE)
    ray.ends = ClusterError("the coordinator died")
    assert run_main()[0] == 0 and folder.outcome["status"] == "done"


def test_a_wrong_job_fails_in_one_line(ray, folder, run_main):
    folder.job.write_text(JOB.replace("easgd", "easgdd"))
    code, log = run_main()
    assert code == 0 and folder.outcome["status"] == "failed"
    assert "easgdd" in folder.outcome["reason"] and "Traceback" not in log


def test_a_fault_of_ours_fails_with_a_traceback_in_the_log(ray, folder, run_main):
    ray.ends = RuntimeError("something\nof many lines")
    folder.order = {**folder.order, "number": 7}
    code, log = run_main()
    assert code == 0 and "Traceback" in log
    assert folder.outcome == {"status": "failed", "reason": "RuntimeError: something", "order": 7}


@pytest.mark.parametrize(
    "text, line",
    [
        ("", ""),
        ("one", "one"),
        ("\n first \nsecond", "first"),
        ("Traceback (most recent call last):\n  File x\nValueError: why", "ValueError: why"),
        ("the task raised:\nTraceback (most recent call last):\nValueError: why", "ValueError: why"),
        ("x" * 1000, "x" * 500),
    ],
)
def test_one_line_says_most(text, line):
    assert entry.one_line(text) == line


def test_what_may_still_run_of_a_killed_generation_is_ended_before_the_next_begins(ray, folder):
    begin(folder, 1)
    earlier, ray.living = folder.uid, {folder.uid}
    folder.order = {**folder.order, "above": 1, "unended": True}
    assert entry.attend(folder)["status"] == "done"
    assert earlier not in ray.living and ray.cleared == [earlier]
    assert ray.begun == [(folder.uid, False)] and folder.generation == 2


@pytest.mark.parametrize("summary", [None, DONE])
def test_what_travelled_with_a_generation_that_was_lost_or_has_ended_is_removed(ray, folder, summary):
    begin(folder, 1)
    save(folder, summary)
    stowed = folder.run / f".{folder.uid}.files"
    stowed.write_bytes(b"large")
    assert entry.attend(folder)["status"] == "done"
    assert not stowed.exists()


HANGS = """
import os, signal, sys
from deploy.service import entry

out = os.dup(1)  # a driver's own output goes to the job's log

def hang(folder, beat):
    os.write(out, b"hangs\\n")
    while True:
        signal.pause()

entry.attend = hang
sys.exit(entry.main(sys.argv[2:]))
"""


def test_an_earlier_driver_that_hangs_is_killed_and_its_job_goes_on(ray, folder, monkeypatch, capfd):
    """The service starts another driver only when it has given up the one before."""
    monkeypatch.setattr(entry, "_EARLIER_S", 0.0)
    script = [sys.executable, "-c", HANGS, "deploy.service.entry", str(folder.path), "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(entry.__file__).parents[2])}
    earlier = subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert earlier.stdout.readline() == "hangs\n"
        with capfd.disabled():
            assert entry.main([str(folder.path), "2"]) == 0
        assert earlier.wait(60) == -signal.SIGKILL
        assert folder.outcome["status"] == "done" and folder.beat["attempt"] == 2
        assert f"(process {earlier.pid}) does not end, and is killed" in folder.log.read_text()
    finally:
        earlier.kill()
        earlier.communicate()


def test_a_driver_gives_a_sign_of_life_for_each_answer_and_none_without(ray, folder):
    begin(folder, 1)
    ray.living = {folder.uid}
    given = []
    assert entry.attend(folder, given.append)["status"] == "done"
    assert len(given) == 1, "that it begins to follow; the run that is played here has not answered"
