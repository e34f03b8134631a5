"""A job's way through its states, with a driver that the test plays and a cluster that it breaks."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from deploy.service.states import AT_WORK, ENDED, State


def test_from_queued_to_succeeded(theatre):
    job = theatre.submit(overrides=("stop.epochs=3",))
    theatre.look()
    assert theatre.state(job) == "starting"
    assert theatre.cluster.commands[theatre.submission(job)] == [
        "python3", "-m", "deploy.service.entry", str(theatre.folder(job).path), "1"
    ]  # fmt: skip
    assert theatre.folder(job).order["overrides"] == ["stop.epochs=3"]
    theatre.drive(job, progress=False)
    theatre.look()
    assert theatre.state(job) == "starting"
    theatre.drive(job)
    theatre.look()
    assert theatre.state(job) == "running"
    theatre.folder(job).outcome = {"status": "done", "reason": "3 epochs"}
    theatre.look()
    record = theatre.store.get(job)
    assert (record.state, record.reason) == (State.SUCCEEDED, "3 epochs")
    assert record.submitted_at <= record.started_at <= record.ended_at


@pytest.mark.parametrize("status, state", [("failed", "failed"), ("interrupted", "stopped"), ("nonsense", "failed")])
def test_the_outcome_decides_how_it_ended(theatre, status, state):
    job = theatre.submit()
    theatre.look()
    theatre.folder(job).outcome = {"status": status, "reason": "why"}
    theatre.look()
    assert (theatre.state(job), theatre.store.get(job).reason) == (state, "why")


def test_room_is_given_to_the_next_when_one_has_ended(theatre):
    first, second = theatre.submit(cpus=3.0), theatre.submit(cpus=3.0)
    theatre.look()
    assert (theatre.state(first), theatre.state(second)) == ("starting", "queued")
    assert "1 are free" in theatre.store.get(second).reason
    theatre.folder(first).outcome = {"status": "done"}
    theatre.look()
    assert (theatre.state(second), theatre.store.get(second).reason) == ("starting", "")


def test_while_the_cluster_is_away_jobs_wait_and_say_so(theatre):
    theatre.cluster.away = True
    job = theatre.submit()
    theatre.look(3)
    assert theatre.state(job) == "queued" and "Ray does not answer" in theatre.store.get(job).reason
    theatre.cluster.away = False
    theatre.look()
    assert theatre.state(job) == "starting"


def test_a_wish_reaches_the_driver(theatre):
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    theatre.store.change(job, AT_WORK, state=State.STOPPING, wish="stop")
    theatre.look()
    order = theatre.folder(job).order
    assert order["wish"] == "stop" and order["above"] == 0
    theatre.folder(job).outcome = {"status": "interrupted", "reason": "stopped after 2 epochs"}
    theatre.look()
    record = theatre.store.get(job)
    assert (record.state, record.wish) == (State.STOPPED, "")


def test_a_lost_driver_is_started_again_with_the_same_order(theatre):
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    theatre.look()
    order = theatre.folder(job).order
    theatre.die(job)
    theatre.look(3)
    assert theatre.store.get(job).attempt == 1, "it was heard a moment ago; Ray may be wrong"
    theatre.look(10)
    assert theatre.store.get(job).attempt == 2 and theatre.submission(job) in theatre.cluster.commands
    assert theatre.folder(job).order == order and theatre.state(job) == "running"


def test_a_driver_that_beats_lives_whatever_ray_says(theatre):
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    theatre.die(job)
    for _ in range(30):
        theatre.beat(job)
        theatre.look()
    assert theatre.store.get(job).attempt == 1


def test_a_driver_that_is_silent_for_long_is_lost_whatever_ray_says(theatre):
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    theatre.look(50)
    assert theatre.store.get(job).attempt == 1
    first = theatre.submission(job)
    theatre.look(20)
    assert theatre.store.get(job).attempt == 2
    assert theatre.cluster.states[first] == "STOPPED", "it may hang, and must be gone before the next one"


def test_a_driver_that_ray_has_not_begun_yet_is_waited_for(theatre):
    job = theatre.submit()
    theatre.look(200)
    assert theatre.store.get(job).attempt == 1
    theatre.look(150)
    assert theatre.store.get(job).attempt == 2, "Ray itself has forgotten it"


def test_a_submission_that_ray_never_heard_of_is_made_again(theatre):
    """As after a crash between the store and Ray, or of a head without memory."""
    job = theatre.submit()
    theatre.look()
    del theatre.cluster.states[theatre.submission(job)]
    theatre.look(5)
    assert theatre.store.get(job).attempt == 2 and len(theatre.cluster.commands) == 2


def test_while_the_head_is_away_no_driver_is_lost(theatre):
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    theatre.cluster.away = True
    theatre.look(300)
    assert (theatre.state(job), theatre.store.get(job).attempt) == ("running", 1)
    theatre.cluster.away = False
    theatre.die(job)
    theatre.look(10)
    assert theatre.store.get(job).attempt == 2


def test_drivers_that_come_to_nothing_are_given_up(theatre):
    job = theatre.submit(most_attempts=3)
    for attempt in range(1, 5):
        theatre.look(40)
        assert theatre.store.get(job).attempt == attempt
        theatre.die(job)
    theatre.look(40)
    record = theatre.store.get(job)
    assert record.state == State.FAILED and "lost 4 times in a row" in record.reason


def test_drivers_that_train_in_between_are_not(theatre):
    job = theatre.submit(most_attempts=2)
    for _ in range(8):
        theatre.look(40)
        theatre.drive(job)
        theatre.die(job)
    assert theatre.state(job) == "running"


def test_an_outcome_that_comes_with_the_drivers_end_counts(theatre):
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    theatre.look(8)
    theatre.die(job, "SUCCEEDED")
    theatre.folder(job).outcome = {"status": "done"}
    theatre.look()
    assert theatre.state(job) == "succeeded" and theatre.store.get(job).attempt == 1


def test_another_supervisor_finds_everything_again(theatre):
    running, lost, waiting = theatre.submit(cpus=1.0), theatre.submit(cpus=1.0), theatre.submit(cpus=4.0)
    theatre.look()
    theatre.drive(running)
    theatre.drive(lost)
    theatre.look()
    theatre.supervisor = theatre.another_supervisor()
    theatre.die(lost)
    for _ in range(20):
        theatre.beat(running)
        theatre.look()
    assert [theatre.store.get(job).attempt for job in (running, lost, waiting)] == [1, 2, 0]
    theatre.folder(running).outcome = theatre.folder(lost).outcome = {"status": "done"}
    theatre.look(2)
    assert [theatre.state(job) for job in (running, lost, waiting)] == ["succeeded", "succeeded", "starting"]


def test_a_resumed_job_begins_above_what_it_has_done(theatre):
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    theatre.folder(job).outcome = {"status": "interrupted"}
    theatre.look()
    theatre.store.change(job, ENDED, state=State.QUEUED, resume=True, overrides=("stop.epochs=9",), ended_at=None)
    theatre.look()
    order = theatre.folder(job).order
    assert (order["above"], order["overrides"], order["wish"]) == (1, ["stop.epochs=9"], "")
    assert not theatre.folder(job).outcome
    assert theatre.state(job) == "starting", "what the earlier generation has trained does not count"


def resumed(theatre):
    """A job that has succeeded and is being started again; its record before."""
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    theatre.folder(job).outcome = {"status": "done", "reason": "3 epochs are done"}
    theatre.look()
    before = theatre.store.get(job)
    theatre.store.reopen(job, priority=7)
    theatre.look()
    assert theatre.state(job) == "starting"
    theatre.store.change(job, {State.STARTING}, state=State.STOPPING, wish="stop")
    return before


def test_a_job_that_is_stopped_before_it_is_at_work_again_is_what_it_was(theatre):
    before = resumed(theatre)
    theatre.folder(before.id).outcome = {"status": "interrupted", "reason": "stopped", "begun": False}
    theatre.look()
    after = theatre.store.get(before.id)
    assert (after.state, after.reason, after.attempt) == (State.SUCCEEDED, "3 epochs are done", 2)
    assert replace(after, attempt=before.attempt) == before


def test_a_job_that_is_stopped_when_it_is_at_work_again_is_stopped(theatre):
    job = resumed(theatre).id
    theatre.drive(job)
    theatre.folder(job).outcome = {"status": "interrupted", "reason": "stopped after 4 epochs"}
    theatre.look()
    after = theatre.store.get(job)
    assert (after.state, after.reason, after.priority) == (State.STOPPED, "stopped after 4 epochs", 7)
    assert (after.resume, after.earlier) == (False, "")


def test_a_folder_that_is_gone_does_not_stop_the_others(theatre):
    broken, other = theatre.submit(cpus=1.0), theatre.submit(cpus=1.0)
    theatre.folder(broken).files.rmdir()
    theatre.folder(broken).path.rmdir()
    theatre.look(3)
    assert theatre.state(other) == "starting"


def test_it_runs_in_a_thread_and_wakes_up_for_a_new_job(theatre):
    theatre.supervisor.start()
    try:
        job, seen = theatre.submit(), theatre.store.changes
        while theatre.state(job) == "queued":
            assert theatre.store.wait(seen, 30.0) > seen, "nothing happened"
            seen = theatre.store.changes
        assert theatre.state(job) == "starting"
    finally:
        theatre.supervisor.stop()


def test_one_that_is_not_waited_for_ends_without_a_word(theatre, caplog):
    """As where the cluster answers only when the service has gone."""
    asked, answered = threading.Event(), threading.Event()

    def nodes():
        asked.set()
        answered.wait(60)
        return []

    theatre.cluster.nodes = nodes
    theatre.submit()
    theatre.supervisor.start()
    assert asked.wait(60)
    theatre.supervisor._over.set()
    theatre.store.close()
    answered.set()
    theatre.supervisor.stop()
    assert not caplog.text


def test_a_cluster_that_is_away_is_asked_once_a_look(theatre):
    """Each question may take ten seconds, and a kill must not wait for those of all other jobs."""
    jobs = [theatre.submit(cpus=0.5) for _ in range(6)]
    theatre.look()
    for job in jobs:
        theatre.drive(job)
    waiting = theatre.submit()
    theatre.cluster.away = True
    theatre.look(20)
    before = theatre.cluster.asked
    theatre.look(10)
    assert theatre.cluster.asked == before + 10
    assert theatre.store.get(waiting).reason == "waits for the cluster: Ray does not answer"
    theatre.cluster.away = False
    theatre.look()
    assert theatre.state(waiting) == "queued" and "CPUs" in theatre.store.get(waiting).reason


def kill(theatre, job):
    theatre.store.change(job, AT_WORK, state=State.STOPPING, wish="kill")


def test_a_kill_ends_in_time_though_the_cluster_never_comes_back(theatre):
    running, starting = theatre.submit(cpus=1.0), theatre.submit(cpus=1.0)
    theatre.look()
    theatre.drive(running)
    theatre.cluster.away = True
    theatre.look(10)
    kill(theatre, running)
    kill(theatre, starting)
    theatre.look(55)
    assert {theatre.state(running), theatre.state(starting)} == {"stopping"}
    theatre.look(10)
    for job in (running, starting):
        record = theatre.store.get(job)
        assert record.state == State.STOPPED and record.ended_at
        assert "its cluster was away (Ray does not answer); what may still run there is ended once" in record.reason
    theatre.look(200)
    assert len(theatre.cluster.commands) == 2


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_left_of_a_kill_is_ended_when_the_cluster_is_back(theatre, restarted):
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    first = theatre.submission(job)
    kill(theatre, job)
    theatre.cluster.away = True
    theatre.look(65)
    assert theatre.state(job) == "stopped"
    if restarted:
        theatre.supervisor = theatre.another_supervisor()
    theatre.folder(job).outcome = {"status": "failed"}  # by the first driver, which cannot know
    theatre.cluster.away = False
    theatre.look(20)
    assert theatre.store.get(job).attempt == 2 and theatre.submission(job) in theatre.cluster.commands
    assert theatre.cluster.states[first] == "STOPPED", "one that hangs would keep the next one waiting"
    assert theatre.folder(job).order["wish"] == "kill" and theatre.state(job) == "stopped"
    assert theatre.store.get(job).wish == "kill", "it is not known yet to be ended"
    theatre.folder(job).outcome = {"status": "interrupted", "reason": "killed"}
    theatre.look(10)
    record = theatre.store.get(job)
    assert (record.state, record.wish, record.reason) == (State.STOPPED, "", "killed, as it was asked to be")
    theatre.look(50)
    assert theatre.store.get(job).attempt == 2


def test_drivers_that_cannot_end_what_was_left_are_given_up(theatre):
    job = theatre.submit()
    theatre.look()
    kill(theatre, job)
    theatre.look(65)
    assert "did not end within 60 s" in theatre.store.get(job).reason
    for _ in range(10):
        theatre.look(6)
        theatre.die(job)
    record = theatre.store.get(job)
    assert (record.state, record.wish) == (State.STOPPED, "") and "5 drivers were started" in record.reason


def test_drivers_that_hang_in_ending_what_was_left_are_given_up_too(theatre):
    job = theatre.submit()
    theatre.look()
    kill(theatre, job)
    theatre.look(65)
    assert theatre.store.get(job).wish == "kill"
    for submission in list(theatre.cluster.states):
        theatre.cluster.states[submission] = "RUNNING"
    theatre.look(110)
    assert theatre.store.get(job).attempt == 2, "it may take its time"
    theatre.look(600)
    record = theatre.store.get(job)
    assert (record.state, record.wish) == (State.STOPPED, "") and "5 drivers were started" in record.reason


def test_a_job_that_was_removed_or_resumed_is_not_ended_once_more(theatre):
    removed, resumed = theatre.submit(cpus=1.0), theatre.submit(cpus=1.0)
    theatre.look()
    for job in (removed, resumed):
        theatre.drive(job)
        kill(theatre, job)
    first = theatre.submission(resumed)
    theatre.cluster.away = True
    theatre.look(65)
    theatre.store.remove(removed)
    theatre.store.change(resumed, ENDED, state=State.QUEUED, resume=True, wish="", ended_at=None)
    theatre.cluster.away = False
    theatre.look(10)
    assert (theatre.state(resumed), theatre.store.get(resumed).attempt) == ("starting", 2)
    order = theatre.folder(resumed).order
    assert order["wish"] == "" and order["unended"], "its driver ends what still runs before it begins"
    assert len(theatre.cluster.commands) == 3 and theatre.cluster.states[first] == "STOPPED"
    # As after a crash between that order and the store.
    theatre.store.change(resumed, AT_WORK, state=State.QUEUED)
    theatre.look()
    assert theatre.state(resumed) == "starting" and theatre.folder(resumed).order["unended"]
    theatre.folder(resumed).begin()
    theatre.folder(resumed).outcome = {"status": "interrupted"}
    theatre.look()
    theatre.store.change(resumed, ENDED, state=State.QUEUED, resume=True, ended_at=None)
    theatre.look()
    assert not theatre.folder(resumed).order["unended"]


def test_a_kill_that_the_driver_carries_out_leaves_nothing(theatre):
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    kill(theatre, job)
    theatre.look(2)
    theatre.folder(job).outcome = {"status": "interrupted", "reason": "killed, as it was asked to be"}
    theatre.look()
    record = theatre.store.get(job)
    assert (record.state, record.wish) == (State.STOPPED, "") and not theatre.store.left_behind()


def test_an_outcome_of_what_was_ordered_before_is_none(theatre):
    job = theatre.submit()
    theatre.look()
    theatre.folder(job).outcome = {"status": "interrupted", "order": 1}
    theatre.look()
    theatre.store.change(job, ENDED, state=State.QUEUED, resume=True, ended_at=None)
    theatre.look()
    theatre.folder(job).outcome = {"status": "interrupted", "order": 1}  # a driver that was slow to end
    theatre.look()
    assert theatre.state(job) == "starting"
    theatre.folder(job).outcome = {"status": "done", "order": 2}
    theatre.look()
    assert theatre.state(job) == "succeeded"


def test_a_driver_that_says_for_how_long_it_may_be_silent_is_lost_after_that(theatre):
    """It hangs, and Ray takes it for running: as after a crash of the head's node manager."""
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    folder = theatre.folder(job)
    folder.beat = {**folder.beat, "count": 99, "within_s": 20.0}
    theatre.look(18)
    assert theatre.store.get(job).attempt == 1
    theatre.look(7)
    assert theatre.store.get(job).attempt == 2


@pytest.mark.parametrize("within_s", [1e9, -1.0, "long", None])
def test_what_a_driver_may_say_of_its_silence_is_bounded(theatre, within_s):
    job = theatre.submit()
    theatre.look()
    theatre.drive(job)
    folder = theatre.folder(job)
    folder.beat = {**folder.beat, "count": 99, "within_s": within_s}
    theatre.look(70)
    assert theatre.store.get(job).attempt == 2
