"""Data by URL: fetched once per host, again when it has changed, with errors that name the URL and what is missing."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ps.errors import DataError, HogsheadError, UsageError
from worker.data import fetch, remote

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory():
    """The file system of ``memory://``, which counts what is fetched from it."""
    fs = fsspec.filesystem("memory")
    get_file, fs.fetched = fs.get_file, Counter()

    def counting(name, target, **options):
        fs.fetched[Path(name).name] += 1
        return get_file(name, target, **options)

    fs.get_file = counting
    yield fs
    fs.get_file = get_file
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def server(tmp_path):
    """A web server with files in a folder, on this machine; it knows what it was asked."""
    asked: Counter[tuple[str, str]] = Counter()
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def send_head(self):
            asked[self.command, self.path] += 1
            return super().send_head()

    class Server(ThreadingHTTPServer):
        daemon_threads = False

    with Server(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder, asked
        httpd.shutdown()
        thread.join()


def read(url: str, cache: Path) -> bytes:
    return Path(fetch.local(url, "train", cache)).read_bytes()


def test_fetched_once(memory, tmp_path):
    memory.pipe_file("/bucket/a.csv.gz", b"1,2")
    first = fetch.local("memory://bucket/a.csv.gz", "train", tmp_path)
    assert Path(first).name == "a.csv.gz" and Path(first).read_bytes() == b"1,2"
    assert fetch.local("memory://bucket/a.csv.gz", "train", tmp_path) == first
    assert memory.fetched["a.csv.gz"] == 1


def test_fetched_again_when_it_has_changed(memory, tmp_path):
    memory.pipe_file("/bucket/a.csv", b"old")
    old = fetch.local("memory://bucket/a.csv", "train", tmp_path)
    for content in (b"new", b"newer"):
        memory.pipe_file("/bucket/a.csv", content)
        assert read("memory://bucket/a.csv", tmp_path) == content
        if content == b"new":
            assert Path(old).read_bytes() == b"old"  # somebody may be reading it
    assert not Path(old).exists()


def test_a_damaged_copy_is_not_used(memory, tmp_path):
    memory.pipe_file("/bucket/a.csv", b"whole")
    copy = Path(fetch.local("memory://bucket/a.csv", "train", tmp_path))
    copy.write_bytes(b"wh")
    assert read("memory://bucket/a.csv", tmp_path) == b"whole"
    copy.unlink()
    assert read("memory://bucket/a.csv", tmp_path) == b"whole"
    next(tmp_path.glob("*/source.json")).write_text("{")
    assert read("memory://bucket/a.csv", tmp_path) == b"whole"


def test_without_a_date_it_is_fetched_each_time(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "info", lambda path: {"size": 3, "type": "file"})
    memory.pipe_file("/bucket/a.csv", b"old")
    first = fetch.local("memory://bucket/a.csv", "train", tmp_path)
    assert fetch.local("memory://bucket/a.csv", "train", tmp_path) == first
    memory.pipe_file("/bucket/a.csv", b"new")
    assert read("memory://bucket/a.csv", tmp_path) == b"new"
    assert memory.fetched["a.csv"] == 3


def test_a_folder(memory, tmp_path):
    memory.pipe({"/bucket/mnist/images": b"1", "/bucket/mnist/deep/labels": b"2", "/bucket/other": b"3"})
    copy = Path(fetch.local("memory://bucket/mnist/", "train", tmp_path))
    assert copy.name == "mnist"
    assert {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()} == {"images", "deep/labels"}
    memory.rm("/bucket/mnist/images")
    copy = Path(fetch.local("memory://bucket/mnist/", "train", tmp_path))
    assert not (copy / "images").exists() and (copy / "deep" / "labels").read_bytes() == b"2"


def test_names_that_leave_the_folder(memory, tmp_path, monkeypatch):
    listing = {"/bucket/mnist/../../evil": {"size": 1, "type": "file"}}
    monkeypatch.setattr(memory, "find", lambda path, detail: listing)
    with pytest.raises(DataError, match="evil.*not fetched"):
        fetch.local("memory://bucket/mnist/", "train", tmp_path)


def test_a_download_that_came_short(memory, tmp_path, monkeypatch):
    memory.pipe_file("/bucket/a.csv", b"0123456789")
    monkeypatch.setattr(memory, "get_file", lambda name, target: Path(target).write_bytes(b"01234"))
    with pytest.raises(DataError, match="train: memory://bucket/a.csv: a.csv has 10 bytes, but 5 have come"):
        fetch.local("memory://bucket/a.csv", "train", tmp_path)
    assert not list(tmp_path.glob("*/[!l]*")), "nothing but the lock is left"


def test_errors_name_the_url(memory, tmp_path):
    with pytest.raises(DataError, match="train: memory://bucket/none.csv cannot be fetched: there is no such file"):
        fetch.local("memory://bucket/none.csv", "train", tmp_path)
    with pytest.raises(DataError, match="there is nothing in this folder|no such file"):
        fetch.local("memory://bucket/none/", "train", tmp_path)
    with pytest.raises(DataError, match="qq://bucket/a.csv: .*qq.*e.g. s3://"):
        fetch.local("qq://bucket/a.csv", "train", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot keep a copy"):
        fetch.local("memory://bucket/a.csv", "train", tmp_path / "file")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match="s3://bucket/a.csv: needs the package s3fs.*pip install s3fs"):
        fetch.local("s3://bucket/a.csv", "train", tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "fsspec"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match="needs the package fsspec"):
        fetch.local("s3://bucket/a.csv", "train", tmp_path)


def test_passwords_are_not_shown(tmp_path):
    with pytest.raises(DataError) as caught:
        fetch.local("qq://user:secret@host/a.csv", "train", tmp_path)
    assert "secret" not in str(caught.value) and "host/a.csv" in str(caught.value)


def test_options_that_are_no_urls_stay(memory, tmp_path):
    memory.pipe_file("/bucket/a.csv", b"1")
    options = {
        "train": ["memory://bucket/a.csv", "b.csv"],
        "test": "hogshead:a9a",
        "note": "memory://bucket/a.csv",
        "k": 3,
    }
    found = fetch.fetched(options, ("train", "test", "absent"), tmp_path)
    copy, plain = found["train"]
    assert Path(copy).read_bytes() == b"1" and plain == "b.csv"
    assert {name: found[name] for name in ("test", "note", "k")} == {
        name: options[name] for name in ("test", "note", "k")
    }


def test_local_files_are_not_copied(tmp_path):
    assert fetch.local(f"file://{tmp_path}/a%20b.csv", "train", tmp_path / "cache") == f"{tmp_path}/a b.csv"
    assert not (tmp_path / "cache").exists()


def test_over_http_without_a_thread_in_this_process(server, tmp_path):
    pytest.importorskip("aiohttp")
    url, folder, asked = server
    (folder / "a b.csv").write_bytes(b"x" * 100_000)
    before = set(threading.enumerate())
    for _ in range(2):
        copy = Path(fetch.local(f"{url}/a%20b.csv", "train", tmp_path / "cache"))
        assert (copy.name, copy.stat().st_size) == ("a b.csv", 100_000)
    assert asked["GET", "/a%20b.csv"] == 1
    ours = [thread.name for thread in threading.enumerate() if thread not in before]
    assert all("process_request_thread" in name for name in ours), ours  # the server's own, for connections
    with pytest.raises(DataError, match="train: http.*none.csv cannot be fetched: there is no such file"):
        fetch.local(f"{url}/none.csv", "train", tmp_path / "cache")


def test_of_several_processes_one_fetches(server, tmp_path):
    pytest.importorskip("aiohttp")
    url, folder, asked = server
    (folder / "a.csv").write_bytes(b"x" * 1000)
    program = "import sys; from worker.data.fetch import fetch_here; print(fetch_here(*sys.argv[1:]))"
    command = [sys.executable, "-c", program, f"{url}/a.csv", "train", str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate()[0] for process in running}) == 1
    assert [process.returncode for process in running] == [0, 0, 0]
    assert asked["GET", "/a.csv"] == 1


