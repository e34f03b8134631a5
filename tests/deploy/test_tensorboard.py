"""TensorBoard's event files: read back by TensorBoard itself, they hold what ``metrics.jsonl`` holds."""

from __future__ import annotations

import math
import struct
import warnings

import pytest

from deploy.cli import main
from deploy.run_directory import read_metrics
from deploy.tensorboard import TensorBoardSink, crc32c, series


@pytest.fixture(scope="module")
def accumulator():
    """``EventAccumulator``, or a skip where there is no TensorBoard."""
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator


def read(accumulator, folder) -> dict[str, list[tuple[int, float, float]]]:
    """Tag -> (step, value, wall time) of all events."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = accumulator(str(folder), size_guidance={"scalars": 0})
        found.Reload()
        return {tag: [(e.step, e.value, e.wall_time) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def progress(examples: int, **values) -> dict:
    record = {
        "kind": "progress",
        "seconds": examples / 10,
        "examples": examples,
        "epoch": examples / 100,
        "loss": 2.0 / examples,
    }
    return record | values


def test_the_checksum_is_castagnolis():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_a_run_read_back(train, accumulator):
    result = train(tensorboard=True, workers={"count": 1}, evaluation={"every_epochs": 1})
    found = read(accumulator, result.run / "tensorboard")
    evaluations = [record for record in result.metrics if record["kind"] == "evaluation"]
    (metric,) = evaluations[0]["evaluation"]
    assert [(step, pytest.approx(value)) for step, value, _ in found[f"evaluation/{metric}"]] == [
        (record["examples"], record["evaluation"][metric]) for record in evaluations
    ]
    expected = [
        (record["examples"], record["examples_per_second"]) for record in result.metrics if record["kind"] == "progress"
    ]
    assert [(step, pytest.approx(value)) for step, value, _ in found["progress/examples_per_second"]] == expected
    expected_tags = {tag for record in result.metrics for tag, _ in series(record)}
    assert set(found) == expected_tags and {"evaluation/train_loss", "worker_staleness/0"} <= expected_tags
    start = found[f"evaluation/{metric}"][0][2] - evaluations[0]["seconds"]
    for (_, _, wall_time), record in zip(found[f"evaluation/{metric}"], evaluations):
        assert wall_time - start == pytest.approx(record["seconds"], abs=1e-3)


def test_a_simulated_run_has_virtual_time(train, accumulator):
    result = train(backend="simulation", tensorboard=True, simulation={"step_seconds": 100.0})
    evaluations = [record for record in result.metrics if record["kind"] == "evaluation"]
    times = [wall_time for _, _, wall_time in read(accumulator, result.run / "tensorboard")["evaluation/train_loss"]]
    expected = evaluations[-1]["virtual_seconds"] - evaluations[0]["virtual_seconds"]
    assert expected > 100 and times[-1] - times[0] == pytest.approx(expected, abs=1e-3)


def test_what_is_no_number_is_left_out():
    record = progress(
        10, loss=math.nan, staleness=None, state="busy", best=True, huge=1e300, workers=[{"worker": 3, "examples": 4}]
    )
    assert dict(series(record)) == {
        "progress/epoch": 0.1,
        "progress/huge": struct.unpack("<f", b"\xff\xff\x7f\x7f")[0],
        "worker_examples/3": 4.0,
    }
    assert dict(series({"kind": "event", "seconds": 1.0, "event": "checkpoint"})) == {}
    crowd = [{"worker": worker, "examples": 1} for worker in range(17)]
    assert not [tag for tag, _ in series(progress(10, workers=crowd)) if tag.startswith("worker")]


def test_a_resumed_run_forgets_what_it_repeats(tmp_path, accumulator):
    first = TensorBoardSink(tmp_path)
    for examples in (10, 20, 30, 40):
        first.record(progress(examples))
    first.close()
    second = TensorBoardSink(tmp_path)
    second.forget_after(20)
    for examples in (30, 50):
        second.record(progress(examples, loss=7.0))
    second.close()
    found = read(accumulator, tmp_path)["progress/loss"]
    assert [(step, pytest.approx(value)) for step, value, _ in found] == [(10, 0.2), (20, 0.1), (30, 7.0), (50, 7.0)]


def test_every_part_of_a_run_is_a_file_of_its_own(tmp_path):
    for _ in range(3):
        sink = TensorBoardSink(tmp_path)
        sink.record(progress(10))
        sink.close()
    assert len(list(tmp_path.iterdir())) == 3


def test_conversion_of_a_run(recorded_run, tmp_path, accumulator, capsys):
    run = recorded_run()
    assert main(["tensorboard", str(run), str(recorded_run("try-2")), "--out", str(tmp_path / "boards")]) == 0
    assert [line.endswith(("try-1", "try-2")) for line in capsys.readouterr().out.splitlines()] == [True, True]
    found = read(accumulator, tmp_path / "boards" / "try-1")
    records = read_metrics(run)
    expected = [
        (record["examples"], pytest.approx(record["loss"])) for record in records if record["kind"] == "progress"
    ]
    assert [(step, value) for step, value, _ in found["progress/loss"]] == expected
    assert found["evaluation/test_accuracy"][-1][:2] == (1000, pytest.approx(0.9))


def test_conversion_refuses(recorded_run, tmp_path, capsys):
    run = recorded_run()
    assert main(["tensorboard", str(run)]) == 0
    assert main(["tensorboard", str(run)]) == 2
    assert "has event files already" in capsys.readouterr().err
    (run / "metrics.jsonl").write_text("")
    assert main(["tensorboard", str(run), "--out", str(tmp_path / "b")]) == 2
    assert "nothing to show yet" in capsys.readouterr().err
    assert main(["tensorboard", str(tmp_path / "none")]) == 1
    assert "no such run directory" in capsys.readouterr().err


def test_a_full_disk_does_not_end_the_run(train, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deploy.tensorboard._create", full)
    result = train(tensorboard=True)
    assert result.summary["status"] == "done"
    (failed,) = [record for record in result.metrics if record.get("event") == "tensorboard_failed"]
    assert "No space left" in failed["message"]
