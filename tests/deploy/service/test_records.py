"""A run's records as the page gets them: read as they come, thinned, forgotten when the run goes back, hostile lines left out."""

from __future__ import annotations

import json

import pytest

from deploy.service import records
from deploy.service.glance import Glances, seconds_left, share_done
from deploy.service.records import Readers, RecordReader


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def reader(path):
    return RecordReader(lambda: open(path, "rb"))


def progress(seconds: float, examples: int, **more) -> dict:
    return {"kind": "progress", "seconds": seconds, "epoch": examples / 100, "examples": examples, "loss": 1 / (1 + examples),
            "staleness": 2.0, "examples_per_second": 50.0, "workers_alive": 2, **more}  # fmt: skip


def write(path, *entries, mode: str = "a") -> None:
    with open(path, mode, encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def test_without_a_run_there_is_nothing(reader):
    view = reader.view()
    assert (view["read_bytes"], view["latest"], view["workers"], view["events"]) == (0, {}, [], [])


def test_records_come_as_they_are_written_and_only_whole(path, reader):
    write(path, progress(1, 10), {"kind": "evaluation", "seconds": 1, "examples": 10, "evaluation": {"accuracy": 0.5}})
    assert reader.view()["progress"]["seconds"] == [1.0]
    with open(path, "a") as file:
        file.write(json.dumps(progress(2, 20))[:30])
    assert reader.view()["progress"]["seconds"] == [1.0]
    with open(path, "a") as file:
        file.write(json.dumps(progress(2, 20))[30:] + "\n")
    view = reader.view()
    assert view["progress"]["examples"] == [10.0, 20.0]
    assert view["evaluation"]["columns"]["accuracy"]["mean"] == [0.5]
    assert (view["latest"]["examples"], view["unreadable"], view["more"]) == (20, 0, False)


def test_a_run_that_goes_back_is_read_anew(path, reader, tmp_path):
    write(path, progress(1, 10), progress(2, 20))
    assert len(reader.view()["progress"]["seconds"]) == 2
    write(tmp_path / "new", progress(1, 10), progress(1.5, 12), progress(1.7, 14))
    (tmp_path / "new").replace(path)
    assert reader.view()["progress"]["seconds"] == [1.0, 1.5, 1.7]


def test_another_file_with_the_same_end_is_noticed(path, reader, tmp_path):
    write(path, progress(1, 10), progress(8, 80))
    reader.view()
    write(tmp_path / "new", progress(2, 10), progress(8, 80), progress(9, 90))
    (tmp_path / "new").replace(path)
    assert reader.view()["progress"]["seconds"] == [2.0, 8.0, 9.0]


@pytest.mark.parametrize("entries", [[progress(7, 70)], [progress(7, 70), progress(8, 80), progress(9, 90)]])
def test_another_content_of_the_same_file_is_noticed(path, reader, entries):
    """An inode is given again once it is free; the length alone says little."""
    write(path, progress(1, 10), progress(2, 20))
    reader.view()
    write(path, *entries, mode="w")
    assert reader.view()["progress"]["seconds"] == [entry["seconds"] for entry in entries]
    path.unlink()
    assert reader.view()["progress"]["seconds"] == []


def test_a_long_file_is_read_in_pieces(path, reader, monkeypatch):
    write(path, *(progress(second, second) for second in range(1, 101)))
    monkeypatch.setattr(records, "READ_BYTES", 5000)
    view, asked = reader.view(), 1
    while view["more"]:
        assert len(view["progress"]["seconds"]) < 100
        view, asked = reader.view(), asked + 1
    assert view["progress"]["seconds"] == [float(second) for second in range(1, 101)]
    assert asked > 2 and view["read_bytes"] == view["size_bytes"] == path.stat().st_size


def test_a_hundred_thousand_records_stay_small(path, reader):
    line = '{"kind":"progress","seconds":%d,"examples":%d,"loss":%f,"staleness":1.5}\n'
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line % (number, 64 * number, 1 / (1 + number % 7)) for number in range(100_000))
    view = reader.view()
    while view["more"]:
        view = reader.view()
    lines = view["progress"]
    assert 200 <= len(lines["seconds"]) <= 400 and lines["rows_per_point"] == 256
    assert len(json.dumps(view)) < 100_000
    loss = lines["columns"]["loss"]
    assert loss["low"][:-1] == pytest.approx([1 / 7] * (len(loss["low"]) - 1), rel=1e-4)
    assert loss["mean"][100] == pytest.approx(sum(1 / k for k in range(1, 8)) / 7, rel=0.05)


def test_workers_and_shards_stand_where_they_are_with_their_rates(path, reader):
    def at(seconds: float, pushes: int, examples: int) -> dict:
        shard = {"shard": 0, "node": "aa", "address": "10.0.0.2:1", "version": pushes, "pulls": 1, "pushes": pushes}
        worker = {"worker": 0, "examples": examples, "staleness": 1.5}
        return progress(
            seconds, examples, shards=[shard], workers=[worker], nodes=[{"worker": 0, "node": "bb", "links": ["gRPC"]}]
        )

    write(path, *(at(second, 10 * second, 100 * second) for second in range(1, 31)))
    write(path, at(31, 10 * 30 + 40, 100 * 30 + 250))
    view = reader.view()
    [worker], [shard] = view["workers"], view["shards"]
    # Over the last ten seconds, not since the beginning: 9 s of the old pace and one of the new.
    assert shard["per_second"]["pushes"] == pytest.approx((9 * 10 + 40) / 10)
    assert shard["per_second"]["pulls"] == 0
    assert worker["examples_per_second"] == pytest.approx((9 * 100 + 250) / 10)
    assert (worker["node"], worker["links"], shard["address"]) == ("bb", ["gRPC"], "10.0.0.2:1")
    write(path, at(32, 5, 3300))
    assert "pushes" not in reader.view()["shards"][0]["per_second"]  # a shard that was replaced counts anew


