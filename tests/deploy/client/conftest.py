"""A service to talk to, and settings that come from nowhere else."""

from __future__ import annotations

import os

import pytest

from deploy.client.client import connect
from deploy.client.wire import Patience
from tests.deploy.client.fake import TOKEN, Fake, Server


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No variable and no file of whoever runs the tests is found."""
    for name in [name for name in os.environ if name.startswith("HOGSHEAD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no config"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def server(fake):
    served = Server(fake)
    yield served
    served.stop()


@pytest.fixture
def client(server):
    with connect(server.address, TOKEN, patience=Patience(call_s=60, lost_s=60, pause_s=0.05)) as made:
        yield made


@pytest.fixture
def at(server, monkeypatch):
    """The command line finds the service by its environment."""
    monkeypatch.setenv("HOGSHEAD_ADDRESS", server.address)
    monkeypatch.setenv("HOGSHEAD_TOKEN", TOKEN)
    return server
