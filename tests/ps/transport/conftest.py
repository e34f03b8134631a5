"""Every test of the contract runs on every transport."""

from __future__ import annotations

import numpy as np
import pytest

from ps.rules import SGD

from .serving import Serving
from .transports import TRANSPORTS, InProcess


@pytest.fixture(params=TRANSPORTS)
def host(request):
    """``host(parameters, rule, count, **options)`` makes shards to link to; they are closed after the test."""
    hosts = []

    def make(*args, **options):
        hosts.append(TRANSPORTS[request.param](*args, **options))
        return hosts[-1]

    yield make
    for made in hosts:
        made.close()


@pytest.fixture
def serving():
    """``serving(parameters, …)`` makes a ``Serving`` that is closed after the test."""
    made = []

    def make(*args, **options):
        made.append(Serving(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(autouse=True, scope="session")
def loaded_kernels():
    """Load compiled code before anything is forked, so that not every forked process has to."""
    for dtype in ("float32", "float64"):
        link = InProcess({"w": np.zeros(2, dtype)}, SGD()).link()
        link.push(np.zeros(2, dtype), link.versions())
        link.exchange(np.zeros(2, dtype), 0.5, link.versions())
