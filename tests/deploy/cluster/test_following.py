"""A driver follows its coordinator, and gives up by the time that has passed, however long each call takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'hogshead[ray]'")

import ray  # noqa: E402
from ray.exceptions import ActorDiedError, ActorUnavailableError  # noqa: E402

from deploy.cluster import launch  # noqa: E402
from deploy.cluster.connection import ClusterError  # noqa: E402
from deploy.cluster.launch import Follower  # noqa: E402
from deploy.progress import Observer  # noqa: E402

NEWS = {"life": "a", "position": 0, "records": [], "info": None, "summary": None, "error": None, "over": False}
OVER = {**NEWS, "summary": {"status": "done"}, "over": True}
UNAVAILABLE = ActorUnavailableError("being restarted", None)
SILENT = "silent"


class Played(Follower):
    """Follows a coordinator whose answers are a script, on a clock that each of them moves.

    Args:
      answers: (seconds that it takes, news or an exception or SILENT), one after another; the last for ever.
    """

    def __init__(self, monkeypatch, answers, away_s=20.0, listed=True):
        self.now, self.answers, self.asked, self.tended, self.heard_at = 0.0, list(answers), 0, 0, []
        job = SimpleNamespace(cluster=SimpleNamespace(detach=True))
        super().__init__(job, None, Observer(), "run-1", away_s=away_s, clock=lambda: self.now)
        self._actor = SimpleNamespace(follow=SimpleNamespace(remote=self._ask))
        monkeypatch.setattr(launch.time, "sleep", self._pass)
        monkeypatch.setattr(ray, "wait", self._wait)
        monkeypatch.setattr(ray, "get", self._get)
        monkeypatch.setattr(launch, "_coordinator", lambda uid, patience_s: "handle" if listed else None)

    def _ask(self, life, position):
        self.asked += 1
        return object()

    def _pass(self, seconds):
        self.now += seconds

    def _wait(self, requests, timeout):
        seconds, answer = self.answers[0]
        if answer is not SILENT:
            return requests, []
        self.now += timeout
        assert self.now < 10_000, "waits for ever"
        if len(self.answers) > 1 and self.now >= seconds:
            self.answers.pop(0)
        return [], requests

    def _get(self, request):
        seconds, answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.now += seconds
        assert self.now < 10_000, "asks for ever"
        if isinstance(answer, Exception):
            raise answer
        return answer

    def tend(self):
        self.tended += 1

    def heard(self):
        self.heard_at.append(self.now)


def test_a_run_is_followed_to_its_end(monkeypatch):
    played = Played(monkeypatch, [(1.0, NEWS), (1.0, NEWS), (0.0, OVER)])
    played.follow()
    assert played.summary == {"status": "done"} and played.heard_at == [1.0, 2.0, 2.0]


@pytest.mark.parametrize("seconds", [0.0, 7.0, 60.0])
def test_one_that_only_errs_is_given_up_by_the_clock(monkeypatch, seconds):
    """However long each error takes to come."""
    played = Played(monkeypatch, [(1.0, NEWS), (seconds, UNAVAILABLE)])
    with pytest.raises(ClusterError, match="has not answered for 20 s: .*being restarted"):
        played.follow()
    assert 21.0 < played.now <= 22.0 + max(seconds, 7.0) and played.heard_at == [1.0]


def test_one_that_leaves_a_request_unanswered_is_given_up_too(monkeypatch):
    """As where the node manager beside the driver has died: nothing comes, not even an error."""
    played = Played(monkeypatch, [(1.0, NEWS), (0.0, SILENT)])
    with pytest.raises(ClusterError, match="has not answered for 20 s: it leaves a request unanswered"):
        played.follow()
    assert 21.0 < played.now <= 25.0 and played.asked == 2
    assert played.tended > 5, "a wish to stop or to kill is carried out meanwhile"


def test_one_that_was_just_started_has_longer_for_its_first_answer(monkeypatch):
    """It imports, and builds the task, on a machine that may be busy."""
    played = Played(monkeypatch, [(90.0, SILENT), (0.0, NEWS), (0.0, SILENT)])
    with pytest.raises(ClusterError, match="has not answered for 20 s"):
        played.follow(first_s=120.0)
    assert len(played.heard_at) == 1 and 90.0 <= played.heard_at[0] < played.now <= 116.0


def test_one_that_comes_back_in_time_is_followed_on(monkeypatch):
    away = [(1.0, UNAVAILABLE)] * 10
    played = Played(monkeypatch, [(1.0, NEWS), *away, (1.0, NEWS), *away, (0.0, OVER)])
    played.follow()
    assert played.summary == {"status": "done"} and played.now > 30.0


def test_one_that_is_gone_for_good_ends_it_at_once(monkeypatch):
    played = Played(monkeypatch, [(1.0, ActorDiedError())], listed=False)
    with pytest.raises(ClusterError, match="died and did not come back"):
        played.follow()
    assert played.now == 1.0


def test_while_nothing_can_be_learned_of_one_it_is_not_gone(monkeypatch):
    def refuse(uid, patience_s):
        raise ClusterError("Ray's head does not answer")

    played = Played(monkeypatch, [(1.0, NEWS), (1.0, ActorDiedError())])
    monkeypatch.setattr(launch, "_coordinator", refuse)
    with pytest.raises(ClusterError, match="has not answered for 20 s"):
        played.follow()
    assert played.now <= 24.0


def test_one_that_has_died_and_is_listed_is_waited_for(monkeypatch):
    played = Played(monkeypatch, [(1.0, ActorDiedError()), (5.0, ActorDiedError()), (0.0, OVER)])
    played.follow()
    assert played.summary == {"status": "done"}
