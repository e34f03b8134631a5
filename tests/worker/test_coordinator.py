"""The coordinator: exact effects in small cases, and what must hold in any interleaving of joins, work and deaths."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.worker.coordinator_world import World
from worker.coordinator import Coordinator, Plan
from worker.effects import (
    Assign,
    Checkpoint,
    EpochEnded,
    Evaluate,
    Fail,
    Finish,
    Join,
    Leave,
    OpenEpoch,
    Range,
    Restart,
)
from worker.stopping import Goal, StopRule


def constant(size: int):
    return lambda epoch: size


def run_out(world: World, limit: int = 20_000) -> None:
    """Go on without deaths, everybody in turn, to the end."""
    for turn in range(limit):
        actions = world.actions()
        if not actions:
            return
        world.act(actions[turn % len(actions)])
    raise AssertionError(f"no end after {limit} actions: {world.log[-20:]}")


# -- exact effects ----------------------------------------------------------------------------------------------------


def test_one_replica_from_start_to_end():
    """Its next epoch is in hand before it asks; evaluations and checkpoints come where the plan says."""
    coordinator = Coordinator(
        Plan(replicas=1, epoch_size=constant(10), batch_size=4, stop=StopRule(epochs=3), checkpoint_every=1)
    )
    assert coordinator.joined(0) == [
        OpenEpoch(0),
        Assign(0, Range(0, 0, 0, 10)),
        OpenEpoch(1),
        Assign(0, Range(1, 1, 0, 10)),
    ]
    assert coordinator.done(0, 0) == [
        EpochEnded(0),
        Evaluate(0),
        Checkpoint(0),
        OpenEpoch(2),
        Assign(0, Range(2, 2, 0, 10)),
    ]
    assert coordinator.done(0, 1) == [EpochEnded(1), Evaluate(1), Checkpoint(1)]
    assert coordinator.done(0, 2) == [EpochEnded(2), Evaluate(2), Finish("3 epochs", at_once=False)]
    assert coordinator.done(0, 2) == [] and coordinator.joined(0) == []


def test_a_barrier_keeps_epochs_apart():
    coordinator = Coordinator(
        Plan(
            replicas=2,
            epoch_size=constant(8),
            batch_size=4,
            epoch_barrier=True,
            evaluate_every=2,
            stop=StopRule(epochs=2),
        )
    )
    assert coordinator.joined(0) == [OpenEpoch(0), Assign(0, Range(0, 0, 0, 4)), Assign(0, Range(1, 0, 4, 8))]
    assert coordinator.joined(1) == []
    assert coordinator.done(0, 0) == []
    assert coordinator.done(0, 1) == [
        EpochEnded(0), OpenEpoch(1), Assign(0, Range(2, 1, 0, 4)), Assign(1, Range(3, 1, 4, 8)),
    ]  # fmt: skip
    assert coordinator.done(1, 3) == []
    assert coordinator.done(0, 2) == [EpochEnded(1), Evaluate(1), Finish("2 epochs", at_once=False)]


def test_rounds_wait_for_all_and_join_before_they_work():
    coordinator = Coordinator(
        Plan(replicas=2, epoch_size=constant(6), batch_size=2, rounds=True, epoch_barrier=True, stop=StopRule(epochs=1))
    )
    assert coordinator.joined(1) == [OpenEpoch(0)]
    assert coordinator.joined(0) == [Join(1), Join(0), Assign(0, Range(0, 0, 0, 4)), Assign(1, Range(1, 0, 4, 6))]
    assert coordinator.done(1, 1) == [Leave(1)]
    assert coordinator.done(0, 0) == [Leave(0), EpochEnded(0), Evaluate(0), Finish("1 epoch", at_once=False)]


def test_a_dead_replicas_ranges_go_to_the_others():
    coordinator = Coordinator(
        Plan(replicas=2, epoch_size=constant(8), batch_size=2, epoch_barrier=True, stop=StopRule(epochs=1))
    )
    coordinator.joined(0)
    first, second = Range(0, 0, 0, 2), Range(1, 0, 2, 4)
    assert coordinator.members[0].ranges[0] == first and coordinator.members[0].ranges[1] == second
    assert coordinator.joined(1) == [Assign(1, Range(2, 0, 4, 6)), Assign(1, Range(3, 0, 6, 8))]
    assert coordinator.died(0) == [Leave(0), Restart(0)]
    assert coordinator.done(1, 2) == [Assign(1, first)]
    assert coordinator.joined(0) == [Assign(0, second)]
    assert coordinator.done(0, 0) == []  # a range that is another's by now


def test_dying_again_and_again_fails_the_job():
    coordinator = Coordinator(Plan(replicas=1, epoch_size=constant(4), max_restarts=2, stop=StopRule(epochs=2)))
    coordinator.joined(0)
    assert coordinator.died(0) == [Leave(0), Restart(0)]
    assert coordinator.died(0) == [Leave(0), Restart(0)]  # before it even joined
    assert coordinator.died(0) == [Leave(0), Fail(0, 3)]


def test_a_range_at_which_one_replica_after_the_other_dies_fails_the_job():
    """All of them finish other ranges in between, so none dies too often by itself."""
    plan = Plan(replicas=3, epoch_size=constant(6), batch_size=1, max_restarts=2, stop=StopRule(epochs=1000))
    coordinator = Coordinator(plan)
    for replica in range(3):
        coordinator.joined(replica)
    poison, deaths, victims = coordinator.members[0].ranges[0], [], []
    while not any(isinstance(effect, Fail) for effect in deaths):
        for replica, member in enumerate(coordinator.members):
            if member.ranges[0] != poison:
                coordinator.done(replica, member.ranges[0].id)
                continue
            victims.append(replica)
            deaths += coordinator.died(replica)
            other = (replica + 1) % 3  # takes it before the replacement has started
            while poison not in coordinator.members[other].ranges:
                coordinator.done(other, coordinator.members[other].ranges[0].id)
            coordinator.joined(replica)
    assert victims == [0, 1, 2]
    assert deaths[-1] == Fail(deaths[-1].replica, 3, poison)
    assert len([effect for effect in deaths if isinstance(effect, Restart)]) == 2


def test_a_finished_range_forgives_deaths():
    coordinator = Coordinator(Plan(replicas=1, epoch_size=constant(4), max_restarts=1, stop=StopRule(epochs=20)))
    for epoch in range(5):
        coordinator.joined(0)
        coordinator.done(0, coordinator.members[0].ranges[0].id)
        assert coordinator.died(0) == [Leave(0), Restart(0)], epoch


def test_max_restarts_zero():
    coordinator = Coordinator(Plan(replicas=1, epoch_size=constant(4), max_restarts=0))
    assert coordinator.died(0)[-1] == Fail(0, 1)


def test_patience_ends_the_training_at_once():
    goal = Goal("test_loss", patience=2)
    coordinator = Coordinator(Plan(replicas=1, epoch_size=constant(4), goal=goal))
    coordinator.joined(0)
    assert coordinator.evaluated(0, {"test_loss": 1.0}) == []
    assert coordinator.evaluated(1, {"test_loss": 1.5}) == []
    assert coordinator.evaluated(2, {"test_loss": 1.2}) == [
        Finish("test_loss was not better for 2 evaluations", at_once=True)
    ]
    assert coordinator.finish("again", at_once=True) == []


def test_the_last_evaluation_counts_for_the_best():
    """It comes in when all work is done already."""
    goal = Goal("accuracy")
    coordinator = Coordinator(Plan(replicas=1, epoch_size=constant(4), stop=StopRule(epochs=1), goal=goal))
    coordinator.joined(0)
    assert coordinator.done(0, 0)[-1] == Finish("1 epoch", at_once=False)
    assert coordinator.evaluated(0, {"accuracy": 0.9}) == []
    assert goal.best == 0.9 and goal.best_epoch == 0


def test_work_done_after_an_interruption_is_not_done_again():
    coordinator = Coordinator(Plan(replicas=1, epoch_size=constant(4), stop=StopRule(epochs=5)))
    coordinator.joined(0)
    coordinator.finish("interrupted", at_once=True)
    assert coordinator.done(0, 0) == []
    state = coordinator.state({0: (1, 2)})
    assert state["ranges"]["0"] == [{"id": 1, "epoch": 1, "start": 2, "stop": 4}]


def exact(**more) -> Coordinator:
    return Coordinator(Plan(replicas=1, epoch_size=constant(4), exact=True, stop=StopRule(epochs=9), **more))


def test_an_exact_plan_hands_the_next_epoch_out_after_the_evaluation_of_the_last():
    coordinator = exact(evaluate_every=2)
    assert coordinator.joined(0)[-1] == Assign(0, Range(1, 1, 0, 4))  # epoch 0 is not evaluated
    assert coordinator.done(0, 0) == [EpochEnded(0)]
    assert coordinator.done(0, 1)[:4] == [EpochEnded(1), Evaluate(1), OpenEpoch(2), Assign(0, Range(2, 2, 0, 4))]


def test_an_exact_plan_waits_for_an_answer_that_may_end_the_training():
    coordinator = exact(goal=Goal("accuracy", target=0.9))
    coordinator.joined(0)
    assert coordinator.done(0, 0) == [EpochEnded(0), Evaluate(0)]
    assert coordinator.evaluated(0, {"accuracy": 0.5}) == [OpenEpoch(1), Assign(0, Range(1, 1, 0, 4))]
    assert coordinator.done(0, 1) == [EpochEnded(1), Evaluate(1)]
    assert coordinator.evaluated(1, {"accuracy": 0.9}) == [Finish("accuracy reached 0.9", at_once=True)]


def test_an_evaluation_that_has_not_come_in_is_asked_for_again_where_the_run_goes_on():
    first, again, later = (exact(goal=Goal("accuracy", target=0.9)) for _ in range(3))
    first.joined(0)
    first.done(0, 0)
    assert again.restore(first.state({})) == [OpenEpoch(0), Evaluate(0)]
    assert again.joined(0) == []
    again.evaluated(0, {"accuracy": 0.5})
    assert later.restore(again.state({0: (1, 2)})) == [OpenEpoch(1)]


def test_restored_work_comes_in_the_old_order():
    plan = Plan(replicas=1, epoch_size=constant(6), batch_size=2, stop=StopRule(epochs=3))
    coordinator = Coordinator(plan)
    coordinator.joined(0)
    again = Coordinator(plan)
    assert again.restore(coordinator.state({0: (0, 4)})) == [OpenEpoch(0), OpenEpoch(1)]
    assert again.joined(0) == [Assign(0, Range(0, 0, 4, 6)), Assign(0, Range(1, 1, 0, 6))]


def test_warm_start():
    coordinator = Coordinator(
        Plan(2, epoch_size=constant(10), batch_size=1, min_range=2, warmstart_examples=3, stop=StopRule(epochs=1))
    )
    assert coordinator.joined(1) == [OpenEpoch(0)]
    assert coordinator.joined(0) == [Assign(0, Range(0, 0, 0, 2)), Assign(0, Range(1, 0, 2, 3))]
    assert coordinator.done(0, 0) == []  # two of three
    released = coordinator.done(0, 1)
    assert [effect.replica for effect in released] == [0, 1, 0, 1]
    assert [effect.range.start for effect in released] == [3, 5, 7, 9]


def test_a_warm_start_goes_on_after_a_restart():
    plan = Plan(2, epoch_size=constant(10), batch_size=1, min_range=2, warmstart_examples=4, stop=StopRule(epochs=1))
    coordinator = Coordinator(plan)
    coordinator.joined(0)
    again = Coordinator(plan)
    coordinator.done(0, 0)
    again.restore(coordinator.state({0: (1, 1)}))  # three of four
    assert again.joined(1) == []
    assert again.joined(0) == [Assign(0, Range(1, 0, 3, 4))]
    assert {effect.replica for effect in again.done(0, 1)} == {0, 1}


@pytest.mark.parametrize(
    ("replicas", "size", "batch", "parts"), [(3, 100, 10, [40, 30, 30]), (4, 12, 5, [5, 5, 2]), (2, 7, 1, [4, 3])]
)
def test_rounds_share_an_epoch_equally(replicas, size, batch, parts):
    plan = Plan(replicas=replicas, epoch_size=constant(size), batch_size=batch, rounds=True, epoch_barrier=True)
    coordinator = Coordinator(plan)
    effects = [effect for replica in range(replicas) for effect in coordinator.joined(replica)]
    assert [effect.range.size for effect in effects if isinstance(effect, Assign)] == parts


def test_a_bound_on_steps_is_shared_equally_by_rounds():
    plan = Plan(
        replicas=2, epoch_size=constant(100), batch_size=10, rounds=True, epoch_barrier=True, stop=StopRule(steps=6)
    )
    coordinator = Coordinator(plan)
    coordinator.joined(0)
    assert [effect.range.size for effect in coordinator.joined(1) if isinstance(effect, Assign)] == [30, 30]


@pytest.mark.parametrize("min_range", [1, 4096])
def test_everybody_gets_a_part_of_a_small_data_set(min_range):
    plan = Plan(replicas=3, epoch_size=constant(90), epoch_barrier=True, min_range=min_range, stop=StopRule(epochs=2))
    world = World(plan)
    for replica in range(3):
        world.join(replica)
    world.work(0)
    while len(world.ended) < 1:
        world.act(world.actions()[0])
    assert all(world.hands)


def test_a_fast_replica_gets_more():
    """Replica 0 makes four ranges while the other makes one."""
    world = World(Plan(replicas=2, epoch_size=constant(1000), epoch_barrier=True, stop=StopRule(epochs=1)))
    world.join(0)
    world.join(1)
    while world.finish is None:
        for _ in range(4):
            if world.hands[0]:
                world.work(0)
        if world.hands[1]:
            world.work(1)
    done = [member.done for member in world.coordinator.members]
    assert sum(done) == 1000 and done[0] > 1.5 * done[1]


def test_a_straggler_holds_nobody_up():
    """It counts for the end of an epoch only by its share, and is waited for only where its order's place is needed."""
    plan = Plan(2, epoch_size=constant(8), batch_size=1, min_range=2, open_epochs=4, stop=StopRule(epochs=50))
    world = World(plan)
    for replica in (0, 1):
        world.act(("join", replica))
    while ("work", 0) in world.actions():  # replica 1 makes no step
        world.act(("work", 0))
    assert world.opened == [0, 1, 2, 3] and world.ended == [0, 1, 2]
    assert sum(part.size for part in world.hands[1]) == 4 and world.hands[1][0].epoch == 0
    while world.finish is None:
        world.act(world.actions()[0])
    assert world.ended == list(range(50)) and len(world.finished_examples) == 400


