"""What is shown while a job runs: the right observer, readable lines, and an estimate of the time left."""

from __future__ import annotations

import io
import json
import threading

import pytest

from deploy import progress
from deploy.job import load_job
from deploy.progress import JsonLines, Lines, Quiet, Terminal, TimeLeft, observer_for

PROGRESS = {
    "kind": "progress",
    "seconds": 6.0,
    "epoch": 1.5,
    "examples": 1_500_000,
    "steps": 100,
    "loss": 0.34114,
    "examples_per_second": 1_240_000.0,
    "workers_alive": 2,
    "staleness": 1.26,
    "workers": [],
}
EVALUATION = {
    "kind": "evaluation",
    "seconds": 8.04,
    "epoch": 2,
    "examples": 9,
    "train_loss": 0.3,
    "evaluation": {"test_accuracy": 0.84612},
}
DIED = {"kind": "event", "seconds": 7.0, "event": "worker_died", "message": "worker 1: [red]killed[/red] by signal 9"}
SUMMARY = {
    "status": "done",
    "stop_reason": "3 epochs",
    "epochs": 3,
    "steps": 1200,
    "examples": 60_000,
    "wall_seconds": 12.34,
    "examples_per_second": 4862.2,
    "train_loss": 0.25,
    "evaluation": {"test_accuracy": 0.875},
    "worker_deaths": 1,
    "skipped_nonfinite": 0,
}


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def job(job_file):
    return load_job(job_file)


def play(observer, summary=SUMMARY):
    with observer:
        observer.started(
            {
                "run": "/data/runs/try-1",
                "strategy": "easgd",
                "task": "mlp",
                "workers": 2,
                "shards": 1,
                "parameters": 235_146,
            }
        )
        observer.progress(PROGRESS)
        observer.event(DIED)
        observer.event({"kind": "event", "seconds": 8.0, "event": "checkpoint", "message": "saved"})
        observer.evaluation(EVALUATION)
        observer.finished(summary)


def test_lines(job):
    stream = io.StringIO()
    play(Lines(job, stream))
    assert stream.getvalue().splitlines() == [
        "easgd on mlp: 2 workers, 1 shard, 235,146 parameters",
        "epoch 1.50  loss 0.3411  1.24M examples/s  staleness 1.3  2 workers",
        "worker died: worker 1: [red]killed[/red] by signal 9",
        "epoch 2  8.0 s  train loss 0.3  test_accuracy 0.8461",
        "done: 3 epochs",
        "3 epochs  1,200 steps  60,000 examples  12.3 s  4.86k examples/s",
        "train_loss 0.25  test_accuracy 0.875",
        "1 worker death",
        "run     /data/runs/try-1",
        "report  /data/runs/try-1/report.html",
    ]


def test_notes_of_the_task_follow_the_first_line(job):
    stream = io.StringIO()
    Lines(job, stream).started({"workers": 2, "notes": ["labels: 2 is positive", "one more"]})
    assert stream.getvalue() == "2 workers\nlabels: 2 is positive\none more\n"


def test_lines_do_not_flood_a_log(job):
    stream = io.StringIO()
    observer = Lines(job, stream, every_s=5.0)
    for step in range(100):
        observer.progress({**PROGRESS, "seconds": 0.25 * step})
    assert len(stream.getvalue().splitlines()) == 4  # at 5, 10, 15 and 20 of 25 seconds


