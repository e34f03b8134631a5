"""One Ray cluster of several nodes on this machine for all tests here, and jobs on it whose actors are killed on purpose.

With pytest-xdist one process has all tests that use it; see tests/conftest.py.
"""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

from deploy.cluster.patience import patient_start
from tests.deploy.cluster.stage import Stage
from tests.patient_ray import empty_cluster

# Ray's own; everything else stays an error.
_OF_RAY = [
    "ignore:Tip. In future versions of Ray:FutureWarning",
    "ignore::ResourceWarning",  # sockets and pipes of its processes, closed when they are collected
]
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# A node that is killed is noticed within seconds; one that merely waits for a processor is not.
_SYSTEM = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}

# Processes of a head that no test needs, each of which takes a second of a processor to start.
_BARE = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}


def pytest_collection_modifyitems(items):
    for item in items:
        if "stage" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(600))
            for ignored in _OF_RAY:
                item.add_marker(pytest.mark.filterwarnings(ignored))


@pytest.fixture(scope="session")
def ray_cluster():
    """A head and a second node with four CPUs each, and this process as a driver; all of it gone at the end."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'hogshead[ray]'")
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    import ray

    folder = tempfile.mkdtemp(prefix="hc-", dir="/tmp")  # short: paths of sockets lie in it
    cluster = empty_cluster()
    try:
        with patient_start():
            cluster.add_node(
                num_cpus=4, object_store_memory=100 << 20, temp_dir=folder, _system_config=_SYSTEM, **_BARE
            )
            cluster.add_node(num_cpus=4, object_store_memory=100 << 20)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture
def stage(ray_cluster, tmp_path):
    """Trains on the cluster; nothing that it started is left after the test."""
    stage = Stage(ray_cluster, tmp_path)
    try:
        yield stage
    finally:
        stage.clear()
