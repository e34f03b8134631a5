"""Checkpoints: what comes back, on how many shards and replicas, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ps import checkpoint as module
from ps.checkpoint import (
    MANIFEST,
    Checkpoint,
    Writer,
    checkpoints,
    describe_state,
    restore_state,
    save_arrays,
    shard_arrays,
)
from ps.errors import CheckpointError, UsageError
from ps.rows import Rows
from ps.rules import NAG, SGD, Adagrad, Adam, AdaptiveRevision, Momentum
from ps.shard import VERSION
from ps.state import State
from ps.transport.direct import DirectLink

from .building import forked, private_state, stamp, tensors

SHAPES = {"table": (8, 2), "w": (5,), "mean": (3,)}


def make(rule=None, count=2, replicas=2, shapes=None, **options) -> State:
    return private_state(
        tensors(**(shapes or SHAPES)), rule or AdaptiveRevision(), count, averaged=("mean",), sparse=("table",),
        replicas=replicas, **options
    )  # fmt: skip


def train(state: State, steps: int = 6, seed: int = 0, incarnation: int = 1) -> State:
    """Both replicas pull and push in turn, from a state of their own, so that going on is the same after a restore."""
    links = [DirectLink(state, replica, incarnation) for replica in range(2)]
    rng = np.random.default_rng(seed)
    versions = [link.versions() for link in links]
    for step in range(steps):
        replica = step % 2
        if step % 3 == 0:
            versions[replica] = links[replica].pull(np.zeros(state.layout.size))
        rows = rng.choice(8, 3)
        payload = {"table": Rows(rows, rng.normal(size=(3, 2))), "w": rng.normal(size=5), "mean": rng.normal(size=3)}
        links[replica].push(payload, versions[replica])
    return state


def save(state: State, folder: Path, keep: int = 3, **facts) -> Path:
    writer = Writer(folder, keep)
    partial = writer.begin()
    for index, shard in enumerate(state.shards):
        save_arrays(partial / f"shard-{index}.safetensors", shard_arrays(shard))
    return writer.commit(partial, {**describe_state(state), **facts})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- round trip -------------------------------------------------------------------------------------------------------


def test_everything_comes_back_bit_for_bit_and_training_goes_on_the_same(tmp_path):
    state = train(make())
    save(state, tmp_path, position={"epoch": 3, "fraction": 0.1})
    again = make()
    saved = Checkpoint.newest(tmp_path)
    restore_state(saved, again)
    for name, array in state.arrays.items():
        assert again.arrays[name].tobytes() == array.tobytes(), name
    assert state.shards[0].memory.owners.tolist() == [1, 2]  # what readers saw is in it
    assert saved.manifest["position"] == {"epoch": 3, "fraction": 0.1}
    train(state, seed=1, incarnation=2)
    train(again, seed=1, incarnation=2)
    np.testing.assert_array_equal(again.center, state.center)


def test_what_is_copied_does_not_change_any_more(tmp_path):
    (shard,) = make(count=1).shards
    arrays = shard_arrays(shard)
    before = {name: array.copy() for name, array in arrays.items()}
    shard.center[:] = -1.0
    shard.header[:] = -1
    shard.memory.rows[:] = -1.0
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_a_push_from_before_the_checkpoint_is_still_applied_once(tmp_path):
    state = make(SGD(lr=1.0), count=1)
    state.shards[0].push(np.ones(24), stamp(3, replica=1), version=0)
    save(state, tmp_path)
    for count in (1, 3):  # also where the shards are cut otherwise
        again = make(SGD(lr=1.0), count)
        restore_state(Checkpoint.newest(tmp_path), again)
        for shard in again.shards:
            assert shard.push(np.ones(shard.range.size), stamp(3, 1), version=0).duplicate
            assert not shard.push(np.ones(shard.range.size), stamp(4, 1), version=0).duplicate


@pytest.mark.parametrize("before, after", [(1, 3), (3, 1), (2, 3)])
def test_another_number_of_shards(tmp_path, before, after):
    state = train(make(Adam(), before))
    state.shards[-1].header[VERSION] += 5
    save(state, tmp_path)
    again = make(Adam(), after)
    restore_state(Checkpoint.newest(tmp_path), again)
    whole = [name for name in state.arrays if name == "center" or name.startswith(("slot.", "row_steps."))]
    assert len(whole) == 4  # Adam has two slots
    for name in whole:
        np.testing.assert_array_equal(again.arrays[name], state.arrays[name], err_msg=name)
    assert [shard.version for shard in again.shards] == [max(shard.version for shard in state.shards)] * after
    train(again, seed=1, incarnation=2)


def test_what_readers_saw_is_dropped_where_the_shards_are_cut_otherwise(tmp_path):
    save(train(make(count=2)), tmp_path)
    again = make(count=3)
    restore_state(Checkpoint.newest(tmp_path), again)
    assert all(shard.memory.recall(0) is None for shard in again.shards)


@pytest.mark.parametrize("replicas", [1, 4])
def test_another_number_of_replicas(tmp_path, replicas):
    state = train(make())
    save(state, tmp_path)
    again = make(replicas=replicas)
    restore_state(Checkpoint.newest(tmp_path), again)
    np.testing.assert_array_equal(again.center, state.center)
    for shard, old in zip(again.shards, state.shards):
        kept = min(replicas, 2)
        np.testing.assert_array_equal(shard.watermarks[:kept], old.watermarks[:kept])
        assert not shard.watermarks[2:].any()
        np.testing.assert_array_equal(shard.memory.recall(0), old.memory.recall(0))
        assert (shard.memory.owners <= replicas).all()
        assert shard.memory.owners.tolist() == ([1] if replicas == 1 else [1, 2, 0, 0])


def test_the_memory_of_a_replica_that_no_longer_exists_is_free(tmp_path):
    state = make()
    DirectLink(state, 1).pull(np.zeros(24))
    save(state, tmp_path)
    again = make(replicas=1)
    restore_state(Checkpoint.newest(tmp_path), again)
    assert [shard.memory.owners.tolist() for shard in (*state.shards, *again.shards)] == [[0, 2]] * 2 + [[0]] * 2


def test_less_reader_memory_keeps_what_fits(tmp_path):
    save(train(make()), tmp_path)
    for memory_bytes, owners in ((0, []), (24 * 8, [1])):
        again = make(memory_bytes=memory_bytes)
        restore_state(Checkpoint.newest(tmp_path), again)
        assert [shard.memory.owners.tolist() for shard in again.shards] == [owners] * 2


def test_no_room_for_readers_can_be_saved(tmp_path):
    state = train(make(memory_bytes=0))
    save(state, tmp_path)
    again = make(memory_bytes=0)
    restore_state(Checkpoint.newest(tmp_path), again)
    np.testing.assert_array_equal(again.center, state.center)


def test_the_whole_center_and_slots_are_at_hand(tmp_path):
    state = train(make(Adagrad(), count=3))
    saved = Checkpoint(save(state, tmp_path))
    np.testing.assert_array_equal(saved.vector(), state.center)
    np.testing.assert_array_equal(saved.vector("sum_squares"), state.arrays["slot.sum_squares"])
    assert saved.layout == state.layout and saved.has("shard-2") and not saved.has("shard-3")
    with pytest.raises(CheckpointError, match="has no slot.average; there are: center, header"):
        saved.vector("average")
    with pytest.raises(CheckpointError, match="replica-0: cannot be read"):
        saved.arrays("replica-0")


def test_there_is_no_pickle_on_disk(tmp_path):
    path = save(train(make()), tmp_path)
    assert sorted(file.name for file in path.iterdir()) == [MANIFEST, "shard-0.safetensors", "shard-1.safetensors"]
    assert json.loads((path / MANIFEST).read_text())["rule"] == "adaptive_revision"


# -- several ----------------------------------------------------------------------------------------------------------


def test_the_last_k_are_kept_and_numbers_go_on(tmp_path):
    state = make()
    names = [save(state, tmp_path, keep=2).name for _ in range(4)]
    assert names == [f"{number:011d}" for number in range(4)]
    assert [path.name for path in checkpoints(tmp_path)] == names[-2:]
    assert sorted(path.name for path in tmp_path.iterdir()) == names[-2:]
    save(state, tmp_path, keep=1)
    assert [path.name for path in checkpoints(tmp_path)] == [f"{4:011d}"]


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="keep must be >= 1, got 0"):
        Writer(tmp_path, keep=0)


def test_a_folder_without_a_manifest_does_not_stop_later_ones(tmp_path):
    first = save(make(), tmp_path)
    second = save(make(), tmp_path)
    (second / MANIFEST).unlink()
    assert checkpoints(tmp_path) == [first]
    assert save(make(), tmp_path).name == f"{2:011d}"


def test_what_a_killed_writer_left_is_no_checkpoint_and_is_removed(tmp_path):
    first = save(make(), tmp_path)
    partial = Writer(tmp_path).begin()
    save_arrays(partial / "shard-0.safetensors", {"center": np.zeros(2)})
    assert checkpoints(tmp_path) == [first] and Checkpoint.newest(tmp_path).path == first
    save(make(), tmp_path)
    assert not list(tmp_path.glob(".partial-*"))


def test_an_empty_or_missing_folder_has_none(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert checkpoints(folder) == []
        with pytest.raises(CheckpointError, match="there is no checkpoint"):
            Checkpoint.newest(folder)


def test_zeros_take_no_room_and_come_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.zeros((3000, 70))
    rows[[4, 5, 1999, 2999]] = rng.standard_normal((4, 70))
    signed = np.zeros(100_001, np.float32)
    signed[[5, 50_000, 100_000]] = -0.0, 2.0, np.float32("nan")
    arrays = {
        "accrued": np.zeros(500_000, np.float32),
        "rows": rows,
        "signed": signed,
        "counts": np.zeros((20_000, 3), np.int64),
        "full": rng.standard_normal(50_000),
        "small": np.zeros(10),
        "none": np.zeros((0, 4), np.float32),
    }
    partial = Writer(tmp_path).begin()
    save_arrays(partial / "replica-0.safetensors", arrays)
    written = (partial / "replica-0.safetensors").stat().st_size
    final = Writer(tmp_path).commit(partial, describe_state(make()))
    assert arrays["full"].nbytes < written < arrays["full"].nbytes + 100_000
    found = Checkpoint(final).arrays("replica-0")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        assert found[name].tobytes() == array.tobytes(), name


def test_a_checkpoint_with_all_its_zeros_is_still_read(tmp_path):
    """What format 1 wrote."""
    state = make()
    path = save(state, tmp_path)
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["sha256"]
    manifest["format"] = 1
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (path / MANIFEST).write_text(json.dumps({**manifest, "sha256": digest}))
    assert (Checkpoint(path).vector() == state.center).all()


# -- refused ----------------------------------------------------------------------------------------------------------


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: flip(path / "shard-1.safetensors"), "shard-1.safetensors: its checksum differs .* corrupt"),
        (lambda path: os.truncate(path / "shard-0.safetensors", 100), "shard-0.safetensors: its checksum differs"),
        (lambda path: (path / "shard-0.safetensors").unlink(), "shard-0.safetensors: is missing"),
        (lambda path: (path / MANIFEST).write_text("{"), "not a manifest of Hogshead"),
        (lambda path: (path / MANIFEST).write_text("[1]"), "not a manifest of Hogshead"),
        (lambda path: (path / MANIFEST).write_text('{"format": 1}'), "not a manifest of Hogshead: KeyError"),
        (lambda path: (path / MANIFEST).write_bytes(b"\xff\xfe"), "not a manifest of Hogshead"),
        (lambda path: (path / MANIFEST).write_text('{"format": 3}'), "has format 3, this version reads the formats 1 and 2"),
        (lambda path: rewrite(path, '"epoch": 3', '"epoch": 4'), "checksum differs from its content"),
        (lambda path: (path / MANIFEST).unlink(), "cannot be read: No such file"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused_and_the_older_one_is_named(tmp_path, damage, message):
    older, newer = save(make(), tmp_path), save(make(), tmp_path, epoch=3)
    damage(newer)
    with pytest.raises(CheckpointError, match=message) as refused:
        Checkpoint(newer)
    if "corrupt" in message or "missing" in message:
        assert f"remove {newer} to go on from the older {older.name}" in str(refused.value)
    assert Checkpoint(older).manifest["slots"] == ["gradient_sum", "z", "z_max"]


def rewrite(path: Path, old: str, new: str) -> None:
    text = (path / MANIFEST).read_text()
    assert old in text
    (path / MANIFEST).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "key, value", [("layout", {"parameters": [{}]}), ("layout", []), ("files", []), ("files", {"a": 1})]
)
def test_a_manifest_of_somebody_else_is_refused_even_if_its_checksum_is_right(tmp_path, key, value):
    path = save(make(), tmp_path)
    body = json.loads((path / MANIFEST).read_text())
    del body["sha256"]
    body[key] = value
    (path / MANIFEST).write_text(json.dumps({**body, "sha256": module._digest_of(body)}))
    with pytest.raises(CheckpointError, match="not a manifest of Hogshead: .*; there is no older checkpoint"):
        Checkpoint(path)


@pytest.mark.parametrize(
    "state, message",
    [
        (lambda: make(shapes=SHAPES | {"w": (6,)}), r"another model: it has table \(8, 2\), w \(5,\).*the job has .*w \(6,\)"),
        (lambda: private_state(tensors("float32", **SHAPES), AdaptiveRevision()), r"another model: .*\(float64\).*\(float32\)"),
        (lambda: make(Adam()), "is of another rule: adaptive_revision with the slots .*gradient_sum.* job's is adam"),
        (lambda: make(SGD()), "is of another rule"),
    ],
)  # fmt: skip
def test_another_model_or_rule_is_refused_and_nothing_is_changed(tmp_path, state, message):
    saved = Checkpoint(save(train(make()), tmp_path))
    target = state()
    before = {name: array.copy() for name, array in target.arrays.items()}
    with pytest.raises(CheckpointError, match=message):
        restore_state(saved, target)
    for name, array in target.arrays.items():
        np.testing.assert_array_equal(array, before[name])


def test_slots_of_one_name_in_another_rule_are_refused(tmp_path):
    assert Momentum().slots == NAG().slots
    saved = Checkpoint(save(make(Momentum()), tmp_path))
    with pytest.raises(CheckpointError, match="another rule: momentum with .* job's is nag"):
        restore_state(saved, make(NAG()))
    restore_state(saved, make(Momentum(lr=0.5)))  # other hyper-parameters are no other rule


# -- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_older_ones_intact_and_nothing_partial(tmp_path):
    """In a process that may write no file beyond some size, the way a full disk looks to it."""
    save(train(make()), tmp_path)
    before = contents(tmp_path)

    def save_large(connection):
        state = private_state({"w": np.ones(100_000)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        writer = Writer(tmp_path)
        partial = writer.begin()
        try:
            save_arrays(partial / "shard-0.safetensors", shard_arrays(state.shards[0]))
        except CheckpointError as error:
            writer.abandon(partial)
            connection.send(str(error))

    with forked(save_large) as (process,):
        message = process.connection.recv()
        process.join()
    assert message.startswith(f"{tmp_path}: cannot write a checkpoint: ") and message.endswith(
        "; older ones are intact"
    )
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == 1
    Checkpoint.newest(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_is_full_at_the_end_leaves_nothing_partial(tmp_path, monkeypatch, call):
    save(train(make()), tmp_path)
    before = contents(tmp_path)
    writer = Writer(tmp_path)
    partial = writer.begin()

    def fail(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module.os, call, fail)
        with pytest.raises(CheckpointError, match="No space left on device; older ones are intact"):
            writer.commit(partial, describe_state(make()))
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot begin a checkpoint: "):
        Writer(tmp_path / "file").begin()
    with pytest.raises(CheckpointError, match="cannot write a checkpoint"):
        save_arrays(tmp_path / "nowhere" / "shard-0.safetensors", {"a": np.zeros(3)})


def test_a_checkpoint_moved_elsewhere_is_as_good(tmp_path):
    state = train(make())
    shutil.move(save(state, tmp_path / "here"), tmp_path / "there")
    np.testing.assert_array_equal(Checkpoint(tmp_path / "there").vector(), state.center)


def test_the_newest_incarnation_that_has_pushed_under_each_number(tmp_path):
    """A resumed run may give a number to somebody else, who would otherwise be taken for an older one, or for a retry."""
    state = train(make(replicas=4), incarnation=3)
    state.shards[1].watermarks[2] = (1_800_000_000_000, 7)  # a client in another language, at one shard only
    path = save(state, tmp_path)
    assert Checkpoint(path).incarnations() == [3, 3, 1_800_000_000_000, 0]
    (path / "shard-1.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        Checkpoint.incarnations(SimpleNamespace(path=path, manifest={"shards": [0, 1]}))
