"""Deaths for lack of memory are told as what they are, with node, use and limit."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from deploy.cluster.out_of_memory import NodeMemory, Seen, killed_by_kernel, killed_by_ray, node_memory

GIB = 1 << 30
MEMINFO = f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable: {12 << 20} kB\n"
V2 = {
    "memory.max": f"{4 * GIB}\n",
    "memory.current": f"{3 * GIB}\n",
    "memory.stat": f"anon 5\ninactive_file {GIB}\n",
    "memory.events": "low 0\noom 7\noom_kill 2\noom_group_kill 0\n",
}
V1 = {
    "memory.limit_in_bytes": f"{4 * GIB}\n",
    "memory.usage_in_bytes": f"{3 * GIB}\n",
    "memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
}
# What Ray 2.60 says, shortened where nothing is looked for.
RAY = """2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.5, ID: 17d818641ddb48) \
was 7.77GB used / 23.59GB limit (0.329310)
Object store memory usage: [- objects spillable: 0
- objects errored: 0
- bytes errored: 0
Considered workers: [
Selected to kill: (Actor(cb0a38): task name=S.__init__, pid=28769, actual memory used=0.06GB, worker ID=56)
Selected to kill: (Actor(ddc390): task name=A.__init__, pid=28770, actual memory used=2.53GB, worker ID=c2)
]"""


def files(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name).write_text(text)


@pytest.fixture
def machine(tmp_path):
    """A machine of 16 GiB without control groups."""
    files(tmp_path / "proc", {"meminfo": MEMINFO, "vmstat": "pgfault 12\noom_kill 5\n"})
    return tmp_path / "proc", tmp_path / "cgroups"


def test_a_machine_without_a_bound_is_its_own(machine):
    assert node_memory(*machine) == NodeMemory(4 * GIB, 16 * GIB, 5)
    files(machine[0] / "self", {"cgroup": "4:memory:/\n0::/user\n"})
    files(machine[1] / "user", {**V2, "memory.max": "max\n"})
    files(machine[1] / "memory", {**V1, "memory.limit_in_bytes": "9223372036854771712\n"})
    assert node_memory(*machine) == NodeMemory(4 * GIB, 16 * GIB, 5)


@pytest.mark.parametrize(
    ("cgroup", "folder", "content"),
    [
        ("0::/\n", ".", V2),
        ("0::/slice/session\n", "slice", V2),
        ("4:memory:/docker/3f25\n0::/docker/3f25\n", "memory", V1),
        ("4:memory:/slurm/job\n0::/\n", "memory/slurm", V1),
    ],
)
def test_the_nearest_group_with_a_bound_counts(machine, cgroup, folder, content):
    files(machine[0] / "self", {"cgroup": cgroup})
    files(machine[1] / folder, content)
    assert node_memory(*machine) == NodeMemory(2 * GIB, 4 * GIB, 2)


def test_what_this_machine_says_can_be_read():
    found = node_memory()
    assert 0 < found.used < found.limit and found.killed >= 0


def test_a_kill_by_ray_is_told_with_node_use_and_limit():
    said = killed_by_ray(RuntimeError(RAY), "ddc390")
    assert said.startswith(
        "killed for lack of memory on node 17d81864 (10.0.0.5): it took 2.53 GiB, 7.77 GiB of 23.6 GiB were in use; give"
    )
    assert "errored" not in said and "it took" not in killed_by_ray(RuntimeError(RAY), "another")
    assert (
        killed_by_ray(RuntimeError("Worker unexpectedly exits with a connection error code 2. End of file."), "ddc390")
        is None
    )
    assert killed_by_ray(None, "ddc390") is None


def test_a_kill_by_the_kernel_is_known_by_its_count():
    before = Seen(7, 3 * GIB, NodeMemory(3 * GIB, 4 * GIB, 2))
    said = killed_by_kernel("8f809e0755440ab8", "10.0.0.5", before, NodeMemory(GIB, 4 * GIB, 3))
    assert said.startswith(
        "killed for lack of memory on node 8f809e07 (10.0.0.5): it took 3 GiB when last seen, the node's limit is 4 GiB; give"
    )
    assert killed_by_kernel("8f", "10.0.0.5", before, NodeMemory(GIB, 4 * GIB, 2)) is None
    assert killed_by_kernel("8f", "10.0.0.5", before, None) is None
    assert killed_by_kernel("8f", "10.0.0.5", None, NodeMemory(GIB, 4 * GIB, 2)) is None


SCORES = """
from deploy.cluster.out_of_memory import be_killed_first
print(open("/proc/self/oom_score_adj").read().strip())
for first in (True, False):
    be_killed_first(first)
    print(open("/proc/self/oom_score_adj").read().strip())
"""


def test_a_worker_is_to_be_killed_before_a_shard():
    """A process may always take back what it has raised itself, and the container's processes are no root."""
    done = subprocess.run([sys.executable, "-c", SCORES], capture_output=True, text=True, check=True)
    before, worker, shard = map(int, done.stdout.split())
    assert worker == 1000 and (shard < worker or before == worker)


@pytest.fixture
def deaths(monkeypatch):
    """A crew whose worker 0 has died, and the error that Ray gives for it; ``deaths(error)`` is what is told of it."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'hogshead[ray]'")
    from deploy.cluster import crew

    def fail(reference):
        raise reference

    monkeypatch.setattr(crew.ray, "wait", lambda calls, **_options: (calls, []))
    monkeypatch.setattr(crew.ray, "get", fail)
    monkeypatch.setattr(crew, "alive_nodes", lambda: {"8f809e0755440ab8": {"NodeManagerAddress": "10.0.0.5"}})
    monkeypatch.setattr(crew, "memory_of", lambda node, neighbour: NodeMemory(GIB, 4 * GIB, 3))
    made = crew.ClusterCrew(None, None, "")

    def told(error):
        handle = SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: "ddc390"))
        seen = Seen(7, 3 * GIB, NodeMemory(3 * GIB, 4 * GIB, 2))
        made.members[0] = crew.Member(handle, 1, error, here=True, node="8f809e0755440ab8", seen=seen)
        return made.events.get(timeout=60)

    yield told
    made.members.clear()
    made.end()


def test_the_death_of_a_worker_for_lack_of_memory_is_told_as_that(deaths):
    from ray.exceptions import ActorDiedError, OutOfMemoryError

    for error in (OutOfMemoryError(RAY), ActorDiedError()):
        replica, message = deaths(error)
        assert (replica, message["kind"], message["fatal"]) == (0, "died", False)
        assert message["message"].startswith("killed for lack of memory on node ") and not message["node_lost"]
