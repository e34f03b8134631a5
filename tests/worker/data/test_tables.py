"""Readers of ratings, edges and terminals: dialects, ids as they stand in the cell, and where malformed files are wrong."""

import bz2
import gzip
import lzma
import os
import threading

import numpy as np
import pytest

from ps.errors import DataError
from worker.data.edges import read_edges, read_nodes, read_terminals
from worker.data.ids import IdColumn, places, union
from worker.data.ratings import read_pairs, read_ratings


@pytest.fixture
def write(tmp_path):
    def write(text, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def rows(ratings):
    """What was read, ids as text."""
    users, items = ratings.user.cells.astype(str), ratings.item.cells.astype(str)
    return list(zip(users.tolist(), items.tolist(), ratings.rating.tolist(), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "1,10,3.5\n2,20,4\n",
        "user,item,rating,time\n1,10,3.5,99\n2,20,4,98\n",
        "1\t10\t3.5\t881250949\r\n2\t20\t4\t881250950\r\n",
        "1::10::3.5::1\n2::20::4::2",
        "# comment\n1 10 3.5\n\n% more\n 2   20  4  \n",
        "1; 10; 3.5\n2; 20; 4\n",
        '"1","10","3.5"\n"2","20","4"\n',
        '"1" "10" 3.5\n2 20 4\n',
        "\ufeffuser,item,rating\n1,10,3.5\n2,20,4\n",
        "\ufeff1,10,3.5\r2,20,4\r",
        "rating,user,item\n3.5,1,10\n4,2,20\n",
        "userId,movieId,rating,timestamp\n1,10,3.5,99\n2,20,4,98\n",
        ",item,user,rating\n0,10,1,3.5\n1,20,2,4\n",
        '"User-ID";"ISBN";"Book-Rating"\n"1";"10";"3.5"\n"2";"20";"4"\n',
        "member,thing,worth\n1,10,3.5\n2,20,4\n",
    ],
)
@pytest.mark.parametrize("name", ["r.csv", "r.gz"])
def test_every_dialect_gives_the_same_ratings(write, text, name):
    found = read_ratings(write(text, name))
    assert rows(found) == [("1", "10", 3.5), ("2", "20", 4.0)]


@pytest.mark.parametrize("others", [["2"], ["x"]])  # parsed as integers but for the odd id, or as text
@pytest.mark.parametrize(
    "cells",
    [
        ["1", "01", "1_0", "10", "1.0", "+1", "1e0"],
        ["0195153448", "195153448", "019515344X"],
        ["9007199254740993", "9007199254740995"],  # both round to one float
        ["99999999999999999999", "-0", "0", "-7", "\u0661", "a b", "A b", "nan", "NA"],
        ["the book, part 2", 'said "no"', "two\nlines", "#1", "a::b", "a;b", "ö"],
    ],
)
def test_an_id_is_the_text_of_its_cell(write, cells, others):
    """Which ids are equal does not depend on what else stands in a file."""
    cells = cells + others
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    first = read_ratings(write("".join(f"{cell},{cell},1\n" for cell in quoted)))
    assert first.user.cells.astype(str).tolist() == cells == first.item.cells.astype(str).tolist()
    for cell, quote in zip(cells, quoted, strict=True):
        alone = read_ratings(write(f"{quote},5,1\n", "test.csv"), like=first.columns)
        assert first.user.ids[alone.user.codes_in(first.user.ids)].astype(str).tolist() == [cell]
        assert alone.item.codes_in(first.item.ids).tolist() == [-1]


def test_plain_integers_are_sorted_as_numbers(write):
    plain = read_ratings(write("10,1,1\n9,1,1\n-1,1,1\n"))
    quoted = read_ratings(write('"10",1,1\n"9",1,1\n"-1",1,1\n'))
    assert plain.user.ids.tolist() == quoted.user.ids.tolist() == [-1, 9, 10]
    assert plain.user.codes.tolist() == quoted.user.codes.tolist() == [2, 1, 0]


def test_a_long_table_is_read_in_parts(write):
    lines = [f"u{k % 700},0{k % 90},{k % 5}" for k in range(10_000)]
    found = rows(read_ratings(write("\n".join(lines))))
    assert found == [(f"u{k % 700}", f"0{k % 90}", k % 5) for k in range(10_000)]


def test_bytes_that_are_no_utf8_stay_distinct(tmp_path):
    (tmp_path / "r").write_bytes("é,1,1\nè,1,2\n".encode("latin-1"))
    assert read_ratings(tmp_path / "r").user.ids.size == 2


def test_a_test_file_has_the_columns_of_the_training_file(write):
    like = read_ratings(write("rating,user,item\n3,1,2\n")).columns
    assert rows(read_ratings(write("5,7,8\n", "t"), like=like)) == [("7", "8", 5.0)]
    assert rows(read_ratings(write("user\titem\trating\n7\t8\t5\n", "t"), like=like)) == [("7", "8", 5.0)]
    like = read_ratings(write("Kunde,Ware,Note\na,b,1\n")).columns  # names that nothing is known of: the first three
    assert rows(read_ratings(write("Ware,Note,Kunde\n2,3,1\n", "t"), like=like)) == [("1", "2", 3.0)]


KNOWN = {"user": np.array([1, 2]), "item": np.array(["a", "b"])}


@pytest.mark.parametrize(
    ("train", "text"),
    [
        ("1,a,3\n", "1,a\n2,x\n"),
        ("1,a,3\n", "user,item\n1,a\n2,x\n"),
        ("1,a,3\n", "Item-ID;User-ID\na;1\nx;2\n"),
        ("1,a,3\n", "1\ta\t5\n2\tx\t4\n"),
        ("rating,item,user\n3,a,1\n", "a,1\nx,2\n"),
        ("rating,item,user\n3,a,1\n", ",a,1\n,x,2\n"),
        ("Kunde,Ware,Note\n1,a,3\n", "Ware,x,Kunde\na,9,1\nx,9,2\n"),
    ],
)
def test_pairs_to_predict_need_no_ratings_and_a_header_is_no_pair(write, train, text):
    like = read_ratings(write(train)).columns
    found = read_pairs(write(text, "inputs"), like=like, known=KNOWN)
    assert found.user.cells.astype(str).tolist() == ["1", "2"]
    assert found.item.cells.astype(str).tolist() == ["a", "x"]


def test_a_first_line_of_known_ids_is_no_header(write):
    like = read_ratings(write("user,a,3\nx,item,4\n")).columns
    known = {"user": np.array(["user", "x"]), "item": np.array(["a", "item"])}
    found = read_pairs(write("user,item\nx,a\n", "inputs"), like=like, known=known)
    assert found.user.cells.tolist() == ["user", "x"]


def test_words_where_all_known_ids_are_integers_are_a_header(write):
    known = {"user": np.array([1, 2]), "item": np.array([3, 4])}
    like = read_ratings(write("1,3,3\n")).columns
    assert read_pairs(write("Kunde,Ware\n1,3\n", "inputs"), like=like, known=known).user.cells.tolist() == [1]
    assert len(read_pairs(write("Kunde,9\n1,3\n", "inputs"), like=like, known=known).user) == 2


def test_npz_ratings(tmp_path):
    columns = {"user": np.array([5, 6]), "item": np.array(["a", "b"]), "rating": np.array([1, 2], np.int8)}
    np.savez(tmp_path / "r.npz", **columns)
    found = read_ratings(tmp_path / "r.npz")
    assert rows(found) == [("5", "a", 1.0), ("6", "b", 2.0)] and found.rating.dtype == np.float64
    (tmp_path / "r.bin").write_bytes(lzma.compress((tmp_path / "r.npz").read_bytes()))
    assert rows(read_ratings(tmp_path / "r.bin")) == rows(found)
    np.savez(tmp_path / "pairs.npz", user=np.array(["5", "05"]), item=np.array([b"b", b"c"]))
    pairs = read_pairs(tmp_path / "pairs.npz", like=None, known={})
    assert pairs.user.codes_in(found.user.ids).tolist() == [0, -1]
    assert pairs.item.codes_in(found.item.ids).tolist() == [1, -1]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["r", "r.csv", "r.gz", "r.xz"])
