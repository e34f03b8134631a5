"""Our framing writes and reads the bytes that any protobuf library does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.wire import parameters_pb2 as pb
from ps.wire.framing import MalformedMessage, content_of, crc32, frame, frames, padded, parse, unframe

HEADERS = st.none() | st.builds(
    pb.Pulled,
    version=st.integers(0, 1 << 40),
    bytes=st.integers(0, 1 << 40),
    crc32=st.none() | st.integers(0, 2**32 - 1),
)
CHUNKS = st.binary(max_size=300)


@given(HEADERS, CHUNKS)
def test_it_is_what_protobuf_writes_and_reads(header, chunk):
    ours, theirs = frame(header, memoryview(chunk)), pb.PullReply(header=header, chunk=chunk)
    assert pb.PullReply.FromString(ours) == theirs
    for raw in (ours, theirs.SerializeToString()):
        found, view = unframe(raw, pb.PullReply)
        assert (found, bytes(view)) == (header, chunk)


@given(HEADERS.filter(bool), CHUNKS.filter(bool))
def test_other_orders_of_the_fields_are_read_too(header, chunk):
    found, view = unframe(frame(None, chunk) + frame(header), pb.PullReply)
    assert (found, bytes(view)) == (header, chunk)
    unknown = b"\x7a\x03abc"  # a field that only a later version has
    found, view = unframe(frame(header) + unknown + frame(None, chunk), pb.PullReply)
    assert (found.version, bytes(view)) == (header.version, chunk)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_reads_them_or_refused(raw):
    try:
        expected = pb.PushRequest.FromString(raw)
    except Exception:
        expected = None
    try:
        header, chunk = unframe(raw, pb.PushRequest)
    except MalformedMessage:
        assert expected is None
    else:
        assert expected is not None and bytes(chunk) == expected.chunk
        assert header == (expected.header if expected.HasField("header") else None)


def test_a_chunk_is_not_copied():
    raw = frame(pb.Pulled(version=1), b"x" * 1000)
    assert unframe(raw, pb.PullReply)[1].obj is raw


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 25])
def test_frames_carry_the_whole_content_in_chunks(size):
    content = bytes(range(size))
    messages = [
        unframe(raw, pb.PullReply) for raw in frames(pb.Pulled(bytes=size), memoryview(content), chunk_bytes=10)
    ]
    assert [header is not None for header, _ in messages] == [True] + [False] * (max(size - 1, 0) // 10)
    assert b"".join(bytes(chunk) for _, chunk in messages) == content
    assert all(len(chunk) <= 10 for _, chunk in messages)


@pytest.mark.parametrize(
    "raw", [b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff", b"\x0a\x05ab", b"\x12\x05ab", b"\x0a\x02\x08"]
)
def test_what_is_cut_off_is_refused(raw):
    with pytest.raises(MalformedMessage, match="not a "):
        unframe(raw, pb.PullReply)


def test_a_parse_names_what_was_expected():
    with pytest.raises(MalformedMessage, match="not a PullRequest"):
        parse(b"\xff", pb.PullRequest)


def test_a_content_is_the_array_itself():
    vector = np.zeros(3, np.float32)
    content_of(vector)[4:8] = np.float32(1.5).tobytes()
    assert vector.tolist() == [0.0, 1.5, 0.0]


def test_checksum_and_padding_are_those_of_the_protocol():
    assert crc32(memoryview(b"123456789")) == 0xCBF43926  # the check value of CRC-32/ISO-HDLC
    assert [padded(size) for size in (0, 1, 8, 9)] == [0, 8, 8, 16]
