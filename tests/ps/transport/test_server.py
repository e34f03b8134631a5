"""Who is let in to a shard's server, where it listens, and what it says of itself."""

from __future__ import annotations

import json
import threading

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from ps.errors import TransportError, UsageError
from ps.layout import Layout
from ps.rules import Adagrad, Add
from ps.shard import Stamp
from ps.transport.remote import layout_of
from ps.transport.server import ShardServer
from ps.transport.service import ServiceOptions
from ps.wire import parameters_pb2 as pb
from ps.wire.framing import frame, frames

from ..building import private_state, tensors, until
from .serving import TOKEN, Serving, call, fingerprint, zeros

HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"


def refused(code: grpc.StatusCode, reason: str, channel: grpc.Channel, *args, **options) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, *args, **options)
    assert (raised.value.code(), reason in raised.value.details()) == (code, True), raised.value.details()


# -- who is let in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, service",
    [("Status", "hogshead.v1.Parameters"), ("Push", "hogshead.v1.Parameters"), ("Nonsense", "hogshead.v1.Parameters"),
     ("Check", HEALTH), ("Watch", HEALTH), ("ServerReflectionInfo", REFLECTION)],
)  # fmt: skip
def test_every_call_must_carry_the_token(serving, method, service):
    channel = serving(zeros(4)).channel()
    for token, reason in (
        (None, "no token"),
        (TOKEN + "x", "a wrong token"),
        ("", "a wrong token"),
        (TOKEN[:-1], "wrong"),
    ):
        refused(grpc.StatusCode.UNAUTHENTICATED, reason, channel, method, b"", token=token, service=service)


def test_the_token_must_be_said_once(serving):
    channel = serving(zeros(4)).channel()
    stream = channel.stream_stream("/hogshead.v1.Parameters/Describe")
    for values in ((f"Bearer {TOKEN}", "Bearer no"), (TOKEN,), (f"bearer {TOKEN}",)):
        with pytest.raises(grpc.RpcError) as raised:
            list(stream(iter([b""]), metadata=[("authorization", value) for value in values], timeout=30))
        assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_port_without_the_token_says_so_at_once(serving):
    made = serving(zeros(4), count=2)
    address = made.servers[1].address
    with pytest.raises(TransportError, match=rf"shard 1 at {address}: UNAUTHENTICATED: a wrong token") as raised:
        made.port(1, token="other", replica=5).version  # noqa: B018
    assert (raised.value.shard, raised.value.replica) == (1, 5)
    with pytest.raises(TransportError, match="UNAUTHENTICATED: no token"):
        made.port(1, token=None).push(np.zeros(2, np.float32), Stamp(0, 1, 1), version=0)
    assert made.port(1).version == 0


def test_without_a_token_everybody_is_let_in(serving):
    made = serving(zeros(4), server={"token": None})
    assert made.port(token=None).version == made.port(token="any").version == 0


@pytest.mark.parametrize("token", ["", "a\nb", "ä"])
def test_a_token_that_cannot_be_sent_is_refused(token):
    with pytest.raises(UsageError, match="token must be printable ASCII"):
        ShardServer(private_state(zeros(2)).shards[0], token=token, bind="127.0.0.1")


# -- where it listens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "[::]", "0:0:0:0:0:0:0:0", "", "*", "0", "0x0", "::ffff:0.0.0.0"])
def test_all_interfaces_are_only_bound_when_asked(bind):
    with pytest.raises(UsageError, match="bind must be the address of this node, got .* set any_address"):
        ShardServer(private_state(zeros(2)).shards[0], token="t", bind=bind)


def test_all_interfaces_when_asked(serving):
    made = serving(zeros(2), server={"bind": "0.0.0.0", "any_address": True})
    port = made.servers[0].address.rpartition(":")[2]
    assert made.port(where=lambda: f"127.0.0.1:{port}").version == 0


