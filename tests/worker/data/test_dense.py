"""Readers of dense data: npz, idx, csv, scikit-learn's; and what is refused."""

import gzip
import struct

import numpy as np
import pytest

from ps.errors import DataError
from worker.data.dense import read_dense
from worker.data.split import split


def idx(array, code):
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("train", 7), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 4, 5), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images, 8)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels, 8)))
        arrays[prefix] = images.reshape(count, -1), labels
    return tmp_path, arrays


def test_a_folder_of_idx_files_and_one_file(mnist):
    folder, arrays = mnist
    for part, prefix in (("train", "train"), ("test", "t10k")):
        x, y = read_dense(folder, part=part)
        np.testing.assert_array_equal(x, arrays[prefix][0])
        np.testing.assert_array_equal(y, arrays[prefix][1])
        assert x.dtype == np.uint8
    x, y = read_dense(folder / "t10k-images-idx3-ubyte.gz", part="train")
    np.testing.assert_array_equal(x, arrays["t10k"][0])


def test_idx_numbers_are_big_endian(tmp_path):
    (tmp_path / "a-images-idx3").write_bytes(idx(np.array([[[1.5, -2.0]]], np.float32), 13))
    (tmp_path / "a-labels-idx1").write_bytes(idx(np.array([300], np.int32), 12))
    x, y = read_dense(tmp_path / "a-images-idx3")
    assert x.tolist() == [[1.5, -2.0]] and y.tolist() == [300]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x01\x00\x08\x03aaaa", "no idx file"),
        (b"\x00\x00\x08\x03\x00\x00", "16 bytes of header"),
        (idx(np.zeros((2, 2, 2), np.uint8), 8)[:-1], r"must have 24 bytes for shape \(2, 2, 2\), got 23"),
    ],
)
def test_bad_idx_files_are_refused(tmp_path, content, message):
    (tmp_path / "a-images-idx3").write_bytes(content)
    (tmp_path / "a-labels-idx1").write_bytes(idx(np.zeros(2, np.uint8), 8))
    with pytest.raises(DataError, match=message):
        read_dense(tmp_path / "a-images-idx3")


def test_idx_files_need_their_labels_and_folders_their_files(tmp_path):
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        read_dense(tmp_path)
    (tmp_path / "a-images-idx3").write_bytes(idx(np.zeros((1, 1, 1), np.uint8), 8))
    with pytest.raises(DataError, match="a-labels-idx1, must stand beside it"):
        read_dense(tmp_path / "a-images-idx3")


def test_npz_and_csv(tmp_path):
    x, y = np.arange(12.0).reshape(3, 2, 2), np.array([0, 1, 2])
    np.savez(tmp_path / "d.npz", x=x, y=y)
    found, targets = read_dense(tmp_path / "d.npz")
    assert found.shape == (3, 4) and found.dtype == np.float32 and targets.tolist() == [0, 1, 2]
    (tmp_path / "d.csv").write_text("a,b,target\n1,2,0\n3,4.5,1\n")
    found, targets = read_dense(tmp_path / "d.csv")
    assert found.tolist() == [[1, 2], [3, 4.5]] and targets.tolist() == [0, 1]
    (tmp_path / "d.tsv.gz").write_bytes(gzip.compress(b"1\t2\t0\n"))
    assert read_dense(tmp_path / "d.tsv.gz")[0].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n1,x,3\n", "line 2, column 2: a number is expected, got 'x'"),
        ("a,b,c\n1,2,3\n1,,3\n", "line 3, column 2"),
        ("1,2,3\n1,2\n", "line 2: must have 3 columns"),
        ("1,2\n1,nan\n", "y must be finite, got nan in row 1"),
        ("1,2\ninf,1\n", "x must be finite, got inf in row 1, column 0"),
        ("1\n2\n", "two columns"),
        ("a,b\n", "no example"),
        ("", "no example"),
    ],
)
def test_bad_csv_is_refused_with_its_place(tmp_path, text, message):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_dense(tmp_path / "d.csv")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 2))}, "'x' and 'y'"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(3)}, "equally many examples, got 2 and 3"),
        ({"x": np.zeros(2), "y": np.zeros(2)}, r"x must be \(n, d\)"),
        ({"x": np.zeros((2, 2)), "y": np.array(["a", "b"])}, "numeric"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "no example"),
        ({"x": np.array([[1, np.inf]]), "y": np.zeros(1)}, "row 0, column 1"),
    ],
)
def test_bad_npz_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_dense(tmp_path / "d.npz")


def test_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{}], dtype=object), y=np.zeros(1))
    with pytest.raises(DataError, match="objects"):
        read_dense(tmp_path / "d.npz")


def test_scikit_learns_sets_and_unknown_kinds(tmp_path):
    x, y = read_dense("sklearn:digits")
    assert x.shape == (1797, 64) and set(y) == set(range(10))
    with pytest.raises(DataError, match="did you mean 'digits'"):
        read_dense("sklearn:digit")
    (tmp_path / "d.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=".npz, .csv"):
        read_dense(tmp_path / "d.parquet")


def test_a_split_is_a_partition_fixed_by_its_seed():
    train, test = split(100, 0.25, seed=3)
    assert test.size == 25 and sorted([*train, *test]) == list(range(100))
    np.testing.assert_array_equal(split(100, 0.25, seed=3)[1], test)
    assert not np.array_equal(split(100, 0.25, seed=4)[1], test)
    with pytest.raises(DataError, match="empty"):
        split(3, 0.1, seed=0)
