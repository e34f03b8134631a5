"""Animated paths: the background is drawn once, and each frame only adds the lines so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.reproduce import drawing
from deploy.reproduce.paths import Racer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRAME_MS, LAST_MS = 60, 3000
# Colours of the survey's six as in its own pictures; the rules that it adds are dashed.
SOLID, DASHED = "-", (0, (3, 1.2))
WIDEST, NARROWEST = 4.0, 1.2


def lines_of(axes: Axes, racers: Sequence[Racer], dimensions: int) -> list[tuple[Any, Any]]:
    """An empty line and a dot for each racer, to be moved by ``move``."""
    made = []
    for index, racer in enumerate(racers):
        style = DASHED if racer.added else SOLID
        empty: list[list[float]] = [[]] * dimensions
        width = WIDEST - index * (WIDEST - NARROWEST) / len(racers)  # of paths that coincide each shows a fringe
        (line,) = axes.plot(*empty, color=racer.color, linestyle=style, linewidth=width, label=racer.label, zorder=8)
        (dot,) = axes.plot(*empty, color=racer.color, marker="o", markersize=6, markeredgecolor="white", zorder=9)
        made.append((line, dot))
    return made


def move(line: Any, points: np.ndarray) -> None:
    """Let ``line`` go through ``points`` (k, 2) or (k, 3)."""
    if points.shape[1] == 3:
        line.set_data_3d(*points.T)
    else:
        line.set_data(*points.T)


def animate(
    figure: Figure,
    made: Sequence[tuple[Any, Any]],
    paths: Sequence[np.ndarray],
    frames: Iterable[int],
    gif: Path,
    caption: Callable[[int], str],
) -> list[Path]:
    """Write the GIF, and the still picture of its last frame beside it.

    Args:
      made: what ``lines_of`` gave.
      paths: (steps + 1, 2 or 3) each; a path that ends early stays where it ended.
      frames: numbers of steps to be shown, the last for the still picture.
      caption: text for a frame.
    """
    text = figure.text(0.012, 0.012, "", fontsize=9, color="#555555")
    moving = [line for line, _ in made] + [dot for _, dot in made] + [text]
    for artist in moving:
        artist.set_animated(True)
    figure.canvas.draw()
    background = figure.canvas.copy_from_bbox(figure.bbox)
    images = []
    for step in frames:
        figure.canvas.restore_region(background)
        text.set_text(caption(step))
        for (line, dot), path in zip(made, paths, strict=True):
            move(line, path[: step + 1])
            move(dot, path[: step + 1][-1:])
        for artist in moving:
            figure.draw_artist(artist)
        images.append(drawing.pixels(figure))
    drawing.save_gif(images, gif, FRAME_MS, LAST_MS)
    for artist in moving:
        artist.set_animated(False)
    return [drawing.save(figure, gif.with_suffix(".png")), gif]
