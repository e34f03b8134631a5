"""Processes that are killed for lack of memory: which the kernel is to choose, and how it is found out that one was."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.cluster.memory import own_memory

_CGROUPS = Path("/sys/fs/cgroup")
_FIRST, _LATER = (1000,), range(0, 1000, 100)  # scores; the lowest that is permitted depends on who started the node
_LOOK_S = 10.0


@dataclass(frozen=True)
class NodeMemory:
    """The memory of a node: of its container, where one bounds it, else of the machine.

    Attributes:
      used, limit: bytes. killed: processes that the kernel has killed there for lack of memory so far.
    """

    used: int
    limit: int
    killed: int


@dataclass(frozen=True)
class Seen:
    """What a process tells of itself from time to time, to be known when it is killed.

    Attributes:
      pid: of the process. own: bytes that it shares with no other process. node: memory of its node.
    """

    pid: int
    own: int
    node: NodeMemory


def seen() -> Seen:
    """This process and its node now."""
    return Seen(os.getpid(), own_memory(), node_memory())


def be_killed_first(first: bool) -> None:
    """Have the kernel, when memory runs out, kill this process before others (a worker is replaced without loss), or not.

    Ray makes all of its actors the first ones, so a worker that takes too much could cost the shard beside it. Where lowering the
    score is not permitted, it stays.
    """
    for score in _FIRST if first else _LATER:
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(score), encoding="ascii")
            return


@dataclass(frozen=True)
class _Layout:
    """How a version of control groups shows the memory of a group: its entry in ``/proc/self/cgroup``, and names of files."""

    entry: str
    root: str
    limit: str
    used: str
    reclaimable: str
    kills: str


_LAYOUTS = (
    _Layout("0::", "", "memory.max", "memory.current", "inactive_file", "memory.events"),
    _Layout(
        ":memory:",
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
        "memory.oom_control",
    ),
)


def node_memory(proc: Path = Path("/proc"), cgroups: Path = _CGROUPS) -> NodeMemory:
    """The memory of this node.

    Args:
      proc, cgroups: where the kernel shows its files.
    """
    machine = _words(proc / "meminfo")
    total = machine.get("MemTotal:", 0) << 10
    for layout in _LAYOUTS:
        found = _in_group(layout, proc, cgroups, total)
        if found is not None:
            return found
    killed = _words(proc / "vmstat").get("oom_kill", 0)
    return NodeMemory(total - (machine.get("MemAvailable:", 0) << 10), total, killed)


def _in_group(layout: _Layout, proc: Path, cgroups: Path, total: int) -> NodeMemory | None:
    """The memory of the nearest control group around this process that has a bound below ``total``, or None."""
    root = cgroups / layout.root
    with suppress(OSError, StopIteration):
        lines = (proc / "self" / "cgroup").read_text().splitlines()
        own = next(line.partition(layout.entry)[2] for line in lines if layout.entry in line)
        here = root / own.lstrip("/")  # in a container this path may be the machine's, and the files lie at the root
        for folder in (here, *here.parents):
            with suppress(OSError, ValueError):
                limit = int((folder / layout.limit).read_text())
                if limit < total:
                    used = int((folder / layout.used).read_text())
                    used -= _words(folder / "memory.stat").get(layout.reclaimable, 0)
                    return NodeMemory(used, limit, _words(folder / layout.kills).get("oom_kill", 0))
            if folder == root:
                break
    return None


def _words(path: Path) -> dict[str, int]:
    """The numbers of a file with a name and a number on each line."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


# -- what became of a process -----------------------------------------------------------------------------------------

_RAY = re.compile(r"Memory on the node \(IP: (\S+), ID: ([0-9a-f]+)\) was ([\d.]+)GB used / ([\d.]+)GB limit")


def killed_by_ray(error: BaseException | None, actor: str) -> str | None:
    """A sentence about a process that Ray killed because the memory of its node ran low, or None if it did not.

    Args:
      error: of a call that the process had under way. actor: Ray's id of the actor, hexadecimal.
    """
    found = _RAY.search(str(error))
    if not found:
        return None
    own = re.search(rf"Actor\({actor}\).*?actual memory used=([\d.]+)GB", str(error))
    took = "" if own is None else f"it took {_gib(float(own[1]))}, "
    return _sentence(found[2], found[1], f"{took}{_gib(float(found[3]))} of {_gib(float(found[4]))} were in use")


def killed_by_kernel(node: str, address: str, before: Seen | None, now: NodeMemory | None) -> str | None:
    """A sentence about a process that the kernel killed for lack of memory, or None if nothing shows that it did.

    Args:
      node, address: where it ran. before: what it told last. now: memory of its node after its death.
    """
    if before is None or now is None or now.killed <= before.node.killed:
        return None
    gib = float(1 << 30)
    took = f"it took {_gib(before.own / gib)} when last seen, the node's limit is {_gib(now.limit / gib)}"
    return _sentence(node, address, took)


def _sentence(node: str, address: str, amounts: str) -> str:
    return (
        f"killed for lack of memory on node {node[:8]} ({address}): {amounts}; give the node more memory, place fewer workers "
        "there ([cluster] replica_memory_mb), or have each take less ([data] batch_size)"
    )


def _gib(amount: float) -> str:
    return f"{amount:.3g} GiB"


def memory_of(node: str, neighbour: Any) -> NodeMemory | None:
    """The memory of another node, or None if it cannot be learned.

    Args:
      node: Ray's id. neighbour: handle of an actor there. Where it has no method ``node_memory``, a process is started there.
    """
    import ray

    from deploy.cluster.placement import on_node

    with suppress(ray.exceptions.RayError):
        if hasattr(neighbour, "node_memory"):
            return ray.get(neighbour.node_memory.remote(), timeout=_LOOK_S)
        there = ray.remote(num_cpus=0, max_retries=0)(node_memory).options(
            scheduling_strategy=on_node(node, soft=False)
        )
        return ray.get(there.remote(), timeout=_LOOK_S)
    return None
