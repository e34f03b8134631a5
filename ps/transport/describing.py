"""What a shard says of itself: its description, and a snapshot for a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from ps.shard import Shard
from ps.transport.requests import DTYPES, slice_of, table_in
from ps.wire import parameters_pb2 as pb
from ps.wire.framing import CHUNK_BYTES, MESSAGE_BYTES, content_of, padded


def describe(shard: Shard, shards: int, peers: Mapping[int, str], clocks: bool) -> pb.Description:
    """The answer to ``Describe``, without the limits that are the service's own."""
    tables = []
    for table in shard.layout.tables:
        first, rows, offset = table_in(table, shard.range)
        if rows:
            tables.append(pb.Table(name=table.name, first_row=first, rows=rows, width=table.width, offset=offset))
    return pb.Description(
        slice=slice_of(shard),
        shards=shards,
        layout_json=json.dumps(shard.layout.to_json()),
        rule=type(shard.rule).__name__,
        version=shard.version,
        limits=pb.Limits(replicas=shard.options.replicas, message_bytes=MESSAGE_BYTES, chunk_bytes=CHUNK_BYTES),
        tables=tables,
        peers=[pb.Peer(shard=index, address=address) for index, address in sorted(peers.items())],
        lock_free=shard.options.lock_free,
        synchronous=shard.round is not None,
        clocks=clocks,
    )


def guard(shard: Shard) -> AbstractContextManager:
    """What to enter so that nothing changes meanwhile; a lock-free shard has no such moment."""
    return nullcontext() if shard.options.lock_free and shard.round is None else shard.lock  # type: ignore[return-value]


def snapshot(shard: Shard) -> tuple[pb.SnapshotHeader, memoryview]:
    """Center, slots, step counts of rows, header words and watermarks, copied at one version (torn on a lock-free shard)."""
    arrays = {"center": shard.center, **{f"slot.{name}": slot for name, slot in shard.slots.items()}}
    arrays |= {f"row_steps.{name}": steps for name, steps in shard.row_steps.items()}
    arrays |= {"header": shard.header, "watermarks": shard.watermarks}
    starts, total = {}, 0
    for name, array in arrays.items():
        starts[name], total = total, padded(total + array.nbytes)
    content = np.zeros(total, np.uint8)
    with guard(shard):
        version = shard.version
        for name, array in arrays.items():
            content[starts[name] : starts[name] + array.nbytes].view(array.dtype)[:] = array.reshape(-1)
    sections = [
        pb.Section(name=name, dtype=DTYPES[array.dtype.name], shape=array.shape) for name, array in arrays.items()
    ]
    header = pb.SnapshotHeader(slice=slice_of(shard), version=version, sections=sections, bytes=total)
    return header, content_of(content)


def sections_of(header: pb.SnapshotHeader, content: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a snapshot by name, as views of its content, uint8 (bytes,)."""
    names = {number: name for name, number in DTYPES.items()}
    arrays, at = {}, 0
    for section in header.sections:
        dtype = np.dtype(names[section.dtype])
        stop = at + int(np.prod(section.shape, dtype=np.int64)) * dtype.itemsize
        arrays[section.name] = content[at:stop].view(dtype).reshape(tuple(section.shape))
        at = padded(stop)
    return arrays
