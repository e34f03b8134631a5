"""Records of a simulated run lie evenly in it."""

from __future__ import annotations

from deploy.sections import StopSection
from deploy.simulator.milestones import PARTS, Milestones


def test_every_hundredth_once():
    milestones = Milestones(StopSection(epochs=4), epoch_size=100)
    passed = [examples for examples in range(401) if milestones.passed(examples, 0, 0.0)]
    assert passed == list(range(4, 401, 4)) and len(passed) == PARTS


def test_the_bound_that_is_nearest_counts():
    milestones = Milestones(StopSection(epochs=100, steps=10, seconds=1000.0), epoch_size=100)
    assert not milestones.passed(99, 0, 9.0)
    assert milestones.passed(0, 1, 0.0)
    assert not milestones.passed(100, 1, 90.0)
    assert milestones.passed(100, 1, 110.0)


def test_parts_that_are_leapt_over_make_one_record():
    milestones = Milestones(StopSection(examples=1000), epoch_size=10)
    assert milestones.passed(500, 0, 0.0) and not milestones.passed(500, 0, 0.0)
    assert milestones.passed(510, 0, 0.0)
