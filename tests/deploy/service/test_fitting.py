"""Whether the pieces of a job find their places, against a Ray that puts them where it likes as far as it may."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.service.fitting import EMPTY, FREE, Claims, lack, less, spares, taken
from deploy.service.ray_jobs import SHARD, WORKER, Held, NodeFacts
from deploy.service.room import Pieces, Room
from deploy.service.scheduler import decide, order
from deploy.service.states import State
from deploy.service.store import JobRecord

GB = 10**9
ONE, TENTH = Room(1.0), Room(0.1)


def pieces(workers=2, worker=ONE, shards=1, shard=TENTH, **how):
    return Pieces(shards, shard, workers, worker, **how)


# -- in words ---------------------------------------------------------------------------------------------------------

CASES = [
    (pieces(7, shards=2), [4, 4], "it needs places for 7 workers of 1 CPU; beside its 2 shards there are 6"),
    (pieces(6, shards=2), [4, 4], None),
    (pieces(7), [4, 4], None),
    (pieces(7, shards=2, packed=True), [4, 4], None),
    (pieces(8), [4, 4], "it needs 8.1 CPUs, 8 are in the cluster"),
    (pieces(1, Room(3.0)), [2, 2], "it needs 3 CPUs on one node, the largest has 2"),
    (pieces(2, beside=True), [2, 2], "it needs 2.1 CPUs on one node, the largest has 2"),
    (pieces(2, beside=True), [2, 3], None),
    (pieces(1, shards=3, shard=ONE, packed=True), [2, 2], "it needs 3 CPUs on one node, the largest has 2"),
    (pieces(0, shards=4, shard=Room(1.5)), [2, 2, 2], "no place is left for some of its 4 shards of 1.5 CPUs"),
    (pieces(2, Room(), shards=1), [0.05], "it needs 0.1 CPUs, 0.05 are in the cluster"),
    (pieces(2, Room()), [1], None),
    (pieces(3), [4.0, 4.0, 0.15], None),
    (Room(6.0), [4, 4], None),
    (Room(9.0), [4, 4], "it needs 9 CPUs, 8 are in the cluster"),
    (Room(0.1), [], "it needs 0.1 CPUs, 0 are in the cluster"),
]


@pytest.mark.parametrize("wanted, cpus, said", CASES)
def test_what_is_missing_is_said(wanted, cpus, said):
    assert lack(wanted, [Room(float(count)) for count in cpus], EMPTY) == said


def test_gpus_and_memory_are_of_one_node_too():
    nodes = [Room(8.0, 0.0, 4 * GB), Room(4.0, 2.0, 8 * GB)]
    assert lack(pieces(1, Room(1.0, 3.0)), nodes, EMPTY) == "it needs 3 GPUs, 2 are in the cluster"
    assert lack(pieces(1, Room(6.0, 1.0)), nodes, EMPTY) == (
        "it needs 6 CPUs and 1 GPU on one node, none has all of that"
    )
    assert lack(pieces(1, Room(1.0, 0.0, 9 * GB)), nodes, FREE) == (
        "it needs 9 GB of memory on one node, at most 8 GB are free on one"
    )
    # Ray puts the shard on the emptier node, and so the GPUs are all of use.
    assert lack(pieces(2, Room(2.0, 1.0)), nodes, EMPTY) is None
    assert "beside its 1 shard there are 1" in lack(
        pieces(2, Room(2.0, 1.0)), [Room(4.0, 0.0, 4 * GB), Room(4.0, 2.0, 8 * GB)], EMPTY
    )


def test_what_is_expected_counts_wherever_it_may_come_to_lie():
    free = [Room(4.0), Room(4.0)]
    rooms = less(free, taken(pieces(2), free))
    assert [round(room.cpus, 6) for room in rooms] == [1.9, 1.9]
    assert lack(pieces(2), rooms, FREE, free) is None
    uneven = [Room(1.95), Room(1.0)]
    assert lack(pieces(2), uneven, FREE) is None, "Ray puts the shard on the emptier node"
    assert "1 are free" in lack(pieces(2), uneven, FREE, uneven), "which may not be the emptier one by then"
    together, least = pieces(3, beside=True), [Room(4.0), Room(1.0)]
    assert lack(together, least, FREE, [Room(4.0), Room(3.0)]) is None, "the better one is seen"
    assert "at most 1 are free on one" in lack(together, least, FREE, [Room(4.0), Room(9.0)])


def test_who_comes_next_takes_no_place_that_is_expected():
    """The second job's GPU may be that of the first node, which is the only one for the first job's worker."""
    totals = [Room(1.0, 1.0), Room(0.5, 1.0)]
    first, second = record(1, pieces(1, Room(0.7, 0.5))), record(2, pieces(1, Room(0.0, 1.0)))
    turn = decide([first, second], nodes_of(totals))
    assert [one.id for one in turn.start] == ["job-1"]
    assert turn.waits == {"job-2": "waits until job-1 has found its places"}


def test_who_finds_its_places_only_alone_is_left_alone():
    """Ray puts the shard on the emptier node, which another's shards might have made the fuller one."""
    totals = [Room(2.0, 1.0), Room(2.05)]
    first, second = record(1, pieces(1, Room(2.0, 0.5))), record(2, pieces(1, Room(), shards=2, shard=Room(0.02)))
    turn = decide([first, second], nodes_of(totals))
    assert [one.id for one in turn.start] == ["job-1"]
    assert turn.waits == {"job-2": "waits until job-1 has found its places"}
    lies = [Held("1", TENTH, SHARD, "job-1"), Held("0", Room(2.0, 0.5), WORKER, "job-1")]
    first = record(1, pieces(1, Room(2.0, 0.5)), State.RUNNING)
    assert not decide([first, second], nodes_of(totals), held=lies).waits


