"""Fixtures shared by all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# The first example may load compiled code, and the machine may be busy: no test is about time.
settings.register_profile("hogshead", deadline=None)
settings.load_profile("hogshead")

# Whoever starts the suite in the background of a shell has it, and all that it starts, ignore ^C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests on the one Ray cluster that tests/deploy/cluster/conftest.py starts.
ON_THE_CLUSTER = {f"tests/deploy/cluster/test_{name}.py" for name in ("checkpoints", "elastic", "failures", "training")}

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """Path of a real data file that does not ship with the project; skips the test where it is absent."""

    def locate(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not beside this checkout (../shared/data); it may not be redistributed")
        return path

    return locate


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process has all tests of the cluster, for two clusters are too much; every other test goes to whoever is free."""
    from xdist.scheduler import LoadScopeScheduling

    class OneCluster(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "cluster" if nodeid.partition("::")[0] in ON_THE_CLUSTER else nodeid

    return OneCluster(config, log)
