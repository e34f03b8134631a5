"""What travels with a job: what is packed, that it is deterministic, that it lands where it should and nowhere else."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cluster.bundle import Bundle, _contents, _digest, pack, unpack
from deploy.job import load_job
from ps.errors import HogsheadError, JobError
from worker.tasks import task_class

TASK = """
import json

import helper
from package.inner import value


class Mine:
    paths = ("words", "more")

    def __init__(self, *, words="words.txt", more=(), note=""):
        self.words, self.more = open(words).read(), more

    def parameters(self, rng):
        return {}

    def dataset(self):
        return helper.NUMBERS, value

    def loss_and_gradient(self, parameters, batch):
        return 0.0, {}

    def evaluate(self, parameters):
        return {}
"""

JOB = """
backend = "ray"

[task]
name = "tasks/mine.py:Mine"
words = "data/words.txt"
more = ["data/words.txt", "elsewhere.txt"]

[strategy]
name = "downpour"

[rule]
name = "sgd"

[cluster]
files = ["data/*"]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a job, its task, what it imports, and what should stay at home."""
    folder = tmp_path / "project"
    files = {
        "job.toml": JOB,
        "tasks/mine.py": TASK,
        "tasks/helper.py": "import second\nNUMBERS = second.NUMBERS\n",
        "tasks/second.py": "NUMBERS = [1, 2, 3]\n",
        "tasks/package/__init__.py": "",
        "tasks/package/inner.py": "from package import deep\nvalue = deep.value\n",
        "tasks/package/deep.py": "value = 7\n",
        "tasks/package/facts.json": "{}",
        "tasks/package/__pycache__/inner.cpython-311.pyc": "stale",
        "tasks/unrelated.py": "raise RuntimeError",
        "tasks/secrets/key.py": "KEY = 1",
        "data/words.txt": "one two",
        "data/.hidden": "mine",
        "data/deep/more.txt": "three",
        "data/venv/pyvenv.cfg": "",
        "data/env/pyvenv.cfg": "",
        "data/env/lib.py": "",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    monkeypatch.syspath_prepend(str(folder / "tasks"))
    yield folder
    for name in [name for name in sys.modules if name in ("helper", "second") or name.startswith("package")]:
        del sys.modules[name]


def names(bundle: Bundle) -> list[str]:
    return sorted(_contents(bundle.data))


def test_what_travels(project):
    bundle = pack(load_job(project / "job.toml"))
    assert Path(bundle.base) == project
    assert names(bundle) == [
        "data/deep/more.txt",
        "data/words.txt",
        "tasks/helper.py",
        "tasks/mine.py",
        "tasks/package/__init__.py",
        "tasks/package/deep.py",
        "tasks/package/facts.json",
        "tasks/package/inner.py",
        "tasks/second.py",
    ]


def test_a_built_in_task_has_nothing_to_take_along(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text('strategy = "sequential"\n[task]\nname = "mlp"\n[data]\ntrain = "sklearn:iris"\n')
    job = load_job(path)
    bundle = pack(job)
    assert names(bundle) == []
    assert unpack(bundle, tmp_path / "node", job) == job


def test_the_same_files_make_the_same_bytes(project):
    job = load_job(project / "job.toml")
    first = pack(job)
    for path in project.rglob("*.txt"):
        os.utime(path, (1, 1))
    assert pack(job) == first
    (project / "data" / "words.txt").write_text("one two three")
    assert pack(job).digest != first.digest


def test_the_job_runs_where_it_was_unpacked(project, tmp_path):
    job = load_job(project / "job.toml")
    bundle = pack(job)
    project.rename(tmp_path / "gone")  # as on another host
    program = (
        "import json, sys; from pathlib import Path; from deploy.cluster.bundle import Bundle, unpack\n"
        "data, tables = Path(sys.argv[1]).read_bytes(), json.loads(sys.argv[2])\n"
        "job = unpack(Bundle(data, *sys.argv[3:5]), sys.argv[5], tables)\n"
        "task = job.build_task()\n"
        "print(task.words, task.more, task.dataset(), sys.path[0] == sys.argv[5])"
    )
    import json

    (tmp_path / "bundle").write_bytes(bundle.data)
    node = tmp_path / "node"
    tables = json.dumps(job.to_dict())
    arguments = [str(tmp_path / "bundle"), tables, bundle.digest, bundle.base, str(node)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    moved = node / bundle.digest / "data" / "words.txt"
    elsewhere = project / "elsewhere.txt"  # did not travel: a path of the node's own
    assert done.stdout.strip() == f"one two {[str(moved), str(elsewhere)]} ([1, 2, 3], 7) False"


def test_a_job_and_its_tables_come_to_the_same(project, tmp_path):
    job = load_job(project / "job.toml")
    bundle = pack(job)
    moved = unpack(bundle, tmp_path / "node", job)
    assert moved == unpack(bundle, tmp_path / "node", job.to_dict())
    assert moved.path == job.path and moved.task.name.endswith(f"node/{bundle.digest}/tasks/mine.py:Mine")
    assert replace(moved, task=job.task) == job
    assert task_class(moved.task.name).paths == ("words", "more")


def test_one_node_unpacks_once(project, tmp_path):
    job = load_job(project / "job.toml")
    bundle = pack(job)
    unpack(bundle, tmp_path / "node", job)
    facts = (tmp_path / "node" / bundle.digest / "tasks" / "mine.py").stat()
    unpack(replace(bundle, data=b"never looked at"), tmp_path / "node", job)
    assert (tmp_path / "node" / bundle.digest / "tasks" / "mine.py").stat().st_ino == facts.st_ino
    assert [entry.name for entry in (tmp_path / "node").iterdir()] == [bundle.digest]
    assert stat.S_IMODE((tmp_path / "node").stat().st_mode) == 0o700


def test_a_folder_that_others_could_write_is_made_private(project, tmp_path):
    job = load_job(project / "job.toml")
    (tmp_path / "node").mkdir()
    (tmp_path / "node").chmod(0o777)
    unpack(pack(job), tmp_path / "node", job)
    assert stat.S_IMODE((tmp_path / "node").stat().st_mode) == 0o700


def test_links_travel_as_what_they_point_to(project, tmp_path):
    (project / "big.txt").write_text("far away")
    (project / "data" / "linked.txt").symlink_to(project / "big.txt")
    job = load_job(project / "job.toml", ["task.words=" + str(project / "data" / "linked.txt")])
    moved = unpack(pack(job), tmp_path / "node", job)
    assert Path(moved.task.options["words"]).read_text() == "far away"
    assert Path(moved.task.options["words"]).is_relative_to(tmp_path / "node")


def packed_names(project: Path, *patterns: str) -> list[str]:
    """What of ``data`` and ``linked`` travels with these patterns."""
    job = load_job(project / "job.toml")
    made = names(pack(replace(job, cluster=replace(job.cluster, files=list(patterns)))))
    return [name for name in made if not name.startswith("tasks/")]


def test_folders_behind_links_travel_whole(project):
    (project / "other" / "deep").mkdir(parents=True)
    (project / "other" / "deep" / "a.txt").write_text("a")
    (project / "data" / "linked").symlink_to("../other")
    expected = ["data/deep/more.txt", "data/linked/deep/a.txt", "data/words.txt", "other/deep/a.txt"]
    assert packed_names(project, "data") == packed_names(project, "data/*") == expected
    assert packed_names(project, "data/linked") == ["data/linked/deep/a.txt", "other/deep/a.txt"]


def test_the_whole_project_travels(project):
    assert packed_names(project, ".") == ["data/deep/more.txt", "data/words.txt", "job.toml"]
    assert packed_names(project, "./data") == packed_names(project, "data")


def test_a_link_that_leads_out_of_the_project_is_refused(project, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "away.txt").write_text("far away")
    link = project / "data" / "deep" / "link"
    for target in (tmp_path / "far" / "away.txt", tmp_path / "far"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        for pattern in ("data", "data/*", ".", "data/deep/link", "**/*"):
            with pytest.raises(
                JobError, match=f"{link} cannot travel with the job: it is a link to {target}, outside of"
            ):
                packed_names(project, pattern)
        assert "far/away.txt" in packed_names(project, str(target))  # as the message says
    with pytest.raises(JobError, match="outside of"):
        packed_names(project, "data/deep/link/away.txt")
    assert "far/away.txt" in packed_names(project, "../far/*")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (".", "a folder that it lies in; remove the link"),
        ("..", "a folder that it lies in; remove the link"),
        ("nowhere", "which is not there"),
        ("link", "which is not there"),
    ],
)
def test_a_link_that_leads_nowhere_or_in_a_circle_is_refused(project, target, message):
    (project / "data" / "link").symlink_to(target)
    for pattern in ("data", "data/*", "."):
        with pytest.raises(JobError, match=message):
            packed_names(project, pattern)


def test_what_is_no_file_is_refused(project):
    os.mkfifo(project / "data" / "pipe")
    for pattern in ("data", "data/*", "data/pipe"):
        with pytest.raises(JobError, match="pipe cannot travel with the job: it is no file"):
            packed_names(project, pattern)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("data/*.csv", r"'data/\*.csv' matches nothing in .*project"),
        ("", "is no pattern"),
        ("data/**/*.py", "matches nothing"),
    ],
)
def test_globs_that_match_nothing(project, pattern, message):
    job = load_job(project / "job.toml")
    with pytest.raises(JobError, match=message):
        pack(replace(job, cluster=replace(job.cluster, files=[pattern])))


def test_what_is_hidden_travels_when_it_is_named(project):
    job = load_job(project / "job.toml")
    files = ["data/.hidden", str(project / "data" / "deep"), "tasks/../data/words.txt"]
    bundle = pack(replace(job, cluster=replace(job.cluster, files=files)))
    assert [name for name in names(bundle) if name.startswith("data")] == [
        "data/.hidden",
        "data/deep/more.txt",
        "data/words.txt",
    ]


def test_too_much_to_travel(project):
    job = load_job(project / "job.toml")
    total = sum(len(content) for content, _ in _contents(pack(job).data).values())
    pack(job, most_bytes=total)
    with pytest.raises(JobError, match=r"files of .* MB would travel.*the largest: .*mine.py"):
        pack(job, most_bytes=total - 1)


# -- what no archive of ours holds ------------------------------------------------------------------------------------


def crafted(*entries: tuple[str, int, bytes]) -> Bundle:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, mode, content in entries:
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            entry.create_system, entry.external_attr = 3, mode << 16
            archive.writestr(entry, content)
    contents = {name: (content, bool(mode & 0o100)) for name, mode, content in entries}
    return Bundle(stream.getvalue(), _digest(contents), "/")


REGULAR = stat.S_IFREG | 0o600


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        (crafted(("../evil.py", REGULAR, b"")), "no file below its folder"),
        (crafted(("a/../../evil.py", REGULAR, b"")), "no file below its folder"),
        (crafted(("/tmp/evil.py", REGULAR, b"")), "no file below its folder"),
        (crafted(("a\\evil.py", REGULAR, b"")), "no file below its folder"),
        (crafted(("./evil.py", REGULAR, b"")), "no file below its folder"),
        (crafted(("link", stat.S_IFLNK | 0o777, b"/etc")), "no file below its folder"),
        (crafted(("folder/", stat.S_IFDIR | 0o700, b"")), "no file below its folder"),
        (Bundle(b"no zip", "0" * 64, "/"), "damaged"),
        (replace(crafted(("a", REGULAR, b"1")), digest="0" * 64), "its digest differs"),
        (replace(crafted(("a", REGULAR, b"1")), digest="../../evil"), "64 hexadecimal digits"),
    ],
)
def test_unsafe_bundles_are_refused(bundle, message, tmp_path):
    with pytest.raises(HogsheadError, match=message):
        unpack(bundle, tmp_path / "node" / "deep", {"task": {"name": "mlp"}})
    left = {path.name for path in tmp_path.rglob("*")}
    assert left <= {"node", "deep"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name(tmp_path):
    with pytest.raises(HogsheadError, match="two files of one name"):
        _contents(crafted(("a", REGULAR, b"1"), ("a", REGULAR, b"2")).data)


def test_a_folder_of_somebody_else(project, tmp_path):
    job = load_job(project / "job.toml")
    (tmp_path / "real").mkdir()
    (tmp_path / "node").symlink_to(tmp_path / "real")
    with pytest.raises(HogsheadError, match="folder of this user's own"):
        unpack(pack(job), tmp_path / "node", job)


@given(st.data())
def test_a_damaged_archive_is_never_unpacked(data):
    """Whatever bytes are changed, it is refused in words, or holds what it held."""
    whole = crafted(("a/b.py", REGULAR, b"print()" * 9), ("c.txt", REGULAR, b"words" * 50))
    content = bytearray(whole.data)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    try:
        found = _contents(bytes(content))
    except HogsheadError:
        return
    for name in found:
        assert not name.startswith("/") and ".." not in name.split("/")
