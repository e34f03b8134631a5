"""A job's folder: ids that become paths, and files that both sides read while the other writes."""

from __future__ import annotations

import pytest

from deploy.service.folder import BEAT_S, Beat, JobFolder
from ps.errors import UsageError


@pytest.mark.parametrize(
    "job",
    [
        "",
        "a",
        "a-0",
        "a-01",
        "../a-1",
        "a/b-1",
        ".a-1",
        "a-1/",
        "a-1\n",
        "a\0-1",
        "-1",
        "a" * 65 + "-1",
        "ä-1",
        "a-1234567890",
    ],
)
def test_what_is_no_id_never_becomes_a_path(tmp_path, job):
    with pytest.raises(UsageError, match="is no job's id"):
        JobFolder(tmp_path, job)


@pytest.mark.parametrize("job", ["a-1", "digits_easgd-23", "0.x_-y-9", "a" * 64 + "-123456789"])
def test_an_id_is_a_folder_of_its_own(tmp_path, job):
    assert JobFolder(tmp_path, job).path == tmp_path / job


def test_what_is_written_is_read(tmp_path):
    folder = JobFolder(tmp_path, "a-1")
    folder.path.mkdir()
    assert (folder.order, folder.outcome, folder.generation) == ({}, {}, 0)
    folder.order, folder.outcome = {"wish": "stop"}, {"status": "done"}
    assert (folder.order, folder.outcome) == ({"wish": "stop"}, {"status": "done"})
    folder.outcome = {}
    assert folder.outcome == {}


def test_every_generation_has_a_namespace_that_no_other_has(tmp_path):
    uids = set()
    for service in ("one", "another"):
        folder = JobFolder(tmp_path / service, "a-1")
        folder.path.mkdir(parents=True)
        for generation in (1, 2):
            folder.begin()
            assert folder.generation == generation and folder.uid.startswith(f"hogshead-a-1-{generation}-")
            uids.add(folder.uid)
    assert len(uids) == 4


def test_a_beat_is_given_by_progress_alone_and_says_for_how_long(tmp_path):
    """No thread gives it for a driver that hangs."""
    folder, now = JobFolder(tmp_path, "a-1"), [100.0]
    folder.path.mkdir()
    beat = Beat(folder, 4, clock=lambda: now[0])
    assert folder.beat == {}
    beat(60.0)
    assert folder.beat == {"attempt": 4, "count": 1, "within_s": 60.0}
    beat(60.0)
    assert folder.beat["count"] == 1, "not a file for each turn of a loop"
    beat(20.0)
    assert folder.beat == {"attempt": 4, "count": 2, "within_s": 20.0}, "less time is told at once"
    now[0] += BEAT_S
    beat(20.0)
    assert folder.beat["count"] == 3


def test_it_is_at_work_once_what_was_ordered_has_recorded_something(tmp_path):
    folder = JobFolder(tmp_path, "a-1")
    folder.run.mkdir(parents=True)
    assert not folder.at_work
    folder.order = {"above": 0}
    folder.begin()
    assert not folder.at_work
    (folder.run / "metrics.jsonl").write_text("{}\n")
    assert folder.at_work
    folder.order = {"above": 1}  # resumed: the next generation is to begin
    assert not folder.at_work
