"""Readers of dense data: npz, idx, csv, scikit-learn's; and what is refused."""

import gzip
import struct

import numpy as np
import pytest

from ps.errors import DataError
from worker.data.dense import read_dense, read_examples, read_inputs
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
        (b"\x01\x00\x08\x03aaaa", "an idx file .* begins with 01 00 08 03"),
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
    "text",
    [
        "1,2,0\n3,4.5,1\n",
        '\ufeff"a","b","target"\r\n"1","2","0"\r\n"3","4.5","1"\r\n',
        "\ufeff1;2;0\n3;4.5;1",
        "0,1,target\n1,2,0\n3,4.5,1\n",
        "\n\na\tb\ttarget\n1\t2\t0\n\n3\t4.5\t1\n",
    ],
)
@pytest.mark.parametrize("name", ["d.csv", "my_idx.csv", "d", "d.csv.gz", "d.csv.gzip"])
def test_csv_is_read_whatever_its_dialect_and_name(tmp_path, text, name):
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if "gz" in name else text.encode())
    x, y = read_dense(tmp_path / name)
    assert x.tolist() == [[1, 2], [3, 4.5]] and y.tolist() == [0, 1]


def test_a_file_is_idx_or_npz_by_its_first_bytes(mnist, tmp_path):
    folder, arrays = mnist
    images = (folder / "t10k-images-idx3-ubyte.gz").read_bytes()
    (tmp_path / "images").write_bytes(images)
    (tmp_path / "labels").write_bytes(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()))
    np.testing.assert_array_equal(read_dense(tmp_path / "images")[0], arrays["t10k"][0])
    (tmp_path / "pictures").write_bytes(images)
    with pytest.raises(DataError, match="must hold 'images'"):
        read_dense(tmp_path / "pictures")
    np.testing.assert_array_equal(read_inputs(tmp_path / "pictures", width=20), arrays["t10k"][0])
    np.savez(tmp_path / "idx.npz", x=np.ones((2, 3)), y=np.zeros(2))
    (tmp_path / "packed").write_bytes(gzip.compress((tmp_path / "idx.npz").read_bytes()))
    assert read_dense(tmp_path / "idx.npz")[0].shape == read_dense(tmp_path / "packed")[0].shape == (2, 3)


def test_columns_of_a_test_file_are_those_of_the_training_file(tmp_path):
    (tmp_path / "train.csv").write_text("a,b,target\n1,2,0\n")
    names = read_examples(tmp_path / "train.csv").names
    for text in ("target,b,id,a\n0,2,9,1\n", "a,b,target\n1,2,0\n", "1,2,0\n", "p,q,r\n1,2,0\n"):
        (tmp_path / "test.csv").write_text(text)
        found = read_examples(tmp_path / "test.csv", part="test", like=names)
        assert found.x.tolist() == [[1, 2]] and found.y.tolist() == [0]
    (tmp_path / "test.csv").write_text("\na,c,target\n1,2,0\n")
    with pytest.raises(DataError, match="line 2: the header lacks the column 'b', which train has"):
        read_examples(tmp_path / "test.csv", like=names)
    (tmp_path / "test.csv").write_text("b,a,a,target\n1,2,0,1\n")
    with pytest.raises(DataError, match="line 1: the header has more than one column 'a'"):
        read_examples(tmp_path / "test.csv", like=names)


@pytest.mark.parametrize(
    "text",
    [
        "1,2\n3,4\n",
        "1,2,0\n3,4,1\n",
        "1,2,\n3,4,?\n",
        "a,b\n1,2\n3,4\n",
        "b,id,a\n2,x,1\n4,y,3\n",
        "target;b;a\n;2;1\nNA;4;3\n",
    ],
)
def test_inputs_need_no_targets(tmp_path, text):
    (tmp_path / "in.csv").write_text(text)
    assert read_inputs(tmp_path / "in.csv", width=2, like=("a", "b", "target")).tolist() == [[1, 2], [3, 4]]


def test_inputs_without_targets_as_arrays(tmp_path, mnist):
    x = np.arange(6.0).reshape(2, 3)
    np.savez(tmp_path / "in.npz", x=x)
    np.save(tmp_path / "in.npy", x)
    for name in ("in.npz", "in.npy"):
        np.testing.assert_array_equal(read_inputs(tmp_path / name, width=3), x)
    folder, arrays = mnist
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    np.testing.assert_array_equal(read_inputs(folder, width=20), arrays["t10k"][0])
    with pytest.raises(DataError, match="holds no targets"):
        read_dense(tmp_path / "in.npy")
    np.savez(tmp_path / "in.npz", z=x)
    with pytest.raises(DataError, match="must hold the array 'x', got z"):
        read_inputs(tmp_path / "in.npz", width=3)


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
        ("1,2,NA\n1,2,3\n", "line 1, column 3: a number is expected, got 'NA'"),
        ("NA,NA,NA\n1,2,3\n", "line 1, column 1: a number is expected, got 'NA'"),
        ("1,2,nan\n1,2,3\n", "y must be finite, got nan in row 0"),
        ("1,x,3\n1,2,3\n", "line 1, column 2: a number is expected, got 'x'"),
        ("a,b\n1,1_0\n", "line 2, column 2: a number is expected, got '1_0'"),
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
