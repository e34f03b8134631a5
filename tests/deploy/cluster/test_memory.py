"""The bound on the memory of an actor."""

from __future__ import annotations

import threading

from deploy.cluster.memory import own_memory, reserved, watch


def test_what_ray_keeps_free():
    assert reserved(None) == {} and reserved(1.5) == {"memory": 1_500_000}


def test_memory_of_ones_own_is_counted():
    before = own_memory()
    block = bytearray(b"x" * 50_000_000)
    assert 45_000_000 < own_memory() - before < 120_000_000
    del block


def test_whoever_takes_more_is_told_of_once():
    told, over = [], threading.Event()

    def exceeded(error):
        told.append(str(error))
        over.set()

    watch(1.0, "worker 3", "replica_memory_mb", exceeded)
    assert over.wait(60)
    assert (
        len(told) == 1
        and "worker 3 took" in told[0]
        and "its bound is 1 MB; raise [cluster] replica_memory_mb" in told[0]
    )


def test_without_a_bound_nobody_looks():
    before = threading.enumerate()
    watch(None, "worker 3", "replica_memory_mb", lambda error: None)
    assert not [thread for thread in threading.enumerate() if thread.name == "memory" and thread not in before]
