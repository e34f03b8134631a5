"""Checkpoints behind a URL: the manifest comes last and goes first, what is damaged is passed over, numbers only rise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploy import mirror
from deploy.remote_checkpoints import RemoteCheckpoints
from ps.checkpoint import MANIFEST, Checkpoint, Writer, describe_state, save_arrays, shard_arrays
from ps.errors import CheckpointError
from ps.layout import Layout
from ps.rules import build_rule
from ps.shard import ShardOptions
from ps.state import build_state, initialise, private_arrays, state_specs

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def save(tmp_path):
    """A function that saves a small checkpoint whose center is all ``value`` and returns its folder."""
    initial = {"weights": np.zeros(5, np.float32)}
    layout, rule, options = Layout.of(initial), build_rule({"name": "sgd", "lr": 0.1}), ShardOptions(replicas=1)
    state = build_state(layout, 2, rule, options, private_arrays(state_specs(layout, 2, rule, options)))

    def write(value: float, run: str = "run", keep: int = 9) -> Path:
        initialise(state, {"weights": np.full(5, value, np.float32)})
        writer = Writer(tmp_path / run / "checkpoint", keep)
        partial = writer.begin()
        for index, shard in enumerate(state.shards):
            save_arrays(partial / f"shard-{index}.safetensors", shard_arrays(shard))
        return writer.commit(partial, describe_state(state))

    return write


@pytest.fixture
def url(request):
    """A place in memory of its own."""
    place = f"memory://{request.node.name}"
    yield place
    fsspec.filesystem("memory").store.clear()


def value_of(path: Path) -> float:
    return Checkpoint(path).vector()[0].item()


def test_what_was_put_comes_back(save, url, tmp_path):
    for value in (1.0, 2.0):
        RemoteCheckpoints(url).put(save(value))
    assert RemoteCheckpoints(url).numbers() == [0, 1]
    path, problems = mirror.download_newest(url, tmp_path / "back")
    assert (value_of(path), path.name, problems) == (2.0, "00000000001", [])


def test_the_manifest_comes_last(save, url, monkeypatch):
    """Whatever moment an upload is cut off at, there is no checkpoint of it."""
    there = RemoteCheckpoints(url)
    sent: list[str] = []
    put_file = there.fs.put_file
    monkeypatch.setattr(there.fs, "put_file", lambda local, name: (sent.append(Path(name).name), put_file(local, name)))
    (save(1.0).parent.parent / "job.toml").write_text("seed = 1")
    path = save(2.0)
    there.put(path)
    assert sent == ["shard-0.safetensors", "shard-1.safetensors", MANIFEST]

    for calls in range(3):
        sent.clear()

        def fails(local, name, left=calls):
            if len(sent) == left:
                raise OSError("connection lost")
            sent.append(name)
            put_file(local, name)

        monkeypatch.setattr(there.fs, "put_file", fails)
        with pytest.raises(OSError, match="connection lost"):
            there.put(path)
        assert there.numbers() == [1]


def test_a_file_that_arrived_short_makes_no_checkpoint(save, url, monkeypatch):
    there = RemoteCheckpoints(url)
    monkeypatch.setattr(
        there.fs, "put_file", lambda local, name: there.fs.pipe_file(name, Path(local).read_bytes()[:-1])
    )
    with pytest.raises(CheckpointError, match="shard-0.safetensors has .* bytes, .* have arrived"):
        there.put(save(1.0))
    assert there.numbers() == []


def test_damaged_ones_are_passed_over(save, url, tmp_path):
    there = RemoteCheckpoints(url)
    for value in (1.0, 2.0, 3.0):
        there.put(save(value))
    name = f"{there.root}/00000000002/shard-1.safetensors"
    content = bytearray(there.fs.cat_file(name))
    content[-1] ^= 1
    there.fs.pipe_file(name, bytes(content))
    there.fs.rm_file(f"{there.root}/00000000001/{MANIFEST}")
    path, problems = mirror.download_newest(url, tmp_path / "back")
    assert value_of(path) == 1.0
    assert len(problems) == 1 and f"{url}/00000000002" in problems[0] and "checksum" in problems[0]
    assert [entry.name for entry in (tmp_path / "back").iterdir()] == ["00000000000"]


def test_none_is_whole(save, url, tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        mirror.download_newest(url, tmp_path / "back")
    there = RemoteCheckpoints(url)
    there.put(save(1.0))
    there.fs.pipe_file(f"{there.root}/00000000000/{MANIFEST}", b"{}")
    with pytest.raises(CheckpointError, match="none of its checkpoints is whole: .*not a manifest"):
        mirror.download_newest(url, tmp_path / "back")


def test_prune_keeps_the_newest(save, url):
    there = RemoteCheckpoints(url)
    for value in range(5):
        there.put(save(float(value)))
    there.fs.rm_file(f"{there.root}/00000000003/{MANIFEST}")  # an upload that was cut off
    there.fs.pipe_file(f"{there.root}/job.toml", b"seed = 1")
    there.prune(2)
    assert there.numbers() == [2, 4]
    assert sorted(there._listing()) == ["00000000002", "00000000004"] and there.job() == "seed = 1"


def test_the_newest_has_the_greatest_number_also_after_going_back(save, url, tmp_path):
    there = RemoteCheckpoints(url)
    for value in range(4):
        there.put(save(float(value)))
    assert there.put(save(9.0, run="another")) == "00000000004"  # number 0 where it was saved
    path, _ = mirror.download_newest(url, tmp_path / "back")
    assert value_of(path) == 9.0


def test_the_job_travels_along(save, url):
    path = save(1.0)
    assert mirror.download_job(url) is None
    (path / "job.toml").write_text("seed = 1")  # as it is put beside the files for the upload
    RemoteCheckpoints(url).put(path)
    assert mirror.download_job(url) == "seed = 1"
    assert "job.toml" not in RemoteCheckpoints(url)._listing()["00000000000"]


def test_uploads_are_tried_again(save, url, monkeypatch):
    failures, pauses = [OSError("reset"), OSError("reset again")], []
    put = RemoteCheckpoints.put

    def flaky(there, path):
        if failures:
            raise failures.pop()
        return put(there, path)

    monkeypatch.setattr(RemoteCheckpoints, "put", flaky)
    assert mirror.upload(url, save(1.0), 3, pause=pauses.append) == ("00000000000", None)
    assert pauses == [2.0, 4.0]
    failures.extend([OSError("reset")] * 3)
    assert mirror.upload(url, save(2.0), 3, pause=pauses.append) == (None, "reset")
    assert RemoteCheckpoints(url).numbers() == [0]


def test_failing_to_prune_does_not_upload_again(save, url, monkeypatch):
    monkeypatch.setattr(
        RemoteCheckpoints, "prune", lambda there, keep: (_ for _ in ()).throw(OSError("no right to delete"))
    )
    name, reason = mirror.upload(url, save(1.0), 1, pause=lambda seconds: None)
    assert name == "00000000000" and "no right to delete" in reason
    assert RemoteCheckpoints(url).numbers() == [0]
