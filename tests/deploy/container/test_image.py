"""What the image is made of agrees with the project."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.container import health
from deploy.container.kernels import jobs
from deploy.container.requirements import requirements
from deploy.job import Job
from deploy.service.arguments import DEFAULT_PORT, DEFAULT_WEB_PORT

ROOT = Path(__file__).resolve().parents[3]
CONSTRAINTS = ROOT / "deploy" / "container" / "constraints.txt"


def pins() -> dict[str, str]:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    return {name(line.partition("==")[0]): line.partition("==")[2] for line in lines}


def name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


@pytest.mark.parametrize("line", requirements(ROOT / "pyproject.toml", ("torch", "jax", "tensorboard", "remote")))
def test_every_dependency_is_pinned_within_its_bounds(line):
    wanted = Requirement(line)
    assert wanted.specifier.contains(pins()[name(wanted.name)])


def test_every_pin_is_one_version():
    assert all(re.fullmatch(r"[0-9][\w.]*", version) for version in pins().values())


def test_an_extra_that_there_is_not_is_refused():
    with pytest.raises(SystemExit, match="no extra 'torhc'; there are .*torch"):
        requirements(ROOT / "pyproject.toml", ["torhc"])


def test_the_jobs_that_compile_kernels_are_valid():
    assert len([Job.from_dict(job) for job in jobs()]) > 3


def test_everything_that_is_copied_is_let_through():
    """.dockerignore begins with everything, so what the Dockerfile copies must be named there."""
    ignore = (ROOT / ".dockerignore").read_text().split()
    copied = re.findall(r"^COPY (?!--)(.*) \S+$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    tops = {source.partition("/")[0] for line in copied for source in line.split()}
    assert ignore[0] == next(line for line in ignore if not line.startswith("#")) or "*" in ignore
    assert tops <= {line.removeprefix("!") for line in ignore if line.startswith("!")}


def test_one_base_image_everywhere():
    default = re.search(r"ARG BASE_IMAGE=(\S+)", (ROOT / "deploy" / "Dockerfile").read_text())[1]
    assert set(re.findall(r"\$\{BASE_IMAGE:-([^}]+)\}", (ROOT / "docker-compose.yml").read_text())) == {default}


def test_ports_agree():
    compose = (ROOT / "docker-compose.yml").read_text()
    assert f":{DEFAULT_PORT}\n" in compose and f":{DEFAULT_WEB_PORT}\n" in compose


@pytest.mark.parametrize("role", ["head", "node"])
def test_health_says_what_is_wrong(role, monkeypatch, capsys):
    monkeypatch.setitem(health.RAY, role, "http://127.0.0.1:9/")
    assert health.main([role]) == 1
    assert "Ray does not answer" in capsys.readouterr().out
