"""beale: the survey's picture of optimizers on the contours of Beale's function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from deploy.reproduce import animation, drawing
from deploy.reproduce.claim import Claim, Figures, Verdict
from deploy.reproduce.paths import Racer, Surface, race

STEPS = 199
TOLERANCE = 0.01


def value(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(1.5−x+xy)² + (2.25−x+xy²)² + (2.625−x+xy³)²."""
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def gradient(point: np.ndarray) -> np.ndarray:
    """Of ``value`` at ``point`` (2,)."""
    x, y = point
    first, second, third = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    by_x = 2 * first * (y - 1) + 2 * second * (y**2 - 1) + 2 * third * (y**3 - 1)
    by_y = 2 * first * x + 4 * second * x * y + 6 * third * x * y**2
    return np.array([by_x, by_y])


SURFACE = Surface(value, gradient, start=(1.0, 1.6), window=(-5.0, 5.0, -5.0, 5.0), minimum=(3.0, 0.5))
NEAR = (-0.4, 3.7, -2.4, 1.9)  # the part of the window where the paths are

# Those with check points have the rates that these belong to; the survey gives none for the others.
RACERS = [
    Racer("SGD", "#e3211c", {"name": "sgd", "lr": 1e-3}),
    Racer("Momentum", "#2ca02c", {"name": "momentum", "lr": 1e-3, "momentum": 0.95}),
    Racer("NAG", "#c026d3", {"name": "nag", "lr": 1e-3, "momentum": 0.95}),
    Racer("Adagrad", "#1f4fd8", {"name": "adagrad", "lr": 1.0, "eps": 1e-6, "eps_inside": True}),
    Racer("Adadelta", "#e0b400", {"name": "adadelta", "rho": 0.95, "eps": 1e-3}),
    Racer("RMSprop", "#111111", {"name": "rmsprop", "lr": 0.075, "decay": 0.95}),
    Racer("Adam", "#ff7f0e", {"name": "adam", "lr": 0.1}, added=True),
    Racer("Nadam", "#17becf", {"name": "nadam", "lr": 0.1}, added=True),
    Racer("AMSGrad", "#8c564b", {"name": "amsgrad", "lr": 0.1}, added=True),
    Racer("AdaMax", "#7f7f7f", {"name": "adamax", "lr": 0.1}, added=True),
]
CHECK_POINTS = {
    "SGD": {10: (0.84, 1.06), 198: (1.70, 0.10)},
    "Momentum": {20: (0.45, -1.93), 40: (0.13, -1.69), 160: (3.29, 0.56)},
    "NAG": {20: (0.82, -1.44), 40: (0.81, -0.86), 160: (3.10, 0.53)},
    "Adagrad": {10: (1.25, 0.28)},
}


class Beale(Claim):
    """Ten rules, 199 steps from (1, 1.6), and where four of them must pass."""

    name = "beale"
    title = "Optimizers on the contours of Beale's function"
    paper = (
        "Adagrad, Adadelta and RMSprop head off in the right direction at once, Momentum and NAG are led off the track first, "
        "SGD creeps"
    )
    source = "Ruder 2016, section 4.10, figure 4a (after Alec Radford)"
    setting = (
        f"{STEPS} steps in float64 from (1, 1.6): SGD, Momentum, NAG at rate 0.001 with μ = 0.95, Adagrad at 1, RMSprop at "
        "0.075, Adadelta, and Adam, Nadam, AMSGrad, AdaMax at 0.1"
    )
    threshold = (
        f"SGD, Momentum, NAG and Adagrad pass {sum(map(len, CHECK_POINTS.values()))} check points within {TOLERANCE}"
    )
    seconds = 12
    seeded = False

    def run(self, seed: int) -> Figures:
        paths = race(RACERS, SURFACE, STEPS)
        return {"paths": paths, "check_points": _compare(paths)}

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        points = runs[0]["check_points"]
        worst = max(points, key=lambda point: point["off"])
        passed = sum(point["off"] <= TOLERANCE for point in points)
        x, y = worst["got"]
        sentence = (
            f"{passed} of {len(points)} check points passed; the farthest off, by {worst['off']:.4f}, is {worst['rule']} at step "
            f"{worst['step']}: ({x:.3f}, {y:.3f}) for ({worst['wanted'][0]}, {worst['wanted'][1]})"
        )
        return Verdict(passed == len(points), sentence)

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        figure = drawing.figure(12.0, 5.8)
        whole, near = figure.subplots(1, 2)
        _draw_background(whole, SURFACE.window, "Beale's function")
        _draw_background(near, NEAR, "the same, close by")
        made = [pair for axes in (whole, near) for pair in animation.lines_of(axes, RACERS, 2)]
        whole.legend(handles=[line for line, _ in made[: len(RACERS)]], loc="lower left", fontsize=9, handlelength=3)
        paths = [runs[0]["paths"][racer.label] for racer in RACERS] * 2
        frames = [*range(0, 40), *range(40, STEPS, 3), STEPS]
        return animation.animate(figure, made, paths, frames, path.with_suffix(".gif"), "step {}".format)


def _compare(paths: dict[str, np.ndarray]) -> list[dict]:
    """For each check point how far off the path is, in the worse coordinate."""
    found = []
    for label, points in CHECK_POINTS.items():
        for step, wanted in points.items():
            got = paths[label][step]
            off = float(np.max(np.abs(got - wanted)))
            found.append({"rule": label, "step": step, "wanted": wanted, "got": got.tolist(), "off": off})
    return found


def _draw_background(axes, window, title) -> None:
    left, right, low, high = window
    x, y, height = replace(SURFACE, window=window).grid(600)
    levels = np.linspace(-0.6, np.log10(value(np.float64(-5.0), np.float64(-5.0))), 34)
    axes.contour(x, y, np.log10(height + 1e-9), levels, cmap="jet", linewidths=0.8, alpha=0.75)
    axes.plot(*SURFACE.minimum, marker="*", markersize=20, color="#ffd500", markeredgecolor="black", zorder=7)
    axes.plot(*SURFACE.start, marker="o", markersize=8, color="white", markeredgecolor="black", zorder=7)
    for point, text, offset in ((SURFACE.minimum, "minimum", (4, 12)), (SURFACE.start, "start", (8, 8))):
        axes.annotate(text, point, offset, textcoords="offset points", fontsize=10, zorder=10,
                      bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0})  # fmt: skip
    axes.set(xlim=(left, right), ylim=(low, high), xlabel="x", ylabel="y", title=title)
