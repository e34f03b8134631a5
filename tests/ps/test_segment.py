"""Named arrays in shared memory: shared, swept away after their maker, and refused where they do not fit."""

from __future__ import annotations

import errno
import os
import resource
import subprocess

import numpy as np
import pytest

from ps import segment
from ps.errors import MemoryShortage, TransportError
from ps.locks import LockFile
from ps.memory import Room
from ps.segment import FOLDER, PREFIX, SharedArrays, start_time, sweep

from .building import forked

SPECS = {"a": ((3, 2), "float32"), "b": ((5,), "int64"), "c": ((), "float64"), "none": ((0, 4), "float32")}


@pytest.fixture
def create():
    """``SharedArrays.create`` whose segments are closed after the test."""
    made = []

    def make(*args, **options):
        made.append(SharedArrays.create(*args, **options))
        return made[-1]

    yield make
    for arrays in made:
        arrays.close()


def test_arrays_start_as_zeros_of_their_shape_and_lie_apart(create):
    arrays = create(SPECS)
    assert list(arrays) == list(SPECS) and len(arrays) == 4 and arrays.nbytes > 24 + 40 + 8
    for name, (shape, dtype) in SPECS.items():
        assert (arrays[name].shape, arrays[name].dtype) == (shape, np.dtype(dtype))
        assert not arrays[name].any() and arrays[name].ctypes.data % 128 == 0
        arrays[name][...] = len(name)
    assert (arrays["a"] == 1).all() and (arrays["b"] == 1).all() and arrays["c"] == 1
    with pytest.raises(KeyError):
        arrays["d"]


def test_who_attaches_sees_the_same_memory(create):
    arrays = create(SPECS)
    with SharedArrays.attach(arrays.name) as again:
        assert again["a"].ctypes.data != arrays["a"].ctypes.data
        arrays["a"][2, 1] = 7.0
        again["b"][4] = -3
        assert again["a"][2, 1] == 7.0 and arrays["b"][4] == -3
    assert (FOLDER / arrays.name).exists()  # only its maker unlinks it


def test_a_long_name_in_any_script_leaves_the_arrays_alone(create):
    name = "größe-параметр-大きさ-🛢" * 40
    arrays = create({name: ((4,), "float64"), "b": ((1,) * 20, "int64")})
    assert not arrays[name].any()
    arrays[name][:] = 5.0
    with SharedArrays.attach(arrays.name) as again:
        assert list(again) == [name, "b"] and (again[name] == 5.0).all() and again["b"].ndim == 20


def test_close_unlinks_and_arrays_at_hand_stay_valid(create):
    arrays = create(SPECS)
    a, path = arrays["a"], FOLDER / arrays.name
    arrays.close()
    assert not path.exists() and len(arrays) == 0
    a[:] = 4.0
    assert a.sum() == 24.0
    arrays.close()  # twice is once
    with pytest.raises(TransportError, match=f"{arrays.name!r} cannot be opened on this host: No such file"):
        SharedArrays.attach(arrays.name)


def test_a_forked_child_sees_the_memory_and_does_not_unlink_it(create):
    arrays = create(SPECS)

    def child(_connection):
        arrays["b"][:] = 9
        arrays.close()

    with forked(child) as (process,):
        process.join()
    assert (FOLDER / arrays.name).exists() and (arrays["b"] == 9).all()


def test_too_little_shared_memory_says_how_much_and_what_to_do():
    before = ours()
    with pytest.raises(MemoryShortage) as shortage:
        SharedArrays.create({"huge": ((1 << 50,), "float32")}, "data set")
    message = str(shortage.value)
    assert message.startswith("too little shared memory for the data set: 4.5 PB needed, ")
    assert "free in /dev/shm" in message and "--shm-size" in message
    assert ours() == before


def refusal_in_child(limit: int, most: int) -> str:
    """Why a segment is refused where a limit of the process is ``most``."""

    def make(connection):
        resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))
        try:
            SharedArrays.create(SPECS, "data").close()
            connection.send("it was made")
        except MemoryShortage as error:
            connection.send(str(error))

    with forked(make) as (child,):
        return child.connection.recv()


