"""What the launchers share: who comes after whom in a resumed run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deploy.launcher import Launcher


@pytest.mark.parametrize(
    ("saved", "pushed", "now"),
    [
        ([2, 1], [2, 1], [2, 1, 0, 0]),
        ([2, 1], [2, 1, 9, 5], [2, 1, 9, 5]),  # guests and groups had the numbers of the new workers
        ([2, 4], [2, 3], [2, 4, 0, 0]),  # its second worker had not pushed since it was replaced
        ([1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 8], [1, 1, 1, 1]),
    ],
)
def test_workers_come_after_whoever_had_their_numbers(saved, pushed, now):
    launcher = SimpleNamespace(incarnations=[0] * 4)
    checkpoint = SimpleNamespace(manifest={"incarnations": saved}, incarnations=lambda: pushed)
    Launcher._come_after(launcher, checkpoint)
    assert launcher.incarnations == now
