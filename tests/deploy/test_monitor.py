"""Counters to records: means over intervals, epochs' losses, and counting on after a restore."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.monitor import Monitor
from worker.statistics import Statistics, statistics_specs


@pytest.fixture
def arrays():
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in statistics_specs(2).items()}


def step(arrays, worker, examples, loss, staleness):
    statistics = Statistics.of(arrays, worker)
    statistics.steps += 1
    statistics.examples += examples
    statistics.updates += 1
    statistics.loss_sum += loss * examples
    statistics.loss_count += examples
    statistics.note_staleness(staleness)


def test_progress_is_over_the_time_since_the_last(arrays):
    monitor = Monitor(arrays, 2)
    step(arrays, 0, 10, 1.0, 0)
    step(arrays, 1, 30, 2.0, 3)
    first = monitor.progress(2.0, 2, 0, 0.4)
    assert first["loss"] == pytest.approx(1.75) and first["examples_per_second"] == pytest.approx(20)
    assert first["staleness"] == pytest.approx(1.5) and first["epoch"] == 0.4
    assert [worker["examples_per_second"] for worker in first["workers"]] == pytest.approx([5, 15])
    step(arrays, 0, 10, 5.0, 1)
    second = monitor.progress(3.0, 2, 0, 0.5)
    assert second["loss"] == pytest.approx(5.0) and second["examples"] == 50 and second["steps"] == 3
    quiet = monitor.progress(4.0, 2, 0, 0.5)
    assert quiet["loss"] is None and quiet["staleness"] is None and quiet["examples_per_second"] == 0


def test_train_loss_is_the_epochs_own(arrays):
    monitor = Monitor(arrays, 2)
    assert monitor.train_loss is None
    step(arrays, 0, 10, 4.0, 0)
    monitor.end_epoch()
    assert monitor.train_loss == pytest.approx(4.0)
    step(arrays, 1, 10, 2.0, 0)
    monitor.end_epoch()
    assert monitor.train_loss == pytest.approx(2.0)


def test_counting_on_after_a_restore(arrays):
    monitor = Monitor(arrays, 2)
    step(arrays, 0, 10, 4.0, 7)
    step(arrays, 1, 10, 4.0, 2)
    counters = monitor.counters()
    fresh = {name: np.zeros(shape, dtype) for name, (shape, dtype) in statistics_specs(3).items()}
    resumed = Monitor(fresh, 3)
    resumed.restore(counters)
    step(fresh, 2, 5, 1.0, 0)
    summary = resumed.summary(10.0)
    assert summary["examples"] == 25 and summary["steps"] == 3 and summary["updates_per_second"] == pytest.approx(0.3)
    assert summary["staleness"]["max"] == 7 and summary["staleness"]["mean"] == pytest.approx(3.0)
    resumed.end_epoch()
    assert resumed.train_loss == pytest.approx(1.0)  # what was before the restore belongs to an earlier epoch
