"""A run whose Ray head is gone ends with a sentence of ours and a summary, before Ray ends its processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'hogshead[ray]'")

from ray.exceptions import ActorDiedError  # noqa: E402

from deploy.cluster import launch  # noqa: E402
from deploy.cluster.head import HeadWatch, failed_summary  # noqa: E402
from deploy.job import Job  # noqa: E402
from ps.errors import TransportError  # noqa: E402
from tests.deploy.cluster.test_following import NEWS, OVER, SILENT, Played  # noqa: E402

TIMEOUT = "RAY_gcs_rpc_server_reconnect_timeout_s"


@pytest.fixture
def job(tmp_path):
    sections = {"strategy": "easgd", "task": "mlp", "data": {"train": "sklearn:digits"}, "backend": "ray"}
    return Job.from_dict(sections, path="job.toml")


class Clock:
    """A clock that the test turns, and a head that listens until ``gone``."""

    def __init__(self):
        self.now, self.gone, self.looks = 0.0, False, 0

    def listens(self, address):
        self.looks += 1
        return not self.gone

    def watch(self):
        return HeadWatch("10.0.0.4:6379", self.listens, lambda: self.now)


@pytest.mark.parametrize(("said", "patience_s"), [("", 60.0), ("600", 600.0), ("nonsense", 60.0)])
def test_a_head_is_lost_well_before_ray_ends_the_processes(monkeypatch, said, patience_s):
    monkeypatch.setenv(TIMEOUT, said)
    clock = Clock()
    watch = clock.watch()
    clock.now = 100.0
    assert not watch.is_lost, "it was there a moment ago"
    clock.gone = True
    for clock.now in (100.0 + 0.45 * patience_s, 100.0 + 0.55 * patience_s, 100.0 + 0.8 * patience_s):
        lost = clock.now > 100.0 + 0.5 * patience_s
        assert watch.is_lost == lost and watch.is_over == (clock.now > 100.0 + 0.75 * patience_s)
    message = watch.message(Path("runs/x"))
    assert f"Ray's head at 10.0.0.4:6379 has not answered for {patience_s / 2:g} s" in message
    assert "`hogshead train --resume runs/x`" in message
    clock.gone, clock.now = False, clock.now + 5.0
    assert not watch.is_lost


def test_it_is_looked_for_now_and_then_only(monkeypatch):
    monkeypatch.delenv(TIMEOUT, raising=False)
    clock = Clock()
    watch = clock.watch()
    for _ in range(1000):
        clock.now += 0.01
        assert not watch.is_lost
    assert 1 <= clock.looks <= 10


class Left(Played):
    """Follows a run whose head is gone, with a coordinator that answers for a while yet."""

    def __init__(self, monkeypatch, tmp_path, job, answers):
        monkeypatch.setenv(TIMEOUT, "60")
        self.stopped = 0
        super().__init__(monkeypatch, answers, away_s=120.0)
        self._head = HeadWatch("10.0.0.4:6379", lambda _: False, lambda: self.now)
        self.job, self.path = job, tmp_path

    def stop(self):
        self.stopped += 1


def test_a_run_that_loses_its_head_is_stopped_while_it_can_be_saved(monkeypatch, tmp_path, job):
    interrupted = {**OVER, "summary": {"status": "interrupted", "epochs": 7, "evaluation": {}}}
    left = Left(monkeypatch, tmp_path, job, [(1.0, NEWS)] * 35 + [(0.0, interrupted)])
    left.follow()
    assert left.stopped == 1 and left.now < 45.0
    result = left.result()
    written = json.loads((tmp_path / "summary.json").read_text())
    assert (written["status"], written["epochs"]) == ("failed", 7) == (result.summary["status"], 7)
    assert written["error"].startswith("Ray's head at 10.0.0.4:6379 has not answered")
    assert str(result.error) == written["error"]


def test_one_whose_coordinator_is_gone_as_well_has_what_was_recorded(monkeypatch, tmp_path, job):
    records = [
        {"kind": "progress", "seconds": 2.0, "epoch": 1.5, "examples": 96, "steps": 3},
        {
            "kind": "evaluation",
            "seconds": 3.0,
            "examples": 96,
            "epoch": 1,
            "evaluation": {"test_accuracy": 0.5},
            "train_loss": 2.0,
        },
        {"kind": "progress", "seconds": 4.0, "epoch": 3.2, "examples": 200, "steps": 7},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "job.toml").write_text(job.to_toml())
    left = Left(monkeypatch, tmp_path, job, [(1.0, NEWS), (0.0, SILENT)])
    left.follow()
    assert left.stopped == 1 and 45.0 < left.now < 60.0, "Ray ends this process after 60 s"
    left.result()
    written = json.loads((tmp_path / "summary.json").read_text())
    assert (written["status"], written["epochs"], written["steps"], written["examples"]) == ("failed", 3, 7, 200)
    assert written["evaluation"] == {"test_accuracy": 0.5} and written["wall_seconds"] == 4.0
    assert (tmp_path / "report.html").exists()


def test_a_head_that_is_away_is_not_asked_what_became_of_the_coordinator(monkeypatch, tmp_path, job):
    """The question would hang until Ray ends this process."""
    left = Left(monkeypatch, tmp_path, job, [(1.0, NEWS), (1.0, ActorDiedError())])
    monkeypatch.setattr(launch, "_coordinator", lambda *_, **__: pytest.fail("asked"))
    left.follow()
    assert left.result().summary["status"] == "failed" and left.now < 60.0


def test_a_run_that_ends_well_meanwhile_has_not_failed(monkeypatch, tmp_path, job):
    done = {**OVER, "summary": {"status": "done", "epochs": 9, "evaluation": {}, "error": None}}
    left = Left(monkeypatch, tmp_path, job, [(1.0, NEWS)] * 35 + [(0.0, done)])
    left.follow()
    assert left.stopped == 1 and left.result().summary["status"] == "done"


def test_a_run_that_has_recorded_nothing_has_a_summary_too(tmp_path, job):
    summary = failed_summary(job, tmp_path, None, TransportError("why"))
    assert summary["error_type"] == "TransportError" and summary["evaluation"] == {}
    assert json.loads((tmp_path / "summary.json").read_text())["error"] == "why"
