"""The benchmark of the simulator measures what it says, here at a small size."""

from __future__ import annotations

import pytest

from benchmarks.simulation import PARTS, measure


@pytest.mark.parametrize("part", PARTS)
def test_it_makes_as_many_updates_as_it_says(part):
    figures = measure(part, replicas=50, updates=2000)
    expected = {"digits": (64, 10_000), "linear": (50, 2000), "wide": (50, 200)}[part]
    assert (figures["replicas"], figures["updates"], figures["status"]) == (*expected, "done")
    assert figures["microseconds_per_update"] * figures["updates"] == pytest.approx(figures["seconds"] * 1e6)
    assert figures["mean_staleness"] > 30
