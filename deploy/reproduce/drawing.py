"""What the pictures share: figures that need no display and no global state, and a few colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

GOOD, BAD, QUIET = "#2a7ab8", "#c8372d", "#8a8f98"
COLORS = ("#2a7ab8", "#d9822b", "#3a9648", "#c8372d", "#7d55a8", "#7a5a45", "#d769a8", "#6f7680")
DPI = 110
WHITE = 255


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. It belongs to nobody else, unlike those of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(made)
    return made


def plain_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Label a logarithmic axis with these values as one writes them."""
    axis.set_ticks(list(values), [f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, the same bytes for the same figure."""
    figure.savefig(path, format="png", metadata={"Software": None})
    return path


def pixels(figure: Figure) -> np.ndarray:
    """The canvas as it is: uint8 (height, width, 3)."""
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def save_gif(frames: Sequence[np.ndarray], path: Path, frame_ms: int, last_ms: int) -> Path:
    """Write an animation that repeats for ever.

    Args:
      frames: uint8 (height, width, 3) each; their colours are taken from the last.
      frame_ms: time of each frame. last_ms: of the last one.
    """
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    palette = images[-1].quantize(colors=255, dither=Image.Dither.NONE)
    reduced = []
    for frame, image in zip(frames, images, strict=True):
        indices = np.array(image.quantize(palette=palette, dither=Image.Dither.NONE))
        indices[(frame == WHITE).all(-1)] = WHITE  # Pillow's nearest colour would turn the background grey
        reduced.append(Image.fromarray(indices))
        reduced[-1].putpalette([*palette.getpalette()[: 3 * WHITE], WHITE, WHITE, WHITE])
    times = [frame_ms] * (len(reduced) - 1) + [last_ms]
    reduced[0].save(path, save_all=True, append_images=reduced[1:], duration=times, loop=0, optimize=True)
    return path
