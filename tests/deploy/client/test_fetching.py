"""Fetching: whole files in a folder of the user's, and nothing outside it whatever the service sends."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import grpc
import pytest

from deploy.client.client import connect
from deploy.client.failures import ServiceAway
from deploy.client.fetching import Download, prepare, write_files
from deploy.client.wire import Patience
from deploy.service.states import BUSY
from deploy.wire import jobs_pb2 as pb
from ps.errors import HogsheadError, UsageError

from .fake import TOKEN


def file(path: str, size: int) -> pb.FetchReply:
    return pb.FetchReply(file=pb.FetchReply.File(path=path, size=size))


def data(content: bytes) -> pb.FetchReply:
    return pb.FetchReply(data=content)


def done(files: int, size: int) -> pb.FetchReply:
    return pb.FetchReply(done=pb.FetchReply.Done(files=files, bytes=size))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_arrive(client, fake):
    fake.add("a-1", pb.SUCCEEDED)
    fake.files = {"summary.json": b"{}", "checkpoint/7/shard-0.safetensors": b"x" * 23, "empty": b""}
    fetched = client.fetch("a-1")
    assert everything(Path("a-1")) == fake.files
    assert (fetched.folder, fetched.size_bytes, len(fetched.files)) == (Path("a-1"), 25, 3)
    fetched = client.fetch("a-1", "other", ["checkpoint/*"])
    assert fetched.files == ("checkpoint/7/shard-0.safetensors",)
    assert client.read("a-1", "summary.json") == b"{}" and client.read("a-1", "nothing") is None


def test_a_folder_that_holds_something_is_left_alone(client, fake):
    fake.add("a-1", pb.SUCCEEDED)
    fake.files = {"summary.json": b"new"}
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    Path("out/summary.json").write_text("old")
    with pytest.raises(UsageError, match="out is not empty; .*--overwrite"):
        client.fetch("a-1", "out")
    assert not fake.asked("Fetch")
    client.fetch("a-1", "out", overwrite=True)
    assert everything(Path("out")) == {"mine.txt": b"mine", "summary.json": b"new"}
    Path("file").write_text("")
    with pytest.raises(UsageError, match="file: cannot be fetched into"):
        client.fetch("a-1", "file")


def test_a_lost_connection_goes_on_where_it_was(client, fake):
    fake.add("a-1", pb.SUCCEEDED)
    fake.files = {"a": b"1234567890", "empty": b"", "b": b"123456789012", "c": b"3"}
    fake.cuts["Fetch"] = [2, 0, 5, 6]
    fetched = client.fetch("a-1", "out")
    assert everything(Path("out")) == fake.files
    assert (set(fetched.files), fetched.size_bytes) == (set(fake.files), 23)
    known = [{part.path: part.size for part in request.known} for request in fake.asked("Fetch")]
    assert len(known) == 5
    for before, after in zip(known, known[1:]):
        assert all(after[name] >= size for name, size in before.items())


class Service:
    """Its streams as they come to a ``Download``, without a connection.

    Attributes:
      files: what there is. sent: (name, offset) of what was sent in the last stream.
    """

    def __init__(self, **files: bytes):
        self.files, self.sent = files, []

    def stream(self, known, cut: int | None = None):
        """The replies; after ``cut`` of them the connection is lost."""
        begun, self.sent = {(part.path, part.mark): part.size for part in known}, []
        replies = []
        for name, content in self.files.items():
            mark = f"mark of {content!r}"
            offset = begun.get((name, mark), 0)
            self.sent.append((name, offset))
            replies.append(
                pb.FetchReply(file=pb.FetchReply.File(path=name, size=len(content), mark=mark, offset=offset))
            )
            replies += [data(content[at : at + 5]) for at in range(offset, len(content), 5)]
        yield from replies[:cut]
        if cut is not None:
            raise ServiceAway("lost")
        yield done(len(self.files), sum(map(len, self.files.values())))


def test_nothing_is_fetched_twice(tmp_path):
    service, said = Service(a=b"1234567890", empty=b"", b=b"123456789012", c=b"3"), []
    with closing(Download(tmp_path, said.append)) as download:
        for cut in (2, 0, 5, 7):
            with pytest.raises(ServiceAway):
                download.take(service.stream(download.known(), cut))
        fetched = download.take(service.stream(download.known()))
    assert service.sent == [("a", 10), ("empty", 0), ("b", 12), ("c", 1)]
    assert download.received == fetched.size_bytes == 23 and not said
    assert everything(tmp_path) == service.files


def test_what_has_changed_meanwhile_is_fetched_again_and_said(tmp_path):
    service, said = Service(metrics=b"12345", kept=b"k" * 7, gone=b"g", half=b"1234567890", last=b"1"), []
    with closing(Download(tmp_path, said.append)) as download:
        with pytest.raises(ServiceAway):
            download.take(service.stream(download.known(), 9))
        assert {part.path: part.size for part in download.known()} == {"metrics": 5, "kept": 7, "gone": 1, "half": 5}
        service.files = {"metrics": b"12345678", "new": b"n", "kept": b"k" * 7, "half": b"1234567890", "last": b"1"}
        with pytest.raises(ServiceAway):
            download.take(service.stream(download.known(), 4))
        assert said == ["metrics has changed; it is fetched again"]
        assert service.sent == [("metrics", 0), ("new", 0), ("kept", 7), ("half", 5), ("last", 0)]
        service.files = {**service.files, "half": b"0987654321", "metrics": b"123456789"}
        with pytest.raises(ServiceAway):
            download.take(service.stream(download.known(), 2))
        fetched = download.take(service.stream(download.known()))
    assert said[1:] == [f"{name} has changed; it is fetched again" for name in ("metrics", "half")]
    assert service.sent == [("metrics", 5), ("new", 0), ("kept", 7), ("half", 0), ("last", 0)]
    assert everything(tmp_path) == service.files and fetched.files == tuple(service.files)


def test_a_service_that_knows_no_marks_begins_again(client, fake):
    fake.add("a-1")
    fake.fetched = [file("a", 6), data(b"123"), data(b"456"), done(1, 6)]
    fake.cuts["Fetch"] = [2]
    client.fetch("a-1", "out")
    assert everything(Path("out")) == {"a": b"123456"}
    assert [list(request.known) for request in fake.asked("Fetch")] == [[], []]


def test_a_busy_service_is_asked_again(server, fake):
    fake.add("a-1")
    fake.files, said = {"a": b"1"}, []
    busy = (grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are 8 fetches under way, {BUSY}")
    fake.failures["Fetch"] = [busy] * 5
    with connect(
        server.address, TOKEN, patience=Patience(call_s=60, lost_s=60, pause_s=0.01), on_lost=said.append
    ) as client:
        client.fetch("a-1", "out")
    assert said == [f"there are 8 fetches under way, {BUSY}; waiting for a turn"]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (pb.FetchReply.File(path="a", size=6, mark="other", offset=3), "never came of a"),
        (pb.FetchReply.File(path="a", size=6, mark="m", offset=2), "never came of a"),
        (pb.FetchReply.File(path="b", size=6, mark="m", offset=3), "never came of b"),
    ],
)
def test_a_service_that_leaves_out_what_never_came(tmp_path, second, said):
    download = Download(tmp_path)
    first = pb.FetchReply(file=pb.FetchReply.File(path="a", size=6, mark="m"))
    with pytest.raises(HogsheadError, match="ended before"):
        download.take([first, data(b"123")])
    with pytest.raises(HogsheadError, match=said):
        download.take([pb.FetchReply(file=second), data(b"456"), done(1, 6)])
    download.close()
    assert everything(tmp_path) == {}


def test_half_a_file_that_somebody_else_has_changed_is_not_gone_on_with(tmp_path):
    download = Download(tmp_path)
    first = pb.FetchReply(file=pb.FetchReply.File(path="a", size=6, mark="m"))
    with pytest.raises(HogsheadError, match="ended before"):
        download.take([first, data(b"123")])
    assert [part.size for part in download.known()] == [3]
    (tmp_path / ".a.partial").write_bytes(b"12")
    rest = pb.FetchReply(file=pb.FetchReply.File(path="a", size=6, mark="m", offset=3))
    with pytest.raises(HogsheadError, match="changed by somebody else"):
        download.take([rest, data(b"456"), done(1, 6)])
    download.close()
    assert everything(tmp_path) == {}


@pytest.mark.parametrize(
    "name",
    [
        "../out.txt",
        "/etc/passwd",
        "a/../../b",
        "a//b",
        "./a",
        "",
        ".",
        "..",
        "a/",
        "a\\b",
        "a\nb",
        "a\0b",
        "\x1b[2J",
        "good",  # a second time
    ],
)
def test_names_that_cannot_be(tmp_path, name):
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(HogsheadError, match="which cannot be"):
        write_files([file("good", 1), data(b"g"), file(name, 1), data(b"x"), done(2, 2)], folder)
    assert set(tmp_path.rglob("*")) - before == {folder / "good"}


def test_links_in_the_folder_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "file")
    (folder / ".other.partial").symlink_to(outside / "file")
    with pytest.raises(HogsheadError, match="link is a link"):
        write_files([file("link/new", 1), data(b"x"), done(1, 1)], folder)
    with pytest.raises(HogsheadError, match="cannot be written"):
        write_files([file("other", 1), data(b"x"), done(1, 1)], folder)
    write_files([file("file", 1), data(b"x"), done(1, 1)], folder)  # the link itself is replaced
    assert everything(outside) == {"file": b"mine"}
    assert (folder / "file").read_bytes() == b"x" and not (folder / "file").is_symlink()


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ([file("a", 3), data(b"ab"), done(1, 2)], "1 bytes are missing"),
        ([file("a", 3), data(b"ab"), file("b", 0), done(2, 2)], "1 bytes are missing"),
        ([file("a", 1), data(b"ab"), done(1, 2)], "more of a file than it had said"),
        ([data(b"ab"), done(0, 2)], "more of a file"),
        ([file("a", 2), data(b"ab")], "ended before"),
        ([], "ended before"),
        ([file("a", 2), data(b"ab"), done(2, 2)], "1 files of 2 bytes came, the service says 2 of 2"),
        ([file("a", 0), file("a/b", 0), done(2, 0)], "cannot be written|is a folder"),
        ([file("a/b", 0), file("a", 0), done(2, 0)], "a is a folder"),
    ],
)
def test_half_a_file_is_none(tmp_path, replies, said):
    with pytest.raises(HogsheadError, match=said):
        write_files(replies, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    assert set(everything(tmp_path)) <= {"a", "a/b"}
    if "missing" in said:
        assert not everything(tmp_path)


def test_prepare_makes_the_folder(tmp_path):
    prepare(tmp_path / "a" / "b", False)
    assert (tmp_path / "a" / "b").is_dir()
