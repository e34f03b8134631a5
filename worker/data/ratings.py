"""Reader of ratings: who gave what how many stars."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ps.errors import DataError
from worker.data.files import locate
from worker.data.table import read_table

COLUMNS = ("user", "item", "rating")


def read_ratings(name: str | Path, *, what: str = "train") -> dict[str, np.ndarray]:
    """Read a rating file.

    Args:
      name: a table of text (see ``read_table``) whose first columns are user, item and rating, or an ``.npz`` with
        arrays of these names.
      what: the option that named the file, for messages.

    Returns:
      ``user`` and ``item``, ids as they stand in the file (int64 or text, (n,)); ``rating`` float64 (n,).

    Raises:
      DataError: no such file, malformed (line and column), not finite, or no rating.
    """
    path = locate(name, what)
    if path.suffix != ".npz":
        return read_table(path, COLUMNS[:2], COLUMNS[2:])
    try:
        with np.load(path, allow_pickle=False) as content:
            missing = [column for column in COLUMNS if column not in content.files]
            if missing:
                raise DataError(
                    f"{path}: must hold the arrays user, item and rating, got {', '.join(content.files) or 'none'}"
                )
            found = {column: content[column] for column in COLUMNS}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is damaged, holds objects, or no .npz file: {error}") from error
    return _checked(found, path)


def _checked(found: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    shapes = {name: array.shape for name, array in found.items()}
    if len(set(shapes.values())) > 1 or found["rating"].ndim != 1:
        raise DataError(f"{path}: user, item and rating must be (n,) each, got {shapes}")
    if not found["rating"].size:
        raise DataError(f"{path}: holds no rating")
    for name in COLUMNS[:2]:
        if found[name].dtype.kind not in "iuUS":
            raise DataError(f"{path}: {name} must hold integers or text, got dtype {found[name].dtype}")
    if found["rating"].dtype.kind not in "iuf" or not np.isfinite(found["rating"]).all():
        row = (
            ""
            if found["rating"].dtype.kind not in "iuf"
            else f" in row {np.argmin(np.isfinite(found['rating']))} (from 0)"
        )
        raise DataError(f"{path}: rating must hold finite numbers, got dtype {found['rating'].dtype}{row}")
    return found | {"rating": found["rating"].astype(np.float64)}
