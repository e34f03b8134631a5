"""Random times and their messages."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.simulator.distributions import DISTRIBUTIONS, Stream, build_distribution
from ps.errors import JobError

TABLES = [
    2.5,
    {"distribution": "constant", "value": 2.5},
    {"distribution": "lognormal", "median": 2.0, "sigma": 0.5},
    {"distribution": "exponential", "mean": 3.0},
    {"distribution": "uniform", "low": 1.0, "high": 4.0},
]


@pytest.mark.parametrize("table", TABLES)
def test_draws_have_the_mean_that_is_stated(table):
    distribution = build_distribution("here", table)
    drawn = distribution.draw(np.random.default_rng(0), 20_000)
    assert drawn.shape == (20_000,) and drawn.min() >= 0
    assert drawn.mean() == pytest.approx(distribution.mean, rel=0.03)


@pytest.mark.parametrize("table", TABLES)
def test_a_stream_draws_what_its_distribution_draws(table):
    distribution = build_distribution("here", table)
    stream = Stream(distribution, lambda: np.random.default_rng(7))
    drawn = [stream.draw() for _ in range(150)]
    rng = np.random.default_rng(7)
    expected = np.concatenate([distribution.draw(rng, Stream.BLOCK) for _ in range(3)])[:150]
    assert drawn == expected.tolist()


def test_every_distribution_has_defaults_or_says_what_it_needs():
    for name in set(DISTRIBUTIONS) - {"constant"}:
        assert build_distribution("here", {"distribution": name}).mean > 0
    with pytest.raises(JobError, match="constant needs its value"):
        build_distribution("here", {"distribution": "constant"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fast", r"\[simulation\] x must be a number >= 0 or a table"),
        (True, "must be a number"),
        (-1.0, "value must be >= 0 and finite, got -1.0"),
        (float("inf"), "finite"),
        ({"mean": 1.0}, "must name a distribution, got None"),
        ({"distribution": "exponentail"}, "did you mean 'exponential'"),
        ({"distribution": "lognormal", "sigm": 1}, "lognormal has no parameter 'sigm'; did you mean 'sigma'"),
        ({"distribution": "lognormal", "sigma": "wide"}, "sigma must be a number, got 'wide'"),
        ({"distribution": "uniform", "low": 3, "high": 1}, "low must be <= high"),
        ({"distribution": "exponential", "mean": -2}, "mean must be >= 0"),
    ],
)
def test_what_is_refused(value, message):
    with pytest.raises(JobError, match=message):
        build_distribution("[simulation] x", value)
