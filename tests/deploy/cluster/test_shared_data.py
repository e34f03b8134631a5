"""A data set once per host, whoever of its processes comes first."""

from __future__ import annotations

import os
import secrets

import numpy as np
import pytest

from deploy.cluster.shared_data import share
from ps.segment import FOLDER, sweep
from tests.ps.building import forked
from worker.data.dataset import as_dataset

# Of this process's own: other tests of this file may run beside it, in another one.
UID, NODE = f"hogshead-{secrets.token_hex(6)}", "0123456789abcdef0123"


def dataset(values=(1.0, 2.0, 3.0)):
    return as_dataset({"x": np.array(values), "y": np.arange(len(values))})


def segments(node=NODE):
    return list(FOLDER.glob(f"hogshead-*-data{UID.replace('-', '')}{node[:16]}-*"))


@pytest.fixture(autouse=True)
def none_left():
    yield
    sweep()
    assert not segments() and not segments("f" * 20)


def sharing(values):
    """Another process of this host that shares, and keeps what it has until it is told to end."""

    def run(connection):
        data = dataset(values)
        segment = share(data, UID, NODE)
        connection.send(segment.name)
        connection.recv()
        connection.send(data.arrays()["x"].tolist())
        segment.close()

    return run


def test_the_second_process_maps_what_the_first_has_placed():
    mine = dataset()
    segment = share(mine, UID, NODE)
    with forked(sharing((1.0, 2.0, 3.0))) as (other,):
        assert other.connection.recv() == segment.name and len(segments()) == 1
        mine.arrays()["x"][0] = 9.0
        other.connection.send("look")
        assert other.connection.recv() == [9.0, 2.0, 3.0], "it is the same memory"
        other.join()
    assert len(segments()) == 1, "who only maps it does not remove it"
    segment.close()


def test_what_a_dead_process_has_placed_is_not_used():
    with forked(sharing((1.0, 2.0, 3.0))) as (other,):
        name = other.connection.recv()
        other.kill()
        other.wait()
        segment = share(dataset(), UID, NODE)
        assert segment.name != name
        segment.close()


@pytest.mark.parametrize("values", [(1.0, 2.0), (1.0, 2.0, 3.0, 4.0)])
def test_arrays_of_another_shape_are_placed_anew(values):
    first = share(dataset(), UID, NODE)
    data = dataset(values)
    second = share(data, UID, NODE)
    assert second.name != first.name and data.arrays()["x"].tolist() == list(values)
    first.close(), second.close()


def test_nodes_of_one_host_share_nothing():
    """Whether they really are one host cannot be seen from a node's id."""
    first, second = share(dataset(), UID, NODE), share(dataset(), UID, "f" * 20)
    assert first.name != second.name
    first.close(), second.close()


def test_nothing_to_share():
    class Streamed:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"x": np.zeros(1)}

    assert share(as_dataset(Streamed()), UID, NODE) is None


def test_no_lock_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    share(dataset(), UID, NODE).close()
    assert os.listdir(tmp_path) == []
