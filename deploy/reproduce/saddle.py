"""saddle: the survey's picture of optimizers at a saddle point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy.reproduce import animation, drawing
from deploy.reproduce.claim import Claim, Figures, Verdict
from deploy.reproduce.paths import Racer, Surface, race

STEPS = 400
SHOWN = 110  # steps of the animation: all but SGD have left by then
AWAY = 1.0  # |y| at which a rule has left the saddle


def value(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """4.6x² − 2y²."""
    return 4.6 * x**2 - 2 * y**2


def gradient(point: np.ndarray) -> np.ndarray:
    """Of ``value`` at ``point`` (2,)."""
    return np.array([9.2 * point[0], -4.0 * point[1]])


SURFACE = Surface(value, gradient, start=(0.22, -1e-6), window=(-0.5, 0.5, -1.0, 1.0))

RACERS = [
    Racer("SGD", "#e3211c", {"name": "sgd", "lr": 0.01}),
    Racer("Momentum", "#2ca02c", {"name": "momentum", "lr": 0.01, "momentum": 0.95}),
    Racer("NAG", "#c026d3", {"name": "nag", "lr": 0.01, "momentum": 0.95}),
    Racer("Adagrad", "#1f4fd8", {"name": "adagrad", "lr": 0.1}),
    Racer("Adadelta", "#e0b400", {"name": "adadelta"}),
    Racer("RMSprop", "#111111", {"name": "rmsprop", "lr": 0.02, "decay": 0.9}),
    Racer("Adam", "#ff7f0e", {"name": "adam", "lr": 0.02}, added=True),
    Racer("Nadam", "#17becf", {"name": "nadam", "lr": 0.02}, added=True),
    Racer("AMSGrad", "#8c564b", {"name": "amsgrad", "lr": 0.02}, added=True),
    Racer("AdaMax", "#7f7f7f", {"name": "adamax", "lr": 0.02}, added=True),
]
EXPECTED = {  # first and last step that is right, the fastest rule first
    "Adagrad": (17, 18), "RMSprop": (29, 30), "Adadelta": (33, 33), "Adam": (44, 44), "NAG": (74, 74),
    "Momentum": (81, 81), "SGD": (353, 353),
}  # fmt: skip


class Saddle(Claim):
    """Ten rules on 4.6x² − 2y², started beside the ridge, and how soon each leaves."""

    name = "saddle"
    title = "Optimizers leaving a saddle point"
    paper = (
        "SGD, Momentum and NAG find it hard to break symmetry, the two latter escape in the end; Adagrad, RMSprop and Adadelta "
        "head down the slope at once"
    )
    source = "Ruder 2016, section 4.10, figure 4b (after Alec Radford)"
    setting = (
        "4.6x² − 2y² in float64 from (0.22, −0.000001): SGD, Momentum, NAG at rate 0.01 with μ = 0.95, Adagrad at 0.1, Adadelta, "
        "RMSprop, Adam, Nadam, AMSGrad, AdaMax at 0.02"
    )
    threshold = "steps to |y| > 1: " + " < ".join(
        f"{label} {first}" + (f"–{last}" if last > first else "") for label, (first, last) in EXPECTED.items()
    )
    seconds = 12
    seeded = False

    def run(self, seed: int) -> Figures:
        paths = race(RACERS, SURFACE, STEPS)
        return {"paths": paths, "steps": {label: steps_to_leave(path) for label, path in paths.items()}}

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        steps = runs[0]["steps"]
        right = all(steps[label] is not None and a <= steps[label] <= b for label, (a, b) in EXPECTED.items())
        ordered = sorted(steps, key=lambda label: steps[label] or STEPS + 1)
        return Verdict(right, ", ".join(f"{label} {steps[label] or 'never'}" for label in ordered))

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        figure = drawing.figure(7.6, 6.0)
        axes = figure.add_subplot(projection="3d", computed_zorder=False)
        _draw_background(axes)
        made = animation.lines_of(axes, RACERS, 3)
        axes.legend(loc="upper left", fontsize=9, framealpha=0.95, handlelength=2.6)
        paths = [_on_surface(runs[0]["paths"][racer.label]) for racer in RACERS]
        return animation.animate(figure, made, paths, range(SHOWN + 1), path.with_suffix(".gif"), "step {}".format)


def steps_to_leave(path: np.ndarray) -> int | None:
    """The first step with |y| > 1, or None."""
    away = np.flatnonzero(np.abs(path[:, 1]) > AWAY)
    return int(away[0]) if away.size else None


def _on_surface(path: np.ndarray) -> np.ndarray:
    """(k, 3), up to where the path leaves the window."""
    inside = [SURFACE.holds(point) for point in path]
    path = path[: inside.index(False)] if False in inside else path
    return np.column_stack([path, value(*path.T)])


def _draw_background(axes) -> None:
    x, y, height = SURFACE.grid(81)
    axes.plot_surface(x, y, height, cmap="jet", alpha=0.28, linewidth=0, rstride=2, cstride=2, zorder=1)
    axes.contour(x, y, height, levels=24, cmap="jet", linewidths=0.9, alpha=0.8, zorder=2)
    start = (*SURFACE.start, value(*SURFACE.start))
    axes.plot(*([each] for each in start), marker="o", markersize=8, color="white", markeredgecolor="black", zorder=7)
    axes.text(*start, "  start", fontsize=10, zorder=10)
    left, right, low, high = SURFACE.window
    axes.set(xlim=(left, right), ylim=(low, high), xlabel="x", ylabel="y", title="A saddle point, 4.6x² − 2y²")
    axes.view_init(elev=34, azim=-38)
    axes.set_box_aspect((1, 1.5, 0.75))
