"""The store of jobs: what it acknowledges stays, and nothing else."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deploy.service import store as store_module
from deploy.service.states import ENDED, State
from deploy.service.store import Store, UnknownJob, WrongState
from ps.errors import HogsheadError, UsageError

NEW = dict(
    priority=0, cpus=2.0, gpus=0.0, memory_bytes=0, on_loss="resume", most_attempts=5, strategy="easgd", task="mlp"
)


def new(name: str = "digits", **more) -> dict:
    return {**NEW, "name": name, "job": f'name = "{name}"\n', **more}


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "jobs.sqlite") as opened:
        yield opened


def test_a_job_is_the_same_after_the_file_was_opened_again(tmp_path):
    with Store(tmp_path / "jobs.sqlite") as store:
        added, _ = store.add(
            **new(overrides=("stop.epochs=1", "seed=3"), client_token="abc", gpus=0.5, memory_bytes=1 << 40)
        )
        changed = store.change(added.id, {State.QUEUED}, state=State.RUNNING, started_at=12.5, attempt=1, resume=True)
    with Store(tmp_path / "jobs.sqlite") as store:
        assert store.get(added.id) == changed
        assert (
            changed.overrides == ("stop.epochs=1", "seed=3")
            and changed.resume is True
            and changed.state is State.RUNNING
        )
        assert (added.state, added.started_at, added.resume) == (State.QUEUED, None, False)


def test_numbers_count_by_name_and_are_never_given_again(store):
    ids = [store.add(**new(name))[0].id for name in ("a", "b", "a", "a-1")]
    assert ids == ["a-1", "b-1", "a-2", "a-1-1"]
    store.change("a-2", {State.QUEUED}, state=State.STOPPED)
    store.remove("a-2")
    assert store.add(**new("a"))[0].id == "a-3"


def test_a_client_token_brings_the_first_job(store):
    first, fresh = store.add(**new(client_token="t"))
    again, second = store.add(**new("other", client_token="t"), place=lambda id: pytest.fail("nothing is to be placed"))
    assert (fresh, second, again) == (True, False, first)
    assert store.of_token("t") == first and store.of_token("") is None and store.of_token("u") is None
    assert store.add(**new())[1] and store.add(**new())[1]  # no token says nothing


def test_the_folder_is_placed_before_the_job_is_there_and_a_name_that_is_taken_is_passed_over(store):
    seen = []

    def place(job: str) -> bool:
        with pytest.raises(UnknownJob):
            store.get(job)
        seen.append(job)
        return job != "digits-1"

    assert store.add(**new(), place=place)[0].id == "digits-2" and seen == ["digits-1", "digits-2"]
    assert store.add(**new())[0].id == "digits-3"


def test_a_folder_that_cannot_be_placed_leaves_the_store_as_it_was(store):
    def fail(job: str) -> bool:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.add(**new(), place=fail)
    assert store.list() == ([], "") and store.changes == 0
    assert store.add(**new())[0].id == "digits-1"


def test_listing_is_by_pages_the_newest_first(store):
    for _ in range(5):
        store.add(**new("j"))
    store.change("j-2", {State.QUEUED}, state=State.FAILED)
    pages, before = [], ""
    while True:
        page, before = store.list(limit=2, before=before)
        pages.append([record.id for record in page])
        if not before:
            break
    assert pages == [["j-5", "j-4"], ["j-3", "j-2"], ["j-1"]]
    assert [record.id for record in store.list(states={State.FAILED})[0]] == ["j-2"]
    assert [record.id for record in store.active()] == ["j-1", "j-3", "j-4", "j-5"]
    assert store.list(limit=5)[1] == ""
    for wrong in ("x", "-1", "1 OR 1", "9" * 30, "¹"):
        with pytest.raises(UsageError, match="page before"):
            store.list(before=wrong)


def test_active_are_all_that_have_not_ended(store):
    for number, state in enumerate(State, 1):
        store.add(**new("j"))
        store.change(f"j-{number}", {State.QUEUED}, state=state)
    assert {record.state for record in store.active()} == set(State) - ENDED


def test_a_change_is_made_only_in_an_expected_state(store):
    store.add(**new())
    with pytest.raises(WrongState, match="job digits-1 is queued; this needs one that is failed or stopped") as refused:
        store.change("digits-1", {State.STOPPED, State.FAILED}, state=State.QUEUED, priority=9)
    assert refused.value.state is State.QUEUED and store.get("digits-1").priority == 0
    with pytest.raises(WrongState):
        store.remove("digits-1")
    with pytest.raises(TypeError, match="client_token"):
        store.change("digits-1", {State.QUEUED}, client_token="x")


def test_of_two_changes_at_once_one_wins(store):
    store.add(**new())
    start, won = threading.Barrier(8), []

    def run(number: int) -> None:
        start.wait()
        try:
            won.append(store.change("digits-1", {State.QUEUED}, state=State.STARTING, priority=number).priority)
        except WrongState:
            pass

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and store.get("digits-1").priority == won[0]


def test_an_unknown_job_names_the_nearest(store):
    store.add(**new("digits_easgd"))
    with pytest.raises(UnknownJob, match="no job 'digits_easgd-11'; did you mean 'digits_easgd-1'?"):
        store.get("digits_easgd-11")
    with pytest.raises(UnknownJob, match="`hogshead jobs` lists them") as refused:
        store.get("x" * 10_000)
    assert len(str(refused.value)) < 200


def test_a_reason_is_one_line_that_a_terminal_can_show(store):
    store.add(**new())
    reason = store.change("digits-1", {State.QUEUED}, reason="a\x1b[31m\n\tb\ud800" + "x" * 5000).reason
    assert reason.startswith("a [31m b x") and len(reason) == store_module.LONGEST_REASON


def test_whoever_waits_is_woken_by_a_change(store):
    seen, found = store.changes, []
    waiter = threading.Thread(target=lambda: found.append(store.wait(seen, 60)))
    waiter.start()
    store.add(**new())
    waiter.join(60)
    assert found == [seen + 1] and store.wait(0, 60) == 1
    assert store.wait(1, 0.01) == 1  # nothing came


@pytest.mark.parametrize(
    "content, match",
    [
        (b"this is no database, but long enough to be read as one" * 100, "is no file of jobs"),
        (b"\0" * 5000, "is no file of jobs"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path, content, match):
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=match):
        Store(path)
    assert path.read_bytes() == content


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "jobs.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="database of something else; give another --state"):
        Store(path)
    assert path.read_bytes() == before


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "jobs.sqlite"
    with Store(path) as store:
        for _ in range(50):
            store.add(**new(job="x" * 1000))
    content = bytearray(path.read_bytes())
    content[4096 : len(content) // 2] = os.urandom(len(content) // 2 - 4096)
    path.write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        Store(path)


def test_a_folder_that_is_not_there_is_the_users_mistake(tmp_path):
    with pytest.raises(UsageError, match="cannot be opened"):
        Store(tmp_path / "absent" / "jobs.sqlite")


def test_a_file_of_a_later_version_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "jobs.sqlite"
    with monkeypatch.context() as later:
        later.setattr(store_module, "MIGRATIONS", (*store_module.MIGRATIONS, "CREATE TABLE more (x)"))
        Store(path).close()
    with pytest.raises(UsageError, match="later version of Hogshead"):
        Store(path)


def test_a_file_of_an_earlier_version_is_brought_up(tmp_path, monkeypatch):
    path = tmp_path / "jobs.sqlite"
    with Store(path) as store:
        store.add(**new())
    monkeypatch.setattr(
        store_module, "MIGRATIONS", (*store_module.MIGRATIONS, "CREATE TABLE more (x); CREATE TABLE yet (x)")
    )
    with Store(path) as store:
        assert store.get("digits-1").name == "digits"
    with Store(path):  # it is not done twice
        pass


def test_jobs_of_the_first_version_are_there_after_the_migration(tmp_path):
    path = tmp_path / "jobs.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as first:
        first.executescript(
            f"DROP TABLE jobs; DROP TABLE numbers; {store_module.MIGRATIONS[0]} PRAGMA user_version = 1;"
            "INSERT INTO jobs (id, name, state, reason, submitted_at, priority, attempt, cpus, gpus, memory_bytes, on_loss, "
            "most_attempts, strategy, task, job, overrides, client_token, wish, resume) VALUES "
            "('digits-1', 'digits', 'queued', '', 1.0, 0, 0, 2.1, 0.0, 0, 'resume', 5, 'easgd', 'mlp', '', '[]', '', '', 0);"
            "INSERT INTO numbers VALUES ('digits', 1);"
        )
    first.close()
    with Store(path) as store:
        assert (store.get("digits-1").cpus, store.get("digits-1").pieces) == (2.1, "")
        assert store.add(**new(pieces="{}"))[0].id == "digits-2"
        assert [job.pieces for job in store.active()] == ["", "{}"]
        assert store.left_behind() == []


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "jobs.sqlite"
    Store(path).close()
    with monkeypatch.context() as wrong:
        wrong.setattr(store_module, "MIGRATIONS", (*store_module.MIGRATIONS, "CREATE TABLE more (x); NONSENSE"))
        with pytest.raises(UsageError):
            Store(path)
    Store(path).close()


def test_what_sqlite_says_becomes_an_error_of_ours(store):
    with sqlite3.connect(store.path) as other:
        other.execute("DROP TABLE numbers")
    other.close()
    with pytest.raises(HogsheadError, match="the jobs cannot be read or written"):
        store.add(**new())
    assert store.list() == ([], "")


ADDING = """
import sys
from deploy.service.store import Store
from tests.deploy.service.test_store import new
store = Store(sys.argv[1])
while True:
    print(store.add(**new("j", job="x" * 2000))[0].id, flush=True)
"""


def test_what_a_killed_process_was_told_is_there(tmp_path):
    path, told = tmp_path / "jobs.sqlite", []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", ADDING, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
        )
        try:
            told += [process.stdout.readline().strip() for _ in range(20)]
        finally:
            process.send_signal(signal.SIGKILL)
            told += process.stdout.read().splitlines(keepends=False)
            process.wait()
            process.stdout.close()
        told = [line for line in told if line.startswith("j-")]
        with Store(path) as store:
            kept = [record.id for record in reversed(store.list(limit=100_000)[0])]
        assert len(told) >= 20 and set(told) <= set(kept)
        # At most the one that it was about to tell of is more, per process that was killed.
        assert kept == [f"j-{number}" for number in range(1, len(kept) + 1)]
