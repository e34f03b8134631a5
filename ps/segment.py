"""Named arrays in one named shared-memory segment.

A segment is a file in ``/dev/shm`` that every process of the host may map. Its space is reserved when it is made, so too little
shared memory is an error at once and not a bus error later. Its name carries the maker's process id and start time: segments
whose maker was killed are swept away by the next one to be made.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import resource
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from ps.errors import MemoryShortage, TransportError
from ps.memory import SHARED, room, words

FOLDER = SHARED
PREFIX = "hogshead"
_ALIGN = 128  # two cache lines: neighbours of different processes do not share one, also with the pair prefetcher
_HEADER_BYTES = 8  # length of the JSON index that follows

Specs = Mapping[str, tuple[tuple[int, ...], str]]


class SharedArrays(Mapping[str, np.ndarray]):
    """A mapping name -> array whose memory is shared with every process that attaches the same segment.

    Arrays start as zeros. The maker unlinks the segment in ``close``; memory goes when the last process has unmapped it.
    """

    def __init__(self, path: Path, buffer: mmap.mmap, arrays: dict[str, np.ndarray], owner: bool):
        self._path, self._buffer, self._arrays, self._owner = path, buffer, arrays, owner
        self._maker = os.getpid()

    @staticmethod
    def create(specs: Specs, label: str = "arrays") -> SharedArrays:
        """Make a segment.

        Args:
          specs: name -> (shape, dtype).
          label: a word in the segment's name, to tell segments apart.

        Raises:
          MemoryShortage: shared memory has no room for it, or cannot be used.
        """
        sweep()
        index, total = _plan(specs)
        header = json.dumps(index).encode()
        # Looked at first: in a tmpfs larger than the free memory, reserving ends with the kernel killing a process.
        refusal = _refusal(label, total)
        if refusal:
            raise MemoryShortage(refusal)
        path, descriptor = new_file(label)
        try:
            os.posix_fallocate(descriptor, 0, total)
            buffer = mmap.mmap(descriptor, total)
        except BaseException as error:  # also ^C: reserving gigabytes takes a while
            os.unlink(path)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
                raise MemoryShortage(_refusal(label, total) or _no_space(label, total, room().shared or 0)) from error
            raise
        finally:
            os.close(descriptor)
        buffer[:_HEADER_BYTES] = len(header).to_bytes(_HEADER_BYTES, "little")
        buffer[_HEADER_BYTES : _HEADER_BYTES + len(header)] = header
        return SharedArrays(path, buffer, _map(buffer, index), owner=True)

    @staticmethod
    def attach(name: str) -> SharedArrays:
        """Map the segment called ``name`` (another's ``.name``).

        Raises:
          TransportError: there is no such segment on this host, or it is not one of ours.
        """
        path = FOLDER / name
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError as error:
            raise TransportError(f"shared memory {name!r} cannot be opened on this host: {error.strerror}") from error
        try:
            buffer = mmap.mmap(descriptor, 0)
            length = int.from_bytes(buffer[:_HEADER_BYTES], "little")
            index = json.loads(buffer[_HEADER_BYTES : _HEADER_BYTES + length])
            arrays = _map(buffer, index)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise TransportError(f"shared memory {name!r} is not a segment of Hogshead") from error
        finally:
            os.close(descriptor)
        return SharedArrays(path, buffer, arrays, owner=False)

    @property
    def name(self) -> str:
        """The name to attach by."""
        return self._path.name

    @property
    def nbytes(self) -> int:
        """Bytes of the whole segment."""
        return len(self._buffer)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def close(self) -> None:
        """Unlink the segment if this process made it; arrays handed out stay valid while they are referenced."""
        self._arrays = {}
        if self._owner and os.getpid() == self._maker:  # a forked child must not unlink its parent's segment
            self._path.unlink(missing_ok=True)
        self._owner = False

    def __enter__(self) -> SharedArrays:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()


def new_file(label: str) -> tuple[Path, int]:
    """A new file in shared memory that is named after this process, and its descriptor.

    Raises:
      MemoryShortage: there is no shared memory that this user may write to, or too many files are open.
    """
    path = FOLDER / f"{PREFIX}-{os.getpid()}-{start_time(os.getpid())}-{label}-{secrets.token_hex(4)}"
    try:
        return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise MemoryShortage(_cannot_be_made(error)) from error


def sweep() -> None:
    """Unlink segments and lock files whose maker no longer lives (it was killed before it could)."""
    found: list[Path] = []
    with suppress(OSError):  # what keeps us from looking will be said when a file is made
        found = list(FOLDER.glob(f"{PREFIX}-*"))
    for path in found:
        fields = path.name.split("-")
        if len(fields) < 4 or not fields[1].isdigit():
            continue
        if start_time(int(fields[1])) != fields[2]:
            with suppress(OSError):  # another user's; or just swept by somebody else
                path.unlink()


def abandon() -> None:
    """Unlink the segments and lock files that this process has made, which is about to end at once."""
    maker = os.getpid()
    for path in FOLDER.glob(f"{PREFIX}-{maker}-{start_time(maker)}-*"):
        path.unlink(missing_ok=True)


def start_time(pid: int) -> str:
    """Clock ticks after boot at which ``pid`` started, "" if it does not live: tells a reused process id apart."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _plan(specs: Specs) -> tuple[dict[str, list], int]:
    """Index name -> [offset, shape, dtype] and the segment's size in bytes."""
    index: dict[str, list] = {}
    # The index holds the offsets, so room for it is reserved first, as if each were as long as can be.
    longest = {name: [1 << 63, list(map(int, shape)), np.dtype(dtype).str] for name, (shape, dtype) in specs.items()}
    offset = _aligned(_HEADER_BYTES + len(json.dumps(longest)))
    for name, (_, shape, dtype) in longest.items():
        index[name] = [offset, shape, dtype]
        offset = _aligned(offset + math.prod(shape) * np.dtype(dtype).itemsize)
    return index, offset


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def _map(buffer: mmap.mmap, index: Mapping[str, list]) -> dict[str, np.ndarray]:
    return {
        name: np.ndarray(tuple(shape), dtype=dtype, buffer=buffer, offset=offset)
        for name, (offset, shape, dtype) in index.items()
    }


def _refusal(label: str, needed: int) -> str | None:
    """Why a segment of so many bytes cannot be made now, or None."""
    free, (largest, _) = room(), resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest != resource.RLIM_INFINITY and needed > largest:
        return (
            f"the limit on the size of files is too low for the {label}: {words(needed)} of shared memory needed, the limit is "
            f"{words(largest)}; raise it (ulimit -f unlimited)"
        )
    if free.shared is not None and needed > free.shared:
        return _no_space(label, needed, free.shared)
    shortage = free.shortage(needed)
    if shortage:
        return (
            f"too little memory for the {label}: {words(needed)} of shared memory needed, {shortage}; use a smaller model or "
            "data set, or end other jobs"
        )
    return None


def _no_space(label: str, needed: int, free: int) -> str:
    return (
        f"too little shared memory for the {label}: {words(needed)} needed, {words(free)} free in {FOLDER}; "
        f"enlarge it (mount -o remount,size=… {FOLDER}; with Docker: --shm-size) or end other jobs"
    )


def _cannot_be_made(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"too few open files are allowed: the limit is {limit}; raise it (ulimit -n {2 * limit})"
    return (
        f"shared memory cannot be used: {FOLDER}: {error.strerror}; it must be a tmpfs that this user may write to "
        f'(mount -o remount,rw {FOLDER}), or use backend = "simulation", which needs none'
    )
