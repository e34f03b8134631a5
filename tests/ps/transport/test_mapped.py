"""A shard in the memory of another process of the same host, which may die at any moment."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest

from ps.errors import TransportError
from ps.host import ShardHost
from ps.rules import SGD
from ps.segment import FOLDER, sweep
from ps.transport.mapped import MappedShard, OwnerGone

from ..building import forked, shard_plans, stamp, until

VALUES = {"w": np.arange(6.0)}


def plan_of(count=1, index=0, **options):
    return shard_plans(VALUES, SGD(lr=1.0), count, replicas=2, **options)[index]


def owning(plan):
    """The main part of a process that owns a shard: tells its place, answers with its center until it is killed."""

    def serve(connection):
        host = ShardHost(plan)
        host.begin(host.shard.range.of(plan.layout.flatten(VALUES)))
        connection.send(host.place())
        while True:
            connection.recv()
            connection.send((host.shard.center.copy(), host.shard.version))

    return serve


@contextmanager
def owner(plan):
    """A process that owns a shard, and the port to it."""
    with forked(owning(plan)) as (process,):
        port = MappedShard(plan, process.connection.recv())
        yield process, port
        port.close()
    sweep()


def center_of(process):
    process.connection.send("center?")
    return process.connection.recv()


def descriptors():
    """Processes that this one holds open."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one by which they are listed
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum("pidfd" in link for link in links)


def test_updates_are_made_in_the_owners_memory():
    with owner(plan_of()) as (process, port):
        pulled, x = np.empty(6), np.full(6, 10.0)
        assert port.pull(pulled) == 0 and pulled.tolist() == VALUES["w"].tolist()
        assert port.push(np.ones(6), stamp(1), version=0).version == 1
        assert port.push(np.ones(6), stamp(1), version=0).duplicate
        assert port.exchange(x, 0.5, stamp(2), version=1).version == 2
        assert port.note_updates(3) == 2
        expected = (VALUES["w"] - 1 + 10) / 2
        np.testing.assert_array_equal(x, expected)
        center, version = center_of(process)
        np.testing.assert_array_equal(center, expected)
        np.testing.assert_array_equal(port.center, expected)
        assert version == port.version == 5 and port.rounds == 0
        assert port.transport == "shared memory"


def test_a_synchronous_step():
    with owner(plan_of(2, 1, rounds=True)) as (process, port):
        port.shard.join(0)
        port.shard.join(1)
        assert port.contribute(np.ones(3), stamp(1), version=0).round == 1
        assert port.rounds == 0
        port.contribute(np.full(3, 3.0), stamp(1, replica=1), version=0)
        assert port.rounds == 1 and (port.index, port.range.start) == (1, 3)
        np.testing.assert_array_equal(center_of(process)[0], VALUES["w"][3:] - 2)


OPERATIONS = {
    "version": lambda port: port.version,
    "rounds": lambda port: port.rounds,
    "pull": lambda port: port.pull(np.empty(6)),
    "push": lambda port: port.push(np.ones(6), stamp(1), version=0),
    "exchange": lambda port: port.exchange(np.ones(6), 0.5, stamp(1), version=0),
    "contribute": lambda port: port.contribute(np.ones(6), stamp(1), version=0),
    "note_updates": lambda port: port.note_updates(1),
}


def test_every_operation_notices_that_the_owner_is_gone():
    with owner(plan_of(rounds=True)) as (process, port):
        process.kill()
        before = port.shard.center.copy()
        for name, operation in OPERATIONS.items():
            with pytest.raises(OwnerGone, match="shard 0: the process that owned it is gone") as error:
                operation(port)
            assert error.value.shard == 0, name
        np.testing.assert_array_equal(port.shard.center, before)


def test_an_owner_that_is_dead_already():
    with forked(owning(plan_of())) as (process,):
        place = process.connection.recv()
        process.kill()
        before = descriptors()
        with pytest.raises(OwnerGone, match="gone"):
            MappedShard(plan_of(), place)
        assert descriptors() == before
    sweep()


def test_another_process_with_the_owners_number():
    host = ShardHost(plan_of())
    try:
        before = descriptors()
        with pytest.raises(OwnerGone):
            MappedShard(plan_of(), replace(host.place(), started="12345"))
        assert descriptors() == before
    finally:
        host.close()


@pytest.mark.parametrize("lost", ["segment", "locks"])
def test_memory_that_is_not_there(lost):
    host = ShardHost(plan_of())
    try:
        before = descriptors()
        with pytest.raises(TransportError, match="nowhere"):
            MappedShard(plan_of(), replace(host.place(), **{lost: "hogshead-nowhere"}))
        assert descriptors() == before
    finally:
        host.close()


def test_a_lock_that_the_dead_owner_held_is_free():
    """The owner is killed inside an update: whoever has it mapped may still look, and finds the lock free."""

    def serve(connection):
        host = ShardHost(plan_of())
        connection.send(host.place())
        with host.shard.lock:
            connection.send("locked")
            connection.recv()

    with forked(serve) as (process,):
        port = MappedShard(plan_of(), process.connection.recv())
        assert process.connection.recv() == "locked"
        process.kill()
        with port.shard.lock:
            pass
        port.close()
    sweep()


def test_the_memory_of_a_dead_owner_is_swept_away():
    with owner(plan_of()) as (process, port):
        place = port._locks.path
        process.kill()
        until(lambda: process.wait() < 0)
        sweep()
        assert not place.exists() and not list(FOLDER.glob(f"hogshead-{process.pid}-*"))
        port.shard.pull(np.empty(6))  # still mapped: nobody else's memory
