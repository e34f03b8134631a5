"""A job service for a test, stopped after it, and a supervisor with all that surrounds it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from .serving import Client, Serving
from .theatre import Theatre


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.service.servicer._LOOK_S", 0.02)  # files that grow are looked at often
    with Serving(tmp_path) as made:
        yield made


@pytest.fixture
def client(service):
    return Client(service.channel())


@pytest.fixture
def theatre(tmp_path):
    made = Theatre(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def in_memory():
    """A folder in memory where there is one: where the machine does not die, a disk only takes time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)
