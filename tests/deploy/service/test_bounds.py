"""A job's folder stays within its bounds: the log loses its beginning, and a folder that is too large ends the job."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from deploy.service.bounds import bound_log, folder_bytes, kept_from
from deploy.service.states import State
from deploy.service.supervisor import MEASURE_S, Supervisor
from deploy.service.watching import Log

from .pages import Served

MOST = 1 << 18
LINE = b"%015d\n"


@pytest.fixture
def log(tmp_path) -> Path:
    """A log of 64 k lines, 1 MiB, of which the last 128 KiB are kept."""
    path = tmp_path / "log.txt"
    path.write_bytes(b"".join(LINE % number for number in range(1 << 16)))
    bound_log(path, MOST)
    if path.stat().st_size == 0:
        pytest.skip("this file system cannot drop the beginning of a file")
    return path


def read(log: Log) -> bytes:
    """All that a log has to say."""
    pieces = []
    while piece := log.read():
        pieces.append(piece)
    return b"".join(pieces)


def test_a_log_beyond_its_bound_loses_its_beginning_and_nothing_else_moves(log):
    assert (log.stat().st_size, log.stat().st_blocks * 512) == (1 << 20, MOST // 2)
    with open(log, "rb") as file:
        assert kept_from(file.fileno(), 0) == kept_from(file.fileno(), 5000) == (1 << 20) - MOST // 2
        assert kept_from(file.fileno(), 1_000_000) == 1_000_000
        assert kept_from(file.fileno(), 1 << 20) == kept_from(file.fileno(), 2 << 20) == 1 << 20
    with open(log, "ab") as writer:  # the job writes on
        writer.write(b"more\n")
    bound_log(log, MOST)  # which is within the bound
    assert log.read_bytes()[-21:] == LINE % 65535 + b"more\n"
    assert log.stat().st_size == (1 << 20) + 5


def test_a_log_within_its_bound_is_left_alone(tmp_path):
    path = tmp_path / "log.txt"
    bound_log(path, MOST)
    assert not path.exists()
    path.write_bytes(b"x" * MOST)
    bound_log(path, MOST)
    assert path.read_bytes() == b"x" * MOST
    (tmp_path / "link").symlink_to(path)  # a job's own code may put one there
    with pytest.raises(OSError, match="symbolic links"):
        bound_log(tmp_path / "link", 0)


def test_a_reader_is_told_what_was_dropped_and_goes_on_with_whole_lines(log):
    said, *lines = read(Log(lambda: open(log, "rb"))).splitlines()
    assert said == b"[917,520 bytes of this log were dropped: it had grown to its bound]"
    assert lines == [b"%015d" % number for number in range(57345, 1 << 16)]
    assert read(Log(lambda: open(log, "rb"), offset=(1 << 20) - 32)) == LINE % 65534 + LINE % 65535
    assert read(Log(lambda: open(log, "rb"), tail_lines=2)) == LINE % 65534 + LINE % 65535
    assert read(Log(lambda: open(log, "rb"), tail_lines=1_000_000)).splitlines()[-1] == b"%015d" % 65535


def test_the_page_shows_what_was_kept(tmp_path, log):
    with Served(tmp_path) as served:
        job = served.add().id
        log.rename(served.jobs / job / "log.txt")
        answer = served.get(f"/api/jobs/{job}/log?offset=4096").json()
        assert answer["anew"] and answer["end"] == answer["size"] == 1 << 20 and answer["text"].endswith("65535\n")
        assert not served.get(f"/api/jobs/{job}/log?offset=1048000").json()["anew"]
        (listed,) = [file for file in served.get(f"/api/jobs/{job}/files").json()["files"] if file["path"] == "log.txt"]
        sent = served.get(f"/{listed['href']}").body
        assert len(sent) == listed["size"] == MOST // 2 and sent.endswith(LINE % 65535) and b"\0" not in sent


def test_what_a_folder_takes(tmp_path):
    empty = folder_bytes(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(1 << 16))
    (tmp_path / "a" / "link").symlink_to("/")
    with open(tmp_path / "sparse", "wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    assert 1 << 16 <= folder_bytes(tmp_path) - empty < 1 << 18
    assert folder_bytes(tmp_path / "nowhere") == 0


def test_a_job_whose_folder_is_too_large_is_asked_to_end_and_says_why(theatre):
    theatre.supervisor = Supervisor(
        theatre.store, theatre.cluster, theatre.jobs, clock=lambda: theatre.now, most_job_bytes=1 << 20
    )
    small, large = theatre.submit(), theatre.submit()
    theatre.look()
    for job in (small, large):
        theatre.drive(job)
    theatre.look(2)
    (theatre.folder(large).run / "dump").write_bytes(bytes(2 << 20))
    for _ in range(int(MEASURE_S) + 2):
        theatre.beat(small), theatre.beat(large)
        theatre.look()
    assert (theatre.state(small), theatre.state(large)) == ("running", "stopping")
    assert theatre.folder(large).order["wish"] == "stop"
    theatre.folder(large).outcome = {"status": "interrupted", "reason": "stopped after 2 epochs"}
    theatre.look()
    record = theatre.store.get(large)
    assert record.state is State.STOPPED
    assert re.fullmatch(
        r"its folder has grown to 0\.002\d* GB, and this service gives a job at most 0\.00105 GB \(--most-job-gb\)",
        record.reason,
    )
