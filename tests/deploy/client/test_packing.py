"""A job file as a submission: what travels, where its paths lead then, and what is refused before anything is sent."""

from __future__ import annotations

import io
import tomllib
import zipfile
from pathlib import Path

import pytest

from deploy.client.packing import pack_job
from deploy.cluster.bundle import pack
from deploy.job import Job
from ps.errors import JobError

TASK = """
import helper


class Mine:
    paths = ("words", "more")

    def __init__(self, *, words, more=(), note="", rate=0.5):
        self.words, self.more = words, more

    def parameters(self, rng):
        return {}

    def dataset(self):
        return []

    def loss_and_gradient(self, parameters, batch):
        return 0.0, {}

    def evaluate(self, parameters):
        return {}
"""

JOB = """
seed = 3

[task]
name = "tasks/mine.py:Mine"
note = "data/words.txt"

[data]
words = "../shared/words.txt"
more = ["data/a.txt", "/on/the/cluster.txt", "s3://bucket/b.txt"]

[strategy]
name = "downpour"

[rule]
name = "sgd"
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with a job, its task and data, some of it beside the folder."""
    files = {
        "project/job.toml": JOB,
        "project/tasks/mine.py": TASK,
        "project/tasks/helper.py": "NUMBER = 1\n",
        "project/tasks/unrelated.py": "",
        "project/data/a.txt": "a",
        "project/data/.hidden": "h",
        "project/data/deep/b.txt": "b",
        "shared/words.txt": "one two",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path / "project"


def unpacked(packed, folder: Path) -> Path:
    """As the service does."""
    with zipfile.ZipFile(io.BytesIO(packed.archive)) as archive:
        archive.extractall(folder)
    return folder


def test_what_travels_and_where_paths_lead(project):
    packed = pack_job(project / "job.toml")
    assert sorted(packed.files) == [
        "project/data/a.txt",
        "project/tasks/helper.py",
        "project/tasks/mine.py",
        "shared/words.txt",
    ]
    tables = tomllib.loads(packed.job)
    assert tables["task"] == {"name": "project/tasks/mine.py:Mine", "note": "data/words.txt"}
    assert tables["data"] == {
        "words": "shared/words.txt",
        "more": ["project/data/a.txt", "/on/the/cluster.txt", "s3://bucket/b.txt"],
    }
    assert (packed.name, tables["backend"], tables["seed"]) == ("job", "ray", 3)
    assert packed.notes == ("[data] more: /on/the/cluster.txt does not travel; the cluster's nodes read it there",)
    assert str(project) not in packed.job


def test_it_is_the_same_job_there(project, tmp_path):
    """Read at the service, it resolves; and everything travels on from there to the nodes."""
    (project / "job.toml").write_text(JOB + '[cluster]\nfiles = ["data/*", "data/.hidden"]\n')
    packed = pack_job(project / "job.toml", ["strategy.n_push=3"])
    place = unpacked(packed, tmp_path / "there")
    (tmp_path / "shared" / "words.txt").unlink()
    job = Job.from_dict(tomllib.loads(packed.job), folder=place, path=str(place / "job.toml"))
    assert Path(job.data.options["words"]).read_text() == "one two"
    assert job.strategy.options["n_push"] == 3
    assert set(packed.files) >= {"project/data/.hidden", "project/data/deep/b.txt"}
    with zipfile.ZipFile(io.BytesIO(pack(job).data)) as onwards:
        assert sorted(onwards.namelist()) == sorted(packed.files)


def test_an_absolute_path_among_the_files_travels(project, tmp_path):
    words = tmp_path / "shared" / "words.txt"
    packed = pack_job(project / "job.toml", [f'data.words="{words}"', f'cluster.files=["{words}"]'])
    assert tomllib.loads(packed.job)["data"]["words"] == "shared/words.txt"
    assert "shared/words.txt" in packed.files and not any("words.txt does not travel" in note for note in packed.notes)


def test_the_users_home_is_not_the_clusters(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "shared"))
    packed = pack_job(project / "job.toml", ["data.words=~/words.txt"])
    assert tomllib.loads(packed.job)["data"]["words"] == "shared/words.txt"


def test_overrides_are_relative_to_here(project):
    Path("own.txt").write_text("own")
    packed = pack_job(project / "job.toml", ["data.words=own.txt", "data.more=", "workers.count=7", "name=other"])
    tables = tomllib.loads(packed.job)
    assert tables["data"]["words"].endswith("here/own.txt") and "more" not in tables["data"]
    assert (tables["workers"]["count"], packed.name) == (7, "other")
    assert any(name.endswith("here/own.txt") for name in packed.files)


