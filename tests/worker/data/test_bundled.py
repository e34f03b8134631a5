"""Scikit-learn's bundled sets without scikit-learn."""

from __future__ import annotations

from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from ps.errors import DataError
from worker.data import bundled


@pytest.mark.parametrize("name", bundled.NAMES)
def test_the_same_arrays_as_the_librarys(name):
    datasets = pytest.importorskip("sklearn.datasets")
    for found, expected in zip(
        bundled.read_bundled(name), getattr(datasets, f"load_{name}")(return_X_y=True), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("name", sorted(set(bundled.NAMES) - {"diabetes"}))
def test_the_library_is_not_imported(name, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(bundled, "_from_library", lambda name: pytest.fail("it was"))
    x, y = bundled.read_bundled(name)
    assert len(x) == len(y) > 100


@pytest.mark.parametrize("content", [None, "", "150,4,a,b,c\n1,2,3,4,0\n", "150,4,a,b,c\n1,2\n3\n"])
def test_a_library_that_keeps_them_otherwise_is_asked(content, tmp_path, monkeypatch):
    folder = tmp_path / "datasets" / "data"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "iris.csv").write_text(content)
    monkeypatch.setattr(bundled, "find_spec", lambda name: ModuleSpec(name, None, origin=str(tmp_path / "__init__.py")))
    monkeypatch.setattr(bundled, "_from_library", lambda name: ("x", name))
    assert bundled.read_bundled("iris") == ("x", "iris")


def test_what_there_is_not_is_refused():
    with pytest.raises(DataError, match=r"no bundled set 'sklearn:digit'.*digits"):
        bundled.read_bundled("digit")
