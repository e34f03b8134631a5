"""``[cluster]`` and elastic ``[workers]``."""

from __future__ import annotations

import pytest

from deploy.cluster.section import ClusterSection
from deploy.sections import WorkersSection
from ps.errors import JobError

CERTIFICATES = {"tls_cert": "c.pem", "tls_key": "k.pem", "tls_ca": "a.pem"}


@pytest.mark.parametrize("lacking", CERTIFICATES)
def test_certificates_come_together(lacking):
    given = {name: value for name, value in CERTIFICATES.items() if name != lacking}
    with pytest.raises(JobError, match="TLS needs tls_cert, tls_key and tls_ca, got only"):
        ClusterSection.from_table(given)


def test_mutual_tls_needs_certificates():
    with pytest.raises(JobError, match="tls_mutual needs"):
        ClusterSection.from_table({"tls_mutual": True})
    assert ClusterSection.from_table({**CERTIFICATES, "tls_mutual": True}).tls_mutual


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"shard_cpus": 0}, r"\[cluster\] shard_cpus must be > 0"),
        ({"replica_cpus": -1}, r"\[cluster\] replica_cpus must be >= 0"),
        ({"shard_nodes": "anywhere"}, r"\[cluster\] shard_nodes must be one of"),
        ({"patience_seconds": 0}, r"\[cluster\] patience_seconds must be > 0"),
        ({"adress": "10.0.0.4:6379"}, "address"),
    ],
)
def test_a_wrong_key_is_refused(table, message):
    with pytest.raises(JobError, match=message):
        ClusterSection.from_table(table)


def test_so_many_workers():
    workers = WorkersSection.from_table({"count": 3})
    assert (workers.count, workers.fewest, workers.elastic) == (3, 3, False)


def test_elastic_workers():
    workers = WorkersSection.from_table({"min": 2, "max": 5})
    assert (workers.count, workers.fewest, workers.elastic, workers.follow) == (5, 2, True, True)
    assert WorkersSection.from_table({"max": 5}).fewest == 1
    assert WorkersSection.from_table(workers.to_table()) == workers
    assert not WorkersSection.from_table({"min": 4, "max": 4}).elastic


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"min": 2}, r"\[workers\] max is missing: min and max go together"),
        ({"min": 5, "max": 4}, r"\[workers\] min must be <= max, got 5 and 4"),
        ({"min": 0, "max": 4}, r"\[workers\] min must be >= 1"),
    ],
)
def test_elastic_workers_that_make_no_sense(table, message):
    with pytest.raises(JobError, match=message):
        WorkersSection.from_table(table)
