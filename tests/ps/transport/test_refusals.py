"""What is malformed, oversized, out of range, of another dtype or meant for another shard is refused with a reason, and changes
nothing: thousands of messages, to the service itself and over the wire."""

from __future__ import annotations

import math
import struct
from functools import cache

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ps.admission import Clocks
from ps.finite import first_nonfinite
from ps.rules import Adagrad
from ps.shard import Shard
from ps.transport.requests import LARGEST, Refused
from ps.transport.service import ServiceOptions, ShardService
from ps.wire import parameters_pb2 as pb
from ps.wire.framing import crc32, frames, unframe

from ..building import private_state, tensors
from .serving import Serving, call, fingerprint

CODES = {"INVALID_ARGUMENT", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"}
LARGE = st.one_of(
    st.integers(0, 50), st.integers(0, 2**64 - 1), st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64 - 1])
)
MANY = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


class Listening:
    """A caller that stays."""

    def is_active(self) -> bool:
        return True


def parameters():
    return tensors(dtype="float32", first=(5,), table=(6, 2), mean=(3,))


def shards(**options):
    return private_state(
        parameters(), Adagrad(lr=0.5), 2, averaged=("mean",), sparse=("table",), replicas=3, **options
    ).shards


@cache
def service() -> ShardService:
    """Of the second shard: four rows of the table, and the averaged parameter."""
    return ShardService(shards()[1], ServiceOptions(shards=2, clocks=Clocks.private(3)))


def slice_of(shard: Shard) -> dict:
    return {"shard": 1, "dtype": pb.FLOAT32, "start": shard.range.start, "stop": shard.range.stop}


SEQUENCE = iter(range(1, 10**9))


def valid_push(shard: Shard, rows: bool = False) -> tuple[pb.Push, bytes]:
    stamp = pb.Stamp(replica=2, incarnation=1, sequence=next(SEQUENCE))
    header = pb.Push(slice=pb.Slice(**slice_of(shard)), stamp=stamp, version=0, count=1)
    content = np.linspace(0.1, 0.9, shard.range.size, dtype=np.float32).tobytes()
    if rows:
        header.parts.add(name="table", sparse=True, rows=2)
        header.parts.add(name="mean")
        content = struct.pack("<qq", 3, 0) + struct.pack("<4f", 1, 2, 3, 4) + struct.pack("<3f", 5, 6, 7)
    header.bytes = len(content)
    return header, content


def valid_exchange(shard: Shard) -> tuple[pb.Exchange, bytes]:
    push, content = valid_push(shard)
    return pb.Exchange(slice=push.slice, stamp=push.stamp, version=0, alpha=0.5, bytes=len(content)), content


def carried(header, content: bytes, chunk_bytes: int = 1 << 20) -> list[bytes]:
    return list(frames(header, memoryview(content), chunk_bytes))


def outcome(method: str, *messages: bytes) -> list[bytes] | Refused:
    """What a call on the service itself gives."""
    made = service()
    streaming = method in ("push", "exchange")
    try:
        answer = getattr(made, method)(iter(messages) if streaming else messages[0], Listening())
        return [answer] if isinstance(answer, bytes) else list(answer)
    except Refused as refusal:
        return refusal


def refused(method: str, *messages: bytes, reason: str = "") -> None:
    before = fingerprint(service().shard)
    answer = outcome(method, *messages)
    assert isinstance(answer, Refused), "it was carried out"
    assert answer.code in CODES and answer.reason and reason in answer.reason, answer.reason
    assert fingerprint(service().shard) == before


def test_what_is_mutated_below_was_valid():
    shard = service().shard
    for method, (header, content) in {
        "push": valid_push(shard),
        "exchange": valid_exchange(shard),
    }.items():
        before = shard.version
        assert len(outcome(method, *carried(header, content, chunk_bytes=7))) >= 1
        assert shard.version == before + 1
    before = shard.center.copy()
    outcome("push", *carried(*valid_push(shard, rows=True)))
    changed = np.flatnonzero(shard.center != before) + shard.range.start
    layout = shard.layout
    first = (shard.range.start - layout["table"].offset) // 2  # the table's first row in this shard
    rows = {layout["table"].offset + 2 * (first + row) + column for row in (0, 3) for column in (0, 1)}
    assert set(changed.tolist()) == rows | set(range(layout["mean"].offset, layout["mean"].stop))


