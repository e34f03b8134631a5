"""Snapshots at the ends of epochs: by the count of examples, whoever completes it, each once."""

from __future__ import annotations

import threading
from itertools import cycle

import numpy as np
import pytest

import hogshead
from deploy.epoch_ends import OF_WORKERS, EpochEnds, Taken
from deploy.setup import prepare
from tests.deploy.conftest import LEAST_SQUARES
from worker.statistics import Statistics

EPOCH, BATCH = 512, 32


class Team:
    """Workers in one process, each with its own view of what they share; each step adds one to the center."""

    def __init__(self, workers: int = 2, every: int = 1, done: int = 0, ended: int = 0):
        job = hogshead.load(
            task=LEAST_SQUARES, strategy="downpour", workers={"count": workers}, evaluation={"every_epochs": every}
        )
        self.setup = prepare(job, shared=False)
        lock = threading.Lock()
        self.launcher, *self.views = (EpochEnds(self.setup, lock) for _ in range(1 + workers))
        self.statistics = [Statistics.of(self.setup.arrays, worker) for worker in range(workers)]
        self.setup.state.center[:] = 0
        self.launcher.begin(ended, done, [0] * workers)
        for worker in range(workers):
            self.launcher.starts(worker, 0)

    def step(self, worker: int, times: int = 1) -> None:
        for _ in range(times):
            self.setup.state.center[:] += 1
            self.statistics[worker].examples += BATCH
            self.statistics[worker].steps += 1
            self.views[worker].stepped()

    def snapshot(self) -> float:
        values = np.unique(self.setup.arrays["snapshots"][OF_WORKERS])
        assert values.size == 1
        return values[0]


@pytest.mark.parametrize("pattern", [[0], [0, 1], [1, 0]], ids=str)
def test_the_step_that_completes_an_epoch_takes_its_snapshot(pattern):
    team = Team()
    steps = EPOCH // BATCH
    turns = cycle(pattern)
    for epoch in range(3):
        for _ in range(steps):
            team.step(next(turns))
        versions = tuple(shard.version for shard in team.setup.state.shards)
        assert team.launcher.taken(epoch) == Taken((epoch + 1) * EPOCH, (epoch + 1) * steps, versions)
        assert team.snapshot() == (epoch + 1) * steps
        team.launcher.evaluated()


@pytest.mark.parametrize("slow", [3, 7, 20])
def test_a_worker_that_completes_an_epoch_and_is_much_slower_is_noticed_by_the_other(slow):
    team = Team()
    turns = cycle([0] * slow + [1])
    for epoch in range(5):
        while team.statistics[0].examples + team.statistics[1].examples < (epoch + 1) * EPOCH + 2 * BATCH:
            team.step(next(turns))
        assert 0 <= team.launcher.taken(epoch).examples - (epoch + 1) * EPOCH <= 2 * BATCH
        team.launcher.evaluated()


def test_the_end_of_a_range_is_looked_at_at_once():
    team = Team()
    team.step(0, 14)
    team.statistics[1].examples += 2 * BATCH
    team.views[1].look()
    assert team.launcher.taken(0).examples == EPOCH


def test_epochs_that_are_not_evaluated_are_passed_over():
    team = Team(every=2)
    team.step(0, 2 * EPOCH // BATCH)
    assert team.launcher.taken(1).examples == 2 * EPOCH


def test_a_snapshot_is_kept_until_it_is_evaluated():
    """The launcher takes the next itself, as soon as there is room; workers do not take it afterwards."""
    team = Team()
    team.step(0, 2 * EPOCH // BATCH + 1)
    assert team.snapshot() == EPOCH // BATCH
    assert team.launcher.taken(0).examples == EPOCH
    assert team.launcher.taken(1) is None
    team.launcher.evaluated()
    team.step(0, EPOCH // BATCH)
    assert team.launcher.taken(2).examples == 3 * EPOCH


def test_what_a_dead_worker_had_begun_counts_no_more():
    team = Team()
    team.step(0, 10)
    team.step(1, 3)
    team.launcher.starts(1, BATCH)  # its first step was a range, and is done; the two of the next are lost
    team.step(0, 4)
    assert team.snapshot() == 0
    team.step(0)
    assert team.snapshot() == 18


def test_a_run_that_goes_on_counts_from_where_it_was():
    team = Team(done=EPOCH + 12 * BATCH, ended=1)
    team.step(1, 4)
    assert team.launcher.taken(1).examples == 4 * BATCH and team.snapshot() == 4


def test_each_epoch_of_several_workers_is_evaluated_once_and_not_before_its_end(train):
    result = train(workers={"count": 2}, stop={"epochs": 6})
    records = [record for record in result.metrics if record["kind"] == "evaluation"]
    assert sorted({record["epoch"] for record in records}) == [1, 2, 3, 4, 5, 6]
    assert [record["epoch"] for record in records[:5]] == [1, 2, 3, 4, 5]
    assert all(record["examples"] >= record["epoch"] * EPOCH for record in records)
