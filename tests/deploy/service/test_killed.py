"""Killed in the middle: what the service has acknowledged is there and whole, and of the rest nothing is left."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.service import store as store_module
from deploy.service import submission as submission_module
from deploy.service.demand import Limits
from deploy.service.states import State
from deploy.service.store import Store
from deploy.service.submission import Intake

from .process import Process
from .serving import JOB, TASK, submission_of, tree

pytestmark = pytest.mark.timeout(300)
# Many, so that they take their time.
FILES = {"points.py": "x = 1\n", **{f"data/{number}.csv": "1,2\n" * 500 for number in range(20)}}
LINES = {submission_module.__file__, store_module.__file__}


def test_what_a_killed_service_has_acknowledged_is_there_and_whole(in_memory):
    """Killed while it takes jobs in, again and again: what was answered is there, what was not is whole or swept away."""
    jobs, acknowledged = in_memory / "jobs", []
    for round_ in range(2):
        with Process(jobs, "--no-web") as service:
            for number in range(15 + 7 * round_):
                acknowledged.append(service.client.submit(files=FILES, client_token=f"{round_}-{number}").id)
            pending = [
                service.client.submit_later(files=FILES, client_token=f"{round_}-late-{number}") for number in range(6)
            ]
            acknowledged.append(pending[0].result().id)
            service.end(signal.SIGKILL)
            acknowledged += [call.result().id for call in pending[1:] if call.exception() is None]
    with Store(jobs / "jobs.sqlite") as store:
        Intake(store, jobs, Limits()).sweep()
        known = store.ids()
        assert set(acknowledged) <= known and len(set(acknowledged)) == len(acknowledged) > 35
        assert store.of_token("1-3").id in acknowledged
        assert {record.id for record in store.active()} == known
    assert {path.name for path in jobs.iterdir() if path.is_dir() and not path.name.startswith(".")} == known
    for job in known:
        names = tree(jobs / job)
        assert names == {"job.toml", "files", "files/data", *(f"files/{name}" for name in FILES)}, job
        assert (jobs / job / "job.toml").read_text() == JOB


class Opened:
    """The parts of a service that keep jobs, in a folder."""

    def __init__(self, folder: Path):
        self.jobs = folder / "jobs"
        self.jobs.mkdir(exist_ok=True)
        self.store = Store(folder / "jobs.sqlite")
        self.intake = Intake(self.store, self.jobs, Limits())

    def submit(self) -> str:
        submission, archive = submission_of({"points.py": TASK}, client_token="t")
        return self.intake.take(submission, [archive]).id

    def check(self) -> set[str]:
        """Folders and store agree, and every job is whole; returns their ids."""
        self.intake.sweep()
        known = self.store.ids()
        assert {path.name for path in self.jobs.iterdir()} == {".incoming", *known}
        assert not tree(self.jobs / ".incoming")
        for job in known:
            assert tree(self.jobs / job) == {"job.toml", "files", "files/points.py"}
            assert (self.jobs / job / "files" / "points.py").read_text() == TASK
        return known


def dies_at(line: int, folder: Path, action: Callable[[Opened], object]) -> bool:
    """Do it in a process that is gone as it comes to this line of ours, counted from the first; True: it came to the end."""
    child = os.fork()
    if not child:
        left = line

        def look(frame, event, _argument):
            nonlocal left
            if frame.f_code.co_filename not in LINES:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os._exit(9)
            return look

        try:
            opened = Opened(folder)
            sys.settrace(look)
            action(opened)
            os._exit(0)
        except BaseException:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), "it failed"
    return code == 0


def test_a_submission_that_dies_at_any_line_is_whole_or_nothing(in_memory):
    ends, line = set(), 0
    while True:
        folder = in_memory / str(line)
        folder.mkdir()
        over = dies_at(line, folder, Opened.submit)
        opened = Opened(folder)
        known = opened.check()
        assert known <= {"tiny-1"} and (known or not over)
        ends.add(bool(known))
        assert opened.submit() == "tiny-1", "the client tries again with the same token"
        assert opened.check() == {"tiny-1"}
        opened.store.close()
        if over:
            break
        line += 3
    assert line > 100 and ends == {False, True}


def test_a_deletion_that_dies_at_any_line_is_whole_or_nothing(in_memory):
    ends, line = set(), 0
    while True:
        folder = in_memory / str(line)
        folder.mkdir()
        opened = Opened(folder)
        opened.submit()
        opened.store.change("tiny-1", set(State), state=State.STOPPED)
        opened.store.close()
        over = dies_at(line, folder, lambda opened: opened.intake.delete("tiny-1"))
        opened = Opened(folder)
        known = opened.check()
        ends.add(bool(known))
        if known:
            opened.intake.delete("tiny-1")
        assert not opened.check() and not (over and known)
        opened.store.close()
        if over:
            break
        line += 2
    assert line > 30 and ends == {False, True}


def test_a_folder_that_nobody_knows_is_left_alone(tmp_path, caplog):
    """As after the file of states was lost: what people have trained is not rubbish."""
    opened = Opened(tmp_path)
    opened.submit()
    opened.store.close()
    (tmp_path / "jobs.sqlite").unlink()
    opened = Opened(tmp_path)
    opened.intake.sweep()
    assert (opened.jobs / "tiny-1" / "files" / "points.py").is_file() and "tiny-1: is of no job" in caplog.text
    assert opened.submit() == "tiny-2", "its name is not given to another"
    opened.store.close()


def test_a_commit_that_fails_takes_the_folder_back(tmp_path, monkeypatch):
    opened = Opened(tmp_path)
    real = opened.intake._place

    def place(*arguments) -> bool:
        real(*arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(opened.intake, "_place", place)
    with pytest.raises(OSError):
        opened.submit()
    assert tree(opened.jobs) == {".incoming"}
    opened.store.close()
