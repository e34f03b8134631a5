"""Checks of the options of tasks: one wording for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ps.errors import UsageError, meant
from ps.memory import room, words


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


def fits(elements: int, vectors: int, dtype: np.dtype, task: str, cause: str) -> None:
    """Refuse a model that is larger than the free memory, before it is allocated.

    Args:
      elements: of all parameters. vectors: of that size that are written, whatever trains them.
      cause: the option or the line of a file that decides ``elements``, for the message.
    """
    least = elements * vectors * np.dtype(dtype).itemsize
    shortage = room().shortage(least)
    if shortage:
        raise UsageError(
            f"{task}: {cause} makes a model of {elements:,} parameters, which needs at least {words(least)} of memory, and "
            f"{shortage}; make it smaller"
        )


def boolean(value: Any, task: str, option: str) -> bool:
    """``value``, which must be true or false."""
    require(isinstance(value, bool), task, option, "true or false", value)
    return value


def one_of(value: Any, choices: Iterable[str], task: str, option: str) -> str:
    """``value``, which must be one of ``choices``."""
    choices = tuple(choices)
    if value not in choices:
        raise UsageError(f"{task}: {option} must be one of {', '.join(choices)}, got {value!r}{meant(value, choices)}")
    return value


OUTPUTS = ("label", "score", "probability")


def output_of(value: str, offered: Iterable[str], model: str, remedy: str = "") -> None:
    """Refuse an output of ``predict`` that the model has not.

    Args:
      value: the output asked for.
      offered: those that the model has.
      model: the task with what decides its outputs, for the message.
      remedy: what gives the model more outputs.

    Raises:
      UsageError: ``value`` is none of them.
    """
    offered = tuple(offered)
    if value not in offered:
        what = f"it can: {', '.join(offered)}" + (f"; {remedy}" if remedy else "")
        raise UsageError(f"{model} cannot predict output = {value!r}; {what}")
