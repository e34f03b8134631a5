"""A run's data set once per host: the first of its processes there puts the arrays into shared memory, the others map them."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ps.errors import TransportError
from ps.segment import FOLDER, PREFIX, SharedArrays, start_time
from worker.data.dataset import Dataset


def share(dataset: Dataset, uid: str, node: str) -> SharedArrays | None:
    """Have ``dataset`` use arrays in shared memory, this host's own or the ones that another process has placed.

    Args:
      uid: of the run. node: id of the node; hosts may share /dev/shm without being one node.

    Returns:
      The segment, to be closed at the end; None if there is nothing to share.
    """
    own = dataset.arrays()
    if not own:
        return None
    label = f"data{uid}{node[:16]}".replace("-", "")
    with _locked(label):
        segment = _placed(label, own)
        if segment is None:
            segment = SharedArrays.create({name: (a.shape, a.dtype.str) for name, a in own.items()}, label)
            for name, array in own.items():
                np.copyto(segment[name], array)
    dataset.replace({name: segment[name] for name in own})
    return segment


def _placed(label: str, own: Mapping[str, np.ndarray]) -> SharedArrays | None:
    """The segment that a living process has made for the same arrays."""
    for path in FOLDER.glob(f"{PREFIX}-*-{label}-*"):
        fields = path.name.split("-")
        if start_time(int(fields[1])) != fields[2]:
            continue
        with suppress(TransportError):  # its maker may have ended just now
            found = SharedArrays.attach(path.name)
            if {name: (a.shape, a.dtype) for name, a in found.items()} == {
                name: (a.shape, a.dtype) for name, a in own.items()
            }:
                return found
    return None


@contextmanager
def _locked(label: str) -> Iterator[None]:
    """One process of this host at a time."""
    path = Path(tempfile.gettempdir()) / f"{PREFIX}-{os.getuid()}-{label}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            path.unlink(
                missing_ok=True
            )  # somebody who waits for it goes on with the one that is gone: at worst a second copy
        os.close(descriptor)
