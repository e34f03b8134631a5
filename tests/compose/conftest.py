"""One cluster for all tests of the session; they are skipped where no engine answers."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.compose.clone import Clone, readme_commands, why_no_image, why_not


@pytest.fixture(scope="session")
def engine():
    reason = why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def folder():
    """A folder that the Docker engine sees too: not below /tmp where that is this process's own, as .ci/run makes it."""
    made = tempfile.mkdtemp(prefix="compose-", dir=os.environ.get("DOCKER_FOLDER"))
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(engine, folder):
    """A clone with its cluster: head, redis and two nodes."""
    reason = why_no_image()
    if reason:
        pytest.skip(reason)
    clone = Clone(folder / "clone")
    with (clone.folder / ".env").open("a") as env:
        # Four workers fit on one node when the other has died, however few cores there are, but Ray will use both.
        env.write("NODE_RAY_CPUS=5\n")
    try:
        clone.line(readme_commands()[0].replace("node=3", "node=2"), timeout=540)
        yield clone
    finally:
        clone.down()