def test_a_built_in_task_takes_nothing_along():
    tables = {"task": "mlp", "data": {"train": "sklearn:iris"}, "strategy": "downpour", "rule": "sgd"}
    packed = pack_job(tables)
    assert (packed.archive, packed.files, packed.name) == (b"", (), "job")
    assert "cluster" not in tomllib.loads(packed.job)


def test_data_of_a_built_in_task_travel(tmp_path):
    Path("points.csv").write_text("1,2\n")
    packed = pack_job({"task": "mlp", "data": {"train": "points.csv"}, "strategy": "downpour", "rule": "sgd"})
    assert packed.files == ("points.csv",)
    assert tomllib.loads(packed.job)["data"]["train"] == "points.csv"


def test_what_the_service_decides_is_left_out(project):
    (project / "job.toml").write_text(
        'run = "runs/mine"\nbackend = "simulation"\n' + JOB + '[cluster]\naddress = "10.0.0.1:6379"\ndetach = true\n'
    )
    packed = pack_job(project / "job.toml")
    tables = tomllib.loads(packed.job)
    assert "run" not in tables and set(tables["cluster"]) == {"files"} and tables["backend"] == "ray"
    for what in ("run", "[cluster] address", "[cluster] detach", 'backend = "simulation"'):
        assert any(note.startswith(f"{what} does not count") for note in packed.notes)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["strategy.n_psuh=3"], "did you mean 'n_push'"),
        (["task.nose=1"], r"\[task\] nose: unknown key"),
        (["data.words=nowhere.txt"], r"there is no .*nowhere.txt; relative paths travel"),
        (["record=true"], "record = true is for a run on one machine"),
        (["name=../evil"], "folder's name|must be up to 64 letters"),
        (["name=a b"], "must be up to 64 letters"),
        (["cluster.files=[\"nothing*\"]"], "matches nothing"),
        (["service.on_loss=weep"], "on_loss must be one of"),
        (["seed"], "must be section.key=value"),
    ],
)  # fmt: skip
def test_mistakes_are_found_here(project, overrides, said):
    with pytest.raises(JobError, match=said) as error:
        pack_job(project / "job.toml", overrides)
    assert "job.toml: " in str(error.value)


def test_too_much_says_which(project):
    (project / "data" / "a.txt").write_text("a" * 5000)
    with pytest.raises(JobError, match=r"bounds .*largest: .*a.txt \(0.0 MB\)"):
        pack_job(project / "job.toml", most_bytes=4000)


def test_a_task_that_needs_what_is_not_here(project):
    (project / "tasks" / "mine.py").write_text("import no_such_package\n" + TASK)
    with pytest.raises(JobError, match="no_such_package.*--unchecked"):
        pack_job(project / "job.toml")
    packed = pack_job(project / "job.toml", checked=False)
    assert "shared/words.txt" in packed.files and "project/data/a.txt" in packed.files
    assert tomllib.loads(packed.job)["data"]["words"] == "shared/words.txt"


def test_a_file_name_is_made_to_fit_as_a_name(project):
    (project / "job.toml").rename(project / "-my job (2).toml")
    assert pack_job(project / "-my job (2).toml").name == "my_job_2_"
    assert pack_job(project / "-my job (2).toml", name="x.y_z-1").name == "x.y_z-1"


def test_a_class_is_a_task(project):
    from worker.tasks import task_class

    cls = task_class(str(project / "tasks" / "mine.py") + ":Mine")
    tables = {"task": {"name": cls}, "data": {"words": "/there"}, "strategy": "downpour", "rule": "sgd"}
    packed = pack_job(tables)
    assert tomllib.loads(packed.job)["task"]["name"] == "mine.py:Mine"
    assert sorted(packed.files) == ["helper.py", "mine.py"]


def test_a_folder_of_data_travels_whole(project):
    packed = pack_job(project / "job.toml", [f"data.words={project / 'data'}", "data.more="])
    assert not any("data/" in name for name in packed.files)  # absolute: the cluster's
    (project / "job.toml").write_text(JOB.replace("../shared/words.txt", "data"))
    packed = pack_job(project / "job.toml")
    assert {"data/deep/b.txt", "data/a.txt"} <= set(packed.files) and "data/.hidden" not in packed.files
    assert tomllib.loads(packed.job)["data"]["words"] == "data"


def test_the_same_files_make_the_same_bytes(project):
    assert pack_job(project / "job.toml") == pack_job(project / "job.toml")


def test_no_job_file(tmp_path):
    (tmp_path / "real.toml").write_text("")
    with pytest.raises(JobError, match="no such job file; did you mean 'real.toml'"):
        pack_job(tmp_path / "rael.toml")
