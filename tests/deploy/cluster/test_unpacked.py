"""Unpacked files stay on a node while somebody uses them, and no longer than a day after."""

from __future__ import annotations

import fcntl
import os
import time

import pytest

from deploy.cluster import unpacked
from deploy.cluster.bundle import Bundle, _digest, unpack
from deploy.packing import archive

JOB = {"task": {"name": "mlp"}, "data": {"train": "sklearn:digits"}, "strategy": {"name": "easgd"}}


@pytest.fixture(autouse=True)
def held(monkeypatch):
    """What this process holds, let go of after the test."""
    held: dict = {}
    monkeypatch.setattr(unpacked, "_held", held)
    yield held
    let_go(held)


def let_go(held: dict) -> None:
    while held:
        os.close(held.popitem()[1])


def bundle_of(text: str) -> Bundle:
    contents = {"note.txt": (text.encode(), False)}
    return Bundle(archive(contents), _digest(contents), "/base")


def age(folder, hours: float) -> None:
    for place in folder.iterdir():
        os.utime(place, (time.time() - 3600 * hours,) * 2)


def test_who_uses_it_has_it_for_as_long_as_the_process_lives(tmp_path, held):
    first, second = bundle_of("one"), bundle_of("two")
    unpack(first, tmp_path, JOB)
    age(tmp_path, 100)
    unpack(second, tmp_path, JOB)
    assert {place.name for place in tmp_path.iterdir()} == {first.digest, second.digest}
    let_go(held)
    age(tmp_path, 23)
    unpack(second, tmp_path, JOB)
    assert (tmp_path / first.digest).is_dir(), "it may be wanted again soon"
    age(tmp_path, 25)
    (tmp_path / ".partial-of-one-that-was-killed").mkdir()
    age(tmp_path, 25)
    unpack(second, tmp_path, JOB)
    assert [place.name for place in tmp_path.iterdir()] == [second.digest]
    assert (tmp_path / second.digest / "note.txt").read_text() == "two"


def test_what_was_removed_is_unpacked_again(tmp_path):
    bundle = bundle_of("one")
    for _ in range(2):
        unpack(bundle, tmp_path, JOB)
        assert (tmp_path / bundle.digest / "note.txt").read_text() == "one"
        (tmp_path / bundle.digest).rename(tmp_path / ".gone")
        (tmp_path / ".gone" / "note.txt").unlink()
        (tmp_path / ".gone").rmdir()


def test_one_that_is_removed_while_its_lock_is_waited_for_is_not_there(tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(fcntl, "flock", lambda *_: place.rmdir())
    assert not unpacked.keep(place)
