"""The report: self-contained, complete, safe to open, for one run, several, a failed one and one that still runs."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from deploy.report import mean_rates, measured, read_run, render, with_distinct_names, worker_series, write_report
from ps.errors import RunDirectoryError

VOID = {"meta", "circle", "line", "br"}


class Checker(HTMLParser):
    """Collects headings and captions; fails on tags that are not closed in order."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def page_of(runs, tmp_path) -> str:
    return write_report(runs, tmp_path / "out.html").read_text()


def test_one_run(recorded_run, tmp_path):
    page = page_of([recorded_run()], tmp_path)
    texts = Checker(page).texts
    assert texts["figcaption"] == [
        "Training loss over time",
        "Training loss over examples",
        "test_accuracy over time",
        "test_accuracy over examples",
        "Staleness at apply",
        "Mean staleness over time",
        "Throughput per worker over time",
        "Mean throughput of each worker",
    ]
    assert {"Training loss", "Evaluation", "Staleness and throughput", "Events"} == set(texts["h2"])
    tiles = dict(re.findall(r'<div class="tile"><b>([^<]*)</b><span>([^<]*)</span>', page))
    assert tiles["0.9"] == "test_accuracy" and tiles["5.2 s"] == "wall time" and tiles["1.5"] == "mean staleness"
    assert "worker 1 &lt;killed&gt;" in page and "# &lt;not html&gt;" in page
    assert "mean 1.5, median 1, 95 % 3, max 4" in page


def test_needs_nothing_from_elsewhere(recorded_run, tmp_path):
    page = page_of([recorded_run("a"), recorded_run("b")], tmp_path)
    names = {name for name, _ in Checker(page).attributes}
    assert not names & {"src", "href", "xlink:href", "srcset", "action"}
    assert "url(" not in page and "@import" not in page and "fetch(" not in page
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_follows_the_reader_s_colors_and_screen(recorded_run, tmp_path):
    page = page_of([recorded_run()], tmp_path)
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page and "max-width: 600px" in page


def test_several_runs_are_overlaid_with_a_legend(recorded_run, tmp_path):
    runs = [
        recorded_run("fast"),
        recorded_run("slow", status="interrupted"),
        recorded_run("odd", evaluation={"test_loss": 0.5}),
    ]
    page = page_of(runs, tmp_path)
    first = re.search(r'<figure class="chart"><figcaption>Training loss over time.*?</figure>', page, re.DOTALL)[0]
    assert re.findall(r'<i class="key (c\d)"></i>([^<]*)</li>', first) == [
        ("c0", "fast"),
        ("c1", "slow"),
        ("c2", "odd"),
    ]
    assert len(re.findall(r'<path class="line', first)) == 3
    assert "<h1>3 runs</h1>" in page and ">interrupted</td>" in page
    assert "Throughput of all workers over time" in page


def test_runs_of_one_name_are_told_apart(recorded_run, tmp_path):
    (tmp_path / "x").mkdir()
    run = recorded_run("x/try-1"), recorded_run("try-1")
    names = [run.name for run in with_distinct_names([read_run(run[0]), read_run(run[1]), read_run(run[1])])]
    assert len(set(names)) == 3 and names[0] == "x/try-1"


def test_a_failed_run_shows_its_error(recorded_run, tmp_path):
    page = page_of([recorded_run(status="failed", error="ValueError: <boom>\n  line 3")], tmp_path)
    assert '<p class="error">ValueError: &lt;boom&gt;\n  line 3</p>' in page and "status failed" in page


def test_a_run_that_is_still_running_or_has_recorded_nothing(tmp_path):
    (tmp_path / "job.toml").write_text("seed = 1\n")
    page = render([read_run(tmp_path)])
    Checker(page)
    assert "status running" in page and page.count("no values recorded") >= 4


def test_charts_of_each_worker(recorded_run):
    run = read_run(recorded_run(workers=2))
    assert [(entry.name, entry.y[0]) for entry in worker_series(run)] == [("worker 0", 50.0), ("worker 1", 51.0)]
    assert mean_rates(run) == [(0, 100.0), (1, 100.0)]  # 500 examples each in 5 seconds


def test_idle_intervals_do_not_break_the_loss(recorded_run):
    run = recorded_run()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    idle = {**json.loads(lines[1]), "seconds": 1.2, "loss": None}
    (run / "metrics.jsonl").write_text("\n".join([*lines[:2], json.dumps(idle), *lines[2:]]) + "\n")
    loss = re.search(r"Training loss over time.*?</figure>", render([read_run(run)]), re.DOTALL)[0]
    assert re.search(r'<path class="line c0" d="([^"]*)"', loss)[1].count("M") == 1
    assert len(measured(read_run(run))) == 10 and len(read_run(run).progress) == 11


def test_many_workers_are_summed_up(recorded_run):
    series = worker_series(read_run(recorded_run(workers=20)))
    assert [(entry.name.split()[0], entry.y[0]) for entry in series] == [
        ("slowest", 50.0),
        ("mean", 59.5),
        ("fastest", 69.0),
    ]


def test_refuses_what_is_no_run(tmp_path):
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        write_report([tmp_path], tmp_path / "out.html")
