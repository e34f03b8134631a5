"""numba's ``njit``, with a folder for compiled kernels also where neither this package nor the home can be written.

numba refuses to compile a kernel that is to be cached where it finds no folder for it. Kernels are imported from here, so that a
folder is found before the first.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

_VARIABLE = "NUMBA_CACHE_DIR"
_ROOT = Path(__file__).resolve().parents[1]
_WITH_KERNELS = ("ps", "ps/rules", "worker", "worker/data", "worker/tasks")


def ensure_cache() -> None:
    """Choose a temporary folder for kernels where numba would find none, and say so; child processes inherit the choice."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "numba"
    ours = [_ROOT / folder / "__pycache__" for folder in _WITH_KERNELS]
    given = os.environ.get(_VARIABLE)
    if (given and _writable(Path(given))) or all(map(_writable, ours)) or _writable(home):
        return
    folder = _temporary()
    os.environ[_VARIABLE] = str(folder)
    if "numba" in sys.modules:  # imported by others before; it has read the variable
        sys.modules["numba"].config.CACHE_DIR = str(folder)
    print(
        f"hogshead: neither {given or _ROOT} nor {home} can be written; compiled kernels are kept in {folder}, "
        f"set {_VARIABLE} to keep them elsewhere",
        file=sys.stderr,
    )


def _writable(folder: Path) -> bool:
    """Files can be made in it, or in the nearest folder above that there is."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _temporary() -> Path:
    """A folder that only this user can write, as what is cached in it will be executed; the same for later commands."""
    for parent in _parents():
        folder = parent / f"hogshead-kernels-{os.getuid()}"
        if not _writable(parent):
            continue
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError:
            continue
        own = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if stat.S_ISDIR(found.st_mode) and own and _writable(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="hogshead-kernels-"))


def _parents() -> Iterable[Path]:
    try:
        yield Path(tempfile.gettempdir())
    except FileNotFoundError:  # no temporary folder can be written either
        pass
    yield Path("/dev/shm")  # which a run needs anyway


ensure_cache()

from numba import njit  # noqa: E402

__all__ = ["njit"]