def test_limits_of_the_process_are_named_with_their_remedy(monkeypatch):
    assert refusal_in_child(resource.RLIMIT_FSIZE, 100) == (
        "the limit on the size of files is too low for the data: 640 bytes of shared memory needed, the limit is 100 bytes; "
        "raise it (ulimit -f unlimited)"
    )
    assert refusal_in_child(resource.RLIMIT_NOFILE, 0).startswith(
        "too few open files are allowed: the limit is 0; raise it"
    )
    monkeypatch.setattr(segment, "room", lambda: Room(1 << 40, "on this machine", 1 << 40, 100))
    with pytest.raises(
        MemoryShortage, match=r"640 bytes .* 100 bytes are left of the limit on a process's address space"
    ):
        SharedArrays.create(SPECS)
    monkeypatch.setattr(segment, "room", lambda: Room(90, "in this control group", 1 << 40, None))
    with pytest.raises(MemoryShortage, match=r"too little memory .* 90 bytes are free in this control group"):
        SharedArrays.create(SPECS)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOENT])
def test_shared_memory_that_cannot_be_written_is_no_raw_error(monkeypatch, number):
    def refuse(path, *_args):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(segment.os, "open", refuse)
    with pytest.raises(MemoryShortage, match=f"cannot be used: /dev/shm: {os.strerror(number)}; .* backend = "):
        SharedArrays.create(SPECS)
    with pytest.raises(MemoryShortage, match="cannot be used: /dev/shm"):
        LockFile()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()], ids=["error", "^C"])
def test_nothing_is_left_behind_when_making_one_fails(monkeypatch, error):
    def fail(*_args):
        raise error

    monkeypatch.setattr(segment.mmap, "mmap", fail)
    before = ours()
    with pytest.raises(type(error)):
        SharedArrays.create(SPECS)
    assert ours() == before


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"\x05" + bytes(7) + b"hello", b"\x02" + bytes(7) + b"[]", b"\xff" * 64,
     b"\x1e" + bytes(7) + b'{"a": [128, [4096], "<f8"]}   ', b"\x0a" + bytes(7) + b'{"a": 3}  '],
)  # fmt: skip
def test_what_is_no_segment_of_ours_is_refused(content):
    name = f"{PREFIX}-{os.getpid()}-{start_time(os.getpid())}-foreign"
    (FOLDER / name).write_bytes(content)
    try:
        with pytest.raises(TransportError, match="is not a segment of Hogshead"):
            SharedArrays.attach(name)
    finally:
        (FOLDER / name).unlink()


def test_segments_of_others_are_kept_whatever_they_are_called(create):
    alive = create(SPECS)
    reused = (
        FOLDER / f"{PREFIX}-{os.getpid()}-12345-arrays-abcd"
    )  # our process id, but of a process that ended long ago
    foreign = FOLDER / f"{PREFIX}-notes"
    reused.touch()
    foreign.touch()
    try:
        sweep()
        assert (FOLDER / alive.name).exists() and foreign.exists() and not reused.exists()
    finally:
        foreign.unlink()


def test_the_segment_of_one_who_ended_without_closing_is_swept(create):
    with forked(lambda connection: connection.send(SharedArrays.create(SPECS, "left-behind").name)) as (child,):
        name = child.connection.recv()
        child.join()
    sweep()
    assert not (FOLDER / name).exists()


def test_a_killed_makers_segment_is_swept_when_the_next_is_made(create):
    def make_and_wait(connection):
        connection.send(SharedArrays.create(SPECS).name)
        connection.recv()

    with forked(make_and_wait) as (child,):
        name = child.connection.recv()
        create(SPECS)
        assert (FOLDER / name).exists()
        child.kill()
    create(SPECS)
    assert not (FOLDER / name).exists()


def test_segments_that_may_not_be_removed_are_passed_over(monkeypatch, tmp_path):
    """Another user's, in a folder with the sticky bit."""
    path = tmp_path / f"{PREFIX}-{os.getpid()}-1-theirs-abcd"
    refused = []

    def refuse(self, *_args, **_options):
        refused.append(self)
        raise PermissionError(errno.EPERM, "Operation not permitted", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(segment, "FOLDER", tmp_path)  # where no other run of ours removes it first
        patch.setattr(segment.Path, "unlink", refuse)
        path.touch()
        sweep()
    assert refused == [path]


def test_the_start_time_is_that_of_the_process():
    assert start_time(os.getpid()).isdigit()
    with subprocess.Popen(["sleep", "60"]) as process:
        assert start_time(process.pid).isdigit()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert start_time(process.pid) == ""  # a zombie is dead
    assert start_time(process.pid) == ""


def ours() -> set[str]:
    """Segments of this process."""
    return {path.name for path in FOLDER.glob(f"{PREFIX}-{os.getpid()}-*")}
