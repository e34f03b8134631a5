"""Connections that break anywhere, and networks that go silent: every change is made once, or its failure is said."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ps.errors import TransportError
from ps.shard import Stamp
from ps.transport.retry import Retry

from ..building import until
from .proxy import Proxy
from .serving import QUICK, zeros

SIZE = 50_000  # 200 kB: a push fills many packets


@pytest.fixture
def cutting(serving):
    """``cutting(budgets)``: a shard behind a network whose connections are cut after so many bytes; (serving, proxy, port)."""

    def make(budgets=(), retry=QUICK, checksum=False):
        made = serving(zeros(SIZE))
        proxy = Proxy(made.servers[0].address, budgets)
        made.closed.callback(proxy.close)
        return made, proxy, made.port(where=lambda: proxy.address, retry=retry, checksum=checksum)

    return make


@pytest.mark.parametrize("seed", range(4))
def test_pushes_over_connections_that_break_anywhere_are_applied_once(cutting, seed):
    chance = random.Random(seed)
    made, proxy, port = cutting([chance.randrange(100, 900_000) for _ in range(12)])
    updates = [np.full(SIZE, number, np.float32) for number in range(1, 31)]
    futures = [port.start_push(update, Stamp(0, 1, number + 1), version=0) for number, update in enumerate(updates)]
    results = [future.result() for future in futures]
    assert made.shard.version == 30 and set(made.shard.center.tolist()) == {30 * 31 / 2}
    assert proxy.connections > 3  # some were cut
    versions = [result.version for result in results if not result.duplicate]
    assert versions == sorted(versions)


@pytest.mark.parametrize("seed", range(4))
def test_exchanges_over_connections_that_break_anywhere_move_both_sides_once(cutting, seed):
    chance = random.Random(seed)
    made, proxy, port = cutting([chance.randrange(100, 600_000) for _ in range(12)], checksum=True)
    x = np.full(SIZE, 64.0, np.float32)
    for number in range(1, 11):
        port.exchange(x, 0.25, Stamp(0, 1, number), version=0)
        total = x + made.shard.center
        np.testing.assert_allclose(total, 64.0, rtol=1e-6)  # nothing was moved on one side only
    assert made.shard.version == 10 and proxy.connections > 3


def test_pulls_over_connections_that_break_are_whole(cutting):
    made, proxy, port = cutting([150, 400, 3000] * 3)
    made.shard.center[:] = np.arange(SIZE)
    out = np.zeros(SIZE, np.float32)
    for _ in range(5):
        out[:] = np.nan
        port.pull(out)
        np.testing.assert_array_equal(out, made.shard.center)


def test_a_network_that_goes_silent_is_noticed_and_waited_for(cutting):
    made, proxy, port = cutting(retry=Retry(deadline_s=0.5, patience_s=100.0, first_s=0.001, longest_s=0.02))
    port.push(np.ones(SIZE, np.float32), Stamp(0, 1, 1), version=0)
    proxy.go_silent()
    waiting = port.start_push(np.ones(SIZE, np.float32), Stamp(0, 1, 2), version=1)
    before = proxy.connections
    until(lambda: proxy.connections > before)  # it has given the old connection up
    assert not waiting.done()
    proxy.heal()
    assert waiting.result().version == 2 and made.shard.center[0] == 2.0


def test_a_network_that_stays_silent_is_named(cutting):
    made, proxy, port = cutting(retry=Retry(deadline_s=0.1, patience_s=0.3, first_s=0.001, longest_s=0.01))
    proxy.go_silent()
    for attempt in (
        lambda: port.version,
        lambda: port.pull(np.zeros(SIZE, np.float32)),
        lambda: port.push(np.zeros(SIZE, np.float32), Stamp(0, 1, 1), version=0),
    ):
        with pytest.raises(
            TransportError, match=rf"shard 0 at {proxy.address}: deadline of 0.1 s passed; gave up after"
        ):
            attempt()
    assert made.shard.version == 0
