"""The files that workers record into: whole after a kill, grown as needed, and one trace at the end."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.recording import Recorder, Recording, _Rows
from ps.errors import RunDirectoryError
from ps.layout import Layout
from worker import trace
from worker.effects import Range
from worker.replica import Replica
from worker.trace import TRACE_FILE, Trace


def replica(number: int = 0, incarnation: int = 1) -> Replica:
    return Replica(Layout.of({"w": np.zeros(3, np.float32)}), id=number, incarnation=incarnation)


class Header:
    """What a recording asks of a shard."""

    def __init__(self, version: int, torn: int = 0):
        self.version, self._torn = version, torn

    def counts(self):
        return {"torn_updates": self._torn}


def test_rows_survive_without_being_closed(tmp_path):
    rows = _Rows(tmp_path / "0-1.rows")
    rows.append(1.5, 0.25, 0.125, trace.PUSH, 3, 2, 1, 70, 4, 9)
    found = _Rows.read(tmp_path / "0-1.rows")
    assert found.tolist() == [(1.5, 0.25, 0.125, trace.PUSH, 3, 2, 1, 70, 4, 9)]
    assert found.dtype.names == tuple(trace.COLUMNS)


def test_a_file_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(_Rows, "FIRST_BYTES", 4096)
    rows = _Rows(tmp_path / "0-1.rows")
    for index in range(500):
        rows.append(float(index), 0, 0, trace.PULL, 0, 1, 0, index, -1, index)
    assert _Rows.read(tmp_path / "0-1.rows")["version"].tolist() == list(range(500))
    rows.close()
    assert (tmp_path / "0-1.rows").stat().st_size == 500 * trace.ROW.itemsize
    assert _Rows.read(tmp_path / "0-1.rows")["time"].tolist() == list(range(500))


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(RunDirectoryError, match="No space left on device; leave record = true out"):
        _Rows(tmp_path / "0-1.rows")


def test_one_trace_of_all_files(tmp_path):
    recording = Recording(tmp_path, started=0.0)
    first, second = Recorder(recording.folder, replica(0)), Recorder(recording.folder, replica(1, 2))
    first.note_range(Range(0, 4, 10, 20))
    second.add(trace.PULL, 0, 7)
    recording.note_leave(1, 2)
    first.add(trace.COMPUTE, began=0.0, loss=0.5)
    second.close()
    recording.finish({"backend": "processes"}, [Header(3), Header(5, torn=1)])
    whole = Trace.load(tmp_path / TRACE_FILE)
    assert whole.facts == {"backend": "processes", "versions": [3, 5], "torn_updates": 1}
    columns = whole.columns()
    of_first = [trace.KINDS[kind] for kind in columns["kind"][columns["replica"] == 0]]
    assert of_first == ["compute", "begin", "work"]  # by time: the gradient began when the run did
    of_second = [trace.KINDS[kind] for kind in columns["kind"][columns["replica"] == 1]]
    assert of_second == ["begin", "pull", "leave", "end"]
    work = columns["kind"] == trace.WORK
    assert [columns[name][work].item() for name in ("version", "staleness", "clock")] == [4, 10, 20]
    assert not recording.folder.exists()


def test_an_earlier_record_is_not_mixed_in(tmp_path):
    Recorder(Recording(tmp_path, 0.0).folder, replica(0)).close()
    again = Recording(tmp_path, 0.0)
    assert list(again.folder.iterdir()) == []
