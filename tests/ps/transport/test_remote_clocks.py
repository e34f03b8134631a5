"""Clocks on another host let a gate decide as those in shared memory do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ps.admission import Bounded, Clocks
from ps.errors import TransportError, UsageError
from ps.transport.service import ServiceOptions
from ps.waiting import wait_until
from worker.gate import Gate

from ..building import until
from .serving import zeros


@pytest.fixture
def far(serving):
    """Clocks of three replicas, and a function that gives those that a replica on another host sees."""
    clocks = Clocks(np.zeros(3, np.int64), np.zeros(3, np.int64))
    made = serving(zeros(4), replicas=3, service=ServiceOptions(clocks=clocks))
    return clocks, lambda replica: made.port(replica=replica).clocks


def test_they_say_what_the_clocks_say(far):
    clocks, of = far
    for replica in (0, 2):
        clocks.join(replica)
    remote = of(2)
    for to in (1, 4):
        remote.advance(2, to)
    clocks.advance(0, 3)
    assert clocks.clocks.tolist() == [3, 0, 4]
    assert (remote.clock(2), remote.clock(0), remote.minimum(), remote.lag(2)) == (4, 3, 3, 1)
    assert remote.members == (0, 2)
    clocks.leave(2)
    assert (remote.lag(2), remote.members, remote.minimum()) == (0, (0,), 3)
    clocks.leave(0)
    assert remote.minimum() == 0
    clocks.clocks[2] = 1
    clocks.join(2)  # its clock falls
    assert remote.lag(2) == 0 and remote.clock(2) == 0


def test_a_clock_does_not_go_back_by_a_retry_that_comes_late(far):
    clocks, of = far
    remote = of(1)
    remote.advance(1, 5)
    remote.advance(1, 4)
    assert clocks.clock(1) == 5


def test_a_gate_with_them_admits_as_one_with_the_clocks_themselves(far):
    clocks, of = far
    for replica in range(3):
        clocks.join(replica)
    gates = [Gate(Bounded(max_clock_lag=2), of(0), 0), Gate(Bounded(max_clock_lag=2), clocks, 1)]
    beside = Clocks.private(3)
    for replica in range(3):
        beside.join(replica)
    expected = [Gate(Bounded(max_clock_lag=2), beside, replica) for replica in (0, 1)]
    rng = np.random.default_rng(4)
    for _ in range(60):
        which = int(rng.integers(3))
        if which == 2:
            for each in (clocks, beside):
                each.advance(2, each.clock(2) + 1)
            continue
        allowed = gates[which].allowance()
        assert allowed == expected[which].allowance()
        if allowed:
            accrued = int(rng.integers(3))
            gates[which].stepped(1, accrued, False)
            expected[which].stepped(1, accrued, False)
        assert clocks.clocks.tolist() == beside.clocks.tolist()


def test_a_gate_that_waits_is_let_in_when_the_slowest_goes_on(far):
    clocks, of = far
    clocks.join(0)
    clocks.join(1)
    gate, looks = Gate(Bounded(max_clock_lag=0), of(0), 0), []
    assert gate.allowance() == 1
    gate.stepped(1, 0, False)
    assert gate.allowance() == 0
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_until, lambda: gate.allowance() > 0, lambda: looks.append(1))
        until(lambda: len(looks) > 1)
        assert not waiting.done()
        clocks.advance(1, 1)
        waiting.result()
    assert gate.allowance() == 1


def test_only_one_shard_keeps_the_clocks(serving):
    with pytest.raises(TransportError, match="shard 0 does not keep the clocks; ask shard 0"):
        serving(zeros(4)).port(replica=0).clocks  # noqa: B018
    made = serving(zeros(4), replicas=2, service=ServiceOptions(clocks=Clocks.private(2)))
    with pytest.raises(UsageError, match="replica must be < 2, got 2"):
        made.port(replica=2).clocks  # noqa: B018
