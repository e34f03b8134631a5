"""Optimizers on surfaces of two variables: the survey's two pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ps.rules import Context, build_rule


@dataclass(frozen=True)
class Surface:
    """A function of two variables.

    Attributes:
      value: f(x, y) of arrays. gradient: of a point (2,), in float64.
      start: where every path begins.
      window: x from, x to, y from, y to.
      minimum: a point, or None.
    """

    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    gradient: Callable[[np.ndarray], np.ndarray]
    start: tuple[float, float]
    window: tuple[float, float, float, float]
    minimum: tuple[float, float] | None = None

    def grid(self, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and f on a mesh over the window, (points, points) each."""
        left, right, low, high = self.window
        x, y = np.meshgrid(np.linspace(left, right, points), np.linspace(low, high, points))
        return x, y, self.value(x, y)

    def holds(self, point: np.ndarray) -> bool:
        """Whether the point lies in the window."""
        left, right, low, high = self.window
        return bool(left <= point[0] <= right and low <= point[1] <= high)


@dataclass(frozen=True)
class Racer:
    """One rule in the picture, as a job would ask for it.

    Attributes:
      label, color: in the picture.
      rule: name and options.
      added: the rule is not one of the six in the survey's own pictures.
    """

    label: str
    color: str
    rule: dict[str, Any]
    added: bool = False


def walk(rule: dict[str, Any], surface: Surface, steps: int) -> np.ndarray:
    """The points of a path in float64, (steps + 1, 2), the start first."""
    built = build_rule(rule)
    point = np.array(surface.start)
    slots, ahead = built.allocate(2, "float64"), np.zeros(2)
    built.initialise(point, slots)
    points = [point.copy()]
    for step in range(1, steps + 1):
        gradient = surface.gradient(built.gradient_point(point, slots, ahead))
        built.apply(point, slots, gradient, Context(step=step))
        points.append(point.copy())
    return np.array(points)


def race(racers: list[Racer], surface: Surface, steps: int) -> dict[str, np.ndarray]:
    """The path of each racer by label."""
    return {racer.label: walk(racer.rule, surface, steps) for racer in racers}
