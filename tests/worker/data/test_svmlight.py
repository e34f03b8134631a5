"""The svmlight reader: against scikit-learn's, every compression, and where malformed files are wrong."""

import bz2
import gzip
import lzma

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.errors import DataError
from worker.data.svmlight import parse_number, read_svmlight

TEXT = """# a comment line
+1 1:0.5 3:-2e-1 7:1e2   # trailing words 9:9
-1 qid:4 2:.25

1 7:3 1:2.
-1
0.0e0 5:+4
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="data.svm"):
        path = tmp_path / name
        packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
        path.write_bytes(packed(text.encode() if isinstance(text, str) else text))
        return path

    return write


@pytest.mark.parametrize("name", ["data.svm", "data.svm.gz", "data.bz2", "data.xz"])
def test_a_file_is_read_whatever_its_compression(write, name):
    read = read_svmlight(write(TEXT, name), dtype="float64")
    assert (read.features, read.index_base) == (7, 1)
    assert read.data.labels.tolist() == [1, -1, 1, -1, 0]
    assert read.data.indptr.tolist() == [0, 3, 4, 6, 6, 7]
    assert read.data.indices.tolist() == [0, 2, 6, 1, 0, 6, 4]
    assert read.data.values.tolist() == [0.5, -0.2, 100, 0.25, 2, 3, 4]


@pytest.mark.parametrize("packed", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["data", "data.gz"])
def test_a_file_is_read_whatever_its_name_and_byte_order_mark(tmp_path, packed, name):
    (tmp_path / name).write_bytes(packed(b"\xef\xbb\xbf+1 1:2\r\n-1 2:3\r\n"))
    read = read_svmlight(tmp_path / name).data
    assert read.labels.tolist() == [1, -1] and read.values.tolist() == [2, 3]


def test_labels_may_be_missing_where_they_are_not_needed(write):
    text = "# a comment\n\n1:0.5 3:2 # words\n# another\n  \r\nqid:3 2:1\n\n"
    read = read_svmlight(write(text), labelled=False).data
    assert read.indptr.tolist() == [0, 0, 2, 2, 3, 3] and read.indices.tolist() == [
        0,
        2,
        1,
    ]  # an empty line is an example
    assert read_svmlight(write("1:1"), labelled=False).data.indptr.tolist() == [0, 1]
    labelled = read_svmlight(write(TEXT), labelled=False).data
    assert labelled.labels.tolist() == [1, -1, 1, -1, 0]
    with pytest.raises(DataError, match="line 3, column 1: a label"):
        read_svmlight(write(text))
    with pytest.raises(DataError, match="line 2, column 1: ':' is expected"):
        read_svmlight(write("1:1\n1 1:1\n"), labelled=False)


def test_equals_scikit_learns_reader(write):
    datasets = pytest.importorskip("sklearn.datasets")
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(200):
        features = np.sort(rng.choice(50, rng.integers(0, 12), replace=False)) + 1
        pairs = " ".join(f"{f}:{rng.standard_normal():.7g}" for f in features)
        lines.append(f"{rng.choice([-1, 1])} {pairs}")
    path = write("\n".join(lines))
    matrix, labels = datasets.load_svmlight_file(str(path), dtype=np.float64)
    read = read_svmlight(path, dtype="float64").data
    np.testing.assert_array_equal(read.indptr, matrix.indptr)
    np.testing.assert_array_equal(read.indices, matrix.indices)
    np.testing.assert_allclose(read.values, matrix.data, rtol=1e-15)
    np.testing.assert_array_equal(read.labels, labels)


@settings(deadline=None, max_examples=300)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_to_the_last_places(value):
    text = np.frombuffer(repr(value).encode() + b" ", np.uint8)
    found, at = parse_number(text, 0)
    assert at == text.size - 1
    assert found == pytest.approx(value, rel=2e-15, abs=1e-307)


@pytest.mark.parametrize("text", ["1.5", "-.25", "+3.", "12345678901234", "1e22", "2.5E-3", "-0.000123"])
def test_short_numbers_are_exact(text):
    assert parse_number(np.frombuffer(text.encode(), np.uint8), 0) == (float(text), len(text))


def test_windows_line_ends_tabs_and_no_final_newline(write):
    read = read_svmlight(write("1\t1:1\t2:2\r\n-1 2:3\r\n1 1:4"))
    assert read.data.values.tolist() == [1, 2, 3, 4] and len(read.data) == 3


def test_index_base_is_found_or_told(write):
    zero = write("1 0:1 2:1\n-1 1:1\n", "zero")
    assert read_svmlight(zero).features == 3 and read_svmlight(zero).index_base == 0
    one = write("1 1:1 3:1\n", "one")
    assert read_svmlight(one).features == 3
    assert read_svmlight(one, index_base=0).features == 4
    with pytest.raises(DataError, match="line 1: a feature index 0.*index_base = 0"):
        read_svmlight(zero, index_base=1)


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("1 1:1\nx 1:1\n", "line 2, column 1", "label"),
        ("1 1:1\n+ 1:1\n", "line 2, column 1", "label"),
        ("1 a:1\n", "line 1, column 3", "feature index"),
        ("1 -2:1\n", "line 1, column 3", "feature index"),
        ("1 2 3:1\n", "line 1, column 3", "':' is expected"),
        ("1 1:\n", "line 1, column 5", "value"),
        ("1 1:1x\n", "line 1, column 5", "value"),
        ("1 1:1:2\n", "line 1, column 5", "value"),
        ("1 1:2e\n", "line 1, column 5", "value"),
        ("# c\n1 1:1 2:nan\n", "line 2, column 9", "not finite"),
        ("1 1:-Inf\n", "line 1, column 5", "not finite"),
        ("1 1:1e999\n", "line 1, column 5", "not finite"),
        ("nan 1:1\n", "line 1, column 1", "label is not finite"),
        ("1 3000000000:1\n", "line 1, column 3", "2147483647"),
        ("1 1:1\n\n1 2:1 4:1 2:5\n", "line 3", "twice"),
    ],
)
def test_malformed_lines_are_refused_with_their_place(write, text, place, problem):
    path = write(text)
    with pytest.raises(DataError) as caught:
        read_svmlight(path)
    assert str(path) in str(caught.value) and place in str(caught.value) and problem in str(caught.value)


def test_a_value_beyond_float32_is_not_finite_in_float32(write):
    path = write("1 1:1e39\n")
    with pytest.raises(DataError, match="not finite"):
        read_svmlight(path)
    assert read_svmlight(path, dtype="float64").data.values[0] == 1e39


@pytest.mark.parametrize("text", ["", "\n\n", "# only words\n"])
def test_empty_files_are_refused(write, text):
    with pytest.raises(DataError, match="no example"):
        read_svmlight(write(text))


def test_missing_damaged_and_unreadable_files(tmp_path, write):
    write("1 1:1\n", "train.svm")
    with pytest.raises(DataError, match=r"no file .*trian.svm; did you mean 'train.svm'"):
        read_svmlight(tmp_path / "trian.svm")
    with pytest.raises(DataError, match="no folder"):
        read_svmlight(tmp_path / "nowhere" / "x")
    with pytest.raises(DataError, match="cannot be read"):
        read_svmlight(tmp_path)
    with pytest.raises(DataError, match="did you mean 'a9a'"):
        read_svmlight("hogshead:a9")
    for name in ("bad.gz", "bad.bz2", "bad.xz"):
        (tmp_path / name).write_bytes(b"not compressed at all")
        with pytest.raises(DataError, match="damaged"):
            read_svmlight(tmp_path / name)
    whole = write("1 1:1\n" * 1000, "cut.gz").read_bytes()
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        read_svmlight(tmp_path / "cut.gz")


def test_the_bundled_set_is_what_its_readme_says():
    train, test = read_svmlight("hogshead:a9a"), read_svmlight("hogshead:a9a.t", index_base=1)
    assert (len(train.data), train.features, train.data.indices.size) == (32561, 123, 451592)
    assert (len(test.data), test.features) == (16281, 122)
    assert (train.data.labels == 1).sum() == 7841