# -- against a Ray that does as it likes ------------------------------------------------------------------------------


class Ray:
    """Places actors as Ray does, among equals at random.

    Attributes:
      rooms: what is free of the nodes. lies: what lies where.
    """

    def __init__(self, rooms, seed):
        self.rooms, self.random, self.lies = list(rooms), random.Random(seed), []

    def place(self, able, piece, kind, job):
        node = self.random.choice(able)
        self.rooms[node] -= piece
        self.lies.append(Held(str(node), piece, kind, job))
        return node

    def shards(self, job, wanted):
        group = wanted.shard * wanted.shards if wanted.packed else wanted.shard
        fresh, used = list(range(len(self.rooms))), []
        for _ in range(1 if wanted.packed else wanted.shards):
            able = [node for node in fresh if self.rooms[node].has(group)]
            able = able or [node for node in used if self.rooms[node].has(group)]
            assert able, "no room for a shard"
            if wanted.beside:  # see deploy.cluster.placement.roomiest
                places = {node: (self.rooms[node] - wanted.shard).times(wanted.worker) for node in able}
                able = [node for node in able if places[node] == max(places.values())]
            else:
                shares = {node: round(self.share(node, group), 9) for node in able}
                able = [node for node in able if shares[node] == min(shares.values())]
            node = self.place(able, group, SHARD, job)
            if node in fresh:
                fresh.remove(node)
                used.append(node)
        return node if wanted.beside else None

    def share(self, node, piece):
        room = self.rooms[node]
        taken = [(piece.cpus, room.cpus), (piece.memory_bytes, room.memory_bytes)]
        return sum(part / whole if whole else 1.0 for part, whole in taken if part)

    def worker(self, job, wanted, node):
        able = [at for at in range(len(self.rooms)) if node in (None, at) and self.rooms[at].has(wanted.worker)]
        assert able, "no room for a worker"
        self.place(able, wanted.worker, WORKER, job)

    def start(self, jobs):
        """All of these at one time: each has its shards first, its workers come in between those of the others."""
        steps = {job: [None] * wanted.workers for job, wanted in jobs.items()}
        begun = {}
        while steps:
            job = self.random.choice(list(steps))
            if job not in begun:
                begun[job] = self.shards(job, jobs[job])
            elif steps[job]:
                steps[job].pop()
                self.worker(job, jobs[job], begun[job])
            if job in begun and not steps[job]:
                del steps[job]


