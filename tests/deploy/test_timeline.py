"""The timeline: what a trace holds stands in it, in the right lane and the right colour."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

import hogshead
from deploy.cli import main
from deploy.lanes import Window, lanes_of
from deploy.report import write_report
from deploy.timeline import beginning, write_timeline
from ps.errors import RunDirectoryError, UsageError
from worker import trace
from worker.trace import Trace

from .conftest import LEAST_SQUARES

SVG = "{http://www.w3.org/2000/svg}"


def small_trace() -> Trace:
    """Replica 0 takes two gradients and pushes after each; replica 1 dies in its first and comes back."""
    whole = Trace()
    whole.facts = {"backend": "simulation", "workers": 2, "shards": 2, "versions": [2, 2]}
    whole.add(0.0, trace.BEGIN, 0, 1)
    whole.add(0.0, trace.BEGIN, 1, 1)
    for shard in range(2):
        whole.add(0.5, trace.PULL, 0, 1, shard, version=0)
    whole.add(1.0, trace.COMPUTE, 0, 1, clock=0, seconds=1.0, loss=0.7)
    whole.add(1.0, trace.COMPUTE, 1, 1, clock=0, seconds=5.0, loss=0.7)
    whole.add(2.5, trace.PUSH, 0, 1, 0, version=1, staleness=0)
    whole.add(2.5, trace.PUSH, 0, 1, 1, version=1, staleness=3)
    whole.add(3.0, trace.COMPUTE, 0, 1, clock=1, seconds=1.0, loss=0.6)
    whole.add(4.0, trace.END, 1, 1)
    whole.add(4.5, trace.PUSH, 0, 1, 0, version=2, staleness=1)
    whole.add(5.0, trace.BEGIN, 1, 2)
    whole.add(6.0, trace.COMPUTE, 1, 2, clock=0, seconds=1.0, loss=0.5)
    whole.add(8.0, trace.EXCHANGE, 1, 2, 0, version=3, staleness=9)
    return whole


def lanes(start=0.0, stop=8.0, replicas=(0, 1)):
    whole = small_trace()
    return lanes_of(whole, Window.of(whole, replicas, start, stop, 16), [(1, 4.0, "worker 1 crashed")])


def test_bars_have_the_staleness_of_the_update_they_end_in():
    first, second = lanes()
    assert [(bar.start, bar.stop, bar.staleness) for bar in first.bars] == [(1.0, 2.0, 3), (3.0, 4.0, 1)]
    assert [bar.loss for bar in first.bars] == [0.7, 0.6]
    # The one cut off by the crash never became an update; its successor's was the exchange.
    assert [(bar.start, bar.stop, bar.staleness) for bar in second.bars] == [(1.0, 4.0, None), (6.0, 7.0, 9)]


def test_parts_of_one_operation_make_one_tick():
    first, second = lanes()
    assert [(tick.kind, tick.versions, tick.staleness) for tick in first.ticks] == [
        (trace.PULL, [(0, 0), (1, 0)], -1),
        (trace.PUSH, [(0, 1), (1, 1)], 3),
        (trace.PUSH, [(0, 2)], 1),
    ]
    assert [tick.kind for tick in second.ticks] == [trace.EXCHANGE]


def test_a_lane_ends_with_its_replica():
    first, second = lanes()
    assert first.alive == [(0.0, 8.0)] and second.alive == [(0.0, 4.0), (5.0, 8.0)]
    assert second.deaths == [(4.0, "worker 1 crashed")] and first.deaths == []


def test_a_window_cuts_and_still_knows_what_comes_after():
    (first,) = lanes(0.0, 2.2, replicas=(0,))
    assert [bar.staleness for bar in first.bars] == [3]  # applied at 2.5
    assert [tick.kind for tick in first.ticks] == [trace.PULL]
    assert first.alive == [(0.0, 2.2)]


def test_without_an_end_so_many_steps_are_shown():
    whole = small_trace()
    assert Window.of(whole, (0, 1), None, None, 1).stop == 3.0  # replica 0 begins its second
    assert Window.of(whole, (0, 1), None, None, 16).stop == 8.0


@pytest.fixture
def simulated(train):
    return train(
        backend="simulation",
        record=True,
        workers={"count": 5},
        stop={"epochs": 2},
        simulation={
            "step_seconds": {"distribution": "exponential", "mean": 1.0},
            "events": [{"at": 3.0, "crash": [1]}],
            "service_seconds": 0.1,
        },
    ).run


def test_the_picture_is_well_formed_and_whole(simulated, tmp_path):
    drawn = write_timeline(simulated, tmp_path / "t.svg", stop=1000.0).read_text()
    root = ElementTree.fromstring(drawn)
    titles = [title.text for title in root.iter(f"{SVG}title")]
    columns = Trace.load(simulated / trace.TRACE_FILE).columns()
    for kind, word in ((trace.PULL, "pull at"), (trace.PUSH, "push at"), (trace.COMPUTE, "worker ")):
        assert sum(title.startswith(word) for title in titles) >= (columns["kind"] == kind).sum()
    assert any(re.fullmatch(r"push at \S+ s: makes version \(shard 0 \d+\), staleness \d+", title) for title in titles)
    assert "worker 1 crashed" in titles
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {f"worker {index}" for index in range(5)} <= set(texts) and "virtual seconds" in texts


def test_the_report_shows_the_beginning(simulated, tmp_path):
    page = write_report([simulated], tmp_path / "r.html").read_text()
    assert "<h2>Timeline</h2>" in page and 'class="timeline"' in page
    assert "simulated: time and rates are virtual" in page
    assert "Training loss over virtual time" in page and "examples/virtual s" in page


def test_a_run_without_a_trace_has_no_timeline(train, tmp_path):
    run = train(workers={"count": 1}).run
    assert beginning(run) == ""
    assert "Timeline" not in write_report([run], tmp_path / "r.html").read_text()
    with pytest.raises(RunDirectoryError, match="record = true"):
        write_timeline(run, tmp_path / "t.svg")


def test_many_lanes_are_numbered(tmp_path):
    run = hogshead.train(
        task=LEAST_SQUARES, strategy="mdownpour", backend="simulation", workers={"count": 64}, stop={"epochs": 1},
        data={"batch_size": 2}, run=tmp_path / "run", quiet=True,
    ).run  # fmt: skip
    root = ElementTree.fromstring(write_timeline(run, tmp_path / "t.svg").read_text())
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {"0", "63", "worker"} <= texts and "worker 63" not in texts


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"replicas": "0-9"}, "no replica 5; the run has 5, from 0 to 4"),
        ({"replicas": "2-100000000000000"}, "no replica 5; the run has 5, from 0 to 4"),
        ({"replicas": "a"}, "e.g. 0-7 or 0,3,5, got 'a'"),
        ({"replicas": "3-1"}, "at least one replica"),
        ({"start": 5.0, "stop": 4.0}, "--from must be before --to, got 5 and 4"),
        ({"start": 1e6, "stop": 2e6}, "before the end of the trace"),
    ],
)
def test_arguments_that_make_no_picture(arguments, said, simulated, tmp_path):
    with pytest.raises(UsageError, match=said):
        write_timeline(simulated, tmp_path / "t.svg", **arguments)


def test_the_command(simulated, tmp_path, capsys):
    assert main(["timeline", str(simulated), "--replicas", "0,2-3", "--from", "1", "--to", "4"]) == 0
    page = (simulated / "timeline.html").read_text()
    assert capsys.readouterr().out.strip().endswith("timeline.html")
    assert "worker 2" in page and "worker 1:" not in page and "1 to 4 virtual seconds" in page
    assert main(["timeline", str(simulated), "--out", "t.png"]) == 2
    assert "must end in .svg or .html" in capsys.readouterr().err
