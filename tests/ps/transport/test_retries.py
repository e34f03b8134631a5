"""Whatever is lost on the way is sent again and made once, or its loss is said in time."""

from __future__ import annotations

import numpy as np
import pytest

from ps.errors import TransportError, UsageError
from ps.rules import SGD
from ps.shard import Stamp
from ps.transport.retry import Retry
from ps.transport.service import ServiceOptions
from ps.wire import parameters_pb2 as pb
from ps.wire.framing import frame

from ..building import private_state, until
from .serving import ONCE, ONES, refusing, stamps, zeros

# -- what is lost on the way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False], ids=["before it is applied", "after it is applied"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_push_that_broke_off_is_applied_once(serving, before, times):
    made = serving(zeros(8))
    refusing(made.servers[0], "_push", times, before=before)
    port, stamp = made.port(), stamps()
    futures = [port.start_push(ONES * 2**number, next(stamp), version=0) for number in range(6)]
    results = [future.result() for future in futures]
    assert made.shard.center.tolist() == [63.0] * 8
    assert made.shard.version == 6
    assert sum(result.duplicate for result in results) == (0 if before else 1)  # the first, told so when it came again


@pytest.mark.parametrize("before", [True, False], ids=["before it is made", "after it is made"])
@pytest.mark.parametrize("room", [1 << 20, 0], ids=["answer kept", "no room for the answer"])
@pytest.mark.parametrize("checksum", [False, True])
def test_an_exchange_that_broke_off_is_made_once(serving, before, room, checksum):
    made = serving({"w": np.full(8, 8.0, np.float32)}, service=ServiceOptions(answers_bytes=room))
    refusing(made.servers[0], "_exchange", 1, before=before)
    port, x = made.port(checksum=checksum), np.zeros(8, np.float32)
    applied = port.exchange(x, 0.25, Stamp(0, 1, 1), version=0)
    np.testing.assert_array_equal(made.shard.center, np.full(8, 6.0))  # moved once
    # Without the answer the replica steps towards the center as it is now, which has moved already: 0.25 * 6.
    np.testing.assert_array_equal(x, np.full(8, 1.5 if room == 0 and not before else 2.0))
    assert (applied.version, applied.duplicate) == (1, room == 0 and not before or (room > 0 and not before))


def test_an_exchange_that_fails_leaves_the_replica_as_it_was(serving):
    made = serving(zeros(8))
    refusing(made.servers[0], "_exchange", 1, before=False)
    x = np.full(8, 4.0, np.float32)
    with pytest.raises(TransportError, match="cut off by the test; gave up after 1 try"):
        made.port(retry=ONCE).exchange(x, 0.5, Stamp(0, 1, 1), version=0)
    assert x.tolist() == [4.0] * 8


@pytest.mark.parametrize("method", ["pull", "pull_rows", "snapshot", "status", "describe", "await_round"])
def test_a_read_that_broke_off_is_tried_again(serving, method):
    made = serving({"w": np.arange(8.0, dtype=np.float32).reshape(4, 2)}, sparse=("w",))
    refusing(made.servers[0], method, 2, before=True)
    port, out = made.port(), np.zeros(8, np.float32)
    calls = {
        "pull": lambda: port.pull(out) == 0 and out.tolist() == list(range(8)),
        "pull_rows": lambda: port.pull_rows("w", np.array([1]))[0].tolist() == [[2.0, 3.0]],
        "snapshot": lambda: port.snapshot()[0] == 0,
        "status": lambda: port.version == 0,
        "describe": lambda: port.describe().shards == 1,
        "await_round": lambda: port.await_round(0) == 0,
    }
    assert calls[method]()


def test_a_contribution_that_came_late_and_is_sent_again_is_late_still(serving):
    made = serving(zeros(4), SGD(lr=1.0), replicas=2, rounds=True, backups=1)
    port, vector = made.port(), np.ones(4, np.float32)
    made.shard.contribute(vector, Stamp(1, 1, 1), version=0)
    refusing(made.servers[0], "_push", 1, before=False)
    late = port.contribute(vector, Stamp(0, 1, 1), version=0)
    assert (late.dropped, late.duplicate, made.shard.dropped) == (True, True, 1)
    early = port.contribute(vector, Stamp(0, 1, 2), version=1)
    assert (early.dropped, early.duplicate, early.round) == (False, False, 2)


