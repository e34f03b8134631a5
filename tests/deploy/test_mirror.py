"""The mirror of a run's checkpoints: in the background, never in the way, and a whole run can go on from it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hogshead
from deploy.cli import main
from deploy.mirror import Mirror, check_url, require_unused, sweep
from ps.checkpoint import Checkpoint, checkpoints
from ps.errors import CheckpointError, RunDirectoryError, UsageError

pytest.importorskip("fsspec")


def checkpoint(folder: Path, number: int) -> Path:
    path = folder / "run" / "checkpoint" / f"{number:011d}"
    path.mkdir(parents=True)
    (path / "shard-0.safetensors").write_bytes(bytes([number]) * 10)
    (path / "manifest.json").write_text("{}")
    return path


class Scripted:
    """Stands for the process that uploads: the test reads what it is asked and says what it answers."""

    def __init__(self):
        self.stdin, self._written = io.BytesIO(), 0
        outside, self._inside = os.pipe()
        os.set_blocking(outside, False)
        self.stdout = open(outside, "rb", buffering=0)

    def asked(self) -> list[Path]:
        new = self.stdin.getvalue()[self._written :]
        self._written += len(new)
        return [Path(json.loads(line)["path"]) for line in new.splitlines()]

    def answer(self, name: str | None, error: str | None = None) -> None:
        os.write(self._inside, json.dumps({"name": name, "error": error, "seconds": 1.0}).encode() + b"\n")

    def die(self) -> None:
        if self._inside >= 0:
            os.close(self._inside)
            self._inside = -1

    kill = die

    def wait(self) -> int:
        return -9


@pytest.fixture
def scripted(monkeypatch):
    """The processes that were started, instead of real ones."""
    started: list[Scripted] = []

    def start(self):
        started.append(Scripted())
        return started[-1]

    monkeypatch.setattr(Mirror, "_start", start)
    yield started
    for process in started:
        process.die()


def test_one_after_another_and_only_the_newest_that_waits(tmp_path, scripted):
    mirror = Mirror(f"file://{tmp_path}/there")
    for number in range(4):
        mirror.saved(checkpoint(tmp_path, number))
    (process,) = scripted
    assert [path.name for path in process.asked()] == [".mirrored-00000000000"]
    assert mirror.poll() == []
    process.answer("00000000000")
    (event,) = mirror.poll()
    assert event["event"] == "mirrored" and event["message"].endswith("there/00000000000")
    assert [path.name for path in process.asked()] == [".mirrored-00000000003"]
    process.answer(None, "no room")
    (event,) = mirror.close()
    assert event["event"] == "mirror_failed" and "00000000003" in event["message"] and "no room" in event["message"]
    assert not list((tmp_path / "run" / "checkpoint").glob(".*"))


def test_what_is_uploaded_outlives_the_checkpoint(tmp_path, scripted):
    """The writer drops old checkpoints while they may be on their way."""
    import shutil

    mirror = Mirror(f"file://{tmp_path}/there")
    path = checkpoint(tmp_path, 0)
    (path.parent.parent / "job.toml").write_text("seed = 1")
    mirror.saved(path)
    shutil.rmtree(path)
    (staged,) = scripted[0].asked()
    assert (staged / "shard-0.safetensors").read_bytes() == bytes(10)
    assert (staged / "job.toml").read_text() == "seed = 1"
    mirror.close(patience_s=0)


def test_a_process_that_dies_is_replaced(tmp_path, scripted):
    mirror = Mirror(f"file://{tmp_path}/there")
    mirror.saved(checkpoint(tmp_path, 0))
    scripted[0].die()
    (event,) = mirror.poll()
    assert event["event"] == "mirror_failed" and "-9" in event["message"] and "training goes on" in event["message"]
    mirror.saved(checkpoint(tmp_path, 1))
    assert len(scripted) == 2
    scripted[1].answer("00000000001")
    (event,) = mirror.close()
    assert event["event"] == "mirrored"


def test_the_end_waits_only_so_long(tmp_path, scripted):
    mirror = Mirror(f"file://{tmp_path}/there")
    mirror.saved(checkpoint(tmp_path, 0))
    (event,) = mirror.close(patience_s=0.01)
    assert "0.01 seconds" in event["message"]
    assert not list((tmp_path / "run" / "checkpoint").glob(".*"))


def test_what_a_killed_run_had_set_aside_is_removed(tmp_path):
    path = checkpoint(tmp_path, 0)
    (path.parent / ".mirrored-00000000007").mkdir()
    sweep(path.parent)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("backup/run", "must be a URL"),
        ("qq://bucket/run", "qq"),
        ("memory://run", "memory of one process"),
    ],
)
def test_what_is_no_mirror(url, message):
    with pytest.raises(UsageError, match=message):
        check_url(url)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UsageError, match="s3://bucket/run: needs the package s3fs.*pip install s3fs"):
        check_url("s3://bucket/run")


@pytest.fixture
def least_squares():
    """Sections of a job of the least-squares task."""
    task = Path(__file__).parent / "tasks" / "least_squares.py"
    return {"task": f"{task}:LeastSquares", "strategy": "downpour", "rule": {"name": "sgd", "lr": 0.1}}


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirrored(train, tmp_path):
    """A run of two epochs that was mirrored."""
    url = f"file://{tmp_path}/there"
    section = {"every_epochs": 1, "every_seconds": None, "keep": 2, "url": url}
    return train(checkpoint={key: value for key, value in section.items() if value is not None}), url


def test_a_run_is_mirrored_and_goes_on_from_there(mirrored, tmp_path):
    result, url = mirrored
    there = tmp_path / "there"
    local = checkpoints(result.run / "checkpoint")
    assert checkpoints(there)[-1].name == local[-1].name and len(checkpoints(there)) <= 2
    np.testing.assert_array_equal(Checkpoint.newest(there).vector(), Checkpoint(local[-1]).vector())
    events = {record["event"] for record in result.metrics if record["kind"] == "event"}
    assert "mirrored" in events and "mirror_failed" not in events
    assert not [entry for entry in (result.run / "checkpoint").iterdir() if entry.name.startswith(".")]

    assert main(["train", "--resume", url, "--run", str(tmp_path / "again"), "--set", "stop.epochs=4", "--quiet"]) == 0
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert summary["epochs"] == 4 and summary["examples"] == 2 * result.summary["examples"]
    assert checkpoints(there)[-1].name > local[-1].name


def test_a_job_without_a_url_goes_on_saving_where_it_came_from(mirrored, tmp_path):
    result, url = mirrored
    command = ["train", str(result.run / "job.toml"), "--resume", url, "--run", str(tmp_path / "again"), "--quiet"]
    newest = checkpoints(tmp_path / "there")[-1]
    assert main([*command, "--set", "checkpoint.url=", "--set", "stop.epochs=3"]) == 0
    assert checkpoints(tmp_path / "there")[-1].name > newest.name


def test_a_new_run_does_not_mix_with_another(mirrored, train, tmp_path):
    result, url = mirrored
    with pytest.raises(CheckpointError, match="holds checkpoints of a run already; --resume"):
        train(run="other", checkpoint={"url": url})
    assert not (tmp_path / "other").exists()
    with pytest.raises(RunDirectoryError, match="holds something already"):
        main_raising(["train", "--resume", url, "--run", str(result.run)])
    require_unused(f"file://{tmp_path}/elsewhere")


def test_a_mirror_without_a_checkpoint_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", f"file://{tmp_path}/nothing"]) == 2
    assert "there is no job.toml" in capsys.readouterr().err
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "job.toml").write_text(
        'task = "mlp"\nstrategy = "sequential"\n[data]\ntrain = "sklearn:digits"\n'
    )
    assert main(["train", "--resume", f"file://{tmp_path}/half"]) == 1
    assert "there is no checkpoint" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


def test_a_mirror_that_fails_does_not_end_the_run(train, tmp_path):
    """The place becomes a file while the run goes on."""

    class Spoiler(hogshead_observer()):
        def started(self, info):
            (tmp_path / "there").write_text("in the way")

        def event(self, record):
            seen.append(record)

    seen: list[dict] = []
    result = train(checkpoint={"url": f"file://{tmp_path}/there/run"}, options={"observer": Spoiler()})
    assert result.summary["status"] == "done"
    (failed,) = [record for record in result.metrics if record.get("event") == "mirror_failed"]
    assert "training goes on" in failed["message"]
    assert [record["message"] for record in seen if record["event"] == "mirror_failed"] == [failed["message"]]


def test_comparing_makes_no_mirrors(tmp_path, least_squares):
    from deploy.compare.running import Trial, launch
    from deploy.progress import Observer

    job = hogshead.load(
        **least_squares, backend="simulation", checkpoint={"url": f"file://{tmp_path}/there"}, stop={"epochs": 1}
    )
    launch(Trial(0, job.with_run(tmp_path / "run"), keep_pace=True), Observer())
    assert not (tmp_path / "there").exists()


def test_a_simulated_run_is_mirrored(train, tmp_path):
    result = train(backend="simulation", checkpoint={"url": f"file://{tmp_path}/there"})
    assert len(checkpoints(tmp_path / "there")) == 1
    assert (tmp_path / "there" / "job.toml").read_text() == (result.run / "job.toml").read_text()


def test_nothing_of_it_is_imported_without_a_url(tmp_path):
    """Training needs no fsspec, TensorBoard or Ray."""
    program = (
        "import sys, hogshead, deploy.commands, deploy.processes\n"
        "from deploy.run_directory import RunDirectory\n"
        "data = {'train': 'sklearn:iris', 'test_fraction': 0.2}\n"
        "job = hogshead.load(task='mlp', data=data, strategy='sequential', tensorboard=True).with_run(sys.argv[1])\n"
        "job.build_task()\n"
        "with RunDirectory.create(job) as directory:\n"
        "    directory.record({'kind': 'progress', 'seconds': 1.0, 'examples': 1, 'loss': 1.0})\n"
        "    directory.finish({})\n"
        "print({'fsspec', 'aiohttp', 'tensorboard', 'ray'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def main_raising(argv: list[str]) -> None:
    """``main`` without its handling of errors."""
    from deploy.cli import parser

    arguments = parser().parse_args(argv)
    arguments.command(arguments)


def hogshead_observer():
    from deploy.progress import Observer

    assert hogshead.train is not None
    return Observer
