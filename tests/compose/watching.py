"""What a job on a cluster is seen to do: for tests that disturb it meanwhile."""

from __future__ import annotations

import json
import subprocess
import urllib.request

from tests.compose.clone import until

# Ends when the test says so.
KEYS = ["shards.count=2", "workers.count=4", "stop.epochs=1000000", "checkpoint.every_seconds=5"]
JOB = [word for key in [*KEYS, "evaluation.every_epochs=200"] for word in ("--set", key)]


def whole(client, job):
    """The newest progress record, once four workers and two shards are at work."""
    found = client.get(job)
    assert not found.ended, found.reason
    record = found.progress or {}
    at_work = len(record.get("nodes", ())) == 4 and len(record.get("shards", ())) == 2 and record["epoch"] > 0
    return record if at_work else None


def check_placement(record):
    assert len({shard["node"] for shard in record["shards"]}) == 2, "both shards are on one node"
    assert len({worker["node"] for worker in record["nodes"]}) == 2, "all workers are on one node"
    assert {link for worker in record["nodes"] for link in worker["links"]} == {"gRPC", "shared memory"}


def check_page(cluster, job):
    page = urllib.request.Request(f"{cluster.web}/api/jobs", headers={"Authorization": f"Bearer {cluster.token}"})
    with urllib.request.urlopen(page, timeout=60) as answer:
        assert job in answer.read().decode()


def places(record):
    """Ids of the nodes, as records shorten them, that have a shard or a worker."""
    return {entry["node"] for entry in (*record["shards"], *record["nodes"])}


def address_of(container):
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    command = ("docker", "inspect", "--format", form, container)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def go_on(client, job, when):
    """Wait until the job has gone on after what was done to it."""

    def seconds():
        found = client.get(job)
        assert found.state in ("running", "starting"), found.reason
        return (found.progress or {}).get("examples", 0)

    before = until(f"the service answers {when}", seconds)
    until(f"the job goes on {when}", lambda: seconds() != before)
    return until(f"all train {when}", lambda: whole(client, job))


def finish(cluster, client, job):
    """Resume a job that was stopped, to a bound; it ends well, and its files are fetched. Returns their folder."""
    stopped = client.wait(job)
    assert stopped.state == "stopped" and stopped.reason.startswith("stopped after ")
    bound = f"stop.epochs={int(stopped.summary['epochs']) + 20}"
    assert "succeeded" in cluster.hogshead("resume", job, "--set", bound, "--follow")
    cluster.hogshead("fetch", job, "fetched/")
    out = cluster.folder / "fetched"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "done" and summary["evaluation"]["test_accuracy"] > 0.9
    assert (out / "report.html").exists() and list((out / "checkpoint").iterdir())
