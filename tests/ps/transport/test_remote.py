"""A port over gRPC does at a shard what the shard itself would do, whatever happens on the way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from inspect import signature

import numpy as np
import pytest

from ps.errors import NonFiniteError, TransportError, UsageError
from ps.rows import Rows
from ps.rules import SGD, Adagrad, AdaptiveRevision, Add
from ps.shard import Applied, Shard, Stamp
from ps.stepper import split_payload
from ps.transport.port import Port
from ps.transport.remote import RemoteShard

from ..building import private_state, tensors, until
from .serving import ONES, QUICK, fingerprint, stamps, zeros

CHUNKS = 600_000  # float32 elements: more than two chunks


def test_shards_here_and_there_have_what_a_port_has():
    members = {name for name in vars(Port) if not name.startswith("_")} | set(Port.__annotations__)
    assert {"index", "range", "version", "rounds", "pull", "push", "exchange", "contribute", "note_updates"} <= members
    for kind, names in (
        (Shard, set(dir(Shard)) | set(Shard.__annotations__)),
        (RemoteShard, set(dir(RemoteShard)) | {"index", "range"}),
    ):
        assert members <= names, kind
        for name in ("pull", "push", "exchange", "contribute", "note_updates"):
            assert list(signature(getattr(kind, name)).parameters) == list(signature(getattr(Port, name)).parameters)


# -- the same as the shard itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("size", [1, 8, CHUNKS])
def test_it_does_what_the_shard_does(serving, size, checksum):
    rng = np.random.default_rng(3)
    start = {"w": rng.normal(size=size).astype(np.float32)}
    made, beside = (
        serving(start, Adagrad(lr=0.3), replicas=2),
        private_state(start, Adagrad(lr=0.3), replicas=2).shards[0],
    )
    port, x = made.port(checksum=checksum), rng.normal(size=size).astype(np.float32)
    for number in range(3):
        gradient, mine, theirs = rng.normal(size=size).astype(np.float32), x.copy(), x.copy()
        facts = {"version": number, "count": 3, "gradient_norm": 2.5, "epoch": 4}
        stamp, other = Stamp(0, 1, number + 1), Stamp(1, 1, number + 1)
        assert port.push(gradient, stamp, **facts) == beside.push(gradient, stamp, **facts)
        assert port.exchange(mine, 0.3, other, version=0) == beside.exchange(theirs, 0.3, other, version=0)
        np.testing.assert_array_equal(mine, theirs)
        out = np.full(size, np.nan, np.float32)
        assert port.pull(out, 0, bool(number % 2)) == beside.version
        np.testing.assert_array_equal(out, beside.center)
    assert fingerprint(made.shard) == fingerprint(beside)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_named_parts_and_rows_arrive_as_they_are(serving, dtype):
    parameters = tensors(dtype=dtype, bias=(3,), table=(7, 3), wide=(5,), other=(4, 1), mean=(3,))
    options = {"averaged": ("mean",), "sparse": ("table", "other"), "replicas": 2}
    made = serving(parameters, Adagrad(lr=0.3), 3, **options)
    beside = private_state(parameters, Adagrad(lr=0.3), 3, **options)
    rng = np.random.default_rng(5)
    payload = {
        "mean": rng.normal(size=3).astype(dtype),
        "table": Rows(np.array([6, 0, 3, 3]), rng.normal(size=(4, 3)).astype(dtype)),
        "bias": rng.normal(size=3).astype(dtype),
        "other": Rows(np.array([2, 1, 3]), rng.normal(size=(3, 1)).astype(dtype)),
    }
    for index, shard in enumerate(beside.shards):
        part, before = split_payload(payload, beside.layout, shard.range), made.state.shards[index].center.copy()
        port = made.port(index, checksum=True)
        assert port.push(part, Stamp(1, 2, 3), version=0) == shard.push(part, Stamp(1, 2, 3), version=0)
        assert fingerprint(made.state.shards[index]) == fingerprint(shard)
        assert not np.array_equal(made.state.shards[index].center, before)


@pytest.mark.parametrize("consistent", [False, True])
def test_rows_are_read(serving, consistent):
    made = serving(tensors(dtype="float32", w=(5,), table=(9, 3)), count=2, sparse=("table",))
    port, shard = made.port(1, checksum=True), made.state.shards[1]
    (table,) = port.describe().tables
    rows = np.array([2, 0, 2])
    values, version = port.pull_rows("table", rows, consistent)
    held = shard.center[table.offset :].reshape(table.rows, 3)
    np.testing.assert_array_equal(values, held[rows])
    assert version == 0 and port.pull_rows("table", np.zeros(0, np.int64))[0].shape == (0, 3)
    with pytest.raises(UsageError, match=r"'table': rows must lie in \[0, \d\), got 2 to 9"):
        port.pull_rows("table", np.array([2, 9]))
    with pytest.raises(UsageError, match="'w' is not declared sparse|nothing of parameter 'w'"):
        port.pull_rows("w", np.array([0]))


def test_a_delay_aware_rule_remembers_what_a_reader_read(serving):
    made, beside = (
        serving(zeros(8), AdaptiveRevision(), replicas=2),
        private_state(zeros(8), AdaptiveRevision(), replicas=2),
    )
    ports, shard = (made.port(), made.port()), beside.shards[0]
    for sequence in (1, 2):
        for reader in (0, 1):
            ports[reader].pull(np.zeros(8, np.float32), reader)
            shard.pull(np.zeros(8, np.float32), reader)
        for reader in (0, 1):
            ports[reader].push(ONES * sequence, Stamp(reader, 1, sequence), version=0)
            shard.push(ONES * sequence, Stamp(reader, 1, sequence), version=0)
    assert fingerprint(made.shard) == fingerprint(shard) and made.shard.center.any()


def test_a_snapshot_is_all_of_the_shard(serving):
    made = serving(tensors(dtype="float32", w=(5,), table=(4, 3)), Adagrad(), sparse=("table",), replicas=3)
    port, shard = made.port(checksum=True), made.shard
    port.push({"table": Rows(np.array([1]), np.ones((1, 3), np.float32))}, Stamp(2, 5, 9), version=0)
    version, arrays = port.snapshot()
    assert version == 1
    assert set(arrays) == {"center", "slot.sum_squares", "row_steps.table", "header", "watermarks"}
    assert arrays["center"].dtype == np.float32 and arrays["watermarks"].tolist()[2] == [5, 9]
    for name, array in {
        "center": shard.center,
        "row_steps.table": shard.row_steps["table"],
        "header": shard.header,
    }.items():
        np.testing.assert_array_equal(arrays[name], array)
    np.testing.assert_array_equal(arrays["slot.sum_squares"], shard.slots["sum_squares"])


def test_a_synchronous_step_is_waited_for(serving):
    made = serving(zeros(4), SGD(lr=1.0), replicas=2, rounds=True)
    first, second = made.port(replica=0), made.port(replica=1)
    for replica in (0, 1):
        made.shard.join(replica)
    laid = first.contribute(np.full(4, 2.0, np.float32), Stamp(0, 1, 1), version=0)
    assert (laid.round, laid.dropped, first.rounds) == (1, False, 0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.await_round, 1)
        assert second.contribute(np.full(4, 4.0, np.float32), Stamp(1, 1, 1), version=0).round == 1
        assert waiting.result() == 1
    assert made.shard.center.tolist() == [-3.0] * 4 and second.rounds == 1
    late = first.contribute(np.full(4, 2.0, np.float32), Stamp(0, 1, 2), version=0, number=1)
    assert (late.round, late.dropped) == (1, True)
    early = first.contribute(np.full(4, 2.0, np.float32), Stamp(0, 1, 3), version=0, number=5)
    assert (early.round, early.dropped, second.rounds) == (5, False, 4)


def test_waiting_for_a_synchronous_step_can_be_given_up(serving):
    def enough():
        raise KeyError("enough")

    with pytest.raises(KeyError):
        serving(zeros(4), rounds=True).port().await_round(1, enough)


def test_updates_in_place_are_counted(serving):
    port = serving(zeros(4)).port()
    assert (port.note_updates(5), port.note_updates(0), port.version) == (0, 5, 5)


# -- several at once --------------------------------------------------------------------------------------------------


def test_pushes_are_pipelined_and_the_window_bounds_them(serving):
    made = serving(zeros(8))
    port, gate, inner = made.port(window=3), threading.Event(), made.servers[0].service._push
    made.servers[0].service._push = lambda *args: gate.wait() and inner(*args)
    stamp = stamps()
    futures = [port.start_push(ONES, next(stamp), version=0) for _ in range(3)]
    with ThreadPoolExecutor(1) as pool:
        fourth = pool.submit(port.start_push, ONES, next(stamp), version=0)
        until(lambda: len(port._pushes._pending) == 3)
        assert not fourth.done() and not any(future.done() for future in futures)
        gate.set()
        futures.append(fourth.result())
    assert [future.result() for future in futures] == [Applied(version, version - 1) for version in (1, 2, 3, 4)]


def test_a_full_window_can_be_given_up(serving):
    made, stop, gate = serving(zeros(8)), threading.Event(), threading.Event()
    made.closed.callback(gate.set)
    inner = made.servers[0].service._push
    made.servers[0].service._push = lambda *args: gate.wait() and inner(*args)

    def stopped():
        if stop.is_set():
            raise KeyError("enough")

    port = made.port(window=1, stopped=stopped)
    port.start_push(ONES, Stamp(0, 1, 1), version=0)
    stop.set()
    with pytest.raises(KeyError):
        port.start_push(ONES, Stamp(0, 1, 2), version=0)


def test_changes_keep_their_order_whatever_kind_they_are(serving):
    """One that is overtaken by a later one would be taken for a retry."""
    made = serving(zeros(CHUNKS))
    port, stamp, futures = made.port(), stamps(), []
    update, x = np.ones(CHUNKS, np.float32), np.zeros(CHUNKS, np.float32)
    for _ in range(4):
        futures += [port.start_push(update, next(stamp), version=0) for _ in range(3)]
        futures += [port.start_exchange(x, 0.5, next(stamp), version=0)]
    results = [future.result() for future in futures]
    assert [result.version for result in results] == list(range(1, 17))
    assert not any(result.duplicate for result in results)


def test_pulls_run_beside_pushes(serving):
    made = serving(zeros(8))
    port, gate, inner = made.port(), threading.Event(), made.servers[0].service._push
    made.servers[0].service._push = lambda *args: gate.wait() and inner(*args)
    pushed = port.start_push(ONES, Stamp(0, 1, 1), version=0)
    out = np.full(8, np.nan, np.float32)
    assert port.start_pull(out).result() == 0 and not out.any() and not pushed.done()
    gate.set()
    assert pushed.result().version == 1


def test_many_replicas_push_at_once_and_nothing_is_lost(serving):
    for lock_free in (False, True):
        made = serving(zeros(64), replicas=4, lock_free=lock_free)

        def run(replica: int, made=made) -> None:
            port, stamp = made.port(replica=replica), stamps(replica)
            update = np.zeros(64, np.float32)
            update[replica::4] = 1.0  # lock-free pushes of one element could overwrite each other, as Hogwild! allows
            for future in [port.start_push(update, next(stamp), version=0) for _ in range(40)]:
                assert not future.result().duplicate

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(run, range(4)))
        assert made.shard.version == 160
        if not lock_free:
            assert made.shard.center.tolist() == [40.0] * 64


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_refused_push_does_not_disturb_the_others(serving):
    made = serving(zeros(8), replicas=2)
    port = made.port()
    made.shard.push(ONES, Stamp(0, 5, 1), version=0)
    stamp = [Stamp(0, 5, 2), Stamp(0, 4, 1), Stamp(0, 5, 3), Stamp(9, 5, 4), Stamp(0, 5, 5)]
    futures = [port.start_push(ONES, each, version=1) for each in stamp]
    assert [futures[index].result().version for index in (0, 2, 4)] == [2, 3, 4]
    with pytest.raises(
        TransportError, match="replica 0 was replaced: incarnation 4 pushed after incarnation 5"
    ) as raised:
        futures[1].result()
    assert (raised.value.shard, raised.value.version) == (0, 2)
    with pytest.raises(UsageError, match=rf"shard 0 at {made.servers[0].address}: replica must be < 2, got 9"):
        futures[3].result()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda port: port.push(np.zeros(7, np.float32), Stamp(0, 1, 1), version=0), r"push: shard 0 takes .* \(8,\)"),
        (lambda port: port.push(np.zeros(8), Stamp(0, 1, 1), version=0), "float32, got .* float64"),
        (lambda port: port.pull(np.zeros(16, np.float32)[::2]), "pull: shard 0 takes a contiguous vector"),
        (lambda port: port.exchange(np.zeros(8), 0.5, Stamp(0, 1, 1), version=0), "exchange: shard 0 takes"),
        (
            lambda port: port.exchange(ONES.copy(), float("nan"), Stamp(0, 1, 1), version=0),
            "alpha must be >= 0 and <= 1",
        ),
        (
            lambda port: port.push({"w": np.zeros(8)}, Stamp(0, 1, 1), version=0),
            "'w' must have dtype float32, got float64",
        ),
        (lambda port: port.push({"v": ONES}, Stamp(0, 1, 1), version=0), "there is no parameter 'v'"),
        (
            lambda port: port.push({"w": Rows(np.array([0]), ONES[:1])}, Stamp(0, 1, 1), version=0),
            "not declared sparse",
        ),
        (lambda port: port.push(ONES, Stamp(0, 1, 1), version=-1), "version must be >= 0"),
        (lambda port: port.push(ONES, Stamp(0, 1, 1), version=0, gradient_norm=float("nan")), "gradient_norm must be"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(serving, call, message):
    made = serving(zeros(8))
    before = fingerprint(made.shard)
    with pytest.raises(UsageError, match=message):
        call(made.port(retry=QUICK))
    assert fingerprint(made.shard) == before


def test_a_contribution_where_no_rounds_are_made_is_refused(serving):
    with pytest.raises(TransportError, match="this job makes no synchronous steps"):
        serving(zeros(8), Add()).port().contribute(ONES, Stamp(0, 1, 1), version=0)


def test_a_change_that_is_not_finite_is_refused_as_such_and_the_port_goes_on(serving):
    made = serving(zeros(8))
    port, wrong = made.port(), np.where(np.arange(8) == 5, np.inf, ONES).astype(np.float32)
    with pytest.raises(NonFiniteError, match="push of replica 0: element 5 is inf; nothing was changed") as raised:
        port.push(wrong, Stamp(0, 1, 1), version=0)
    assert raised.value.shard == 0
    with pytest.raises(NonFiniteError, match="exchange of replica 0: element 5 is inf"):
        port.exchange(wrong, 0.5, Stamp(0, 1, 2), version=0)
    assert port.push(ONES, Stamp(0, 1, 3), version=0) == Applied(1, 0)
    np.testing.assert_array_equal(made.shard.center, ONES)