def test_events_are_the_newest_ones_and_checkpoints_are_counted(path, reader):
    write(path, *({"kind": "event", "seconds": s, "event": "worker_died", "message": f"{s}"} for s in range(250)))
    write(path, {"kind": "event", "seconds": 251, "event": "checkpoint"})
    view = reader.view()
    assert (len(view["events"]), view["more_events"], view["events"][-1]["message"]) == (200, 50, "249")
    assert (view["checkpoints"], view["last_checkpoint"]) == (1, 251)


HOSTILE = [
    "",
    "not json",
    "[" * 100_000,
    "null",
    "[]",
    '{"kind": ["progress"]}',
    '{"kind": "progress", "seconds": "<b>", "examples": NaN, "loss": 1e999, "workers": 3, "nodes": {"a": 1}}',
    '{"kind": "progress", "seconds": 1, "workers": [1, {"worker": []}, {"worker": {}}, {"worker": 0, "node": [], "links": 3}]}',
    '{"kind": "progress", "seconds": 1, "nodes": [{"worker": [], "links": "x"}, {"worker": 0, "links": "gRPC"}]}',
    '{"kind": "progress", "seconds": 1, "shards": [{"shard": 0, "version": "1", "address": {"a": []}}, {"shard": "1"}]}',
    '{"kind": "evaluation", "evaluation": [1], "train_loss": "x"}',
    '{"kind": "evaluation", "seconds": 1, "evaluation": {"a": true, "b": [], "c": 1e400}}',
    '{"kind": "event", "seconds": null, "event": {"a": 1}, "message": 7}',
    '{"kind": "progress", "seconds": ' + "9" * 400 + "}",
]


@pytest.mark.parametrize("line", HOSTILE)
def test_a_hostile_line_spoils_nothing(path, reader, line):
    write(path, progress(1, 10))
    path.write_bytes(path.read_bytes() + line.encode() + b"\n\xff\xfe\n")
    json.dumps(reader.view(), allow_nan=False)
    write(path, progress(3, 30, workers=[{"worker": 0, "examples": 30}]))
    view = reader.view()
    json.dumps(view, allow_nan=False)
    assert view["progress"]["columns"]["loss"]["mean"][0] == pytest.approx(1 / 11, rel=1e-5)
    assert view["latest"]["examples"] == 30
    glance = Glances(lambda job, name: open(path, "rb")).of("a-1")
    json.dumps(glance, allow_nan=False)
    assert glance["latest"]["examples"] == 30


def test_readers_are_bounded_and_kept_while_used(tmp_path):
    readers = Readers(lambda job: open(tmp_path / job, "rb"), most=2)
    first = readers.of("a-1")
    readers.of("b-1")
    assert readers.of("a-1") is first
    third = readers.of("c-1")  # pushes out b-1, which was used longest ago
    assert readers.of("c-1") is third and readers.of("a-1") is first


def test_a_glance_at_a_long_run_sees_its_course_and_its_end(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    padding = "x" * 400
    write(run / "metrics.jsonl", *(progress(s, s, loss=1000.0 - s, padding=padding) for s in range(1000)))
    write(
        run / "metrics.jsonl",
        {"kind": "evaluation", "seconds": 1000, "examples": 1000, "evaluation": {"accuracy": 0.9}},
    )
    (run / "job.toml").write_text("[stop]\nepochs = 20\n")
    glance = Glances(lambda job, name: open(run / name, "rb")).of("a-1")
    assert 20 <= len(glance["curve"]) <= 48
    assert glance["curve"] == sorted(glance["curve"], reverse=True)
    assert glance["curve"][-1] == 1.0 and glance["curve"][0] > 990
    assert (glance["latest"]["examples"], glance["evaluation"]) == (999, {"accuracy": 0.9})
    assert share_done(glance["bounds"], glance["latest"]) == pytest.approx(9.99 / 20)


def test_a_glance_is_taken_again_only_when_the_file_has_changed(tmp_path):
    opened = []

    def open_file(job, name):
        opened.append(name)
        return open(tmp_path / name, "rb")

    write(tmp_path / "metrics.jsonl", progress(1, 10))
    glances = Glances(open_file)
    assert glances.of("a-1") is glances.of("a-1")
    write(tmp_path / "metrics.jsonl", progress(2, 20))
    assert glances.of("a-1")["latest"]["examples"] == 20


def test_a_short_run_shows_the_loss_of_its_epochs(tmp_path):
    entries = [{"kind": "evaluation", "seconds": s, "train_loss": 1 / s, "evaluation": {}} for s in (1, 2, 4)]
    write(tmp_path / "metrics.jsonl", *entries)
    assert Glances(lambda job, name: open(tmp_path / name, "rb")).of("a-1")["curve"] == [1.0, 0.5, 0.25]


def test_what_is_done_and_left():
    bounds = {"epoch": 10.0, "seconds": 100.0}
    assert share_done(bounds, {"epoch": 5, "seconds": 80}) == 0.8
    assert share_done({}, {"epoch": 5}) is None
    assert share_done(bounds, {}) == 0
    assert seconds_left({"epoch": 10.0}, {"epoch": 2, "seconds": 10}, {"epoch": 6, "seconds": 30}) == pytest.approx(20)
    assert seconds_left({"epoch": 10.0}, {"epoch": 2, "seconds": 10}, {"epoch": 2, "seconds": 10}) is None