def test_terminal_rewrites_one_line_and_clears_it(job, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Tty()
    threads = threading.active_count()
    observer = Terminal(job, stream)
    observer.started({})
    observer.progress(PROGRESS)
    assert threading.active_count() == threads
    assert "━" in stream.getvalue() and "1.24M examples/s" in stream.getvalue()
    observer.progress({**PROGRESS, "seconds": 12.0, "epoch": 2.25})
    observer.progress({**PROGRESS, "seconds": 14.0, "epoch": 2.5})
    assert "0:04 left" in stream.getvalue()
    assert "\x1b[2K" in stream.getvalue()
    observer.event(DIED)
    observer.finished(SUMMARY)
    text = stream.getvalue()
    assert "[red]killed[/red]" in text and text.rstrip().endswith("1 worker death")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden, then shown again


def test_terminal_gives_the_cursor_back_after_an_error(job, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Tty()
    with pytest.raises(RuntimeError), Terminal(job, stream) as observer:
        observer.started({})
        raise RuntimeError
    assert "\x1b[?25h" in stream.getvalue()


def test_a_narrow_terminal_gets_one_row(job, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    stream = Tty()
    with Terminal(job, stream) as observer:
        observer.started({})
        before = len(stream.getvalue())
        observer.progress(PROGRESS)
        drawn = stream.getvalue()[before:].replace("\r", "").replace("\x1b[2K", "")
    assert "\n" not in drawn and len(drawn) <= 40 and drawn.endswith("…")


def test_json_lines(job):
    stream = io.StringIO()
    play(JsonLines(stream))
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [record["kind"] for record in records] == ["progress", "event", "event", "evaluation", "summary"]
    assert records[0] == PROGRESS and records[-1]["evaluation"] == {"test_accuracy": 0.875}


def test_quiet_speaks_only_of_failure():
    stream = io.StringIO()
    play(Quiet(stream))
    assert stream.getvalue() == ""
    play(Quiet(stream), {"status": "failed", "error": "worker 1 kept dying"})
    assert stream.getvalue() == "hogshead: worker 1 kept dying\n"


def test_a_failed_run_shows_its_error(job):
    stream = io.StringIO()
    play(Lines(job, stream), {"status": "failed", "error": "loss is NaN", "stop_reason": None})
    assert "failed: loss is NaN" in stream.getvalue()


def test_the_observer_suits_the_stream(job):
    assert type(observer_for(job, stream=io.StringIO())) is Lines
    assert type(observer_for(job, stream=Tty())) is Terminal
    assert type(observer_for(job, stream=Tty(), json=True)) is JsonLines
    assert type(observer_for(job, stream=Tty(), quiet=True)) is Quiet


def at(seconds: float, **amounts):
    return {**PROGRESS, "seconds": seconds, "steps": 0, "examples": 0, "epoch": 0.0, **amounts}


def test_time_left_from_the_rate_so_far(job):
    left = TimeLeft(job)  # 3 epochs
    assert left.update(at(1.0, epoch=0.0)) is None
    assert left.update(at(3.0, epoch=1.0)) is None
    assert left.fraction == pytest.approx(1 / 3)
    assert left.update(at(5.0, epoch=1.5)) == pytest.approx(6.0)
    assert left.update(at(7.0, epoch=3.0)) == 0.0


def test_start_up_is_not_training(job):
    """8 s until the first step, .3 s an epoch then; a first estimate from all of it would be minutes."""
    left = TimeLeft(job)
    started = [left.update(at(seconds, epoch=0.0)) for seconds in (0.0, 4.0, 7.9)]
    assert [*started, left.update(at(8.2, epoch=0.01))] == [None] * 4
    for epoch in (0.5, 1.0, 2.0, 2.9):
        assert left.update(at(8.2 + 0.3 * (epoch - 0.01), epoch=epoch)) == pytest.approx(0.3 * (3.0 - epoch))


def test_time_left_follows_a_rate_that_changes(job):
    left, seconds = TimeLeft(job), 0.0
    for step in range(101):  # a slow first epoch, of 100 s
        left.update(at(seconds := float(step), epoch=step / 100))
    for step in range(100):  # a fast second one, of 200 s in all with it
        seen = left.update(at(seconds := seconds + 1.0, epoch=1.0 + step / 50 * 0.5))
    assert seen == pytest.approx((3.0 - 1.99) * 100, rel=0.05)


def test_time_left_of_a_resumed_run_counts_from_where_it_went_on(job):
    left = TimeLeft(job)
    left.update(at(100.0, epoch=2.0))
    assert left.update(at(101.0, epoch=2.2)) is None
    assert left.update(at(102.0, epoch=2.5)) == pytest.approx(0.5 / 0.3)


def test_time_left_goes_by_the_nearest_bound(job_file):
    left = TimeLeft(load_job(job_file, ["stop.steps=100"]))
    left.update(at(0.0))
    left.update(at(10.0, epoch=0.1, steps=25))
    assert left.update(at(20.0, epoch=0.3, steps=75)) == pytest.approx(5.0)


def test_a_simulated_run_tells_both_times(job):
    """Rates are per virtual second, the log's pace and the time left go by real ones."""
    stream = io.StringIO()
    observer = Lines(job, stream, every_s=5.0)
    observer.started({"strategy": "easgd", "task": "mlp", "backend": "simulation", "workers": 2})
    observer.progress({**PROGRESS, "virtual_seconds": 1500.0})
    observer.evaluation({**EVALUATION, "virtual_seconds": 410.0})
    busy = {"virtual_seconds": 1000.0, "shard_busy_seconds": [250.0, 500.0], "dropped": 7}
    observer.finished({**SUMMARY, **busy})
    first, second, third, *last = stream.getvalue().splitlines()
    assert first == "easgd on mlp, simulated: 2 workers"
    assert "1.24M examples/virtual s" in second and "1.5k virtual s" in second
    assert third.startswith("epoch 2  410 virtual s  train loss 0.3")
    assert "1k virtual s  12.3 s of real time  4.86k examples/virtual s" in last[1]
    assert "shards busy 25 %, 50 %" in last and "7 late gradients dropped" in last


def test_a_burst_of_events_is_said_together(job):
    stream = io.StringIO()
    observer = Lines(job, stream, every_s=5.0)
    for worker in range(1000):
        observer.event({"event": "worker_died", "message": f"worker {worker} crashed"})
    observer.progress({**PROGRESS, "seconds": 1.0})  # not due: the burst goes on
    observer.event({"event": "worker_died", "message": "worker 7 crashed"})
    observer.evaluation(EVALUATION)
    observer.event({"event": "worker_died", "message": "worker 8 crashed"})
    lines = stream.getvalue().splitlines()
    assert lines[:5] == [f"worker died: worker {worker} crashed" for worker in range(5)]
    assert lines[5] == "worker died: 996 more, the last: worker 7 crashed"
    assert lines[6].startswith("epoch 2") and lines[7:] == ["worker died: worker 8 crashed"]


def test_no_rate_is_shown_where_no_time_has_passed():
    line = progress.progress_line({**PROGRESS, "virtual_seconds": 0.0, "examples_per_second": None})
    assert "examples/" not in line


def test_time_left_of_a_simulated_run(job_file):
    """A bound on virtual seconds is reached in real ones."""
    left = TimeLeft(load_job(job_file, ["stop.seconds=1000", "stop.epochs="]))
    left.update({**at(0.0), "virtual_seconds": 0.0})
    left.update({**at(1.0), "virtual_seconds": 125.0})
    assert left.update({**at(2.0), "virtual_seconds": 250.0}) == pytest.approx(6.0)
    assert left.fraction == 0.25


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.34114, "0.3411"),
        (1234.5, "1234"),
        (123456.0, "123,456"),
        (2e9, "2.000e+09"),
    ],
)
def test_numbers(value, text):
    assert progress.number(value) == text


def test_clock():
    assert [progress.clock(s) for s in (6.6, 725, 11045)] == ["0:07", "12:05", "3:04:05"]
