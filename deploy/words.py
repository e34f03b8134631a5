"""Numbers, times and paths as a person reads them."""

from __future__ import annotations

from pathlib import Path


def number(value: float | None) -> str:
    """Four significant digits; a dash for a value that is missing or not finite."""
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3e}"


def si(value: float) -> str:
    """``1.24M`` for 1 240 000."""
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{value / bound:.3g}{letter}"
    return f"{value:.3g}"


def clock(seconds: float) -> str:
    """``0:07``, ``12:05`` or ``3:04:05``."""
    total = round(seconds)
    hours, minutes = divmod(total // 60, 60)
    return f"{hours}:{minutes:02}:{total % 60:02}" if hours else f"{minutes}:{total % 60:02}"


def plural(count: int, word: str) -> str:
    """``1 shard``, ``2 shards``, ``60,000 examples``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def short_path(path: str | Path) -> str:
    """Relative to the working directory where the path lies inside it."""
    path = Path(path)
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
