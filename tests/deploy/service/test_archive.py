"""Archives from strangers: the good ones come out as they went in, and nothing else comes out at all."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import zipfile

import pytest

from deploy.service import archive as archive_module
from deploy.service.archive import BadArchive, unpack

from .serving import entry, tree, zipped

MOST = 10_000_000


def packed(*entries: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for info, content in entries:
            made.writestr(entry(info) if isinstance(info, str) else info, content)
    return stream.getvalue()


def renamed(data: bytes, before: str, after: str) -> bytes:
    """The same archive with another name of the same length, which zipfile would not write."""
    assert len(before.encode()) == len(after.encode()) and before.encode() in data
    return data.replace(before.encode(), after.encode())


@pytest.fixture
def opened(tmp_path):
    """Unpacks bytes into a folder beside one with a secret; whatever happens, nothing but the folder changes."""
    folder = tmp_path / "files"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")

    def run(data: bytes, most: int = MOST):
        (tmp_path / "archive.zip").write_bytes(data)
        return unpack(tmp_path / "archive.zip", folder, most), folder

    yield run
    assert {path.name for path in tmp_path.iterdir()} <= {"files", "secret", "archive.zip"}
    assert (tmp_path / "secret").read_text() == "secret"
    assert not any(path.is_symlink() for path in folder.rglob("*"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_good_archive_comes_out_as_it_went_in(opened, compression):
    content = {"points.py": b"x = 1\n", "data/a.csv": os.urandom(3_000_000), "data/deep/ä b.txt": b"", ".hidden": b"1"}
    unpacked, folder = opened(zipped(content, compression))
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == content
    assert (unpacked.files, unpacked.bytes) == (4, sum(map(len, content.values())))


def test_what_may_be_executed_may_be_executed_by_its_owner_and_nothing_else_is_taken_over(opened):
    _, folder = opened(packed((entry("run.sh", mode=stat.S_IFREG | 0o6777), b"#!/bin/sh\n"), ("plain", b"")))
    assert stat.S_IMODE((folder / "run.sh").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "plain").stat().st_mode) == 0o600


def test_folders_and_entries_without_a_mode_are_fine(opened):
    _, folder = opened(
        packed((entry("a/", mode=stat.S_IFDIR | 0o755), b""), ("a/b", b"1"), (entry("c", mode=0), b"2"), ("e/f/g", b""))
    )
    assert tree(folder) == {"a", "a/b", "c", "e", "e/f", "e/f/g"}


GOOD = zipped({"points.py": "x = 1\n", "data.csv": "1,2\n" * 100})
NAMES = {
    "up": "../x",
    "up within": "a/../../x",
    "up at the end": "a/..",
    "here": "./x",
    "absolute": "/tmp/x",
    "two slashes": "a//b",
    "backslash": "a\\..\\b",
    "drive": "C:\\x",
    "line": "a\nb",
    "escape": "a\x1b[31m",
    "right to left": "a\u202egpj.py",
    "long part": "x" * 256,
    "long": "/".join(["x" * 200] * 6),
    "deep": "/".join(["d"] * 33),
    "empty": "/",
}
HOSTILE = {
    **{f"name: {what}": (packed((entry(name), b"1")), "the archive holds") for what, name in NAMES.items()},
    "name: nul": (renamed(packed(("aXb", b"")), "aXb", "a\0b"), "the archive holds 'a\\\\x00b'"),
    "link": (packed((entry("link", mode=stat.S_IFLNK | 0o777), b"/etc/passwd")), "no links, no devices"),
    "link, then through it": (packed((entry("a", mode=stat.S_IFLNK | 0o777), b".."), ("a/x", b"")), "no links, no devices"),
    "device": (packed((entry("null", mode=stat.S_IFCHR | 0o666), b"")), "no links, no devices"),
    "pipe": (packed((entry("pipe", mode=stat.S_IFIFO | 0o666), b"")), "no links, no devices"),
    "socket": (packed((entry("socket", mode=stat.S_IFSOCK | 0o666), b"")), "no links, no devices"),
    "folder that is a file": (packed((entry("a/", mode=stat.S_IFREG | 0o600), b"")), "neither a regular file nor a folder"),
    "file that is a folder": (packed((entry("a", mode=stat.S_IFDIR | 0o700), b"")), "neither a regular file nor a folder"),
    "folder with content": (renamed(packed((entry("aX", mode=0), b"1")), "aX", "a/"), "a folder with content"),
    "twice": (renamed(packed(("ab", b"1"), ("aX", b"2")), "aX", "ab"), "one name on some file systems"),
    "capitals": (packed(("Points.py", b"1"), ("points.py", b"2")), "one name on some file systems"),
    "sharp s": (packed(("stra\u00dfe", b"1"), ("STRASSE", b"2")), "one name on some file systems"),
    "accents": (packed(("\u00e9", b"1"), ("e\u0301", b"2")), "one name on some file systems"),
    "file, then folder": (packed(("a", b"1"), ("a/b", b"2")), "as a file and as a folder"),
    "folder, then file": (packed(("a/b", b"1"), ("a", b"2")), "as a file and as a folder"),
    "bzip2": (packed((entry("a", zipfile.ZIP_BZIP2), b"1")), "neither stored nor deflated"),
    "lzma": (packed((entry("a", zipfile.ZIP_LZMA), b"1")), "neither stored nor deflated"),
    "comment": (GOOD[:-2] + b"\x05\0hello", "without a comment"),
    "something behind": (GOOD + b"x", "without a comment or anything else behind it"),
    "something before": (b"#!/bin/sh\n" + GOOD, "nothing before or between"),
    "two archives": (GOOD + GOOD, "nothing before or between"),
    "empty": (b"", "got 0 bytes"),
    "short": (b"PK\5\6", "got 4 bytes"),
    "no archive": (b"x" * 1000, "must be a zip archive"),
    "tar": (b"\0" * 10_240, "must be a zip archive"),
    "half": (GOOD[: len(GOOD) // 2], "must be a zip archive"),
    "too large": (packed(("a", b"\0" * (MOST + 1))), "must unpack to at most 10 MB, got 10.0 MB"),
    "too large together": (packed(*[(f"a{n}", os.urandom(10) * 210_000) for n in range(5)]), "must unpack to at most 10 MB"),
    "size of four gigabytes": (
        GOOD[:-10] + struct.pack("<LL", 0xFFFFFFFF, 0xFFFFFFFF) + GOOD[-2:],
        "must not be a ZIP64 one",
    ),
    "many disks": (GOOD[:-18] + struct.pack("<HH", 1, 1) + GOOD[-14:], "in one piece"),
}  # fmt: skip


@pytest.mark.parametrize("data, match", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused_before_anything_is_written(opened, tmp_path, data, match):
    with pytest.raises(BadArchive, match=match) as refused:
        opened(data)
    assert not tree(tmp_path / "files") and len(str(refused.value)) < 400


def test_an_encrypted_file_is_refused(opened):
    data = bytearray(packed(("a", b"1")))
    at = data.index(b"PK\1\2")
    data[at + 8] |= 1
    with pytest.raises(BadArchive, match="encrypted"):
        opened(bytes(data))


def test_too_many_files_are_refused_before_they_are_listed(opened, monkeypatch):
    monkeypatch.setattr(archive_module, "MOST_FILES", 5)
    opened(packed(*[(f"a{number}", b"") for number in range(5)]))
    with pytest.raises(BadArchive, match="at most 5 files, got 6"):
        opened(packed(*[(f"b{number}", b"") for number in range(6)]))
    # What the end says of the number need not be so; the size of the directory is bounded as well.
    data = bytearray(packed(*[(f"{'c' * 900}{number}", b"") for number in range(12)]))
    data[-14:-10] = struct.pack("<HH", 3, 3)
    with pytest.raises(BadArchive, match="at most 5 files"):
        opened(bytes(data))


def test_more_than_two_hundred_fold_is_refused(opened):
    data = zipped({"zeros": b"\0" * 30_000_000})
    with pytest.raises(BadArchive, match="at most 250 times its size, got 10"):
        opened(data, most=100_000_000)
    opened(zipped({"few": b"\0" * 9_000_000}))  # a little may be


def test_a_file_that_is_larger_than_it_says_is_refused(opened):
    """Both places that name its size lie, so that only unpacking tells."""
    data = bytearray(packed(("a", b"\0" * 100_000)))
    size = struct.pack("<L", 100_000)
    for _ in range(2):
        at = data.index(size)
        data[at : at + 4] = struct.pack("<L", 10)
    with pytest.raises(BadArchive, match="damaged|more than it says"):
        opened(bytes(data), most=1000)


def test_overlapping_files_do_not_multiply(opened):
    """Many entries that all point to the same data, as archives do that unpack to petabytes."""
    one = packed(("a" * 8, os.urandom(1000) * 100))
    start = one.index(b"PK\1\2")
    central, end = one[start:-22], one[-22:]
    many = b"".join(central.replace(b"a" * 8, b"a%07d" % number) for number in range(200))
    data = one[:start] + many + end[:8] + struct.pack("<HHLL", 200, 200, len(many), start) + b"\0\0"
    with pytest.raises(BadArchive, match="unpack to at most 10 MB, got 20.0 MB"):
        opened(data)


def test_a_damaged_file_is_refused(opened):
    data = bytearray(zipped({"a": os.urandom(10_000)}, zipfile.ZIP_STORED))
    data[5000] ^= 1
    with pytest.raises(BadArchive, match="the archive is damaged: Bad CRC-32"):
        opened(bytes(data))


def test_no_damage_of_any_kind_does_more_than_be_refused(tmp_path):
    """Bytes changed, cut out, doubled: refused in words, or unpacked into the folder."""
    generator, unpacked = random.Random(5), 0
    good = packed(
        ("points.py", b"x = 1\n" * 50), ("data/d.csv", b"1,2\n" * 50), (entry("e/", mode=stat.S_IFDIR | 0o700), b"")
    )
    for number in range(600):
        data = bytearray(good)
        for _ in range(generator.choice([1, 1, 1, 2, 5])):
            at = generator.randrange(len(data))
            kind = generator.randrange(4)
            if kind == 0:
                data[at] = generator.randrange(256)
            elif kind == 1:
                data[at] ^= 1 << generator.randrange(8)
            elif kind == 2:
                del data[at : at + generator.choice([1, 4, 40])]
            else:
                data[at:at] = data[at : at + generator.choice([1, 4, 40])]
        path, folder = tmp_path / "archive.zip", tmp_path / f"files{number}"
        path.write_bytes(data)
        folder.mkdir()
        try:
            unpack(path, folder, MOST)
            unpacked += 1
        except BadArchive:
            pass
        assert not any(entry.is_symlink() for entry in folder.rglob("*"))
    assert {entry.name.rstrip("0123456789") for entry in tmp_path.iterdir()} == {"archive.zip", "files"}
    assert 0 < unpacked < 400