def test_updates_in_place_are_not_counted_twice(serving):
    made = serving(zeros(4))
    refusing(made.servers[0], "note_updates", 1, before=False)
    with pytest.raises(TransportError, match="cut off"):
        made.port().note_updates(3)
    assert made.shard.version == 3


@pytest.mark.parametrize("method", ["pull", "snapshot", "exchange"])
def test_damage_on_the_way_back_is_noticed_and_mended(serving, method):
    made = serving({"w": np.arange(8, dtype=np.float32)})
    service, calls = made.servers[0].service, []
    inner = getattr(service, method)

    def damaged(*args):
        calls.append(1)
        for message in inner(*args):
            yield message[:-1] + bytes([message[-1] ^ 1]) if len(calls) == 1 else message

    setattr(service, method, damaged)
    port, out, x = made.port(checksum=True), np.zeros(8, np.float32), np.zeros(8, np.float32)
    if method == "pull":
        port.pull(out)
    elif method == "snapshot":
        out = port.snapshot()[1]["center"]
    else:
        port.exchange(x, 0.5, Stamp(0, 1, 1), version=0)
        out = made.shard.center + x
    assert out.tolist() == list(range(8)) and len(calls) == 2


@pytest.mark.parametrize(
    "answer, message",
    [
        ([b"\xff"], "not a PullReply"),
        ([], "of 0 bytes, expected 0"),
        ([frame(pb.Pulled(bytes=31), bytes(31))], "of 31 bytes, expected 32"),
        ([frame(pb.Pulled(bytes=32), bytes(31))], "of 31 bytes, expected 32"),
        ([frame(pb.Pulled(bytes=32), bytes(33))], "out of bounds"),
        ([frame(None, bytes(32))], "out of bounds"),
    ],
)
def test_an_answer_that_is_none_is_not_taken(serving, answer, message):
    made = serving(zeros(8))
    made.servers[0].service.pull = lambda *_args: iter(answer)
    with pytest.raises(TransportError, match=f"answered Pull with a damaged message: .*{message}"):
        made.port(retry=ONCE).pull(np.zeros(8, np.float32))


def test_after_a_restart_the_window_is_sent_again_to_the_new_address(serving):
    """The old server applied nothing that it acknowledged; the new one has what a checkpoint held."""
    made = serving(zeros(8))
    old = made.servers[0]
    refusing(old, "_push", 10**6, before=True)
    asked = []

    def where() -> str:
        asked.append(made.servers[0].address)
        return asked[-1]

    port, stamp = made.port(where=where), stamps()
    futures = [port.start_push(ONES * 2**number, next(stamp), version=0) for number in range(8)]
    until(lambda: len(asked) > 2)
    assert not any(future.done() for future in futures)
    restored = private_state(zeros(8)).shards[0]
    restored.push(ONES, Stamp(0, 1, 1), version=0)  # the checkpoint held the first push
    made.servers[0] = made.serve(restored)
    old.stop()
    results = [future.result() for future in futures]
    assert restored.center.tolist() == [255.0] * 8 and restored.version == 8
    assert [result.duplicate for result in results] == [True] + [False] * 7
    assert asked[0] == old.address and asked[-1] == made.servers[0].address != old.address


def test_a_server_of_another_shard_at_the_old_address_is_not_taken_for_it(serving):
    made = serving(zeros(8), count=2)
    addresses = [made.servers[1].address]  # where shard 0 was once; now shard 1's server listens there

    def where() -> str:
        return addresses.pop() if addresses else made.servers[0].address

    port = made.port(0, where=where)
    assert port.push(np.ones(4, np.float32), Stamp(0, 1, 1), version=0).version == 1
    assert [shard.version for shard in made.state.shards] == [1, 0]
    with pytest.raises(UsageError, match="this is shard 1, the request is for shard 0"):
        made.port(0, where=lambda: made.servers[1].address).version  # noqa: B018


def test_not_knowing_the_address_can_pass(serving):
    made, asked = serving(zeros(8)), []

    def where() -> str:
        asked.append(1)
        if len(asked) < 4:
            raise TransportError("shard 0 is being started again")
        return made.servers[0].address

    assert made.port(where=where).push(ONES, Stamp(0, 1, 1), version=0).version == 1
    asked.clear()
    with pytest.raises(TransportError, match="being started again; gave up after 1 try"):
        made.port(where=where, retry=ONCE).pull(np.zeros(8, np.float32))


