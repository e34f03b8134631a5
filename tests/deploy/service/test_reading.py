"""Files of a job's folder: a job that puts links, pipes or thousands of files there gains nothing."""

from __future__ import annotations

import os

import pytest

from deploy.service.reading import list_inside, open_inside


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    job = tmp_path / "jobs" / "a-1"
    (job / "run" / "checkpoint").mkdir(parents=True)
    (job / "run" / "summary.json").write_text("{}")
    (job / "run" / "checkpoint" / "shard-0").write_text("0")
    return tmp_path / "jobs"


def test_a_file_is_read(folder):
    with open_inside(folder, ["a-1", "run", "checkpoint", "shard-0"]) as file:
        assert file.read() == b"0"


@pytest.mark.parametrize(
    "parts",
    [
        [],
        ["a-1"],
        ["a-1", "run"],
        ["a-1", "run", "missing"],
        ["a-1", "run", "summary.json", "more"],
        ["..", "secret.txt"],
        ["a-1", "..", "..", "secret.txt"],
        ["a-1", "../../secret.txt"],
        ["a-1", ".", "run", "summary.json"],
        ["a-1", "", "run", "summary.json"],
        ["a-1", "run", "summary.json\0"],
        ["a-1", "run", "x" * 300],
    ],
)
def test_what_is_no_file_in_the_folder_is_not_there(folder, parts):
    with pytest.raises(FileNotFoundError):
        open_inside(folder, parts)


def test_no_link_is_followed(folder):
    run = folder / "a-1" / "run"
    os.symlink(folder.parent / "secret.txt", run / "link.txt")
    os.symlink(folder.parent, run / "out")
    os.symlink("summary.json", run / "harmless.json")
    os.symlink(run, folder / "b-1")
    for parts in (["run", "link.txt"], ["run", "out", "secret.txt"], ["run", "harmless.json"]):
        with pytest.raises(FileNotFoundError):
            open_inside(folder, ["a-1", *parts])
    with pytest.raises(FileNotFoundError):
        open_inside(folder, ["b-1", "summary.json"])
    assert [file.path for file in list_inside(folder, ["a-1", "run"])[0]] == ["summary.json", "checkpoint/shard-0"]
    assert list_inside(folder, ["b-1"]) == ([], False)


def test_a_pipe_is_not_opened(folder):
    os.mkfifo(folder / "a-1" / "run" / "pipe")  # to open one waits for a writer
    with pytest.raises(FileNotFoundError):
        open_inside(folder, ["a-1", "run", "pipe"])
    assert "pipe" not in [file.path for file in list_inside(folder, ["a-1", "run"])[0]]


def test_descriptors_are_given_back(folder):
    before = len(os.listdir("/proc/self/fd"))
    for parts in (["a-1", "run"], ["a-1", "run", "missing"], ["a-1", "none", "x"], ["a-1", "run", "summary.json", "x"]):
        with pytest.raises(FileNotFoundError):
            open_inside(folder, parts)
        list_inside(folder, parts)
    open_inside(folder, ["a-1", "run", "summary.json"]).close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_listing_is_bounded_and_leaves_out_what_is_hidden(folder):
    run = folder / "a-1" / "run"
    (run / ".lock").write_text("1")
    for number in range(5):
        (run / f"{number}.txt").write_text("x" * number)
    os.makedirs(run / "/".join("d" * 12))
    (run / "/".join("d" * 12) / "deep.txt").write_text("")
    os.close(os.open(os.fsencode(run) + b"/\xff.txt", os.O_CREAT | os.O_WRONLY))
    files, more = list_inside(folder, ["a-1", "run"])
    assert [(file.path, file.size) for file in files] == [
        *((f"{number}.txt", number) for number in range(5)),
        ("summary.json", 2),
        ("checkpoint/shard-0", 1),
    ]
    assert not more
    files, more = list_inside(folder, ["a-1", "run"], most=3)
    assert ([file.path for file in files], more) == (["0.txt", "1.txt", "2.txt"], True)


def test_a_folder_that_is_not_there_has_no_files(folder):
    assert list_inside(folder, ["c-1", "run"]) == ([], False)
