"""What is free: of the machine, of control groups of both versions, of shared memory and of the process's own limits."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from ps.memory import room, words

from .building import forked

KB = 1024


def machine(tmp_path: Path, available_kb: int = 8_000_000, swap_kb: int = 0, groups: str = "") -> tuple[Path, Path]:
    """A made-up /proc and /sys/fs/cgroup."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 9000000 kB\nMemAvailable:   {available_kb} kB\nSwapFree: {swap_kb} kB\n")
    (proc / "self/cgroup").write_text(groups)
    return proc, cgroups


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_without_a_control_group_it_is_what_the_machine_has(tmp_path):
    proc, cgroups = machine(tmp_path, swap_kb=1_000_000)
    found = room(proc, cgroups, tmp_path)
    assert (found.memory, found.bound) == (9_000_000 * KB, "on this machine")
    assert found.shared is not None and found.shared > 0 and room(proc, cgroups, tmp_path / "none").shared is None


def test_the_tightest_group_of_version_2_counts_and_its_file_cache_is_free(tmp_path):
    proc, cgroups = machine(tmp_path, groups="0::/user/job\n")
    group(cgroups / "user", memory__max=1_000_000, memory__current=900_000, memory__stat="inactive_file 100000")
    group(cgroups / "user/job", memory__max="max", memory__current=800_000)
    found = room(proc, cgroups, tmp_path)
    assert (found.memory, found.bound) == (200_000, "in this control group")
    group(cgroups / "user/job", memory__max=850_000, memory__stat="anon 7\nactive_file 1000\ninactive_file 2000")
    assert room(proc, cgroups, tmp_path).memory == 53_000


def test_version_1_counts_likewise_also_where_a_container_sees_its_group_as_the_root(tmp_path):
    proc, cgroups = machine(tmp_path, groups="7:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    unlimited = dict(memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=5)
    group(cgroups / "memory", **unlimited)
    assert room(proc, cgroups, tmp_path).bound == "on this machine"
    stat = "inactive_file 1\ntotal_inactive_file 300\ntotal_active_file 200"
    group(cgroups / "memory", memory__limit_in_bytes=10_000, memory__usage_in_bytes=4_500, memory__stat=stat)
    assert room(proc, cgroups, tmp_path).memory == 6_000
    group(cgroups / "memory/docker/abc", memory__limit_in_bytes=2_000, memory__usage_in_bytes=3_000)
    assert room(proc, cgroups, tmp_path).memory == 0


def test_a_limit_on_the_address_space_counts_for_one_process():
    def look(connection):
        resource.setrlimit(resource.RLIMIT_AS, (1 << 36, resource.getrlimit(resource.RLIMIT_AS)[1]))
        found = room()
        connection.send((found.address_space, found.shortage(1 << 10, 1 << 36), found.shortage(1 << 10)))

    with forked(look) as (child,):
        left, lacking, enough = child.connection.recv()
    assert 0 < left < 1 << 36
    assert lacking == f"{words(left)} are left of the limit on a process's address space (ulimit -v)" and enough is None


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (2_914_000_000, "2.91 GB"),
        (999_900, "1 MB"),
        (5e18, "5e+03 PB"),
    ],
)
def test_sizes_in_words(size, text):
    assert words(size) == text
