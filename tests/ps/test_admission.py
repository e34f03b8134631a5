"""Admission: the policies, the clocks they go by, and that in any interleaving bounds hold and somebody can go on."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.admission import POLICIES, Asynchronous, Backup, Bounded, Clocks, Synchronous, build_admission
from ps.errors import UsageError
from ps.shard import ShardOptions

SETTINGS = settings(max_examples=200, deadline=None)


# -- clocks -----------------------------------------------------------------------------------------------------------


def test_only_members_are_waited_for():
    clocks = Clocks.private(3)
    assert clocks.minimum() == 0
    for replica, clock in ((0, 5), (1, 3)):
        clocks.join(replica)
        clocks.advance(replica, clock)
    assert (clocks.minimum(), clocks.lag(0), clocks.lag(1), clocks.lag(2)) == (3, 2, 0, 0)
    clocks.leave(1)
    assert (clocks.minimum(), clocks.lag(0), clocks.lag(1)) == (5, 0, 0)


def test_a_newcomer_begins_at_the_smallest_clock():
    clocks = Clocks.private(3)
    clocks.join(0)
    clocks.advance(0, 7)
    clocks.join(1)
    clocks.advance(1, 9)
    clocks.join(2)
    assert clocks.clock(2) == 7
    clocks.join(1)  # is there already
    assert clocks.clock(1) == 9
    clocks.leave(0)
    clocks.leave(1)
    clocks.leave(2)
    clocks.join(1)
    assert clocks.clock(1) == 0  # nobody is there to go by


def test_a_newcomer_keeps_up_with_those_who_go_on_while_it_joins():
    """Between looking at the clocks and being seen itself."""

    class Racing(Clocks):
        def minimum(self):
            smallest = super().minimum()
            self.advance(0, smallest + 4)
            return smallest

    clocks = Racing(np.zeros(2, np.int64), np.zeros(2, np.int64))
    clocks.members[0] = 1
    clocks.join(1)
    assert clocks.clock(1) == 4


@SETTINGS
@given(
    st.lists(
        st.tuples(st.sampled_from(["join", "leave", "advance"]), st.integers(0, 3), st.integers(0, 5)), max_size=80
    )
)
def test_counted_clocks_are_the_same_as_those_that_lie_in_shared_memory(events):
    counted, plain = Clocks.private(4), Clocks(np.zeros(4, np.int64), np.zeros(4, np.int64))
    for what, replica, by in events:
        arguments = (replica, plain.clock(replica) + by) if what == "advance" else (replica,)
        getattr(counted, what)(*arguments)
        getattr(plain, what)(*arguments)
        assert counted.clocks.tolist() == plain.clocks.tolist() and counted.members.tolist() == plain.members.tolist()
        assert counted.minimum() == plain.minimum()
        assert [counted.lag(k) for k in range(4)] == [plain.lag(k) for k in range(4)]


# -- policies ---------------------------------------------------------------------------------------------------------


def test_policies_by_name():
    assert build_admission({}) == Asynchronous()
    assert build_admission({"policy": "bounded", "max_clock_lag": 3, "backups": 1}) == Bounded(3)
    assert build_admission({"policy": "synchronous", "max_clock_lag": 3}) == Synchronous()
    assert build_admission({"policy": "backup", "max_clock_lag": 0, "backups": 2}) == Backup(2)
    facts = {name: (p().clocked, p().rounds, p().backups, p().joins) for name, p in POLICIES.items()}
    assert facts == {
        "asynchronous": (False, False, 0, False),
        "bounded": (True, False, 0, True),
        "synchronous": (False, True, 0, True),
        "backup": (False, True, 1, True),
    }


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_admission({"policy": "bonded"}), "[admission] policy must be one of"),
        (lambda: build_admission({"policy": "bonded"}), "bounded"),
        (lambda: Bounded(-1), "max_clock_lag must be >= 0 steps, got -1"),
        (lambda: Backup(-1), "backups must be >= 0 replicas, got -1"),
        (lambda: ShardOptions(replicas=2, rounds=True, backups=2), "backups must be >= 0 and < replicas = 2, got 2"),
    ],
)
def test_what_cannot_be_is_refused(build, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        build()


def test_the_bound_counts_steps_that_are_not_applied_yet():
    clocks = Clocks.private(2)
    for replica in (0, 1):
        clocks.join(replica)
    clocks.advance(0, 2)
    assert [Bounded(3).allowance(clocks, 0, ahead) for ahead in (0, 1, 2, 5)] == [2, 1, 0, 0]
    assert [Bounded(3).allowance(clocks, 1, ahead) for ahead in (0, 3, 9)] == [4, 1, 1]  # the slowest always goes on
    assert Bounded(2).admits(clocks, 0) and not Bounded(1).admits(clocks, 0)
    assert Asynchronous().admits(clocks, 0, 100)


class Group:
    """Replicas under a bound whose updates are applied at every ``n_push``-th step; what each had read is checked.

    Attributes:
      applied: per replica, the clock stamps of its updates that the center holds.
    """

    def __init__(self, replicas: int, bound: int, n_push: int):
        self.clocks, self.policy, self.n_push = Clocks.private(replicas), Bounded(bound), n_push
        self.pending = [0] * replicas
        self.log: list[tuple[str, int]] = []

    def able(self) -> list[int]:
        members = np.flatnonzero(self.clocks.members).tolist()
        return [k for k in members if self.policy.admits(self.clocks, k, self.pending[k])]

    def step(self, replica: int) -> None:
        begun = self.clocks.clock(replica) + self.pending[replica]
        # Every update stamped <= c - s - 1 of whoever is waited for has been applied when a step at clock c begins.
        assert begun - self.clocks.minimum() <= self.policy.max_clock_lag
        self.pending[replica] += 1
        if self.pending[replica] >= self.n_push:
            self.clocks.advance(replica, self.clocks.clock(replica) + self.pending[replica])
            self.pending[replica] = 0


@SETTINGS
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 4),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 999)), max_size=150),
)
def test_no_step_begins_beyond_the_bound_and_somebody_can_always_go_on(replicas, n_push, slack, choices):
    group = Group(replicas, n_push - 1 + slack, n_push)
    for what, choice in choices:
        replica = choice % replicas
        if what == 0:
            group.clocks.join(replica)
            group.pending[replica] = min(group.pending[replica], n_push - 1)
        elif what == 1:
            group.clocks.leave(replica)
        elif group.able():
            able = group.able()
            group.step(able[choice % len(able)])
        assert group.able() or not group.clocks.members.any()


def test_the_slowest_is_reached_by_none_and_everybody_makes_equal_headway():
    """With one that never steps, the others stop exactly at the bound."""
    group = Group(3, bound=4, n_push=1)
    for replica in range(3):
        group.clocks.join(replica)
    while any(replica != 2 for replica in group.able()):
        group.step(next(replica for replica in group.able() if replica != 2))
    assert group.clocks.clocks.tolist() == [5, 5, 0]  # the step at clock 4 was begun, the one at 5 was not
    group.clocks.leave(2)
    assert group.able() == [0, 1]