# -- one field of a valid header is wrong -----------------------------------------------------------------------------

WRONG_SLICE = st.one_of(
    st.tuples(st.just("shard"), st.integers(0, 2**32 - 1).filter(lambda value: value != 1)),
    st.tuples(st.just("dtype"), st.integers(-(2**31), 2**31 - 1).filter(lambda value: value != pb.FLOAT32)),
    st.tuples(st.just("start"), LARGE.filter(lambda value: value != service().shard.range.start)),
    st.tuples(st.just("stop"), LARGE.filter(lambda value: value != service().shard.range.stop)),
)
WRONG_STAMP = st.one_of(
    st.tuples(st.just("replica"), st.integers(3, 2**32 - 1)),
    st.tuples(st.sampled_from(["incarnation", "sequence"]), st.just(0) | st.integers(LARGEST + 1, 2**64 - 1)),
)
NO_NUMBERS = st.sampled_from([math.nan, math.inf, -math.inf])
WRONG_FIELD = st.one_of(
    st.tuples(st.just("version"), st.integers(-(2**63), -1) | st.integers(LARGEST + 1, 2**63 - 1)),
    st.tuples(st.just("bytes"), LARGE.filter(lambda value: value != 4 * service().shard.range.size)),
)
WRONG_PUSH = st.one_of(
    WRONG_FIELD,
    st.tuples(st.just("count"), st.just(0) | st.integers(2**31, 2**32 - 1)),
    st.tuples(st.just("epoch"), st.integers(2**31, 2**32 - 1)),
    st.tuples(st.just("gradient_norm"), st.just(math.nan) | st.just(math.inf) | st.floats(max_value=-1e-300)),
    st.tuples(st.just("synchronous"), st.just(True)),
)
WRONG_EXCHANGE = st.one_of(
    WRONG_FIELD,
    st.tuples(st.just("alpha"), NO_NUMBERS | st.floats(max_value=-1e-300) | st.floats(min_value=1.0000001)),
)


def wronged(header, within: str, field: tuple):
    setattr(getattr(header, within) if within else header, *field)
    return header


@MANY
@given(st.data())
def test_a_push_with_one_wrong_field_is_refused(data):
    header, content = valid_push(service().shard)
    within, wrong = data.draw(st.sampled_from([("slice", WRONG_SLICE), ("stamp", WRONG_STAMP), ("", WRONG_PUSH)]))
    refused("push", *carried(wronged(header, within, data.draw(wrong)), content, data.draw(st.sampled_from([9, 1000]))))


@MANY
@given(st.data())
def test_an_exchange_with_one_wrong_field_is_refused(data):
    header, content = valid_exchange(service().shard)
    within, wrong = data.draw(st.sampled_from([("slice", WRONG_SLICE), ("stamp", WRONG_STAMP), ("", WRONG_EXCHANGE)]))
    refused("exchange", *carried(wronged(header, within, data.draw(wrong)), content))


@settings(MANY, max_examples=300)
@given(st.data())
def test_a_push_with_wrong_parts_is_refused(data):
    header, content = valid_push(service().shard, rows=True)
    table, mean = header.parts
    kind = data.draw(st.integers(0, 6))
    if kind == 0:
        table.rows = data.draw(LARGE.filter(lambda value: value != 2))
    elif kind == 1:
        table.name = data.draw(st.text(max_size=6).filter(lambda name: name != "table"))
    elif kind == 2:
        mean.sparse = True
    elif kind == 3:
        mean.name = data.draw(st.sampled_from(["table", "first", "nobody", ""]))
    elif kind == 4:
        row = data.draw(st.integers(4, 2**63 - 1) | st.integers(-(2**63), -1))
        content = (
            struct.pack("<q", row) + content[8:]
            if data.draw(st.booleans())
            else content[:8] + struct.pack("<q", row) + content[16:]
        )
    elif kind == 5:
        table.sparse = False
    else:
        header.synchronous = True
    refused("push", *carried(header, content))


