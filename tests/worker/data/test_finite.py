"""Data that are not finite are named; masks are not lost in silence."""

import numpy as np
import pytest

from worker.data.dataset import CsrDataset, as_dataset
from worker.data.finite import not_finite_in, not_finite_in_batch


def spoiled(shape, place, value=np.nan):
    array = np.ones(shape, np.float32)
    array[place] = value
    return array


CASES = [
    ({"x": spoiled((6, 3), (4, 2)), "n": np.arange(6)}, "example 4 of the data (from 0) has nan in array 'x' at [2]"),
    ({"x": np.ones((6, 3)), "y": spoiled(6, 5, -np.inf)}, "example 5 of the data (from 0) has -inf in array 'y'"),
    ({"x": spoiled((6, 2, 2), (1, 0, 1))}, "example 1 of the data (from 0) has nan in array 'x' at [0, 1]"),
    (spoiled((6, 1), (0, 0), np.inf), "example 0 of the data (from 0) has inf in array 'examples' at [0]"),
    ((np.ones(6), spoiled(6, 3)), "example 3 of the data (from 0) has nan in array 'item1'"),
]


@pytest.mark.parametrize(("source", "said"), CASES)
def test_the_first_value_that_is_not_finite_is_named(source, said):
    dataset, order = as_dataset(source), np.array([5, 3, 4, 0, 1, 2])
    assert said in not_finite_in(dataset)
    assert said in not_finite_in_batch(dataset.take(order), order)


def test_of_sparse_examples_the_feature_is_named():
    indptr, indices = np.array([0, 2, 2, 5]), np.array([0, 7, 1, 2, 9], np.int32)
    dataset = CsrDataset(indptr, indices, spoiled(5, 3), np.ones(3, np.float32))
    said = "example 2 of the data (from 0) has nan as value of feature 2"
    assert not_finite_in(dataset) == said
    assert not_finite_in_batch(dataset.take(np.array([1, 2])), np.array([1, 2])) == said
    assert not_finite_in_batch(dataset.take(np.array([0, 1])), np.array([0, 1])) is None
    labels = CsrDataset(indptr, indices, np.ones(5, np.float32), spoiled(3, 1))
    assert not_finite_in(labels) == "example 1 of the data (from 0) has nan in array 'labels'"


@pytest.mark.parametrize("source", [{"x": np.ones((6, 3)), "n": np.arange(6)}, (np.ones(6), np.ones(6)), np.ones(6)])
def test_finite_data_are_not_blamed(source):
    dataset = as_dataset(source)
    assert not_finite_in(dataset) is None and not_finite_in_batch(dataset.take(np.arange(6)), np.arange(6)) is None


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"x": x}, lambda x: (x, np.ones(4))])
def test_a_masked_array_is_refused_unless_nothing_is_masked(wrap):
    with pytest.raises(ValueError, match="masked array, 2 of its 4 values are masked .*filled"):
        as_dataset(wrap(np.ma.masked_greater(np.arange(4.0), 1)))
    plain = as_dataset(wrap(np.ma.masked_greater(np.arange(4.0), 9)))
    assert not any(isinstance(array, np.ma.MaskedArray) for array in plain.arrays().values())