def test_it_listens_at_its_address_only(serving):
    made = serving(zeros(2), server={"bind": "127.0.0.2"})
    host, _, port = made.servers[0].address.rpartition(":")
    assert host == "127.0.0.2" and made.port().version == 0
    with pytest.raises(grpc.RpcError) as raised:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        made.closed.callback(channel.close)
        call(channel, "Status", b"")
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_port_that_is_taken_is_named(serving):
    made = serving(zeros(2))
    port = int(made.servers[0].address.rpartition(":")[2])
    server = ShardServer(made.shard, token="t", bind="127.0.0.1", port=port)
    with pytest.raises(
        TransportError, match=f"shard 0: cannot listen at 127.0.0.1:{port}; is it an address of this node"
    ):
        server.start()
    server.stop()


# -- what it says of itself -------------------------------------------------------------------------------------------


def test_health_is_serving(serving):
    channel = serving(zeros(2)).channel()
    for name in ("", "hogshead.v1.Parameters"):
        asked = health_pb2.HealthCheckRequest(service=name).SerializeToString()
        answer = health_pb2.HealthCheckResponse.FromString(call(channel, "Check", asked, service=HEALTH)[0])
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services_and_gives_the_schema(serving):
    channel = serving(zeros(2)).channel()
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="hogshead.v1.Parameters"),
    ]
    raw = call(channel, "ServerReflectionInfo", *(each.SerializeToString() for each in asked), service=REFLECTION)
    listed, file = map(reflection_pb2.ServerReflectionResponse.FromString, raw)
    names = {service.name for service in listed.list_services_response.service}
    assert names == {"hogshead.v1.Parameters", HEALTH, REFLECTION}
    assert pb.DESCRIPTOR.serialized_pb in file.file_descriptor_response.file_descriptor_proto


def test_a_description_says_all_that_a_client_needs(serving):
    peers = {0: "10.0.0.4:41873", 1: "10.0.0.5:7"}
    options = ServiceOptions(shards=3, peers=lambda: peers)
    parameters = tensors(dtype="float32", bias=(3,), table=(8, 2), mean=(2,))
    made = serving(parameters, Adagrad(), 3, service=options, averaged=("mean",), sparse=("table",), replicas=4)
    port = made.port(1)
    port.push(np.zeros(port.range.size, np.float32), Stamp(3, 1, 1), version=0)
    said, shard = port.describe(), made.state.shards[1]
    assert (said.slice.shard, said.slice.start, said.slice.stop) == (1, shard.range.start, shard.range.stop)
    assert (said.slice.dtype, said.shards, said.rule, said.version) == (pb.FLOAT32, 3, "Adagrad", 1)
    assert layout_of(said) == made.state.layout == Layout.from_json(json.loads(said.layout_json))
    assert {peer.shard: peer.address for peer in said.peers} == peers
    assert (said.limits.replicas, said.limits.window, said.limits.content_bytes) == (4, 8, 64 << 20)
    assert (said.lock_free, said.synchronous, said.clocks) == (False, False, False)
    (table,) = said.tables
    whole = parameters["table"]
    assert (table.name, table.width, table.rows) == ("table", 2, shard.row_steps["table"].size)
    first = shard.center[table.offset : table.offset + table.width]
    np.testing.assert_array_equal(first, whole[table.first_row])


def test_the_status_counts(serving):
    made = serving(zeros(4), replicas=2)
    port = made.port()
    for stamp in (Stamp(0, 1, 1), Stamp(1, 1, 1), Stamp(1, 1, 1)):
        port.push(np.ones(4, np.float32), stamp, version=0)
    expected = {
        "version": 2,
        "rounds": 0,
        "dropped": 0,
        "torn_updates": 0,
        "duplicate_pushes": 1,
        "memory_fallbacks": 0,
    }
    assert port.status() == expected
    port.pull(np.zeros(4, np.float32))
    port.exchange(np.zeros(4, np.float32), 0.5, Stamp(0, 1, 2), version=2)
    counts = {"pulls": 1, "pushes": 3, "exchanges": 1, "bytes_in": 64, "bytes_out": 32}
    assert made.servers[0].service.counts() == counts


