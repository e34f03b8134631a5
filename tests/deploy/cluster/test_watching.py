"""What the coordinator makes of shards and workers that do not answer; their actors are stood in for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'hogshead[ray]'")

from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError  # noqa: E402

from deploy.cluster import conduct, saving, shards  # noqa: E402
from deploy.cluster.conduct import Cluster  # noqa: E402
from deploy.cluster.overview import Overview  # noqa: E402
from deploy.cluster.saving import NotNow, Saving  # noqa: E402
from deploy.cluster.shards import Shards  # noqa: E402
from ps.errors import CheckpointError, TransportError  # noqa: E402

PENDING = object()
HELD = {"queue": [], "lately": [], "at_hand": (-1, 0)}
UNAVAILABLE = ActorUnavailableError("out of reach", b"1" * 16)


class Gone(ActorDiedError):
    """As Ray tells of a constructor that failed."""

    def __str__(self):
        return "it died\nps.errors.MemoryShortage: too little shared memory\n"


GONE = Gone()


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    """A call's reference is its answer: a value, an error, or pending."""

    def get(call, timeout=None):
        if isinstance(call, Exception):
            raise call
        return call

    def wait(calls, timeout=None, **_options):
        done = [call for call in calls if call is not PENDING]
        return done, [call for call in calls if call is PENDING]

    for module in (saving, shards):
        monkeypatch.setattr(module.ray, "get", get)
        monkeypatch.setattr(module.ray, "wait", wait)


def actor(answer, calls=None):
    """One that answers every method so."""

    def called(*_args):
        if calls is not None:
            calls.append(1)
        return answer

    return SimpleNamespace(look=SimpleNamespace(remote=called), hold=SimpleNamespace(remote=called))


def watched(*answers):
    found = Shards.__new__(Shards)
    found.handles, found.places, found._watched, found._dead = list(answers), {}, {}, set()
    return found


def test_a_shard_that_can_never_be_ends_the_run_with_its_reason():
    found = watched(actor({}), actor(GONE))
    found.check()
    with pytest.raises(TransportError, match="^shard 1 cannot be started: .*too little shared memory") as caught:
        found.check()
    assert caught.value.shard == 1


def test_a_call_may_fail_in_the_moment_of_a_death():
    found = watched(actor(GONE))
    found.check()
    found.handles[0] = actor(UNAVAILABLE)
    found.check()
    found.handles[0] = actor(GONE)
    found.check()


def test_a_shard_that_starts_or_is_being_restarted_is_waited_for():
    calls = []
    found = watched(actor(PENDING, calls), actor(UNAVAILABLE))
    found.check()
    found.check()
    assert len(calls) == 1, "it is asked once until it answers"


def test_a_look_waits_for_all_at_one_time():
    found = watched(actor({"version": 7}), actor(PENDING), actor(UNAVAILABLE), actor({"version": 2}))
    found.seen = [0, 0, 0, 5]
    assert found.look() == [{"version": 7}, None, None, {"version": 2}]
    assert found.seen == [7, 0, 0, 5]


def test_the_last_counts_are_worth_waiting_for(monkeypatch):
    """A shard on a busy machine may take longer than a look in between may."""
    found, waits = watched(actor({"version": 7, "counts": {"duplicate_pushes": 3}})), []
    found.seen, found.count, found.places, wait = [0], 1, {0: "somewhere"}, shards.ray.wait
    monkeypatch.setattr(shards.ray, "wait", lambda calls, **options: waits.append(options) or wait(calls, **options))
    overview = Overview(None, found, None)
    assert overview.shard_counts() == {"torn_updates": 0, "duplicate_pushes": 3, "memory_fallbacks": 0}
    found.places = {}  # one that has no node yet tells nothing, however long it is waited for
    overview.shard_counts()
    patient, short = (options["timeout"] for options in waits)
    assert patient >= 10 * short


def test_a_dead_worker_does_not_disturb_a_checkpoint():
    assert Saving._hold(None, {0: actor(HELD), 1: actor(GONE)}) == {0: HELD}


@pytest.mark.parametrize(
    ("answer", "kind"), [(UNAVAILABLE, TransportError), (GetTimeoutError(), CheckpointError), (None, CheckpointError)]
)
def test_one_that_may_be_at_work_does(answer, kind):
    """What it pushes in that moment might be in one shard's copy and not in another's."""
    with pytest.raises(kind, match="worker 1"):
        Saving._hold(None, {0: actor(HELD), 1: actor(answer)})


@pytest.fixture
def cluster(monkeypatch):
    """One that has saved nothing yet; ``cluster.tries`` are what trying to comes to."""
    monkeypatch.setattr(conduct, "_AGAIN_S", 0.0)
    cluster = Cluster.__new__(Cluster)
    cluster._saved_count = cluster._not_saved_count = cluster._writing = 0
    cluster.tries, cluster.saving = [], SimpleNamespace(settle=lambda: None, under_way=False)

    def save(_final):
        outcome = cluster.tries.pop(0)
        if isinstance(outcome, Exception):
            raise outcome

    cluster._save = save
    return cluster


def test_a_checkpoint_that_was_asked_for_is_tried_again_while_a_shard_is_away(cluster):
    """It may only have been too busy to answer within a second."""
    away = [True, True, False]

    def hasten(occasion):
        assert occasion == "save"
        cluster._checkpoint()

    def save(_final):
        cluster._saved_count += 1

    cluster._save, cluster._timetable = save, SimpleNamespace(hasten=hasten)
    cluster._worth_saving = lambda: not away.pop(0)
    assert cluster.save_soon(60.0) and away == []


def test_the_last_checkpoint_is_tried_again_for_those_who_do_not_hold_still(cluster):
    cluster.tries = [NotNow("worker 1 does not answer"), TransportError("a shard is away"), None]
    cluster._checkpoint(final=True)
    assert cluster.tries == []
    cluster.tries = [CheckpointError("the disk is full"), None]
    with pytest.raises(CheckpointError, match="full"):
        cluster._checkpoint(final=True)
    assert cluster.tries == [None]
