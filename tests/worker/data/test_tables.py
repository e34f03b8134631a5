"""Readers of ratings, edges and terminals: dialects, ids of any kind, and where malformed files are wrong."""

import gzip

import numpy as np
import pytest

from ps.errors import DataError
from worker.data.edges import read_edges, read_terminals
from worker.data.ratings import read_ratings
from worker.data.table import remap


@pytest.fixture
def write(tmp_path):
    def write(text, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        "1,10,3.5\n2,20,4\n",
        "user,item,rating,time\n1,10,3.5,99\n2,20,4,98\n",
        "1\t10\t3.5\t881250949\r\n2\t20\t4\t881250950\r\n",
        "1::10::3.5::1\n2::20::4::2",
        "# comment\n1 10 3.5\n\n% more\n 2   20  4  \n",
        "1; 10; 3.5\n2; 20; 4\n",
    ],
)
@pytest.mark.parametrize("name", ["r.csv", "r.gz"])
def test_every_dialect_gives_the_same_ratings(write, text, name):
    found = read_ratings(write(text, name))
    assert found["user"].tolist() == [1, 2] and found["item"].tolist() == [10, 20]
    assert found["rating"].tolist() == [3.5, 4.0]


def test_ids_may_be_text_or_huge(write):
    found = read_ratings(write("ann,the book,3\nbob,b2,4\n"))
    assert found["user"].tolist() == ["ann", "bob"] and found["item"].tolist() == ["the book", "b2"]
    huge = read_ratings(write("9007199254740993,1,3\n9007199254740995,1,4\n"))
    assert huge["user"].tolist() == [9007199254740993, 9007199254740995]  # both round to one float


def test_npz_ratings(tmp_path):
    columns = {"user": np.array([5, 6]), "item": np.array(["a", "b"]), "rating": np.array([1, 2], np.int8)}
    np.savez(tmp_path / "r.npz", **columns)
    found = read_ratings(tmp_path / "r.npz")
    assert found["item"].tolist() == ["a", "b"] and found["rating"].dtype == np.float64


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": np.zeros(2, int), "item": np.zeros(2, int)}, "user, item and rating"),
        ({"user": np.zeros(2, int), "item": np.zeros(3, int), "rating": np.zeros(2)}, r"\(n,\)"),
        ({"user": np.zeros(2), "item": np.zeros(2, int), "rating": np.zeros(2)}, "integers or text"),
        ({"user": np.zeros(2, int), "item": np.zeros(2, int), "rating": np.array([1, np.nan])}, "row 1"),
        ({"user": np.zeros(0, int), "item": np.zeros(0, int), "rating": np.zeros(0)}, "no rating"),
        ({"user": np.zeros(1, int), "item": np.zeros(1, int), "rating": np.array(["x"])}, "finite numbers"),
    ],
)
def test_bad_npz_ratings_are_refused(tmp_path, columns, message):
    np.savez(tmp_path / "r.npz", **columns)
    with pytest.raises(DataError, match=message):
        read_ratings(tmp_path / "r.npz")


def test_a_damaged_npz_is_refused(tmp_path):
    (tmp_path / "r.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="damaged"):
        read_ratings(tmp_path / "r.npz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n1,2\n", "line 2: must have 3 columns"),
        ("1,2,3\n4,5,many\n", "line 2, column 3: rating must be a finite number, got 'many'"),
        ("user,item,rating\n1,2,3\n1,3,nan\n", "line 3, column 3"),
        ("a,2,3\nb,3,inf\n", "line 2, column 3"),
        ("1\t2\n", "3 columns"),
        ("", "no line of data"),
        ("# words\n", "no line of data"),
        ("user,item,rating\n", "no line of data"),
    ],
)
def test_bad_lines_are_refused_with_their_place(write, text, message):
    with pytest.raises(DataError, match=message):
        read_ratings(write(text))


def test_remap_numbers_ids_over_several_columns():
    ids, (a, b) = remap(np.array([30, 10]), np.array([20, 10, 30]))
    assert ids.tolist() == [10, 20, 30] and a.tolist() == [2, 0] and b.tolist() == [1, 0, 2]
    ids, (a, b) = remap(np.array([7]), np.array(["x", "7"]))
    assert ids.tolist() == ["7", "x"] and a.tolist() == [0] and b.tolist() == [1, 0]


def test_edges_drop_loops_and_refuse_negative_weights(write):
    ids, u, v, weight = read_edges(write("5 9 1.5\n9 9 3\n2 5 0\n"))
    assert ids.tolist() == [2, 5, 9] and u.tolist() == [1, 0] and v.tolist() == [2, 1] and weight.tolist() == [1.5, 0]
    with pytest.raises(DataError, match=r"weights must be >= 0, got -1.0 for the edge 1 - 2"):
        read_edges(write("0 1 1\n1 2 -1\n"))
    with pytest.raises(DataError, match="two different nodes"):
        read_edges(write("1 1 1\n"))


def test_terminals_with_a_header_and_labels_of_text(write):
    ids = read_edges(write("1 2 1\n2 3 1\n"))[0]
    nodes, classes, labels = read_terminals(write("node,side\n1,a\n3,b\n", "t"), ids)
    assert nodes.tolist() == [0, 2] and classes.tolist() == [0, 1] and labels.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 a\n7 b\n", "node 7 has no edge"),
        ("1 a\n2 a\n", "at least two different labels"),
        ("1 a\n2 b\n1 b\n", "node 1 has two labels"),
        ("2 b\nx a\n", "nodes are text"),
    ],
)
def test_bad_terminals_are_refused(write, text, message):
    ids = read_edges(write("1 2 1\n2 3 1\n"))[0]
    with pytest.raises(DataError, match=message):
        read_terminals(write(text, "terminals"), ids)


def test_terminals_of_text_nodes(write):
    ids = read_edges(write("s,a,1\na,t,2\n"))[0]
    nodes, classes, labels = read_terminals(write("t,object\ns,background\n", "terminals"), ids)
    assert ids[nodes].tolist() == ["t", "s"] and labels[classes].tolist() == ["object", "background"]
