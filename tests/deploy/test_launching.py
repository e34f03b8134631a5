"""The launcher's own paths, with a crew that says what the test has written down."""

from __future__ import annotations

from collections import deque
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from deploy import launcher as launching
from deploy.crew import EVALUATOR
from deploy.job import Job
from deploy.launcher import Launcher
from deploy.monitor import Monitor
from deploy.progress import Observer
from deploy.run_directory import RunDirectory, read_metrics
from deploy.setup import prepare
from tests.deploy.conftest import LEAST_SQUARES
from worker.statistics import Statistics

HANGS = object()


class Cast:
    """Workers that join, do what they are given and end, unless a line of the script says otherwise.

    Attributes:
      lines: (kind of a message told to a worker, its id) -> what comes back instead; an exception is raised by ``poll``;
        after ``HANGS`` nothing comes.
      killed: by the launcher.
    """

    def __init__(self, statistics):
        self.present: set[int] = set()
        self.coming: deque = deque()
        self.lines: dict[tuple[str, int], object] = {}
        self.told: list[tuple[int, str]] = []
        self.started: list[tuple[int, int]] = []
        self.ended = False
        self.killed: list[int] = []
        self.evaluators = 0
        self._statistics = statistics

    def start_worker(self, replica, incarnation, restored=None):
        self.started.append((replica, incarnation))
        self.present.add(replica)
        self.coming.append((replica, {"kind": "joined"}))

    def start_evaluator(self):
        self.evaluators += 1

    def kill(self, key):
        self.killed.append(key)
        self.coming.append((key, died("killed by SIGKILL")))

    def tell(self, key, kind, **fields):
        self.told.append((key, kind))
        answer = self.lines.pop((kind, key), None)
        if answer is not None:
            if answer is not HANGS:
                self.coming.append((key, answer))
        elif kind == "work":
            part = fields["range"]
            self._statistics[key].examples += part["stop"] - part["start"]
            self.coming.append((key, {"kind": "done", "range": part["id"]}))
        elif kind == "stop":
            self.coming.append((key, {"kind": "finished"}))
        elif kind == "end":
            self.present.discard(key)

    def poll(self, timeout_s):
        while self.coming:
            key, message = self.coming.popleft()
            if isinstance(message, BaseException):
                raise message
            if message["kind"] == "died":
                self.present.discard(key)
            yield key, message

    def workers(self):
        return sorted(self.present)

    def end(self):
        self.ended = True


class Appraisals:
    """Evaluations that are answered at once."""

    full = False

    def __init__(self, cast):
        self.cast, self.pending, self.latest, self.current = cast, 0, {}, False
        self.asked: list[int] = []
        self.repeated = 0

    def again(self):
        self.repeated += 1
        for _ in range(self.pending):
            self._ask()

    def is_current(self):
        return self.current

    def request(self, epoch, facts):
        self.asked.append(epoch)
        self.pending += 1
        self._ask()

    def _ask(self):
        answer = self.cast.lines.pop(("evaluate", EVALUATOR), {"kind": "evaluated", "metrics": {"rmse": 0.5}})
        if answer is not HANGS:
            self.cast.coming.append((EVALUATOR, answer))

    def answered(self, metrics):
        self.pending -= 1
        self.latest, self.current = metrics, True
        return self.asked[-1], {"kind": "evaluation", "epoch": 1, "seconds": 0.0, "examples": 0, "evaluation": metrics}


class Play(Launcher):
    """A launcher whose shards are in this process."""

    def __init__(self, setup, directory, plan=None):
        statistics = [Statistics.of(setup.arrays, worker) for worker in range(setup.job.workers.count)]
        self.cast = Cast(statistics)
        super().__init__(
            setup, plan or setup.plan(), directory, Observer(), self.cast, Appraisals(self.cast),
            Monitor(setup.arrays, setup.job.workers.count),
        )  # fmt: skip
        self.log: list[object] = []
        self.holders: set[int] = set()

    def _join(self, replica):
        self.log.append(("join", replica))

    def _leave(self, replica):
        self.log.append(("leave", replica))

    def _bury(self, replica):
        self.log.append(("bury", replica))
        self.holders.discard(replica)

    def _holders(self):
        return self.holders

    def _start_facts(self):
        return {}

    def _result_vector(self):
        return self.setup.result_vector()

    def _shard_counts(self):
        return {}

    def _checkpoint(self, final=False):
        self._save_is_due = False
        self.log.append("final checkpoint" if final else f"checkpoint after {self.coordinator.ended}")

    def _save_what_there_is(self):
        self.log.append("what there is")

    def play(self):
        """To the end, as launchers do; returns the summary."""
        try:
            self._guarded(self._train)
            self._guarded(self._wind_up)
        finally:
            self.cast.end()
        return self._conclude().summary


