"""From what nodes say to findings: one fake node per thing that can be wrong."""

from __future__ import annotations

import copy

import pytest

from deploy.cluster.asking import measure_skew
from deploy.cluster.diagnosis import Needs, diagnose, room

OWN = {"ray": "2.60.0", "python": "3.11.7", "hogshead": {"version": "0.1.0", "digest": "aa", "folder": "/here"}}
NODE = {
    "id": "1",
    "address": "10.0.0.5",
    "name": "five",
    "resources": {"CPU": 4.0},
    "free": {"CPU": 4.0},
    "facts": {
        "ray": "2.60.0",
        "python": "3.11.7",
        "token": True,
        "shm": {"total": 8 << 30, "free": 8 << 30, "writable": True},
        "hogshead": dict(OWN["hogshead"]),
    },
    "clock": {"ahead": 0.01, "within": 0.001},
    "unreachable": [],
    "job": {"error": None, "missing": []},
}
NEEDS = Needs(2, 0.1, 3, 1.0, 0.0, data_bytes=1 << 30, state_bytes=4 << 30)
NODE_5 = "node 10.0.0.5 (five)"


def changed(*path, to):
    node = copy.deepcopy(NODE)
    inner = node
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    return node


def test_a_healthy_cluster_has_no_findings():
    assert diagnose([NODE, NODE], OWN, NEEDS) == []


SHM = 1 << 20


@pytest.mark.parametrize(
    ("node", "kind", "fatal", "what", "remedy"),
    [
        (changed("facts", to=None) | {"error": "GetTimeoutError: "}, "no-answer", True, "no process of Ray's", "logs"),
        (NODE | {"error": "OSError: x"}, "no-answer", False, "OSError: x", "overloaded"),
        (changed("facts", "ray", to="2.59.1"), "ray-version", True, "runs Ray 2.59.1, here is 2.60.0", "2.60.0 there"),
        (changed("facts", "python", to="3.12.1"), "python-version", True, "Python 3.12.1, here is 3.11.7", "3.11.7"),
        (
            changed("facts", "hogshead", to={"error": "ModuleNotFoundError: No module named 'ps'"}),
            "hogshead-missing",
            True,
            "No module named 'ps'",
            "pip install 'hogshead[ray]==0.1.0'",
        ),
        (
            changed("facts", "hogshead", "version", to="0.2.0"),
            "hogshead-version",
            True,
            "it has hogshead 0.2.0, here is 0.1.0",
            "install hogshead 0.1.0",
        ),
        (
            changed("facts", "hogshead", "digest", to="bb"),
            "hogshead-version",
            False,
            "other code",
            "the same one on both",
        ),
        (changed("facts", "shm", "total", to=0), "shared-memory", True, "no shared memory", "mount a tmpfs"),
        (changed("facts", "shm", "writable", to=False), "shared-memory", True, "cannot be written", "mount a tmpfs"),
        (
            changed("facts", "shm", to={"total": 3 << 30, "free": 2 << 30, "writable": True}),
            "shared-memory",
            True,
            "needs up to 3221 MB of shared memory there, 2147 MB are free",
            "--shm-size",
        ),
        (changed("clock", "ahead", to=-7.25), "clock", False, "7.25 s behind the one here", "NTP"),
        (changed("clock", to={"ahead": 2.0, "within": 0.1}), "clock", False, "2 s ahead of", "NTP"),
        (changed("unreachable", to=[["10.0.0.6", "no answer"]]), "link", True, "on 10.0.0.6 (no answer)", "firewalls"),
        (
            changed("job", "error", to="JobError: cannot import x"),
            "task",
            True,
            "loaded there: JobError: cannot import x",
            "[cluster] files",
        ),
        (changed("job", "missing", to=[["train", "/d.csv"]]), "data", True, "train = '/d.csv' is not there", "a URL"),
    ],
)
def test_each_fault_of_a_node_is_found(node, kind, fatal, what, remedy):
    findings = diagnose([NODE, node], OWN, NEEDS)
    assert [(finding.kind, finding.where, finding.fatal) for finding in findings] == [(kind, NODE_5, fatal)]
    assert what in findings[0].what
    assert remedy in findings[0].remedy