@given(st.binary(min_size=0, max_size=60), st.integers(0, 2**32 - 1))
def test_a_content_of_another_size_or_checksum_is_refused(content, checksum):
    for method, make in (("push", valid_push), ("exchange", valid_exchange)):
        header, whole = make(service().shard)
        if len(content) != len(whole):
            refused(method, *carried(header, content))
        right = crc32(memoryview(whole))
        header, _ = make(service().shard)
        header.crc32 = checksum if checksum != right else 0
        refused(method, *carried(header, whole, 10), reason="CRC-32")


@pytest.mark.parametrize("method, make", [("push", valid_push), ("exchange", valid_exchange)])
def test_messages_in_a_wrong_order_are_refused(method, make):
    header, content = make(service().shard)
    messages = carried(header, content, 8)
    refused(method, *messages[1:], reason="a chunk came before its header")
    refused(method, *messages[:2], *messages, reason="a header came before the content of the last was whole")
    refused(method, *messages[:-1], b"", reason="neither header nor chunk")
    refused(method, *messages[:-2], b"\x12\x7f" + bytes(127), reason="the content has")


def test_a_content_that_is_too_large_is_refused_before_any_of_it_comes():
    header, _ = valid_push(service().shard, rows=True)
    del header.parts[1]
    header.parts[0].rows = 1 << 30
    header.bytes = (1 << 30) * 16
    refused("push", *carried(header, b"x"))


# -- values that are not finite ---------------------------------------------------------------------------------------


def poisoned(content: bytes, index: int, value: float) -> bytes:
    """A content of float32 with another value at ``index``, counted from its end if negative."""
    values = np.frombuffer(content, np.float32).copy()
    values[index] = value
    return values.tobytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [0, 4, -1])
def test_a_change_with_a_value_that_is_not_finite_is_refused(value, index):
    reason = f" is {value}; nothing was changed"
    for method, make in (("push", valid_push), ("exchange", valid_exchange)):
        header, content = make(service().shard)
        refused(method, *carried(header, poisoned(content, index, value)), reason=reason)
    header, content = valid_push(service().shard, rows=True)
    refused("push", *carried(header, poisoned(content, 4, value)), reason=f"element 0 of 'table'{reason}")
    refused("push", *carried(header, poisoned(content, -1, value)), reason=f"element 2 of 'mean'{reason}")
    request = rows_request(values=struct.pack("<4f", 1, 2, value, 4))
    refused("push_rows", request.SerializeToString(), reason=f"element 2 of 'table'{reason}")


def test_the_largest_and_the_smallest_numbers_are_finite():
    for dtype in (np.float32, np.float64):
        bounds = np.finfo(dtype)
        values = np.array([bounds.max, -bounds.max, bounds.tiny, bounds.smallest_subnormal, 0.0, -0.0], dtype)
        assert first_nonfinite(values) is None
        for wrong in (np.nan, -np.nan, np.inf, -np.inf):
            assert first_nonfinite(np.append(values, dtype(wrong))) == values.size


def test_a_job_that_skips_such_gradients_drops_and_counts_the_push():
    (shard,) = private_state(parameters(), Adagrad(lr=0.5), 1, replicas=3, skip_nonfinite=True).shards
    made = ShardService(shard, ServiceOptions())
    where = pb.Slice(shard=0, dtype=pb.FLOAT32, start=0, stop=shard.range.size)
    content = poisoned(bytes(shard.center.nbytes), 1, math.nan)

    def header(kind, **facts):
        return kind(slice=where, stamp=pb.Stamp(incarnation=1, sequence=1), bytes=len(content), **facts)

    center = shard.center.copy()
    (raw,) = made.push(iter(carried(header(pb.Push, count=1), content)), Listening())
    reply = pb.PushReply.FromString(raw)
    assert (reply.dropped, reply.version, shard.version, shard.dropped) == (True, 0, 0, 1)
    with pytest.raises(Refused, match="not finite"):  # an exchange tells parameters: there is nothing to skip
        list(made.exchange(iter(carried(header(pb.Exchange, alpha=0.5), content)), Listening()))
    np.testing.assert_array_equal(shard.center, center)
    (raw,) = made.push(iter(carried(header(pb.Push, count=1), bytes(shard.center.nbytes))), Listening())
    assert pb.PushReply.FromString(raw).version == 1  # its stamp was not used up


# -- rows in one message ----------------------------------------------------------------------------------------------