# -- any interleaving -------------------------------------------------------------------------------------------------


@st.composite
def plans(draw) -> Plan:
    rounds = draw(st.booleans())
    barrier = rounds or draw(st.booleans())
    batch = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    bound = draw(st.sampled_from(["epochs", "steps", "examples"]))
    amount = draw(st.integers(1, 4 if bound == "epochs" else 60))
    warmstart = 0 if rounds else batch * draw(st.sampled_from([0, 0, 1, 5]))
    return Plan(
        replicas=draw(st.integers(1, 4)),
        epoch_size=lambda epoch: sizes[epoch % len(sizes)],
        batch_size=batch,
        epoch_barrier=barrier,
        open_epochs=draw(st.sampled_from([2, 3, 8])),
        rounds=rounds,
        warmstart_examples=warmstart,
        min_range=draw(st.sampled_from([1, batch * 4, 1000])),
        evaluate_every=draw(st.integers(0, 2)),
        max_restarts=1000,
        stop=StopRule(**{bound: amount}),
    )


def expected_work(plan: Plan) -> tuple[int, int, int]:
    """Epochs ended, examples and steps of a run in which nobody dies, counted one batch at a time."""
    epochs = examples = steps = 0
    stop = plan.stop
    while epochs != stop.epochs:
        left = plan.epoch_size(epochs)
        while left:
            room = left if stop.examples is None else min(left, stop.examples - examples)
            if room <= 0 or steps == stop.steps:
                return epochs, examples, steps
            taken = min(plan.batch_size, room)
            left, examples, steps = left - taken, examples + taken, steps + 1
        epochs += 1
    return epochs, examples, steps