@pytest.fixture
def play(tmp_path):
    """``play(sections…)`` is a launcher that has not begun."""
    opened = []

    def make(**sections):
        tables = {"task": LEAST_SQUARES, "strategy": "downpour", "stop": {"epochs": 2}, **sections}
        job = Job.from_dict(tables).with_run(tmp_path / "run")
        opened.append(RunDirectory.create(job))
        return Play(prepare(job, shared=False), opened[-1])

    yield make
    for directory in opened:
        directory.close()


def died(message="killed", fatal=False, kind="Killed"):
    return {"kind": "died", "type": kind, "message": message, "fatal": fatal}


def events(play):
    return [record["event"] for record in read_metrics(play.directory.path) if record["kind"] == "event"]


def test_a_run_from_the_first_worker_to_the_summary(play):
    launcher = play()
    summary = launcher.play()
    assert summary["status"] == "done" and summary["epochs"] == 2 and summary["examples"] == 2 * 512
    assert launcher.cast.ended and launcher.log == ["final checkpoint"] and summary["evaluation"] == {"rmse": 0.5}
    assert [kind for _, kind in launcher.cast.told if kind != "work"] == ["stop", "stop", "end", "end"]
    assert (launcher.directory.path / "report.html").exists()


def test_one_that_dies_while_it_is_to_finish_is_not_waited_for_nor_replaced(play):
    launcher = play()
    launcher.cast.lines["stop", 1] = died()
    summary = launcher.play()
    assert summary["status"] == "done" and summary["worker_deaths"] == 1
    assert (
        ("bury", 1) in launcher.log
        and launcher.cast.started == [(0, 1), (1, 1)]
        and events(launcher) == ["worker_died"]
    )


def test_one_that_dies_at_work_is_replaced_by_a_newer_incarnation(play):
    launcher = play()
    launcher.cast.lines["work", 1] = died("Traceback (most recent call last):\n  ...\nValueError: mine")
    summary = launcher.play()
    assert summary["status"] == "done" and launcher.cast.started == [(0, 1), (1, 1), (1, 2)]
    assert events(launcher) == ["worker_died", "worker_replaced"]
    (told,) = [r["message"] for r in read_metrics(launcher.directory.path) if r.get("event") == "worker_died"]
    assert told == "worker 1: ValueError: mine"


@pytest.mark.parametrize("kind", ["NonFiniteError", "UsageError", "SomethingElse"])
def test_a_fatal_death_ends_the_run_and_saves_what_there_is(kind, play):
    launcher = play()
    launcher.cast.lines["work", 0] = died("too much", fatal=True, kind=kind)
    summary = launcher.play()
    assert summary["status"] == "failed" and summary["error"] == "too much" and launcher.log[-1] == "what there is"
    assert type(launcher.failure).__name__ == (kind if kind != "SomethingElse" else "WorkerError")


def test_one_that_keeps_dying_ends_the_run(play):
    launcher = play(workers={"count": 1, "max_restarts": 1})
    launcher.cast.start_worker = lambda replica, incarnation, restored=None: (
        launcher.cast.present.add(replica),
        launcher.cast.coming.append((replica, died("once more"))),
    )
    summary = launcher.play()
    assert summary["status"] == "failed" and summary["error"] == "worker 0 died 2 times in a row: once more"


def test_an_evaluator_that_fails_ends_the_run(play):
    launcher = play()
    launcher.cast.lines["evaluate", EVALUATOR] = {"kind": "error", "message": "evaluate raised KeyError"}
    summary = launcher.play()
    assert summary["status"] == "failed" and summary["error"] == "evaluate raised KeyError"
    assert launcher.log[-1] == "what there is"


def test_an_evaluation_that_fails_at_the_end_does_not_cost_the_result(play):
    launcher = play(evaluation={"every_epochs": 0})
    launcher.cast.lines["evaluate", EVALUATOR] = {"kind": "error", "message": "evaluate raised KeyError"}
    assert launcher.play()["status"] == "failed" and launcher.log[-1] == "final checkpoint"


def test_an_evaluator_that_dies_is_replaced_and_asked_again(play):
    launcher = play()
    launcher.cast.lines["evaluate", EVALUATOR] = died()
    summary = launcher.play()
    assert summary["status"] == "done" and summary["evaluation"] == {"rmse": 0.5} and summary["worker_deaths"] == 0
    assert events(launcher) == ["evaluator_died"] and launcher.cast.evaluators == 2
    assert launcher.evaluations.repeated == 1


def test_an_evaluator_that_keeps_dying_ends_the_run(play):
    launcher = play(workers={"max_restarts": 2})
    launcher.evaluations.again = lambda: launcher.cast.coming.append((EVALUATOR, died("once more")))
    launcher.cast.lines["evaluate", EVALUATOR] = died()
    summary = launcher.play()
    assert summary["error"] == "the evaluator died 3 times in a row: once more" and launcher.cast.evaluators == 3


