"""Checks of the options of tasks: one wording for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ps.errors import UsageError, nearest


def require(condition: bool, task: str, option: str, bound: str, got: Any, remedy: str = "") -> None:
    """Refuse an option: ``sparse_linear: l2 must be >= 0, got -1.0; <remedy>``."""
    if not condition:
        raise UsageError(f"{task}: {option} must be {bound}, got {got!r}{'; ' + remedy if remedy else ''}")


def number(value: Any, task: str, option: str) -> float:
    """``value`` as a finite float."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
    require(good, task, option, "a finite number", value)
    return float(value)


def at_least(value: Any, bound: float, task: str, option: str, remedy: str = "") -> float:
    """``value`` as a float >= ``bound``."""
    require(number(value, task, option) >= bound, task, option, f">= {bound:g}", value, remedy)
    return float(value)


def fraction(value: Any, task: str, option: str) -> float:
    """``value`` as a float in [0, 1)."""
    require(0 <= number(value, task, option) < 1, task, option, "in [0, 1)", value)
    return float(value)


def integer(value: Any, bound: int, task: str, option: str, remedy: str = "") -> int:
    """``value`` as an int >= ``bound``."""
    good = isinstance(value, int) and not isinstance(value, bool) and value >= bound
    require(good, task, option, f"an integer >= {bound}", value, remedy)
    return value


def boolean(value: Any, task: str, option: str) -> bool:
    """``value``, which must be true or false."""
    require(isinstance(value, bool), task, option, "true or false", value)
    return value


def one_of(value: Any, choices: Iterable[str], task: str, option: str) -> str:
    """``value``, which must be one of ``choices``."""
    choices = tuple(choices)
    if value not in choices:
        hint = nearest(value, choices) if isinstance(value, str) else ""
        raise UsageError(f"{task}: {option} must be one of {', '.join(choices)}, got {value!r}{hint}")
    return value