# -- deadlines and ends -----------------------------------------------------------------------------------------------

IMPATIENT = Retry(deadline_s=0.2, patience_s=0.0)


@pytest.fixture
def stuck(serving):
    """A shard whose lock somebody holds: nothing comes of a call on it. Let go at the end."""
    made = serving(zeros(8), count=2)
    lock = made.state.shards[1].lock
    lock.__enter__()
    made.closed.callback(lock.__exit__, None, None, None)
    return made


@pytest.mark.parametrize("call", ["push", "exchange", "pull", "snapshot", "start_pull"])
def test_a_deadline_that_passes_names_the_peer(stuck, call):
    port = stuck.port(1, retry=IMPATIENT, replica=3)
    vector = np.zeros(4, np.float32)
    calls = {
        "push": lambda: port.push(vector, Stamp(0, 1, 1), version=0),
        "exchange": lambda: port.exchange(vector, 0.5, Stamp(0, 1, 1), version=0),
        "pull": lambda: port.pull(vector, consistent=True),
        "start_pull": lambda: port.start_pull(vector, consistent=True).result(),
        "snapshot": lambda: port.snapshot(),
    }
    expected = rf"shard 1 at {stuck.servers[1].address}: deadline of 0.2 s passed; gave up after 1 try"
    with pytest.raises(TransportError, match=expected) as raised:
        calls[call]()
    assert (raised.value.shard, raised.value.replica) == (1, 3)


def test_all_pushes_of_the_window_fail_together(stuck):
    port = stuck.port(1, retry=IMPATIENT)
    futures = [port.start_push(np.zeros(4, np.float32), Stamp(0, 1, n), version=0) for n in (1, 2, 3)]
    for future in futures:
        with pytest.raises(TransportError, match="deadline of 0.2 s passed"):
            future.result()


def test_an_idle_stream_has_no_deadline(serving):
    port = serving(zeros(8)).port()
    pushed = port.start_push(ONES, Stamp(0, 1, 1), version=0)
    assert pushed.result().version == 1
    until(lambda: not port._pushes._watched._busy())
    assert port._pushes._call is not None  # kept for the next


def test_a_peer_that_is_not_there_is_named(serving):
    made = serving(zeros(8))
    address = made.servers[0].address
    made.servers[0].stop()
    for retry in (ONCE, Retry(deadline_s=5.0, patience_s=0.05, first_s=0.001)):
        port = made.port(where=lambda: address, retry=retry)
        for attempt in (lambda p=port: p.version, lambda p=port: p.push(ONES, Stamp(0, 1, 1), version=0)):
            with pytest.raises(TransportError, match=rf"shard 0 at {address}: not reached: .*; gave up after \d+ tr"):
                attempt()


def test_trying_again_stops_when_told_to(serving):
    made, looks = serving(zeros(8)), []
    made.servers[0].stop()

    def stopped():
        looks.append(1)
        if len(looks) > 3:
            raise KeyError("the run is over")

    patient = Retry(deadline_s=5.0, patience_s=1e6)
    with pytest.raises(KeyError, match="the run is over"):
        made.port(retry=patient, stopped=stopped).push(ONES, Stamp(0, 1, 1), version=0)
    looks.clear()
    with pytest.raises(KeyError, match="the run is over"):
        made.port(retry=patient, stopped=stopped).pull(np.zeros(8, np.float32))


def test_closing_gives_up_what_is_under_way(stuck):
    port = stuck.port(1, retry=Retry(deadline_s=1e6))
    pushed = port.start_push(np.zeros(4, np.float32), Stamp(0, 1, 1), version=0)
    pulled = port.start_pull(np.zeros(4, np.float32), consistent=True)
    until(lambda: port._pushes._call is not None)
    port.close()
    for future in (pushed, pulled):
        with pytest.raises(TransportError, match="the link was closed"):
            future.result()
    with pytest.raises(TransportError, match="the link was closed"):
        port.version  # noqa: B018
    with pytest.raises(TransportError, match="the link was closed"):
        port.push(np.zeros(4, np.float32), Stamp(0, 1, 2), version=0)
    port.close()
