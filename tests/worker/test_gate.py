"""A replica before its next step: what it has told of those before, and that it waits where it must."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ps.admission import Asynchronous, Backup, Bounded, Clocks, Synchronous
from ps.rules import SGD, Add
from ps.transport.link import LATE
from tests.worker.harness import Farm
from worker.driver import Work
from worker.gate import Gate, Pace
from worker.strategies import EASGD, Downpour, MDownpour


@pytest.mark.parametrize(
    ("steps", "rises"),
    [
        ([(0, False)] * 3, [1, 1, 1]),  # a push in each step
        ([(0, False), (1, False), (2, False), (0, False)], [1, 0, 0, 3]),  # n_push = 3
        ([(1, False), (1, False), (1, False)], [0, 1, 1]),  # pushed at the beginning of the next step
        ([(1, False), (1, True), (2, False), (0, False)], [0, 0, 0, 4]),  # a gradient thrown away
        ([(0, True), (1, False)], [1, 0]),
    ],
)
def test_a_clock_rises_with_what_has_been_applied(steps, rises):
    pace = Pace()
    assert [pace.stepped(1, accrued, skipped) for accrued, skipped in steps] == rises
    assert sum(rises) + pace.ahead == len(steps)


def gated(strategy, rule, local_rule=None, *, bound=0, replicas=2) -> tuple[Farm, Clocks]:
    farm = Farm(strategy, rule, local_rule, replicas=replicas).begin()
    clocks = Clocks.private(replicas)
    for driver in farm.drivers:
        driver.gate = Gate(Bounded(bound), clocks, driver.replica.id)
        clocks.join(driver.replica.id)
    return farm, clocks


@pytest.mark.parametrize(
    ("strategy", "rule", "local_rule", "expected"),
    [
        (MDownpour(), SGD(lr=0.1), None, [1, 2, 3, 4, 5]),
        (Downpour(), SGD(lr=0.1), SGD(lr=0.1), [1, 2, 3, 4, 5]),
        (Downpour(n_push=3), SGD(lr=0.1), SGD(lr=0.1), [1, 1, 1, 4, 4]),
        (Downpour(push="update"), Add(), SGD(lr=0.1), [0, 1, 2, 3, 4]),
        (Downpour(push="update", n_push=2, n_fetch=2), Add(), SGD(lr=0.1), [0, 0, 2, 2, 4]),
        (EASGD(tau=2), None, SGD(lr=0.1), [1, 2, 3, 4, 5]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_clocks_of_strategies(strategy, rule, local_rule, expected):
    farm, clocks = gated(strategy, rule, local_rule)
    seen = []
    for _ in expected:
        farm.drivers[1].step()
        seen.append(clocks.clock(1))
    assert seen == expected and clocks.clock(0) == 0


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("bound", [0, 3])
def test_it_waits_at_the_bound_and_goes_on_when_the_slowest_does(bound):
    farm, clocks = gated(MDownpour(), SGD(lr=0.1), bound=bound)
    fast, slow = farm.drivers
    waiting = threading.Event()

    def between_steps():
        if fast.gate.allowance() == 0:
            waiting.set()

    thread = threading.Thread(target=fast.run, args=(Work(0, 0, np.arange(2 * (bound + 3))), between_steps))
    thread.start()
    for round_ in range(2):
        while clocks.clock(0) < bound + 1 + round_:
            assert waiting.wait(timeout=30)  # perhaps a report of the wait before
            waiting.clear()
        waiting.clear()
        assert waiting.wait(timeout=30)
        assert clocks.clocks.tolist() == [bound + 1 + round_, round_]
        slow.step()
    thread.join(timeout=30)
    assert not thread.is_alive() and fast.replica.clock == bound + 3
    assert fast.statistics.wait_seconds > 0 and slow.statistics.wait_seconds == 0


def test_waiting_can_be_interrupted_between_two_steps():
    farm, clocks = gated(MDownpour(), SGD(lr=0.1))
    clocks.advance(0, 1)

    def stop():
        raise Interrupted

    work = Work(0, 0, np.arange(8))
    with pytest.raises(Interrupted):
        farm.drivers[0].run(work, stop)
    assert work.position == 0 and clocks.clock(0) == 1


def test_nobody_waits_for_the_dead():
    farm, clocks = gated(MDownpour(), SGD(lr=0.1))
    clocks.leave(1)
    farm.drivers[0].run(Work(0, 0, np.arange(8)))
    assert clocks.clock(0) == 4


def test_without_a_bound_nothing_is_asked():
    gate = Gate()
    assert not gate.clocked and gate.policy == Asynchronous()
    with pytest.raises(AssertionError, match="needs clocks"):
        Gate(Bounded(1))


@pytest.mark.parametrize("strategy", [MDownpour(), Downpour()], ids=lambda strategy: strategy.name)
def test_pushes_become_contributions_under_a_policy_of_rounds(strategy):
    farm = Farm(strategy, SGD(lr=0.1), SGD(lr=0.1), replicas=1)
    calls = []
    farm.drivers[0].gate = Gate(Synchronous())
    farm.drivers[0].link.push_together = lambda *args, **options: calls.append(args[0].copy()) or np.array([0])
    farm.begin().drivers[0].step()
    assert len(calls) == 1 and calls[0].any() and farm.drivers[0].statistics.updates == 1


@pytest.mark.parametrize(
    ("staleness", "dropped", "updates", "counted"),
    [([0, 0], 0, 1, 1), ([LATE, LATE], 1, 0, 0), ([LATE, 0], 1, 1, 1), ([LATE, 2], 1, 1, 1)],
)
def test_late_contributions_are_counted_once(staleness, dropped, updates, counted):
    farm = Farm(MDownpour(), SGD(lr=0.1), replicas=1)
    driver = farm.drivers[0]
    driver.gate = Gate(Backup(1))
    driver.link.push_together = lambda *_args, **_options: np.array(staleness)
    farm.begin()
    driver.step()
    counts = driver.statistics
    assert (counts.dropped, counts.updates, counts.staleness_count) == (dropped, updates, counted)
    assert counts.staleness_max == max(0, *staleness)
