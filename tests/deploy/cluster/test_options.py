"""``--address`` and ``--detach`` on the command line. The cluster is a stand-in."""

from __future__ import annotations

import sys
import types

import pytest

from deploy.cli import main


@pytest.fixture
def launcher(monkeypatch):
    """Stands in for deploy.cluster.launch; keeps the jobs and answers with ``status``."""
    module = types.ModuleType("deploy.cluster.launch")
    module.jobs, module.status = [], "done"

    def run(job, observer):
        module.jobs.append(job)
        return types.SimpleNamespace(summary={"status": module.status})

    module.run = run
    monkeypatch.setitem(sys.modules, "deploy.cluster.launch", module)
    return module


def test_an_address_means_ray(launcher, job_file):
    assert main(["train", str(job_file), "--address", "10.0.0.4:6379"]) == 0
    (job,) = launcher.jobs
    assert (job.backend, job.cluster.address, job.cluster.detach) == ("ray", "10.0.0.4:6379", False)


def test_without_an_address_ray_is_private(launcher, job_file):
    assert main(["train", str(job_file), "--backend", "ray"]) == 0
    assert launcher.jobs[0].cluster.address is None


def test_the_address_on_the_command_line_comes_before_the_jobs(launcher, job_file):
    job_file.write_text(job_file.read_text() + '\n[cluster]\naddress = "10.0.0.1:6379"\nshard_cpus = 0.5\n')
    main(["train", str(job_file), "--address", "10.0.0.4:6379", "--detach"])
    cluster = launcher.jobs[0].cluster
    assert (cluster.address, cluster.shard_cpus, cluster.detach) == ("10.0.0.4:6379", 0.5, True)


@pytest.mark.parametrize(("status", "code"), [("done", 0), ("failed", 1), ("interrupted", 130), ("running", 0)])
def test_exit_codes(launcher, job_file, status, code):
    """A detached job that goes on has not failed."""
    launcher.status = status
    assert main(["train", str(job_file), "--address", "10.0.0.4:6379", "--detach", "--quiet"]) == code


def test_a_dry_run_shows_the_section(launcher, job_file, capsys):
    assert main(["train", str(job_file), "--address", "10.0.0.4:6379", "--detach", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert 'address = "10.0.0.4:6379"' in shown and "detach = true" in shown and launcher.jobs == []
