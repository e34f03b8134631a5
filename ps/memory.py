"""How much memory this process may still take: of the machine, of its control group, of ``/dev/shm`` and of its own limits.

Linux grants an allocation that it cannot serve and kills a process once the pages are written. So what is large is compared with
what is free before it is allocated.
"""

from __future__ import annotations

import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
SHARED = Path("/dev/shm")
_UNLIMITED = 1 << 62  # version 1 writes "no limit" as a number near 2^63


@dataclass(frozen=True)
class Room:
    """Bytes that may still be taken.

    Attributes:
      memory: of this machine and of its control group, swap space included.
      bound: what bounds ``memory``, to be put after "free": "on this machine", or "in this control group".
      shared: free in ``/dev/shm``; its pages count in ``memory`` too. None where there is none.
      address_space: left of ``ulimit -v`` for this process and each that is forked from it; None: unlimited.
    """

    memory: int
    bound: str
    shared: int | None
    address_space: int | None

    def shortage(self, needed: int, one_process: int | None = None) -> str | None:
        """What there is less of than needed, in words such as ``20 GB are free on this machine``; None if it suffices.

        Args:
          needed: bytes of all processes together.
          one_process: bytes of the largest of them; by default all of it.
        """
        if needed > self.memory:
            return f"{words(self.memory)} are free {self.bound}"
        largest = needed if one_process is None else one_process
        if self.address_space is not None and largest > self.address_space:
            return f"{words(self.address_space)} are left of the limit on a process's address space (ulimit -v)"
        return None


def room(proc: Path = PROC, cgroups: Path = CGROUPS, shared: Path = SHARED) -> Room:
    """Look how much there is now.

    Args:
      proc, cgroups, shared: where the kernel shows it.
    """
    machine = _fields(proc / "meminfo")
    swap = machine.get("SwapFree", 0) << 10
    free, bound = _UNLIMITED, "on this machine"
    if "MemAvailable" in machine:
        free = (machine["MemAvailable"] << 10) + swap
    for left in _groups(proc / "self/cgroup", cgroups, swap):
        if left < free:
            free, bound = left, "in this control group"
    return Room(free, bound, _free_in(shared), _address_space(proc))


def words(size: float) -> str:
    """A number of bytes with three figures and a unit: ``2.91 GB``."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if size < 999.5 or unit == "PB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"


def _groups(membership: Path, root: Path, swap: int) -> list[int]:
    """What is left of the limit of each control group that this process is in, of either version."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found += [_left(folder, "memory.max", "memory.current", "", swap) for folder in _chain(root, path)]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            found += [_left(folder, *names, swap) for folder in _chain(root / "memory", path)]
    return [left for left in found if left is not None]


def _chain(root: Path, path: str) -> list[Path]:
    """The folders of a group and of all above it. A container may see its own group as the root, under the host's path."""
    group = root / path.lstrip("/")
    return [group, *(parent for parent in group.parents if parent == root or root in parent.parents)]


def _left(folder: Path, limit: str, usage: str, prefix: str, swap: int) -> int | None:
    """The limit less what is used and cannot be reclaimed; None without a limit."""
    most, used = _number(folder / limit), _number(folder / usage)
    if most is None or used is None or most >= _UNLIMITED:
        return None
    cached = _fields(folder / "memory.stat")
    files = sum(cached.get(f"{prefix}{name}", 0) for name in ("inactive_file", "active_file"))
    return max(most - max(used - files, 0), 0) + swap


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max", or no such file
        return None


def _fields(path: Path) -> dict[str, int]:
    """The lines ``name value`` or ``name: value kB`` of a file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    rows = (line.replace(":", " ").split() for line in lines)
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _free_in(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _address_space(proc: Path) -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(limit - (_fields(proc / "self/status").get("VmSize", 0) << 10), 0)
