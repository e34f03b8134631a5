"""What a coordinator finds again after it was killed."""

from __future__ import annotations

from deploy.cluster.journal import NAME, Journal


def test_the_newest_state_is_found_by_the_same_run_only(tmp_path):
    journal = Journal(tmp_path, "a")
    assert journal.read() is None
    journal.write({"epoch": 1})
    journal.write({"epoch": 2, "ranges": {"0": []}})
    assert Journal(tmp_path, "a").read() == {"uid": "a", "epoch": 2, "ranges": {"0": []}}
    assert Journal(tmp_path, "b").read() is None


def test_a_kill_while_it_is_written_leaves_the_one_before(tmp_path):
    journal = Journal(tmp_path, "a")
    journal.write({"epoch": 1})
    (tmp_path / f"{NAME}.new").write_text('{"uid": "a", "epo')
    assert journal.read()["epoch"] == 1
    journal.write({"epoch": 2})
    assert journal.read()["epoch"] == 2


def test_what_is_no_journal_is_none(tmp_path):
    (tmp_path / NAME).write_text("half a")
    assert Journal(tmp_path, "a").read() is None


def test_it_is_gone_at_the_end(tmp_path):
    journal = Journal(tmp_path, "a")
    journal.write({})
    journal.remove()
    journal.remove()
    assert journal.read() is None and not list(tmp_path.iterdir())