@pytest.fixture
def a_second_a_look(monkeypatch):
    """The launcher's clock shows one second more whenever it is read."""
    seconds = count()
    monkeypatch.setattr(launching, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))


def test_one_that_hangs_is_replaced_where_the_job_says_so(play, a_second_a_look):
    launcher = play(workers={"stuck_seconds": 300}, checkpoint={"every_seconds": None})
    launcher.cast.lines["work", 1] = HANGS
    summary = launcher.play()
    assert summary["status"] == "done" and launcher.cast.killed == [1] and summary["worker_deaths"] == 1
    told = [r["message"] for r in read_metrics(launcher.directory.path) if r["kind"] == "event"]
    assert told[0].startswith("worker 1 has not moved for 6") and told[1].startswith("worker 1 has not moved for 12")
    assert told[-2].startswith("worker 1: did not move for 30") and told[-2].endswith("([workers] stuck_seconds = 300)")
    assert told[-1] == "worker 1 was replaced"


def test_of_several_that_hang_the_one_that_the_others_wait_for_is_replaced(play, a_second_a_look):
    launcher = play(workers={"count": 3, "stuck_seconds": 300}, checkpoint={"every_seconds": None})
    for replica in range(3):
        launcher.cast.lines["work", replica] = HANGS
    launcher.holders = {2}
    assert launcher.play()["status"] == "done"
    assert launcher.cast.killed == [2, 0, 1]  # no other is killed before it has had its time once more


@pytest.mark.parametrize("sections", [{"stop": {"seconds": 400}}, {}])
def test_the_end_does_not_wait_for_one_that_hangs(sections, play, a_second_a_look):
    """Neither after a bound nor after ^C."""
    launcher = play(checkpoint={"every_seconds": None}, **sections)
    launcher.cast.lines["work", 1] = HANGS
    launcher.cast.lines["stop", 1] = HANGS
    if not sections:
        launcher.cast.lines["work", 0] = KeyboardInterrupt()
    summary = launcher.play()
    assert summary["status"] == ("done" if sections else "interrupted") and summary["error"] is None
    assert launcher.cast.killed == [1] and "final checkpoint" in launcher.log and summary["worker_deaths"] == 1


def test_an_evaluation_that_hangs_is_named_and_a_bound_on_time_holds(play, a_second_a_look):
    launcher = play(
        workers={"stuck_seconds": 1000}, stop={"seconds": 100, "epochs": 1000}, checkpoint={"every_seconds": None}
    )
    launcher.cast.lines["evaluate", EVALUATOR] = HANGS
    summary = launcher.play()
    assert summary["status"] == "done" and summary["stop_reason"] == "100 seconds"
    assert launcher.cast.killed == [EVALUATOR] and summary["evaluation"] == {"rmse": 0.5}
    assert events(launcher)[0] == "stuck"


def test_an_interrupt_at_work_saves_and_does_not_flush(play):
    launcher = play()
    launcher.cast.lines["work", 0] = KeyboardInterrupt()
    summary = launcher.play()
    assert summary["status"] == summary["stop_reason"] == "interrupted" and launcher.log[-1] == "final checkpoint"
    assert launcher.evaluations.asked == []


def test_an_interrupt_while_it_winds_up_is_saved_without_an_evaluation(play):
    launcher = play(evaluation={"every_epochs": 0})
    launcher.cast.lines["stop", 0] = KeyboardInterrupt()
    assert launcher.play()["status"] == "interrupted" and launcher.cast.ended
    assert launcher.log == ["final checkpoint"] and launcher.evaluations.asked == []


def test_a_second_interrupt_ends_it_without_a_checkpoint(play):
    launcher = play()
    launcher.cast.lines["work", 0] = KeyboardInterrupt()
    launcher.cast.lines["stop", 0] = KeyboardInterrupt()
    assert launcher.play()["status"] == "interrupted" and launcher.cast.ended and launcher.log == []


def test_a_center_that_is_not_finite_is_neither_saved_nor_evaluated(play):
    launcher = play(evaluation={"every_epochs": 0})
    launcher.setup.state.center[0] = np.nan
    summary = launcher.play()
    assert summary["status"] == "failed" and launcher.log == [] and launcher.evaluations.asked == []


def test_synchronous_replicas_are_saved_between_epochs(play):
    launcher = play(strategy="synchronous", stop={"epochs": 3}, checkpoint={"every_seconds": 1e-9})
    launcher.play()
    saved = [entry for entry in launcher.log if isinstance(entry, str)]
    assert saved[-1] == "final checkpoint" and set(saved[:-1]) <= {f"checkpoint after {epoch}" for epoch in (1, 2, 3)}


def test_so_many_seconds(play):
    launcher = play(stop={"seconds": 1e-9, "epochs": 1000})
    summary = launcher.play()
    assert summary["status"] == "done" and summary["stop_reason"] == "1e-09 seconds" and summary["epochs"] < 1000