def test_a_compressed_file_is_known_by_its_first_bytes(tmp_path, compress, name):
    (tmp_path / name).write_bytes(compress(b"1,2,3\n"))
    assert rows(read_ratings(tmp_path / name)) == [("1", "2", 3.0)]
    (tmp_path / name).write_bytes(b"1,2,3\n")
    assert rows(read_ratings(tmp_path / name)) == [("1", "2", 3.0)]
    (tmp_path / name).write_bytes(compress(b"1,2,3\n" * 100)[:-9])
    with pytest.raises(DataError, match="is a damaged (gzip|bzip2|xz) file"):
        read_ratings(tmp_path / name)


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"1,2,3\n" * 5000,))
    writer.start()
    assert len(read_ratings(tmp_path / "pipe").user) == 5000
    writer.join()


def test_utf16_is_read_and_no_text_is_refused(tmp_path):
    (tmp_path / "r").write_bytes("user\titem\trating\nö\t2\t3\n".encode("utf-16"))
    assert rows(read_ratings(tmp_path / "r")) == [("ö", "2", 3.0)]
    (tmp_path / "r").write_bytes(b"1,2\0,3\n")
    with pytest.raises(DataError, match="must be text"):
        read_ratings(tmp_path / "r")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": np.zeros(2, int), "item": np.zeros(2, int)}, "user, item, rating"),
        ({"user": np.zeros(2, int), "item": np.zeros(3, int), "rating": np.zeros(2)}, r"\(n,\)"),
        ({"user": np.zeros(2), "item": np.zeros(2, int), "rating": np.zeros(2)}, "integers or text"),
        ({"user": np.zeros(2, int), "item": np.zeros(2, int), "rating": np.array([1, np.nan])}, "row 1"),
        ({"user": np.zeros(0, int), "item": np.zeros(0, int), "rating": np.zeros(0)}, "no rating"),
        ({"user": np.zeros(1, int), "item": np.zeros(1, int), "rating": np.array(["x"])}, "finite numbers"),
        ({"user": np.array(["a", ""]), "item": np.zeros(2, int), "rating": np.zeros(2)}, "user in row 1 .* is empty"),
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
        ("user,item,rating\n1,2,3\n1,3,nan\n", "line 3, column 3: the rating is missing, got 'nan'"),
        ("a,2,3\nb,3,inf\n", "line 2, column 3: rating must be a finite number"),
        ("1,2,NA\n1,3,4\n", "line 1, column 3: the rating is missing, got 'NA'"),
        ("1,2,nan\n1,3,4\n", "line 1, column 3: the rating is missing"),
        ("a,b,\n1,3,4\n", "line 1, column 3: the rating is missing, got ''"),
        ("1,2,many\n1,3,4\n", "line 1, column 3: rating must be a finite number, got 'many'"),
        ("1,2,1_0\n", "line 1, column 3: rating must be a finite number, got '1_0'"),
        ("1;2;3,5\n", "line 1, column 3: rating must be a finite number, got '3,5'"),
        ("user,item,rating\n1,2,3\n,2,3\n", "line 3, column 1: the user is empty"),
        ('# c\n\n1,2,3\n1,"",3\n', "line 4, column 2: the item is empty"),
        ("1\t2\t3\n\t2\t3\n", "line 2, column 1: the user is empty"),
        ('1,2,3\n"4,5,6\n7,8,9\n', "line 2: .*not closed"),
        (f"a,2,3\n{'b' * 1001},5,6\n", "line 2, column 1: the user has 1001 characters"),
        ("stars,person,thing\n3,1,2\n", "line 1: the header names some columns but not all"),
        ("user,user,item,rating\n1,1,2,3\n", "line 1: the header has two columns 'user'"),
        ("1\t2\n", "3 columns"),
        ("", "no line of data"),
        ("# words\n", "no line of data"),
        ("user,item,rating\n", "no line of data"),
    ],
)
def test_bad_lines_are_refused_with_their_place(write, text, message):
    with pytest.raises(DataError, match=message):
        read_ratings(write(text))


