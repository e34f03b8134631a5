"""Reader of ratings: who gave what how many stars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ps.errors import DataError
from worker.data.columns import Column, Found
from worker.data.files import ZIP_MAGIC, first_bytes, load_npz, locate
from worker.data.ids import IdColumn
from worker.data.table import read_table

USER = Column(
    "user",
    ("userid", "user", "uid", "useridx", "users", "username", "reviewerid", "customerid", "customer", "accountid",
     "memberid", "personid", "playerid", "visitorid"),
)  # fmt: skip
ITEM = Column(
    "item",
    ("itemid", "item", "iid", "items", "movieid", "movie", "isbn", "bookid", "book", "productid", "product", "asin",
     "artistid", "artist", "trackid", "track", "songid", "song", "articleid", "animeid", "businessid",
     "restaurantid", "recipeid", "gameid", "jokeid", "beerid", "videoid", "sku"),
)  # fmt: skip
RATING = Column("rating", ("rating", "ratings", "bookrating", "stars", "score", "overall"), number=True)
COLUMNS = (USER, ITEM, RATING)


@dataclass
class Ratings:
    """A file that was read.

    Attributes:
      user, item: the ids of each row.
      rating: float64 (n,); empty if they were not asked for.
      columns: where they stand in a table of text; None for an ``.npz``.
    """

    user: IdColumn
    item: IdColumn
    rating: np.ndarray
    columns: Found | None = None


def read_ratings(name: str | Path, *, what: str = "train", like: Found | None = None) -> Ratings:
    """Read a rating file.

    Args:
      name: a table of text (see ``read_table``) with columns for user, item and rating, or an ``.npz`` with arrays of
        these names.
      what: the option that named the file, for messages.
      like: the columns of the training file.

    Raises:
      DataError: no such file, malformed (line and column), an empty id, not finite, or no rating.
    """
    return _read(name, COLUMNS, what, like)


def read_pairs(name: str | Path, *, like: Found | None, known: Mapping[str, np.ndarray]) -> Ratings:
    """Read pairs of user and item from a file such as ``read_ratings`` reads; it needs no ratings.

    Args:
      like: the columns of the training file.
      known: the ids of the model, by "user" and "item"; they tell a first line of ids from a header.
    """
    return _read(name, COLUMNS[:2], "inputs", like, known)


def _read(
    name: str | Path,
    wanted: tuple[Column, ...],
    what: str,
    like: Found | None,
    known: Mapping[str, np.ndarray] | None = None,
) -> Ratings:
    path = locate(name, what)
    if path.suffix == ".npz" or first_bytes(path, 4) == ZIP_MAGIC:
        columns, found = _from_npz(path, tuple(column.name for column in wanted)), None
    else:
        columns, found = read_table(path, wanted, like=like, known=known)
    return Ratings(columns["user"], columns["item"], columns.get("rating", np.empty(0)), found)


def _from_npz(path: Path, wanted: tuple[str, ...]) -> dict[str, IdColumn | np.ndarray]:
    arrays = load_npz(path)
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise DataError(f"{path}: must hold the arrays {', '.join(wanted)}, got {', '.join(arrays) or 'none'}")
    shapes = {name: arrays[name].shape for name in wanted}
    if len(set(shapes.values())) > 1 or arrays["user"].ndim != 1:
        raise DataError(f"{path}: {', '.join(wanted)} must be (n,) each, got {shapes}")
    if not arrays["user"].size:
        raise DataError(f"{path}: holds no rating")
    columns: dict[str, IdColumn | np.ndarray] = {name: _ids(arrays[name], name, path) for name in wanted[:2]}
    if "rating" in wanted:
        columns["rating"] = _ratings(arrays["rating"], path)
    return columns


def _ids(array: np.ndarray, name: str, path: Path) -> IdColumn:
    if array.dtype.kind not in "iuUS":
        raise DataError(f"{path}: {name} must hold integers or text, got dtype {array.dtype}")
    if array.dtype.kind in "US" and not np.char.str_len(array).all():
        raise DataError(f"{path}: the {name} in row {np.argmin(np.char.str_len(array))} (from 0) is empty; take it out")
    return IdColumn.of(array)


def _ratings(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind not in "iuf":
        raise DataError(f"{path}: rating must hold finite numbers, got dtype {array.dtype}")
    finite = np.isfinite(array)
    if not finite.all():
        row = np.argmin(finite)
        raise DataError(f"{path}: rating must hold finite numbers, got {array[row]} in row {row} (from 0)")
    return array.astype(np.float64)