rooms = st.builds(
    Room, st.integers(0, 8).map(float), st.sampled_from([0.0, 0.0, 1.0, 4.0]), st.sampled_from([4 * GB, 8 * GB])
)
workers = st.builds(
    Room, st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]), st.sampled_from([0.0, 0.0, 0.5, 1.0]), st.sampled_from([0, 0, GB])
)
shards = st.builds(Room, st.sampled_from([0.1, 0.5, 1.0]), st.just(0.0), st.sampled_from([0, 0, GB // 2]))


@st.composite
def jobs_of(draw):
    how = draw(st.sampled_from(["", "", "packed", "beside"]))
    count = 1 if how == "beside" else draw(st.integers(1, 4))
    return Pieces(count, draw(shards), draw(st.integers(1, 5)), draw(workers), how == "packed", how == "beside")


clusters = st.lists(rooms, min_size=1, max_size=4)


def record(number, wanted, state=State.QUEUED, priority=0):
    total = wanted.total
    return JobRecord(
        id=f"job-{number}", name="job", state=state, submitted_at=float(number), priority=priority, cpus=total.cpus,
        gpus=total.gpus, memory_bytes=total.memory_bytes, on_loss="resume", most_attempts=3, strategy="", task="", job="",
        pieces=wanted.to_text(),
    )  # fmt: skip


def claims(waiting, totals):
    made = Claims(tuple(Room() for _ in totals))
    for one in waiting:
        made = made.plus(one, totals)
    return made


def nodes_of(totals):
    return [NodeFacts(str(at), "", False, room.cpus, room.gpus, room.memory_bytes) for at, room in enumerate(totals)]


@settings(max_examples=100, derandomize=True)
@given(clusters, st.lists(jobs_of(), min_size=1, max_size=5), st.integers(0, 1 << 16))
def test_whatever_is_started_finds_its_places(totals, wanted, seed):
    ray, jobs = Ray(totals, seed), {f"job-{number}": one for number, one in enumerate(wanted)}
    states = dict.fromkeys(jobs, State.QUEUED)
    for _ in range(2 * len(jobs)):
        records = [record(number, one, states[f"job-{number}"]) for number, one in enumerate(wanted)]
        turn = decide([one for one in records if one.state != State.SUCCEEDED], nodes_of(totals), held=ray.lies)
        ray.start({one.id: jobs[one.id] for one in turn.start})
        for one in turn.start:
            states[one.id] = State.RUNNING
        running = [job for job, state in states.items() if state == State.RUNNING]
        if running:  # one ends, and gives back what it had
            over = ray.random.choice(running)
            states[over] = State.SUCCEEDED
            for piece in [piece for piece in ray.lies if piece.job == over]:
                ray.rooms[int(piece.node)] += piece.room
                ray.lies.remove(piece)
    # Nobody waits in the end but whom the empty cluster is too small for.
    for job, state in states.items():
        assert (state == State.QUEUED) == (lack(jobs[job], totals, EMPTY) is not None)


@settings(max_examples=60, derandomize=True)
@given(clusters, jobs_of(), st.integers(0, 1 << 16))
def test_what_does_not_fit_the_empty_cluster_is_what_ray_may_fail_to_place(totals, wanted, seed):
    if lack(wanted, totals, EMPTY) is None:
        Ray(totals, seed).start({"job-1": wanted})
        return
    failures = 0
    for attempt in range(40):  # among equals Ray may be lucky
        try:
            Ray(totals, seed + attempt).start({"job-1": wanted})
        except AssertionError:
            failures += 1
    assert failures


@settings(max_examples=60, derandomize=True)
@given(clusters, st.lists(jobs_of(), min_size=2, max_size=5), st.lists(st.integers(-2, 2), min_size=5, max_size=5))
def test_priorities_hold(totals, wanted, priorities):
    records = [record(number, one, priority=priorities[number]) for number, one in enumerate(wanted)]
    turn = decide(records, nodes_of(totals))
    assert {one.id for one in turn.start} | set(turn.waits) == {one.id for one in records}
    before = []
    for one in order(records):
        known = Pieces.from_text(one.pieces)
        if lack(known, totals, EMPTY) is not None:
            assert turn.waits[one.id].startswith("waits for nodes: it needs") or "no place" in turn.waits[one.id]
        elif one.id in turn.waits:
            before.append(known)
        else:  # whoever overtakes takes nothing that is scarce for those before
            assert not before or spares(known, claims(before, totals), totals, totals)


@settings(max_examples=200, derandomize=True)
@given(clusters, jobs_of(), jobs_of(), st.data())
def test_who_may_overtake_is_never_in_the_way(totals, other, waiting, data):
    share = st.lists(st.floats(0, 1), min_size=len(totals), max_size=len(totals))
    now = [_part(room, part) for room, part in zip(totals, data.draw(share))]
    if not spares(other, claims([waiting], totals), totals, now) or lack(other, now, FREE):
        return
    taken = [other.most(room) for room in totals]  # more than it can have, and on every node
    for part in data.draw(st.lists(share, min_size=1, max_size=3)):
        later = [room + _part(total - room, more) for room, total, more in zip(now, totals, part)]
        beside = [room - gone for room, gone in zip(later, taken)]
        assert (lack(waiting, later, FREE) is None) == (lack(waiting, beside, FREE) is None)


def _part(room, part):
    return Room(round(room.cpus * part, 1), float(int(room.gpus * part)), int(room.memory_bytes * part))


def test_cpus_may_be_used_while_others_wait_for_gpus():
    totals = [Room(16.0, 4.0), Room(16.0, 4.0)]
    busy = record(1, pieces(8, Room(1.0, 1.0)), State.RUNNING)
    held = [Held("0", Room(0.1), SHARD, "job-1")]
    held += [Held(str(number % 2), Room(1.0, 1.0), WORKER, "job-1") for number in range(8)]
    waits = record(2, pieces(2, Room(1.0, 1.0)))
    turn = decide([busy, waits, record(3, pieces(4)), record(4, pieces(9))], nodes_of(totals), held=held)
    assert [one.id for one in turn.start] == ["job-3"]
    assert turn.waits == {
        "job-2": "waits for room: it needs 2 GPUs, 0 are free",
        "job-4": "waits for job-2, which is before it",
    }
    assert not decide([busy, waits, record(3, pieces(4))], nodes_of(totals), 2, held).start, "it would take its turn"


def test_one_that_waits_for_another_to_be_placed_says_so():
    totals = [Room(4.0), Room(4.5)]
    first, second, third = (record(number, pieces(workers)) for number, workers in ((1, 2), (2, 2), (3, 3)))
    turn = decide([first, second, third], nodes_of(totals))
    assert [one.id for one in turn.start] == ["job-1", "job-2"]
    assert turn.waits == {"job-3": "waits until job-1 has found its places"}
    lies = [Held(str(number % 2), ONE, WORKER, f"job-{number // 2 + 1}") for number in range(4)]
    lies += [Held("1", Room(0.1), SHARD, "job-1"), Held("1", Room(0.1), SHARD, "job-2")]
    at_work = [record(number, pieces(2), State.RUNNING) for number in (1, 2)]
    assert not decide([*at_work, third], nodes_of(totals), held=lies).waits


@pytest.mark.parametrize(
    ("cpus", "workers", "at_once"),
    [([2, 2, 2], 1, 3), ([3, 3], 1, 4), ([0, 3, 3], 1, 4), ([4, 4], 2, 3), ([6, 6], 1, 5), ([6], 1, 5)],
)
def test_jobs_start_together_while_there_is_room_wherever_they_come_to_lie(cpus, workers, at_once):
    """On [2, 2, 2] three shards may leave but one place for a worker on each node, so that a fourth worker found none."""
    turn = decide(
        [record(number, pieces(workers)) for number in range(5)], nodes_of([Room(float(count)) for count in cpus])
    )
    assert len(turn.start) == at_once


def test_what_others_hold_is_not_free():
    held = [Held("0", Room(3.0)), Held("gone", Room(4.0))]
    turn = decide([record(1, pieces(2))], nodes_of([Room(4.0)]), held=held)
    assert turn.waits == {"job-1": "waits for room: it needs 2.1 CPUs, 1 are free"}


def test_pieces_are_kept_as_text():
    for one in (pieces(), pieces(packed=True, shard=Room(0.5, 0.0, 7)), pieces(beside=True)):
        assert Pieces.from_text(one.to_text()) == one
    assert Pieces.from_text("") is None