def test_union_numbers_ids_over_several_columns():
    ids, (a, b) = union(IdColumn.of(np.array([30, 10])), IdColumn.of(np.array([20, 10, 30])))
    assert ids.tolist() == [10, 20, 30] and a.tolist() == [2, 0] and b.tolist() == [1, 0, 2]
    ids, (a, b) = union(IdColumn.of(np.array([7])), IdColumn.of(np.array(["x", "7", "07"])))
    assert ids.tolist() == ["07", "7", "x"] and a.tolist() == [1] and b.tolist() == [2, 1, 0]


def test_ids_are_found_among_others_of_any_kind():
    assert places(np.array([2, 10]), np.array(["10", "2", "02", "x"])).tolist() == [1, 0, -1, -1]
    assert places(np.array(["10", "2", "x"]), np.array([2, 10, 3])).tolist() == [1, 0, -1]
    huge = IdColumn.of(np.array([2**64 - 1, 5], np.uint64))
    assert huge.codes_in(np.array(["18446744073709551615"])).tolist() == [0, -1]


def test_edges_drop_loops_and_refuse_negative_weights(write):
    ids, u, v, weight = read_edges(write("5 9 1.5\n9 9 3\n2 5 0\n"))
    assert ids.tolist() == [2, 5, 9] and u.tolist() == [1, 0] and v.tolist() == [2, 1] and weight.tolist() == [1.5, 0]
    with pytest.raises(DataError, match=r"weights must be >= 0, got -1.0 for the edge 1 - 2"):
        read_edges(write("0 1 1\n1 2 -1\n"))
    with pytest.raises(DataError, match="two different nodes"):
        read_edges(write("1 1 1\n"))