def rows_request(**wrong) -> pb.PushRowsRequest:
    header, _ = valid_push(service().shard)
    fields = {"slice": header.slice, "stamp": header.stamp, "count": 1, "table": "table"}
    fields |= {"rows": struct.pack("<qq", 0, 3), "values": struct.pack("<4f", 1, 2, 3, 4)}
    return pb.PushRowsRequest(**{**fields, **wrong})


def test_rows_in_one_message_are_applied():
    before = service().shard.version
    (raw,) = outcome("push_rows", rows_request().SerializeToString())
    assert pb.PushReply.FromString(raw).version == before + 1 == service().shard.version


@settings(MANY, max_examples=150)
@given(st.data())
def test_wrong_rows_in_one_message_are_refused(data):
    wrong = data.draw(
        st.one_of(
            st.fixed_dictionaries({"table": st.text(max_size=5).filter(lambda name: name != "table")}),
            st.fixed_dictionaries({"rows": st.binary(max_size=40).filter(lambda raw: len(raw) != 16)}),
            st.fixed_dictionaries({"values": st.binary(max_size=40).filter(lambda raw: len(raw) != 16)}),
            st.fixed_dictionaries({"rows": st.integers(4, 2**63 - 1).map(lambda row: struct.pack("<qq", 0, row))}),
            st.fixed_dictionaries({"count": st.just(0)}),
            st.fixed_dictionaries({"version": st.integers(-(2**63), -1)}),
            st.fixed_dictionaries({"stamp": st.builds(pb.Stamp, replica=st.integers(3, 9), incarnation=st.just(1))}),
        )
    )
    refused("push_rows", rows_request(**wrong).SerializeToString())
    request = rows_request()
    setattr(request.slice, *data.draw(WRONG_SLICE))
    refused("push_rows", request.SerializeToString())


# -- reading and waiting ----------------------------------------------------------------------------------------------


@settings(MANY, max_examples=150)
@given(st.data())
def test_wrong_reads_are_refused(data):
    shard, field = service().shard, data.draw(WRONG_SLICE)
    right, wrong = pb.Slice(**slice_of(shard)), pb.Slice(**slice_of(shard))
    setattr(wrong, *field)
    refused("pull", pb.PullRequest(slice=wrong).SerializeToString())
    refused("pull_rows", pb.PullRowsRequest(slice=wrong, table="table").SerializeToString())
    refused("pull", pb.PullRequest(slice=right, reader=data.draw(st.integers(3, 2**32 - 1))).SerializeToString())
    rows = data.draw(
        st.binary(max_size=24).filter(
            lambda raw: len(raw) % 8 or (raw and max(struct.unpack(f"<{len(raw) // 8}Q", raw)) > 3)
        )
    )
    refused("pull_rows", pb.PullRowsRequest(slice=right, table="table", rows=rows).SerializeToString())
    other = data.draw(st.integers(0, 2**32 - 1).filter(lambda value: value != 1))
    for method, kind in (("status", pb.StatusRequest), ("snapshot", pb.SnapshotRequest), ("await_round", pb.AwaitRoundRequest),
                         ("note_updates", pb.NoteUpdatesRequest)):  # fmt: skip
        refused(method, kind(shard=other).SerializeToString())
    wait_s = data.draw(NO_NUMBERS | st.floats(max_value=-1e-300) | st.floats(min_value=30.1))
    refused("await_round", pb.AwaitRoundRequest(shard=1, round=1, wait_s=wait_s).SerializeToString())
    refused("clocks", pb.ClocksRequest(above=1, wait_s=wait_s).SerializeToString())
    refused(
        "note_updates",
        pb.NoteUpdatesRequest(shard=1, count=data.draw(st.integers(2**31, 2**64 - 1))).SerializeToString(),
    )
    replica = data.draw(st.integers(3, 2**32 - 1))
    refused("clocks", pb.ClocksRequest(replica=replica).SerializeToString())
    refused("advance", pb.AdvanceRequest(replica=replica).SerializeToString())
    refused("advance", pb.AdvanceRequest(to=data.draw(st.integers(-(2**63), -1))).SerializeToString())


# -- any bytes at all -------------------------------------------------------------------------------------------------


def mangled(data: st.DataObject, raw: bytes) -> bytes:
    """A message of which some bytes were changed, left out, doubled or put in."""
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        piece = data.draw(st.binary(max_size=6))
        cut = data.draw(st.integers(0, 6))
        raw = raw[:at] + piece + raw[at + cut :]
    return raw


