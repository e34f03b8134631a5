"""Counters of replicas that are far away: each incarnation counts from zero, the run counts on."""

from __future__ import annotations

import json

import numpy as np

from deploy.cluster.tally import Tally
from deploy.monitor import Monitor
from worker.statistics import COUNTERS, SUMS

_ROW = "statistics.counters"


def report(examples=0, staleness_max=0, loss=0.0, seen=((), ())):
    """What a replica tells, as ``ClusterWorker.counters`` gives it."""
    counters = [0] * len(COUNTERS)
    counters[COUNTERS.index("examples")], counters[COUNTERS.index("staleness_max")] = examples, staleness_max
    sums = [0.0] * len(SUMS)
    sums[SUMS.index("loss_sum")] = loss
    return {"counters": counters, "sums": sums, "staleness": [list(part) for part in seen]}


def counted(tally, replica, name="examples"):
    return int(tally.arrays[_ROW][replica, COUNTERS.index(name)])


def test_a_later_report_takes_the_place_of_the_one_before():
    tally = Tally(2)
    tally.report(1, report(10, loss=2.0, seen=([0, 3], [4, 5])))
    tally.report(1, report(25, loss=3.0, seen=([0, 3], [4, 9])))
    assert (counted(tally, 0), counted(tally, 1)) == (0, 25)
    assert tally.arrays["statistics.sums"][1, SUMS.index("loss_sum")] == 3.0
    assert tally.arrays["statistics.staleness"][1, [0, 3]].tolist() == [4, 9]


def test_a_new_incarnation_adds_to_what_the_ones_before_have_counted():
    tally = Tally(2)
    for examples, largest in ((10, 7), (5, 2)):
        tally.report(0, report(examples, largest, seen=([1], [examples])))
        tally.retire(0)
    tally.report(0, report(1, 3, seen=([1], [1])))
    assert counted(tally, 0) == 16 and counted(tally, 0, "staleness_max") == 7
    assert tally.arrays["statistics.staleness"][0, 1] == 16


def test_one_that_ended_before_it_told_anything():
    tally = Tally(1)
    tally.retire(0)
    tally.report(0, report(4))
    assert counted(tally, 0) == 4


def test_a_replica_that_outlives_the_coordinator_is_counted_once():
    """A replica that is at work reports all that it has counted once more, to whoever is the coordinator then."""
    tally = Tally(3)
    tally.report(1, report(10, 6, 1.5, ([2, 4], [3, 7])))
    tally.retire(1)
    tally.report(1, report(100))
    state = json.loads(json.dumps(tally.state()))
    other = Tally(3)
    other.restore(state)
    other.report(1, report(100))
    for name, array in tally.arrays.items():
        np.testing.assert_array_equal(other.arrays[name], array)


def test_what_a_replica_has_counted_survives_if_it_dies_with_the_coordinator():
    tally = Tally(3)
    tally.report(1, report(10, 6, 1.5, ([2, 4], [3, 7])))
    tally.retire(1)
    tally.report(1, report(100, 2, 0.5, ([2], [1])))
    other = Tally(3)
    other.restore(json.loads(json.dumps(tally.state())))
    for name, array in tally.arrays.items():
        np.testing.assert_array_equal(other.arrays[name], array)
    other.retire(1)
    other.report(1, report(1))
    assert counted(other, 1) == 111 and counted(other, 1, "staleness_max") == 6
    assert other.arrays["statistics.staleness"][1, [2, 4]].tolist() == [4, 7]


def test_what_a_monitor_has_restored_is_not_counted_twice():
    tally = Tally(2)
    Monitor(tally.arrays, 2).restore({"examples": 40, "staleness_max": 0, "histogram": [0]})
    tally.settle()
    tally.report(0, report(2))
    assert counted(tally, 0) == 42


def test_a_state_that_an_earlier_version_wrote_is_understood():
    tally = Tally(2)
    tally.restore({"1": report(10)})
    tally.report(1, report(5))
    assert counted(tally, 1) == 15
