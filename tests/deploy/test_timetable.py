"""What is due by the clock of a run."""

from __future__ import annotations

from deploy.timetable import Timetable


def test_occasions_come_again_a_period_after_they_were_due():
    table = Timetable({"save": 10.0, "look": 3.0}, now=100.0)
    times = (100, 103, 105, 106.5, 109, 111, 120.9, 121)
    seen = [(now, what) for now in times for what in ("save", "look") if table.due(what, now)]
    assert seen == [(103, "look"), (106.5, "look"), (111, "save"), (111, "look"), (120.9, "look"), (121, "save")]


def test_what_has_no_period_never_comes():
    table = Timetable({"save": None, "look": 0}, now=0.0)
    assert not table.due("save", 1e300) and not table.due("look", 1e300)
