"""Who starts, who waits, and why."""

from __future__ import annotations

from deploy.service.ray_jobs import NodeFacts
from deploy.service.scheduler import decide, order
from deploy.service.states import State
from deploy.service.store import JobRecord

NODES = [NodeFacts(letter * 56, "10.0.0.1", False, 4.0, 1.0, 8_000_000_000) for letter in "ab"]


def job(number, cpus=2.0, state=State.QUEUED, priority=0, gpus=0.0, memory=0):
    known = dict(
        name="job", submitted_at=float(number), on_loss="resume", most_attempts=3, strategy="", task="", job=""
    )
    return JobRecord(
        id=f"job-{number}", state=state, cpus=cpus, gpus=gpus, memory_bytes=memory, priority=priority, **known
    )


def started(*jobs, **options):
    return [record.id for record in decide(jobs, NODES, **options).start]


def test_all_start_while_there_is_room():
    assert started(job(1, 3.0), job(2, 3.0), job(3, 2.0)) == ["job-1", "job-2", "job-3"]


def test_tenths_of_cpus_add_up():
    assert len(started(*[job(number, 0.1) for number in range(1, 81)])) == 80


def test_jobs_at_work_take_their_room_also_while_they_stop():
    for state in (State.STARTING, State.RUNNING, State.STOPPING):
        turn = decide([job(1, 7.0, state), job(2)], NODES)
        assert not turn.start and turn.waits == {"job-2": "waits for room: it needs 2 CPUs, 1 are free"}
    assert started(job(1, 7.0, State.FAILED), job(2)) == ["job-2"]


def test_one_that_waits_holds_back_smaller_ones_behind_it():
    turn = decide([job(1, 4.0, State.RUNNING), job(2, 6.0), job(3, 1.0)], NODES)
    assert not turn.start and turn.waits["job-3"] == "waits for job-2, which is before it"


def test_one_that_the_cluster_is_too_small_for_holds_back_nobody():
    turn = decide([job(1, 9.0), job(2, 1.0)], NODES)
    assert [record.id for record in turn.start] == ["job-2"]
    assert turn.waits == {"job-1": "waits for nodes: it needs 9 CPUs, 8 are in the cluster"}


def test_a_higher_priority_goes_first_then_whoever_came_first():
    jobs = [job(1), job(2, priority=5), job(3, priority=-1), job(4, priority=5)]
    assert [record.id for record in order(jobs)] == ["job-2", "job-4", "job-1", "job-3"]
    assert started(*jobs, most_running=2) == ["job-2", "job-4"]


def test_a_bound_on_jobs_at_one_time():
    turn = decide([job(1, state=State.RUNNING), job(2), job(3)], NODES, most_running=2)
    assert [record.id for record in turn.start] == ["job-2"]
    assert turn.waits == {"job-3": "waits for one of 2 jobs to end"}


def test_gpus_and_memory_count_too():
    assert decide([job(1, gpus=3.0)], NODES).waits["job-1"] == "waits for nodes: it needs 3 GPUs, 2 are in the cluster"
    waits = decide([job(1, memory=12_000_000_000, state=State.RUNNING), job(2, memory=5_000_000_000)], NODES).waits
    assert waits == {"job-2": "waits for room: it needs 5 GB of memory, 4 GB are free"}


def test_without_nodes_nobody_starts():
    assert decide([job(1)], []).waits == {"job-1": "waits for nodes: it needs 2 CPUs, 0 are in the cluster"}
