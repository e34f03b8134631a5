"""The bounds that hyper-parameters are checked against, so that every rule says them in the same words."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real

from ps.rules.base import require


def is_number(value: object) -> bool:
    """True for a finite real number; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def positive(rule: object, *names: str, remedy: str = "") -> None:
    """Each of ``names`` must be a number > 0."""
    for name in names:
        value = getattr(rule, name)
        require(is_number(value) and value > 0, rule, name, "a number > 0", remedy)


def nonnegative(rule: object, *names: str, remedy: str = "") -> None:
    """Each of ``names`` must be a number >= 0."""
    for name in names:
        value = getattr(rule, name)
        require(is_number(value) and value >= 0, rule, name, "a number >= 0", remedy)


def decay_rate(rule: object, *names: str, remedy: str = "1 would keep everything for ever; try 0.9") -> None:
    """Each of ``names`` must be a number in [0, 1)."""
    for name in names:
        value = getattr(rule, name)
        require(is_number(value) and 0 <= value < 1, rule, name, "a number in [0, 1)", remedy)


def fraction(rule: object, *names: str, remedy: str = "") -> None:
    """Each of ``names`` must be a number in [0, 1]."""
    for name in names:
        value = getattr(rule, name)
        require(is_number(value) and 0 <= value <= 1, rule, name, "a number in [0, 1]", remedy)


def whole_number(rule: object, *names: str, least: int = 1) -> None:
    """Each of ``names`` must be an integer >= ``least``."""
    for name in names:
        value = getattr(rule, name)
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        require(whole and value >= least, rule, name, f"an integer >= {least}")


def one_of(rule: object, name: str, choices: Collection[str]) -> None:
    """``name`` must be one of ``choices``."""
    require(getattr(rule, name) in choices, rule, name, " or ".join(repr(choice) for choice in choices))


def true_or_false(rule: object, *names: str) -> None:
    """Each of ``names`` must be a bool."""
    for name in names:
        require(isinstance(getattr(rule, name), bool), rule, name, "true or false")
