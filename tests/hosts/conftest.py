"""Skips all tests of a folder that need hosts where none can be made."""

from __future__ import annotations

import pytest

from tests.hosts import why_not


@pytest.fixture(scope="session", autouse=True)
def hosts_permitted():
    reason = why_not()
    if reason:
        pytest.skip(reason)
