"""Random times, as a job gives them: a number, or a table with a distribution's name and its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ps.errors import JobError, nearest


class Distribution:
    """Base: draws non-negative numbers."""

    name: ClassVar[str] = ""

    @property
    def constant(self) -> float | None:
        """The only value it has, or None where it is random."""
        return None

    @property
    def mean(self) -> float:
        """Expected value."""
        raise NotImplementedError

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """float64 (count,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Distribution):
    """Always the same."""

    value: float
    name: ClassVar[str] = "constant"

    @property
    def constant(self) -> float | None:
        return self.value

    @property
    def mean(self) -> float:
        return self.value

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return np.full(count, self.value)


@dataclass(frozen=True)
class LogNormal(Distribution):
    """exp(N(log median, sigma²))."""

    median: float = 1.0
    sigma: float = 0.3
    name: ClassVar[str] = "lognormal"

    @property
    def mean(self) -> float:
        return self.median * math.exp(self.sigma**2 / 2)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return self.median * np.exp(self.sigma * rng.standard_normal(count))


@dataclass(frozen=True)
class Exponential(Distribution):
    """Memoryless."""

    mean: float = 1.0  # type: ignore[assignment]
    name: ClassVar[str] = "exponential"

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.exponential(self.mean, count)


@dataclass(frozen=True)
class Uniform(Distribution):
    """Between two bounds."""

    low: float = 0.0
    high: float = 1.0
    name: ClassVar[str] = "uniform"

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.uniform(self.low, self.high, count)


DISTRIBUTIONS: dict[str, type[Distribution]] = {cls.name: cls for cls in (Constant, LogNormal, Exponential, Uniform)}


def build_distribution(where: str, value: Any) -> Distribution:
    """A distribution from a number or a table.

    Args:
      where: section and key, for messages.
      value: ``1.0`` or ``{"distribution": "lognormal", "median": 1.0, "sigma": 0.3}``.

    Raises:
      JobError: it is neither, or a parameter is unknown, missing or negative.
    """
    if isinstance(value, Mapping):
        return _from_table(where, value)
    if not _is_number(value):
        raise JobError(f"{where} must be a number >= 0 or a table such as {_EXAMPLE}, got {value!r}")
    return _checked(where, Constant(float(value)))


_EXAMPLE = '{ distribution = "lognormal", median = 1.0, sigma = 0.3 }'


def _from_table(where: str, table: Mapping[str, Any]) -> Distribution:
    name = table.get("distribution")
    if name not in DISTRIBUTIONS:
        hint = nearest(str(name), DISTRIBUTIONS)
        raise JobError(f"{where}: distribution must name a distribution, got {name!r}{hint}; e.g. {_EXAMPLE}")
    cls = DISTRIBUTIONS[name]
    known = [entry.name for entry in fields(cls)]  # type: ignore[arg-type]
    parameters = {key: entry for key, entry in table.items() if key != "distribution"}
    for key, entry in parameters.items():
        if key not in known:
            raise JobError(f"{where}: {name} has no parameter {key!r}{nearest(key, known)}")
        if not _is_number(entry):
            raise JobError(f"{where}: {key} must be a number, got {entry!r}")
    if cls is Constant and not parameters:
        raise JobError(f"{where}: constant needs its value, e.g. {{ distribution = 'constant', value = 1.0 }}")
    return _checked(where, cls(**{key: float(entry) for key, entry in parameters.items()}))


def _checked(where: str, distribution: Distribution) -> Distribution:
    for key, value in vars(distribution).items():
        if value < 0 or not math.isfinite(value):
            raise JobError(f"{where}: {key} must be >= 0 and finite, got {value!r}")
    if isinstance(distribution, Uniform) and distribution.low > distribution.high:
        raise JobError(f"{where}: low must be <= high, got {distribution.low!r} and {distribution.high!r}")
    return distribution


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Stream:
    """Draws one at a time from a distribution, in blocks: a single draw of numpy's costs more than the event it is for.

    Args:
      distribution: of the values.
      rng: makes the generator at the first draw of a random value, so that thousands of unused streams cost nothing.
    """

    BLOCK = 64

    __slots__ = ("_block", "_constant", "_distribution", "_make_rng", "_next", "_rng")

    def __init__(self, distribution: Distribution, rng: Callable[[], np.random.Generator]):
        self._distribution, self._make_rng, self._rng = distribution, rng, None
        self._constant = distribution.constant
        self._block: list[float] = []
        self._next = 0

    def draw(self) -> float:
        """The next value."""
        if self._constant is not None:
            return self._constant
        if self._next == len(self._block):
            if self._rng is None:
                self._rng = self._make_rng()
            self._block = self._distribution.draw(self._rng, self.BLOCK).tolist()
            self._next = 0
        self._next += 1
        return self._block[self._next - 1]