@pytest.mark.parametrize(
    "text",
    [
        "1,a\n3,b\n",
        "node,side\n1,a\n3,b\n",
        "Knoten,Farbe\n1,a\n3,b\n",
        "label,node\na,1\nb,3\n",
        '\ufeff"1" "a"\n3 b\n',
    ],
)
def test_terminals_with_a_header_and_labels_of_text(write, text):
    ids = read_edges(write("1 2 1\n2 3 1\n"))[0]
    nodes, classes, labels, _ = read_terminals(write(text, "t"), ids)
    assert nodes.tolist() == [0, 2] and classes.tolist() == [0, 1] and labels.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 a\n7 b\n", "node 7 has no edge"),
        ("1 a\n2 a\n", "at least two different labels"),
        ("1 a\n2 b\n1 b\n", "node 1 has two labels"),
        ("2 b\nx a\n", "node x has no edge"),
        ("01 a\n2 b\n", "node 01 has no edge"),
        ("1 a\n2,b\n", "line 2: must have 2 columns"),
    ],
)
def test_bad_terminals_are_refused(write, text, message):
    ids = read_edges(write("1 2 1\n2 3 1\n"))[0]
    with pytest.raises(DataError, match=message):
        read_terminals(write(text, "terminals"), ids)


def test_terminals_of_text_nodes(write):
    ids = read_edges(write("s,a,1\na,t,2\n"))[0]
    nodes, classes, labels, columns = read_terminals(write("t,object\ns,background\n", "terminals"), ids)
    assert ids[nodes].tolist() == ["t", "s"] and labels[classes].tolist() == ["object", "background"]
    for text in ("a\nt\n", "node\na\nt\n", "label,node\n,a\n,t\n", "a,unlabelled\nt,\n", "\ufeffa\r\nt"):
        assert ids[read_nodes(write(text, "nodes"), ids, columns)].tolist() == ["a", "t"]
    with pytest.raises(DataError, match="there is no node b in the graph"):
        read_nodes(write("a\nb\n", "nodes"), ids, columns)


def test_edges_by_the_names_of_their_columns(write):
    ids, u, v, weight = read_edges(write("weight,target,source\n1.5,01,1\n"))
    assert ids[u].tolist() == ["1"] and ids[v].tolist() == ["01"] and weight.tolist() == [1.5]