def test_a_little_shared_memory_is_a_warning_where_no_job_is_to_run():
    docker = changed("facts", "shm", to={"total": 64 << 20, "free": 64 << 20, "writable": True})
    (finding,) = diagnose([docker], OWN)
    assert (finding.kind, finding.fatal) == ("shared-memory", False)
    assert "only 67 MB" in finding.what


def test_a_clock_that_may_be_right_is_no_finding():
    assert diagnose([changed("clock", to={"ahead": 1.5, "within": 0.6})], OWN) == []


def test_a_cluster_without_tokens_is_told_once():
    open_node = changed("facts", "token", to=False)
    (finding,) = diagnose([open_node, open_node], OWN)
    assert (finding.kind, finding.where, finding.fatal) == ("token-off", "the cluster", False)


@pytest.mark.parametrize(
    ("cpus", "free", "fatal", "words"),
    [
        ([1.0, 2.0], [1.0, 2.0], True, "room for 2 shards and 1 worker"),
        ([], [], True, "room for 0 shards"),
        ([4.0, 4.0], [0.5, 1.5], False, "there is room for 1 worker now"),
    ],
)
def test_too_little_room_is_found(cpus, free, fatal, words):
    nodes = [NODE | {"resources": {"CPU": cpu}, "free": {"CPU": left}} for cpu, left in zip(cpus, free)]
    (finding,) = diagnose(nodes, OWN, NEEDS)
    assert (finding.kind, finding.fatal) == ("room", fatal)
    assert words in finding.what
    assert "2 shards of 0.1 CPUs and 3 workers of 1 CPUs" in finding.what


@pytest.mark.parametrize(
    ("nodes", "needs", "expected"),
    [
        ([{"CPU": 2.0}, {"CPU": 2.0}], Needs(2, 0.1, 4, 1.0, 0, 0, 0), (2, 2)),  # a shard on each leaves 1.9
        ([{"CPU": 2.0}, {"CPU": 2.0}], Needs(2, 0.1, 4, 1.0, 0, 0, 0, one_node=True), (2, 3)),
        ([{"CPU": 0.3}], Needs(3, 0.1, 1, 0.0, 0, 0, 0), (3, 10**6)),  # thirds of 0.3 are not exact in binary
        ([{"CPU": 0.3}], Needs(4, 0.1, 1, 1.0, 0, 0, 0, one_node=True), (0, 0)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], Needs(1, 0.1, 4, 1.0, 1.0, 0, 0), (1, 2)),
        ([{"CPU": 3.1}], Needs(1, 0.1, 3, 1.0, 0, 0, 0), (1, 3)),
    ],
)
def test_room_counts_what_is_left_beside_the_shards(nodes, needs, expected):
    assert room(nodes, needs) == expected


def test_memory_is_what_one_of_the_nodes_must_hold():
    assert NEEDS.bytes_on(1) == NEEDS.bytes_on(0) == 5 << 30
    assert NEEDS.bytes_on(2) == NEEDS.bytes_on(9) == 3 << 30
    assert Needs(2, 1, 1, 1, 0, 1, 4, one_node=True).bytes_on(2) == 5


def test_the_surest_reading_of_a_clock_counts():
    ours = iter([0.0, 9.0, 10.0, 10.2, 20.0, 24.0, 30.0, 35.0, 40.0, 49.0])
    theirs = iter([1.0, 17.1, 22.0, 39.0, 41.0])
    skew = measure_skew(lambda: next(theirs), lambda: next(ours))
    assert skew == {"ahead": pytest.approx(7.0), "within": pytest.approx(0.1)}
