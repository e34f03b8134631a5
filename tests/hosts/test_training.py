"""Training over hosts: shards and replicas on all of them, a slow link, a link that is cut for seconds, a host that dies."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.saving import load_parameters
from ps.layout import Layout
from tests.hosts import Hosts
from tests.hosts.training import HEALTH, Training, home

CUT_S, EPOCHS, BATCH = 2.5, 40, 32
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def hosts():
    # Room for two workers on host 0 and one on each other: they are spread, and that of a host that dies finds room.
    with Hosts(3, cpus=[3, 2, 2], env=HEALTH) as hosts:
        yield hosts


def at_work(epoch):
    return lambda record: (
        record["kind"] == "progress"
        and record["epoch"] >= epoch
        and len({node["node"] for node in record["nodes"]}) > 1
    )


def places(record, hosts):
    """Host of every shard, and of every worker; -1: a host that has no shard."""
    numbers = {host.address: host.number for host in hosts.network.topology.hosts}
    of_node = {shard["node"]: numbers[shard["address"].partition(":")[0]] for shard in record["shards"]}
    return list(of_node.values()), [of_node.get(node["node"], -1) for node in record["nodes"]]


def test_a_slow_link_and_one_that_is_cut_lose_nothing_and_apply_nothing_twice(hosts, tmp_path):
    with Training(hosts, home(tmp_path, hosts, EPOCHS)) as training:
        before = training.until(at_work(3))
        shards, workers = places(before, hosts)
        assert sorted(shards) == [0, 1, 2] and len(set(workers)) > 1
        for worker, node in zip(workers, before["nodes"]):
            assert [shard == worker for shard in shards] == [way == "shared memory" for way in node["links"]]
        hosts.limit(1, "2mbit")
        slow = training.until(at_work(before["epoch"] + 2))
        assert hosts.held_back(1) > 0
        hosts.limit(1, None)
        hosts.cut(2, CUT_S)
        hosts.deafen(next(host for host in (1, 2) if host in workers), CUT_S)
        after = training.until(at_work(slow["epoch"] + 5))
        assert after["epoch"] < EPOCHS
        summary = training.summary()
    assert summary["status"] == "done"
    assert (summary["worker_deaths"], summary["shards_replaced"], summary["lost_updates"]) == (0, 0, 0)
    assert summary["evaluation"]["accuracy"] > 0.95
    assert summary["duplicate_pushes"] > 0  # pushes were sent again, as their answers were lost
    seen = load_parameters(training.run)["seen"]
    np.testing.assert_array_equal(seen, EPOCHS)
    assert summary["examples"] == seen.sum()


def test_a_host_that_dies_is_replaced_by_the_others(hosts, tmp_path):
    with Training(hosts, home(tmp_path, hosts, EPOCHS)) as training:
        training.until(lambda record: record.get("event") == "checkpoint")
        record = training.until(at_work(5))
        shards, workers = places(record, hosts)
        victim = next(host for host in (1, 2) if host in workers)
        hosts.kill(victim)
        summary = training.summary()
    assert summary["status"] == "done"
    assert summary["evaluation"]["accuracy"] > 0.95
    assert summary["shards_replaced"] == 1 and summary["worker_deaths"] == workers.count(victim) == 1
    assert {"shard_replaced", "worker_left"} <= set(training.events())
    shards_after, workers_after = places(summary | {"shards": summary["shard_facts"]}, hosts)
    assert victim not in shards_after + workers_after
    parameters = load_parameters(training.run)
    seen, survived = parameters["seen"], outside(Layout.of(parameters), "seen", len(shards), shards.index(victim))
    assert survived.sum() > seen.size / 2
    # Every example in every epoch, and once more at most for each worker that died with it at hand.
    assert seen[survived].min() >= EPOCHS and seen.max() <= EPOCHS + summary["worker_deaths"]
    # What the shard had applied after its last checkpoint is lost, and said to be.
    assert np.maximum(EPOCHS - seen[~survived], 0).sum() <= BATCH * summary["lost_updates"]


def outside(layout, name, count, shard):
    """Which elements of a parameter do not lie on a shard."""
    part, elements = layout.shards(count)[shard], np.arange(layout[name].offset, layout[name].stop)
    return (elements < part.start) | (elements >= part.stop)