def test_others_wait_while_it_is_fetched(memory, tmp_path, monkeypatch):
    get_file, held = memory.get_file, []

    def looking(name, target):
        with open(next(tmp_path.glob("*/lock")), "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)
        get_file(name, target)

    monkeypatch.setattr(memory, "get_file", looking)
    memory.pipe_file("/bucket/a.csv", b"1")
    fetch.local("memory://bucket/a.csv", "train", tmp_path)
    assert held == [True]
    with open(next(tmp_path.glob("*/lock")), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_job_reads_its_data_from_a_url(memory, tmp_path, monkeypatch):
    from deploy.job import Job

    monkeypatch.setenv("HOGSHEAD_CACHE", str(tmp_path / "cache"))
    memory.pipe_file("/bucket/a.csv", b"1,2,0\n3,4,1\n5,6,0\n7,8,1\n")
    sections = {"task": {"name": "mlp", "hidden": [2]}, "strategy": "sequential"}
    job = Job.from_dict({**sections, "data": {"train": "memory://bucket/a.csv", "test_fraction": 0.5}})
    assert job.to_dict()["data"]["train"] == "memory://bucket/a.csv"
    assert len(job.build_task().dataset()) == 2
    assert memory.fetched["a.csv"] == 1


# -- another process --------------------------------------------------------------------------------------------------


def test_where_copies_are_kept(monkeypatch):
    monkeypatch.setenv("HOGSHEAD_CACHE", "/cache")
    assert fetch.cache_folder() == Path("/cache")
    monkeypatch.delenv("HOGSHEAD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/u/.c")
    assert fetch.cache_folder() == Path("/home/u/.c/hogshead/data")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("s3://bucket/a", True),
        ("simplecache::s3://bucket/a", True),
        ("zip://a.csv::http://host/a.zip", True),
        ("hogshead:a9a", False),
        ("sklearn:digits", False),
        ("/data/a.csv", False),
        ("c://drive", False),
        (3, False),
        (None, False),
    ],
)
def test_what_is_a_url(value, expected):
    assert remote.is_url(value) is expected


def test_errors_and_results_of_another_process():
    assert remote.aside("os.path:join", "a", "b") == "a/b"
    with pytest.raises(UsageError, match="needs|No such|cannot|no such"):
        remote.aside("worker.data.fetch:fetch_here", "qq://bucket", "train", os.devnull + "/cache")
    with pytest.raises(HogsheadError, match="os:_exit ended with code 3, and said: nothing"):
        remote.aside("os:_exit", 3)
    with pytest.raises(HogsheadError, match="os:getcwdu ended with code 1, and said: AttributeError"):
        remote.aside("os:getcwdu")


def test_what_the_other_process_prints_does_no_harm():
    assert remote.aside("builtins:print", "hello") is None