# -- what it does with halves, and at its end -------------------------------------------------------------------------


def push_messages(made: Serving, size: int) -> list[bytes]:
    header = pb.Push(
        slice=pb.Slice(shard=0, dtype=pb.FLOAT32, start=0, stop=size),
        stamp=pb.Stamp(replica=0, incarnation=1, sequence=1),
        count=1,
        bytes=4 * size,
    )
    return list(frames(header, memoryview(np.ones(size, np.float32).view(np.uint8)), chunk_bytes=16))


def test_half_a_push_changes_nothing(serving):
    made = serving(zeros(16))
    before, messages = fingerprint(made.shard), push_messages(made, 16)
    assert len(messages) == 4
    for count in (1, 2, 3):
        refused(grpc.StatusCode.INVALID_ARGUMENT, "ended within", made.channel(), "Push", *messages[:count])
    gone = made.channel()
    taken = []

    def half():
        for message in messages[:3]:
            yield message
            taken.append(message)
        until(lambda: cut.done())  # the caller goes away, instead of ending its stream

    metadata = (("authorization", f"Bearer {TOKEN}"),)
    cut = gone.stream_stream("/hogshead.v1.Parameters/Push")(half(), metadata=metadata)
    until(lambda: len(taken) >= 2)
    cut.cancel()
    assert fingerprint(made.shard) == before
    (raw,) = call(made.channel(), "Push", *messages)
    assert pb.PushReply.FromString(raw) == pb.PushReply(sequence=1, version=1)
    assert made.shard.center.tolist() == [1.0] * 16


def test_pushes_of_one_stream_are_answered_in_order(serving):
    made = serving(zeros(4), replicas=2)
    messages = []
    for sequence in range(1, 6):
        header = pb.Push(
            slice=pb.Slice(shard=0, dtype=pb.FLOAT32, start=0, stop=4),
            stamp=pb.Stamp(replica=1, incarnation=1, sequence=sequence),
            count=1,
            bytes=16,
        )
        messages.append(frame(header, np.full(4, sequence, np.float32).tobytes()))
    answers = [pb.PushReply.FromString(raw) for raw in call(made.channel(), "Push", *messages)]
    assert [(answer.sequence, answer.version, answer.staleness) for answer in answers] == [
        (1, 1, 0), (2, 2, 1), (3, 3, 2), (4, 4, 3), (5, 5, 4)
    ]  # fmt: skip
    assert made.shard.center.tolist() == [15.0] * 4


def test_more_calls_than_threads_are_refused_and_not_left_waiting(serving):
    made = serving(zeros(4), server={"threads": 1})
    service, begun, over = made.servers[0].service, threading.Event(), threading.Event()
    made.closed.callback(over.set)
    inner = service.push

    def push(messages, caller):
        begun.set()
        yield from inner(messages, caller)

    def idle():
        over.wait()
        yield from ()

    service.push = push
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    holding = made.channel().stream_stream("/hogshead.v1.Parameters/Push")(idle(), metadata=metadata)
    begun.wait()
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded", made.channel(), "Describe", b"")
    over.set()
    list(holding)
    assert made.port().version == 0  # a port tries again


def test_a_server_that_stopped_leaves_no_thread_and_can_be_followed_by_another(serving):
    made = serving(zeros(4))
    port = made.port()
    port.push(np.ones(4, np.float32), Stamp(0, 1, 1), version=0)  # leaves an idle stream
    made.servers[0].stop(grace_s=0.0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shard-0")]
    made.servers[0] = made.serve(made.shard)
    assert port.push(np.ones(4, np.float32), Stamp(0, 1, 2), version=1).version == 2


def test_ipv6_addresses_are_written_with_brackets():
    server = ShardServer(private_state(zeros(2), Add()).shards[0], token="t", bind="::1")
    assert server.address == "[::1]:0"
    server.stop()
