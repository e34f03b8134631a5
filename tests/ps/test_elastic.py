"""The elastic step's two sides and the mean."""

from __future__ import annotations

import numpy as np
import pytest

from ps import elastic
from ps.errors import UsageError

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@DTYPES
def test_both_sides_move_by_alpha_of_their_difference(dtype):
    x, center = np.array([4.0, 0.0, 1.0], dtype), np.array([0.0, 8.0, 1.0], dtype)
    elastic.step(x, center, 0.25)
    assert x.tolist() == [3.0, 2.0, 1.0] and center.tolist() == [1.0, 6.0, 1.0]
    assert x.dtype == center.dtype == dtype


@DTYPES
def test_the_replicas_side_of_a_synchronous_step_uses_the_old_values(dtype):
    x, old, center = (np.array(values, dtype) for values in ([10.0, 10.0], [4.0, 0.0], [0.0, 8.0]))
    elastic.attract(x, old, center, 0.5)
    assert x.tolist() == [8.0, 14.0] and old.tolist() == [4.0, 0.0] and center.tolist() == [0.0, 8.0]


@DTYPES
def test_the_mean_is_of_the_rows_taken(dtype):
    rows, out = np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 6.0]], dtype), np.zeros(2, dtype)
    elastic.mean_rows(rows, np.array([1, 0, 1]), out)
    assert out.tolist() == [2.0, 4.0]


def test_sides_that_do_not_fit_are_refused():
    center = np.zeros(3)
    for x in (np.ones(4), np.ones(2), np.ones(3, np.float32)):
        with pytest.raises(UsageError, match="one shape and dtype"):
            elastic.step(x, center, 0.5)
    assert not center.any()
