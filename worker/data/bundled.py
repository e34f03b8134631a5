"""Scikit-learn's bundled sets, read from its files: to import the library takes longer than many a job's training."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ps.errors import DataError, nearest

NAMES = ("digits", "iris", "wine", "breast_cancer", "diabetes")
_FILES = {"digits": "digits.csv.gz", "iris": "iris.csv", "wine": "wine_data.csv", "breast_cancer": "breast_cancer.csv"}
_WITH_SIZES = {"iris", "wine", "breast_cancer"}  # their first line: examples, features, names of the classes


def read_bundled(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Examples (n, d) float64 and targets (n,), the same arrays that ``sklearn.datasets.load_NAME`` gives.

    Raises:
      DataError: there is no such set.
    """
    if name not in NAMES:
        raise DataError(f"there is no bundled set 'sklearn:{name}'{nearest(name, NAMES)}")
    return _from_file(name) or _from_library(name)


def _from_file(name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """None if the installed version keeps it elsewhere or otherwise, or derives it from more than a file."""
    found = find_spec("sklearn")
    if found is None or found.origin is None or name not in _FILES:
        return None
    path = Path(found.origin).parent / "datasets" / "data" / _FILES[name]
    try:
        sizes = _sizes(path) if name in _WITH_SIZES else None
        table = np.loadtxt(path, delimiter=",", skiprows=0 if sizes is None else 1, ndmin=2)
    except (OSError, ValueError):
        return None
    if sizes is not None and table.shape != (sizes[0], sizes[1] + 1):
        return None
    return table[:, :-1], table[:, -1].astype(int)


def _sizes(path: Path) -> tuple[int, int]:
    with open(path, encoding="utf-8") as lines:
        examples, features, *_ = lines.readline().split(",")
    return int(examples), int(features)


def _from_library(name: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(return_X_y=True)