@settings(MANY, max_examples=400)
@given(st.data())
def test_mangled_changes_are_made_wholly_or_not_at_all(data):
    """A mangled message can be a valid one. Then it changes what its answer says, else nothing at all."""
    shard = service().shard
    method, make = data.draw(st.sampled_from([("push", valid_push), ("exchange", valid_exchange)]))
    header, content = make(shard, True) if method == "push" and data.draw(st.booleans()) else make(shard)
    header.crc32 = crc32(memoryview(content))  # so that a changed content is always noticed
    messages = carried(header, content, data.draw(st.sampled_from([8, 1000])))
    which = data.draw(st.integers(0, len(messages) - 1))
    messages[which] = mangled(data, messages[which])
    before, version = fingerprint(shard), shard.version
    answer = outcome(method, *messages)
    if isinstance(answer, Refused):
        assert answer.code in CODES and answer.reason
        assert fingerprint(shard) == before
        return
    if method == "push":
        replies = [pb.PushReply.FromString(raw) for raw in answer]
    else:
        heads = [unframe(raw, pb.ExchangeReply)[0] for raw in answer]
        replies = [head.applied for head in heads if head is not None]
    assert shard.version == version + sum(not reply.duplicate for reply in replies)
    if not replies:
        assert fingerprint(shard) == before


METHODS = [
    "Describe",
    "Status",
    "Pull",
    "PullRows",
    "Push",
    "PushRows",
    "Exchange",
    "NoteUpdates",
    "AwaitRound",
    "Clocks",
    "Advance",
    "Snapshot",
]


@settings(MANY, max_examples=500)
@given(st.sampled_from(METHODS), st.lists(st.binary(max_size=40), min_size=1, max_size=3))
def test_random_bytes_to_any_method_change_nothing(method, messages):
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method).lstrip("_")
    before = fingerprint(service().shard)
    answer = outcome(name, *messages)
    assert not isinstance(answer, Refused) or (answer.code in CODES and answer.reason)
    if name != "note_updates":
        assert fingerprint(service().shard) == before


# -- over the wire ----------------------------------------------------------------------------------------------------


def test_the_wire_refuses_as_the_service_does_and_the_server_lives():
    """Hundreds of streams of random and of mangled bytes; each ends with a status of ours, and then a good push is applied."""
    rng = np.random.default_rng(11)
    serving = Serving(
        parameters(), Adagrad(lr=0.5), 2, averaged=("mean",), sparse=("table",), replicas=3,
        service=ServiceOptions(shards=2, clocks=Clocks.private(3)),
    )  # fmt: skip
    try:
        shard, channel = serving.state.shards[1], serving.channel(1)
        before, ours = fingerprint(shard), {grpc.StatusCode[code] for code in CODES}
        for number in range(400):
            method = METHODS[number % len(METHODS)]
            header, content = valid_exchange(shard) if method == "Exchange" else valid_push(shard)
            header.crc32 = 1  # wrong: what is mangled is never valid by chance
            messages = [bytearray(raw) for raw in carried(header, content, 16)]
            for message in messages:
                if message and rng.random() < 0.5:
                    message[rng.integers(len(message))] ^= 1 << rng.integers(8)
                if rng.random() < 0.3:
                    message[:] = rng.bytes(rng.integers(0, 80))
            try:
                call(channel, method, *(bytes(message) for message in messages))
            except grpc.RpcError as error:
                assert error.code() in ours, (method, error.code(), error.details())
                assert error.details()
            if method != "NoteUpdates":
                assert fingerprint(shard) == before, method
            before = fingerprint(shard)
        version = shard.version
        (raw,) = call(channel, "Push", *carried(*valid_push(shard)))
        assert pb.PushReply.FromString(raw).version == version + 1
    finally:
        serving.close()


def test_messages_beyond_the_limit_are_refused_by_the_wire(serving):
    made = serving({"w": np.zeros(8, np.float32)})
    before = fingerprint(made.shard)
    for method in ("Push", "Exchange", "PushRows", "Status"):
        with pytest.raises(grpc.RpcError) as raised:
            call(made.channel(), method, bytes(5 << 20))
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in raised.value.details()
    assert fingerprint(made.shard) == before and made.port().version == 0