SETTINGS = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(plans(), st.lists(st.integers(0, 1000), max_size=120))
def test_without_deaths_every_example_is_used_exactly_once(plan, choices):
    world = World(plan)
    for choice in choices:
        actions = world.actions()
        if not actions:
            break
        world.act(actions[choice % len(actions)])
    run_out(world)
    epochs, examples, steps = expected_work(plan)
    assert set(world.finished_examples.values()) <= {1}
    assert (len(world.ended), world.finished_examples.total()) == (epochs, examples)
    if plan.stop.examples is None:  # a bound on examples may cut a range off inside a batch of the epoch
        assert world.steps == steps
    every = plan.evaluate_every
    assert world.evaluated == [epoch for epoch in range(epochs) if every and (epoch + 1) % every == 0]


@SETTINGS
@given(plans(), st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 4)), max_size=120))
def test_with_deaths_every_example_is_used_and_nobody_waits_for_the_dead(plan, choices):
    world = World(plan)
    for choice, death in choices:
        if not world.actions():
            break
        if death == 0:
            world.act(("die", choice % plan.replicas))
        else:
            world.act(world.actions()[choice % len(world.actions())])
    run_out(world)
    epochs, examples, _ = expected_work(plan)
    assert len(world.ended) == epochs
    assert len(world.finished_examples) == examples
    assert world.finish is not None and not world.finish.at_once


