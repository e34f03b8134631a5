"""The driver's transfers in the background: all applied once, in order, and their errors come out."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ps.errors import TransportError
from ps.rules import SGD
from tests.worker.harness import Dense, Farm, interleaving
from worker.commands import Pull
from worker.courier import Courier
from worker.strategies import Downpour
from worker.strategies.base import Strategy


class Recorded(Dense):
    """Remembers every gradient that it gave, as a flat vector."""

    def __init__(self):
        super().__init__()
        self.gradients: list[np.ndarray] = []

    def loss_and_gradient(self, parameters, batch):
        loss, gradient = super().loss_and_gradient(parameters, batch)
        self.gradients.append(np.concatenate([gradient["w"], gradient["c"]]))
        return loss, gradient


class Gate:
    """A link whose pulls and pushes wait until they are let through, or fail."""

    def __init__(self, link, fail: str = ""):
        self.link, self.fail = link, fail
        self.pulls, self.pushes = threading.Event(), threading.Event()

    def pull(self, out):
        self.pulls.wait()
        if self.fail == "pull":
            raise TransportError("shard 0 is gone")
        return self.link.pull(out)

    def push(self, payload, versions, **more):
        self.pushes.wait()
        if self.fail == "push":
            raise TransportError("shard 0 is gone")
        return self.link.push(payload, versions, **more)

    def open(self):
        self.pulls.set()
        self.pushes.set()
        return self

    def __getattr__(self, name):
        return getattr(self.link, name)


@pytest.mark.parametrize("n_push", [1, 3])
@pytest.mark.parametrize("shards", [1, 3])
def test_background_pushes_are_all_applied_once(n_push, shards):
    task = Recorded()
    farm = Farm(Downpour(n_push=n_push), SGD(lr=0.01), SGD(lr=0.01), task=task, shards=shards, background=True)
    farm.play([0] * 50)
    expected = farm.layout.flatten(farm.start) - 0.01 * np.sum(task.gradients, 0)
    assert np.abs(farm.center - expected).max() < 1e-12
    pushes = -(-50 // n_push) + (n_push > 1)  # the first holds one step, and what is left goes at the end
    assert farm.drivers[0].statistics.updates == pushes
    assert not any(thread.name.startswith("courier") for thread in threading.enumerate())


def test_background_with_several_replicas():
    task = Recorded()
    farm = Farm(Downpour(n_fetch=2), SGD(lr=0.005), SGD(lr=0.005), task=task, replicas=3, background=True)
    farm.play(interleaving(3, 30))
    expected = farm.layout.flatten(farm.start) - 0.005 * np.sum(task.gradients, 0)
    assert np.abs(farm.center - expected).max() < 1e-12


def test_a_background_pull_lands_between_two_steps():
    """Until it is there the replica trains on what it has; then it goes on from the center."""
    farm = Farm(Downpour(n_fetch=10**6, n_push=10**6), SGD(lr=0.1), SGD(lr=0.1), background=True).begin()
    driver = farm.drivers[0]
    gate = driver.link = Gate(driver.link)
    gate.pushes.set()
    driver.step()  # starts a pull, which is held up
    alone = driver.replica.parameters.copy()
    assert not np.array_equal(alone, farm.center)  # its own first step; the push of it is under way
    driver.step()
    assert not np.array_equal(driver.replica.parameters, alone)
    farm.center[:] = 5.0
    gate.pulls.set()
    driver.settle()
    examples = farm.batches(0)[2]
    driver.step()
    x, y = farm.task.x[examples], farm.task.y[examples]
    _, gradient = farm.task.loss_and_gradient({"w": np.full(3, 5.0), "c": np.array([5.0])}, (x, y))
    expected = 5.0 - 0.1 * np.concatenate([gradient["w"], gradient["c"]])
    assert driver.replica.parameters == pytest.approx(expected, rel=1e-12)
    driver.finish()


def test_a_pull_that_is_waited_for_is_newer_than_one_under_way():
    class Mixed(Strategy):
        def begin(self, replica):
            yield Pull(wait=False)

        def step(self, replica):
            yield Pull()

    farm = Farm(Mixed(), SGD(lr=0.1), background=True)
    driver = farm.drivers[0]
    driver.begin()
    driver.settle()  # the first has fetched the initial values, and was not looked at yet
    farm.center[:] = 3.0
    driver._perform[Pull](Pull())
    driver.finish()  # would take over what had arrived before
    assert (driver.replica.parameters == 3.0).all()


@pytest.mark.parametrize("fail", ["push", "pull"])
def test_background_errors_come_out(fail):
    farm = Farm(Downpour(), SGD(lr=0.1), SGD(lr=0.1), background=True).begin()
    driver = farm.drivers[0]
    driver.link = Gate(driver.link, fail).open()
    with pytest.raises(TransportError, match="shard 0 is gone"):
        for _ in range(20):
            driver.step()
        driver.settle()


def test_errors_in_the_background_come_out_at_the_end_at_last():
    farm = Farm(Downpour(), SGD(lr=0.1), SGD(lr=0.1), background=True).begin()
    driver = farm.drivers[0]
    driver.link = Gate(driver.link, "push").open()
    driver.step()
    with pytest.raises(TransportError):
        driver.settle()


def test_courier_copies_what_it_carries_and_keeps_the_order():
    courier, seen, go = Courier(3, "float64"), [], threading.Event()

    def push(payload):
        go.wait()
        seen.append(np.asarray(payload).tolist())
        return lambda: answered.append(payload.tolist())

    answered = []
    vector = np.arange(3.0)
    courier.send(vector, push)
    vector[:] = 7
    courier.send(vector, push)
    vector[:] = 8
    go.set()
    for value in range(20):
        vector[:] = value
        courier.send(vector, push)
        assert len(seen) >= value + 3 - 2  # never more than the window under way
        assert len(answered) >= value - 4  # nor more answers than a few, whose payloads are kept as they were
    courier.drain()
    courier.close()
    assert seen == answered == [[0, 1, 2], [7, 7, 7], *([value] * 3 for value in range(20))]
