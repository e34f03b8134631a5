"""The coordinator beside an admission policy: who is waited for, who has left for good, and that size costs nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.admission import Bounded
from tests.worker.coordinator_world import World
from tests.worker.test_coordinator import SETTINGS, constant, expected_work, plans, run_out
from worker.coordinator import Coordinator, Plan
from worker.effects import Assign, Finish, Join, Leave, OpenEpoch, Range, Restart
from worker.stopping import StopRule


def test_who_has_left_for_good_is_not_waited_for_until_it_comes_back():
    plan = Plan(replicas=3, epoch_size=constant(12), batch_size=2, rounds=True, epoch_barrier=True)
    coordinator = Coordinator(plan)
    coordinator.joined(0)
    assert coordinator.joined(1) == []
    effects = coordinator.left(2)
    assert effects[:3] == [Leave(2), Join(1), Join(0)] and [e.replica for e in effects[3:]] == [0, 1, 0]
    again = coordinator.joined(2)
    assert again == []  # nothing is left of this epoch
    assert coordinator.left(0)[:1] == [Leave(0)]
    assert coordinator.died(2) == [Leave(2), Restart(2)]


def test_what_one_who_leaves_held_goes_to_the_others():
    coordinator = Coordinator(Plan(replicas=2, epoch_size=constant(8), batch_size=2, stop=StopRule(epochs=1)))
    coordinator.joined(0)
    assert coordinator.left(0) == [Leave(0)]
    assert coordinator.joined(1) == [Assign(1, Range(0, 0, 0, 2)), Assign(1, Range(1, 0, 2, 4))]


def test_the_others_are_released_when_the_one_who_warms_up_has_left():
    plan = Plan(replicas=2, epoch_size=constant(8), batch_size=2, warmstart_examples=4, stop=StopRule(epochs=1))
    coordinator = Coordinator(plan)
    coordinator.joined(0)
    assert coordinator.joined(1) == []
    assert [effect.replica for effect in coordinator.left(0)] == [0, 1, 1]


def test_with_backups_ranges_are_small_and_all_begin_together():
    plan = Plan(
        replicas=2,
        epoch_size=constant(800),
        min_range=99,
        rounds=True,
        backups=1,
        epoch_barrier=True,
        stop=StopRule(epochs=1),
    )
    coordinator = Coordinator(plan)
    assert coordinator.joined(0) == [OpenEpoch(0)]
    effects = coordinator.joined(1)
    assert effects[:2] == [Join(1), Join(0)]
    assert [effect.range.size for effect in effects[2:]] == [25, 24, 23, 22]


def test_whom_others_wait_for_by_the_clock_stays_so_from_one_epoch_to_the_next():
    """Leaving and joining again at its end would set a clock back."""
    plan = Plan(replicas=1, epoch_size=constant(4), joins=True, epoch_barrier=True, stop=StopRule(epochs=3))
    coordinator = Coordinator(plan)
    assert coordinator.joined(0)[1] == Join(0)
    later = [effect for part in range(3) for effect in coordinator.done(0, part)]
    assert [effect for effect in later if isinstance(effect, (Join, Leave, Finish))] == [
        Finish("3 epochs", at_once=False),
        Leave(0),
    ]


@pytest.mark.parametrize(("replicas", "batch"), [(1, 1), (3, 4), (7, 5), (16, 1), (40, 3)])
def test_equal_parts_are_those_of_the_whole_epoch(replicas, batch):
    """Against the definition: part k ends after ceil(k * batches / replicas) batches."""
    for size in range(1, 90):
        plan = Plan(replicas=replicas, epoch_size=constant(size), batch_size=batch, rounds=True, epoch_barrier=True)
        coordinator = Coordinator(plan)
        effects = [effect for replica in range(replicas) for effect in coordinator.joined(replica)]
        batches = -(-size // batch)
        ends = sorted({min(-(-part * batches // replicas) * batch, size) for part in range(1, replicas + 1)})
        handed = [effect.range.stop for effect in effects if isinstance(effect, Assign)]
        assert handed == ends[: 2 * replicas]


def test_an_event_costs_the_same_for_ten_thousand_replicas_as_for_a_hundred(monkeypatch):
    """Counted in looks at a member, not in seconds."""
    looks = {}
    for replicas in (100, 10_000):
        plan = Plan(replicas=replicas, epoch_size=constant(50 * replicas), stop=StopRule(epochs=1), joins=True)
        coordinator = Coordinator(plan)
        held: list[tuple[int, int]] = []
        for replica in range(replicas):
            held += [(e.replica, e.range.id) for e in coordinator.joined(replica) if isinstance(e, Assign)]

        class Watched(list):
            count = 0

            def __getitem__(self, index):
                Watched.count += 1
                return super().__getitem__(index)

            def __iter__(self):
                Watched.count += len(self)
                return super().__iter__()

        coordinator.members = coordinator._crowd.members = Watched(coordinator.members)
        for replica, part in held[:50]:
            coordinator.done(replica, part)
        looks[replicas] = Watched.count
    assert looks[10_000] <= looks[100] + 100


@SETTINGS
@given(plans(), st.integers(0, 3), st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 5)), max_size=120))
def test_bounded_replicas_stay_within_the_bound_and_always_go_on(plan, bound, choices):
    """Whoever joins, dies, leaves for good or comes back; that somebody can go on is checked after every event."""
    plan = replace(plan, rounds=False, joins=True)
    world = World(plan, Bounded(max_clock_lag=bound))
    disturb(world, choices)
    assert world.largest_lag <= bound
    assert len(world.ended) == expected_work(plan)[0] or len(world.gone) == plan.replicas


@SETTINGS
@given(plans(), st.integers(1, 3), st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 5)), max_size=120))
def test_steps_with_backups_are_made_whoever_dies_or_leaves(plan, backups, choices):
    plan = replace(plan, rounds=True, epoch_barrier=True, warmstart_examples=0, backups=min(backups, plan.replicas - 1))
    world = World(plan)
    disturb(world, choices)
    assert len(world.ended) == expected_work(plan)[0] or len(world.gone) == plan.replicas


def disturb(world: World, choices: list[tuple[int, int]]) -> None:
    """Let replicas work, die (0), leave (1) and come back (2) as chosen; then go on to the end with whoever is there."""
    for choice, what in choices:
        if world.finish is not None:
            return
        replica = choice % world.plan.replicas
        if what == 0 and replica not in world.gone:
            world.act(("die", replica))
        elif what == 1 and replica not in world.gone:
            world.act(("leave", replica))
        elif what == 2 and world.gone:
            world.act(("come_back", sorted(world.gone)[choice % len(world.gone)]))
        elif world.actions():
            world.act(world.actions()[choice % len(world.actions())])
    run_out(world)
    assert world.finish is not None or len(world.gone) == world.plan.replicas
