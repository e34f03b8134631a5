"""Reading records and logs on as they grow, are replaced, torn and far too long."""

from __future__ import annotations

import random

import pytest

from deploy.service import watching
from deploy.service.watching import Log, News, Records
from ps.errors import UsageError


@pytest.fixture
def file(tmp_path):
    return tmp_path / "metrics.jsonl"


def reader(file, position: str = "") -> Records:
    return Records(lambda: open(file, "rb"), position)


def test_only_whole_lines_are_read(file):
    records = reader(file)
    assert records.read() == News([]) and records.position == "0-00000000"
    file.write_text("one\ntw")
    assert records.read() == News(["one"])
    assert records.read() == News([])
    with open(file, "a") as more:
        more.write("o\nthree\n")
    assert records.read() == News(["two", "three"])
    assert reader(file, records.position).read() == News([])


def test_a_torn_line_that_is_cut_off_was_never_read(file):
    """As a run does that goes on after its launcher was killed."""
    file.write_text("one\ntorn")
    records = reader(file)
    records.read()
    file.write_text("one\nother\n")
    assert records.read() == News(["other"])


@pytest.mark.parametrize("content", ["", "one\n", "one\nTWO\nthree\nfour\n", "o\n" * 100, "one\ntwo and a half\n"])
def test_a_file_with_another_past_begins_anew(file, content):
    file.write_text("one\ntwo\n")
    records = reader(file)
    records.read()
    position = records.position
    file.write_text(content)
    lines = content.splitlines()
    assert records.read() == News(lines, anew=True)
    assert reader(file, position).read() == News(lines, anew=True)
    assert records.read() == News([])


def test_a_file_that_was_replaced_by_one_with_the_same_past_goes_on(file, tmp_path):
    file.write_text("one\ntwo\n")
    records = reader(file)
    records.read()
    (tmp_path / "new").write_text("one\ntwo\nthree\n")
    (tmp_path / "new").rename(file)
    assert records.read() == News(["three"])


def test_a_file_that_is_gone_begins_anew(file):
    file.write_text("one\n")
    records = reader(file)
    records.read()
    file.unlink()
    assert records.read() == News([], anew=True)
    assert records.read() == News([])


def test_a_line_that_is_too_long_is_left_out(file, monkeypatch):
    monkeypatch.setattr(watching, "BATCH_BYTES", 64)
    monkeypatch.setattr(watching, "MOST_LINE_BYTES", 256)
    long = "x" * 200
    file.write_text(f"one\n{'y' * 1000}\n{long}\ntwo\n{'z' * 500}")
    records, lines = reader(file), []
    for _ in range(20):
        lines += records.read().lines
    assert lines == ["one", long, "two"]
    with open(file, "a") as more:
        more.write("\nthree\n")
    for _ in range(3):
        lines += records.read().lines
    assert lines[3:] == ["three"]


def test_however_it_is_cut_all_lines_come_once_and_in_order(file, monkeypatch):
    monkeypatch.setattr(watching, "BATCH_BYTES", 50)
    generator = random.Random(3)
    lines = ["".join(generator.choices("abcü", k=generator.randrange(1, 30))) for _ in range(300)]
    content, written, read, position = "".join(line + "\n" for line in lines).encode(), 0, [], ""
    while written < len(content) or len(read) < len(lines):
        step = generator.randrange(60)
        with open(file, "ab") as more:
            more.write(content[written : written + step])
        written += step
        records = reader(file, position)  # each time another process
        news = records.read()
        assert not news.anew
        read += news.lines
        position = records.position
    assert read == lines


@pytest.mark.parametrize(
    "position", ["x", "0", "-1-00000000", "1-0000000g", "1-000000000", "9" * 19 + "-00000000", "1-0000000\n"]
)
def test_what_is_no_position_is_refused(file, position):
    with pytest.raises(UsageError, match="position must be that of a reply"):
        reader(file, position)


@pytest.mark.parametrize("position", ["7-00000000", "999999999999999999-12345678"])
def test_a_position_of_another_file_begins_anew(file, position):
    file.write_text("one\ntwo\nthree\n")
    assert reader(file, position).read() == News(["one", "two", "three"], anew=True)


@pytest.mark.parametrize("block", [3, 8, 1000])
def test_the_tail_of_a_log(file, monkeypatch, block):
    monkeypatch.setattr(watching, "LOG_BYTES", block)
    for text in ("a\nbb\n\nccc\nd", "a\nbb\n\nccc\nd\n", "\n\n\n", "x" * 20, ""):
        file.write_text(text)
        lines = text.splitlines(keepends=True)
        for count in range(1, 7):
            log, read = Log(lambda: open(file, "rb"), tail_lines=count), b""
            while data := log.read():
                read += data
            assert read.decode() == "".join(lines[-count:])


def test_the_tail_of_a_log_of_nothing_but_ends_of_lines_takes_no_long_time(file):
    file.write_bytes(b"\n" * 3_000_000)
    log = Log(lambda: open(file, "rb"), tail_lines=1_000_000)
    assert len(log.read()) == watching.LOG_BYTES and log.offset == 2_000_000 + watching.LOG_BYTES
