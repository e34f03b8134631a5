"""A coordinator that takes over from one that was killed, while the replicas have gone on."""

from __future__ import annotations

import json

import pytest

from worker import effects as c
from worker.coordinator import Coordinator, Plan
from worker.stopping import StopRule


def plan(**options):
    return Plan(
        **{"replicas": 2, "epoch_size": lambda _epoch: 64, "batch_size": 4, "stop": StopRule(epochs=1), **options}
    )


def assigned(effects):
    return [(effect.replica, effect.range) for effect in effects if isinstance(effect, c.Assign)]


def started(**options):
    """A coordinator at work, and the ranges that each replica holds."""
    first = Coordinator(plan(**options))
    given = [*assigned(first.joined(0)), *assigned(first.joined(1))]
    return first, {replica: [part for who, part in given if who == replica] for replica in (0, 1)}


def successor(of, **options):
    """One that knows what ``of`` had written down."""
    other = Coordinator(plan(**options))
    other.restore(json.loads(json.dumps(of.state({}))))
    return other


def run_on(coordinator, hands):
    """Replicas finish whatever they hold until the end; all ranges that were finished."""
    finished = []
    while any(hands.values()):
        for replica, hand in hands.items():
            if hand:
                part = hand.pop(0)
                finished.append(part)
                for who, more in assigned(coordinator.done(replica, part.id)):
                    hands[who].append(more)
    return finished


def covered(ranges):
    return sorted(index for part in ranges for index in range(part.start, part.stop))


def ids(hands):
    return {replica: [part.id for part in hand] for replica, hand in hands.items()}


def take(given, hands):
    """Replicas are given ranges."""
    for replica, part in given:
        hands[replica].append(part)


def test_replicas_that_are_found_keep_what_they_hold():
    first, hands = started()
    second = successor(first)
    assert assigned(second.found(ids(hands))) == [], "their hands are full"
    assert covered(run_on(second, hands)) == list(range(64)) and second.finished.reason == "1 epoch"


def test_nothing_of_one_that_is_found_is_given_to_another():
    first, hands = started()
    second = successor(first)
    done = hands[0].pop()  # told to the one that was killed, and not written down
    given = assigned(second.found(ids(hands)))
    assert done in [part for _, part in given] and not {part.id for _, part in given} & set(ids(hands)[1])


def test_what_a_replica_no_longer_holds_is_handed_out_again():
    """It was told to a replica in the moment of the kill, and never came."""
    first, hands = started()
    lost, hands[1] = [hands[0].pop(), *hands[1]], []
    second = successor(first)
    given = assigned(second.found(ids(hands)))
    assert {part.id for part in lost} >= {part.id for _, part in given} and len(given) == 3
    take(given, hands)
    assert covered(run_on(second, hands)) == list(range(64))


def test_what_was_finished_in_the_meantime_counts_once():
    first, hands = started()
    second = successor(first)
    done = hands[0].pop(0)
    assert second.found({**ids(hands), 0: [done.id, *ids(hands)[0]]}) == []
    take(assigned(second.done(0, done.id)), hands)
    assert second.done(0, done.id) == [], "it may be told twice"
    assert covered([done, *run_on(second, hands)]) == list(range(64)) and second.handed == 64


def test_a_replica_that_died_meanwhile_is_replaced():
    first, hands = started()
    second = successor(first)
    assert assigned(second.found({0: ids(hands)[0]})) == []
    hands[1] = []
    effects = second.died(1)
    assert c.Restart(1) in effects
    take(assigned([*effects, *second.joined(1)]), hands)
    assert covered(run_on(second, hands)) == list(range(64))


@pytest.mark.parametrize(
    "options", [{"rounds": True, "epoch_barrier": True}, {"joins": True}], ids=["rounds", "clocks"]
)
def test_those_who_are_waited_for_are_still_counted(options):
    """So that nobody is waited for any more once its hands are empty."""
    first, hands = started(**options)
    second = successor(first, **options)
    assert second.found(ids(hands)) == []
    left = []
    while any(hands.values()):
        for replica in hands:
            if hands[replica]:
                effects = second.done(replica, hands[replica].pop(0).id)
                left += [effect.replica for effect in effects if isinstance(effect, c.Leave)]
                take(assigned(effects), hands)
    assert set(left) == {0, 1} and second.finished is not None


@pytest.mark.parametrize("options", [{"rounds": True, "epoch_barrier": True}, {"joins": True}, {}])
def test_who_holds_nothing_is_not_waited_for(options):
    """Whether it was told to leave before the kill, nobody knows; those who are given something come back in afterwards."""
    first, hands = started(**options)
    second = successor(first, **options)
    effects = second.found({0: ids(hands)[0]})
    left = [effect.replica for effect in effects if isinstance(effect, c.Leave)]
    assert left == ([1] if options else [])
    joined = [effects.index(effect) for effect in effects if isinstance(effect, c.Join)]
    assert all(at > effects.index(c.Leave(1)) for at in joined)