@SETTINGS
@given(
    plans(),
    st.lists(st.tuples(st.integers(0, 1000), st.booleans()), max_size=80),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_restored_any_number_of_times_it_loses_and_repeats_nothing(plan, choices, replicas):
    """Also with another number of replicas each time; a range half done goes on in its middle."""
    world = World(plan)
    pending = list(replicas)
    for choice, restore in choices:
        if not world.actions():
            break
        if restore and pending and choice % 5 == 0:
            world.save_and_restore(pending.pop())
        else:
            world.act(world.actions()[choice % len(world.actions())])
    run_out(world)
    epochs, examples, steps = expected_work(plan)
    assert set(world.finished_examples.values()) <= {1}
    assert (len(world.ended), world.finished_examples.total()) == (epochs, examples)
    if plan.stop.examples is None:
        assert world.steps == steps


@SETTINGS
@given(plans(), st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(0, 3))
def test_deaths_beyond_the_bound_fail_the_job(plan, choices, bound):
    """Somebody who dies after every start ends the job after so many deaths, whatever the others do meanwhile."""
    world = World(Plan(**{**{name: getattr(plan, name) for name in plan.__dataclass_fields__}, "max_restarts": bound}))
    for death in range(1, bound + 2):
        world.act(("die", 0))
        assert world.fails == (death > bound)
        for choice in choices:
            others = [action for action in world.actions() if action[1] != 0]
            if others:
                world.act(others[choice % len(others)])
        if world.finish is not None:
            return
