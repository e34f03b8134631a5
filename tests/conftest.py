"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The first example may load compiled code, and the machine may be busy: no test is about time. The examples are the same every
# time; others are tried by --hypothesis-profile=other --hypothesis-seed=N.
settings.register_profile("other", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("hogshead", settings.get_profile("other"), derandomize=True)
settings.load_profile("hogshead")

# A suite that is started in the background of a shell, or under nohup, ignores signals that some tests send, as would all
# that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
for ignored in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(ignored, signal.SIG_DFL)

# Tests that start clusters of Ray, of containers, of hosts: in two rows, as many at once take minutes to start.
TOGETHER = {
    **{
        f"tests/deploy/cluster/test_{name}.py": "ray"
        for name in ("checkpoints", "elastic", "failures", "training", "doctor", "ray_pieces")
    },
    **{f"tests/compose/test_{name}.py": "hosts" for name in ("cluster", "machines")},
    **{f"tests/deploy/service/test_{name}.py": "hosts" for name in ("on_ray", "nodes_on_ray")},
    "tests/deploy/service/test_page.py": "page",  # one browser for all of them
    **{f"tests/hosts/test_{name}.py": "hosts" for name in ("doctor", "namespaces", "training")},
}

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
def pytest_xdist_auto_num_workers(config):
    """One more than there are cores: tests of clusters mostly wait, for deaths to be noticed and programs to start."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process has all tests of a row, in their order; every other test goes to whoever is free."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER.get(nodeid.partition("::")[0], nodeid)

    return Together(config, log)
