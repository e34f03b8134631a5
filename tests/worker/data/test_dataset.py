"""Data sets: batches by index, swapping arrays, and what users may hand over."""

import numpy as np
import pytest

from ps.errors import UsageError
from worker.data.dataset import ArrayDataset, CsrDataset, Dataset, as_dataset


@pytest.fixture
def csr():
    dense = np.array([[0, 2, 0, 3], [0, 0, 0, 0], [1, 0, 0, 0], [4, 5, 6, 7]], np.float32)
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum((dense != 0).sum(1))]).astype(np.int64)
    return dense, CsrDataset(
        indptr, columns.astype(np.int32), dense[rows, columns], np.array([1, -1, 1, -1], np.float32)
    )


def to_dense(batch, features):
    dense = np.zeros((len(batch), features), np.float32)
    for row in range(len(batch)):
        part = slice(batch.indptr[row], batch.indptr[row + 1])
        dense[row, batch.indices[part]] = batch.values[part]
    return dense


def test_csr_batches_are_the_rows_asked_for_in_that_order(csr):
    dense, data = csr
    wanted = np.array([3, 1, 3, 0])
    batch = data.take(wanted)
    np.testing.assert_array_equal(to_dense(batch, 4), dense[wanted])
    np.testing.assert_array_equal(batch.labels, data.labels[wanted])
    assert batch.values.dtype == np.float32 and batch.indices.dtype == np.int32


def test_batches_of_arrays_are_dicts_and_copies():
    data = ArrayDataset({"x": np.arange(12.0).reshape(4, 3), "y": np.arange(4)})
    batch = data.take(np.array([2, 0]))
    np.testing.assert_array_equal(batch["x"], [[6, 7, 8], [0, 1, 2]])
    batch["x"][:] = -1
    assert data["x"].min() == 0


@pytest.mark.parametrize("kind", ["csr", "arrays"])
def test_arrays_can_be_swapped_for_equal_ones_in_place(kind, csr):
    data = csr[1] if kind == "csr" else ArrayDataset({"x": np.arange(6.0), "y": np.arange(6)})
    before = data.take(np.array([1, 2]))
    copies = {name: array.copy() for name, array in data.arrays().items()}
    data.replace(copies)
    assert all(data.arrays()[name] is copies[name] for name in copies)
    after = data.take(np.array([1, 2]))
    for one, other in zip(vars(before).values() if kind == "csr" else before.values(),
                          vars(after).values() if kind == "csr" else after.values(), strict=True):  # fmt: skip
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("replacement", "word"),
    [({"x": np.zeros(5)}, "shape"), ({"x": np.zeros(6, np.float32)}, "dtype"), ({"z": np.zeros(6)}, "named")],
)
def test_unequal_replacements_are_refused(replacement, word):
    with pytest.raises(UsageError, match=word):
        ArrayDataset({"x": np.zeros(6)}).replace(replacement)


class Indexable:
    def __len__(self):
        return 3

    def __getitem__(self, indices):
        return np.array([10, 20, 30])[indices]


def test_what_users_return_becomes_a_data_set():
    x, y = np.arange(6.0).reshape(3, 2), np.arange(3)
    pick = np.array([2, 0])
    assert isinstance(as_dataset({"x": x, "y": y}).take(pick), dict)
    taken = as_dataset((x, y)).take(pick)
    assert isinstance(taken, tuple) and taken[1].tolist() == [2, 0]
    assert as_dataset(x).take(pick).tolist() == [[4, 5], [0, 1]]
    custom = as_dataset(Indexable())
    assert isinstance(custom, Dataset) and custom.arrays() == {} and custom.take(pick).tolist() == [30, 10]
    ready = ArrayDataset({"x": x})
    assert as_dataset(ready) is ready


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([1, 2, 3], "list"),
        (3, "int"),
        (None, "NoneType"),
        ((np.zeros(3), np.zeros(4)), "same first dimension"),
        ({}, "at least one array"),
        ((np.zeros((0, 2)), np.zeros(0)), "at least one example"),
        ({"x": np.array(["a", "b"])}, "numeric"),
        ({"x": np.array([[1], [1, 2]], dtype=object)}, "numeric"),
        ({"x": np.float32(3)}, "scalar"),
    ],
)
def test_what_is_no_data_set_is_refused_in_words(source, message):
    with pytest.raises(UsageError, match=message):
        as_dataset(source)


def test_one_array_can_be_shared_too():
    data = as_dataset(np.arange(5.0))
    assert data.arrays(), "a single array must be placed in shared memory like any other"
