"""A small task in a file, a job about it, and a recorded run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TASK = '''
class Points:
    """A task whose options are checked; it is never trained here."""

    paths = ("train",)

    def __init__(self, *, train, width=3, rate=0.5):
        self.train, self.width = train, width

    def parameters(self, rng):
        return {}

    def dataset(self):
        return []

    def loss_and_gradient(self, parameters, batch):
        return 0.0, {}

    def evaluate(self, parameters):
        return {}
'''

JOB = """
seed = 7

[task]
name = "points.py:Points"
width = 5

[data]
train = "points.csv"
batch_size = 64

[strategy]
name = "easgd"
tau = 4

[local_rule]
name = "sgd"
lr = 0.1

[stop]
epochs = 3
"""


DRAWING = f"{Path(__file__).parent / 'tasks' / 'drawing.py'}:Drawing"
LEAST_SQUARES = f"{Path(__file__).parent / 'tasks' / 'least_squares.py'}:LeastSquares"


def evaluated(result, metric: str, after_epoch: int = 0) -> list[float]:
    """What a metric was at each evaluation.

    Not the last one tells whether asynchronous replicas have learned: whoever was stopped by a busy machine for some seconds adds
    what it had computed at the beginning when the others are done.
    """
    return [
        record["evaluation"][metric]
        for record in result.metrics
        if record["kind"] == "evaluation" and record["epoch"] > after_epoch
    ]


@pytest.fixture
def train(tmp_path):
    """``hogshead.train`` on the least-squares task of tests/deploy/tasks, quietly, in a run directory of its own."""
    import hogshead

    def run(run="run", task=(), **sections):
        sections = {"strategy": "downpour", "rule": {"name": "sgd", "lr": 0.1}, "stop": {"epochs": 2}} | sections
        if sections["rule"] is None:
            del sections["rule"]
        options = sections.pop("options", {})
        described = {"name": LEAST_SQUARES, **dict(task)}
        return hogshead.train(task=described, run=tmp_path / run, quiet=True, **sections, **options)

    return run


@pytest.fixture(autouse=True)
def no_shared_memory_left():
    """Whatever this process puts into shared memory is gone after the test."""
    import os

    from ps.segment import FOLDER, PREFIX

    yield
    assert not list(FOLDER.glob(f"{PREFIX}-{os.getpid()}-*"))


@pytest.fixture
def job_file(tmp_path) -> Path:
    """A job file beside its task."""
    folder = tmp_path / "job folder"
    folder.mkdir()
    (folder / "points.py").write_text(TASK)
    (folder / "try.toml").write_text(JOB)
    return folder / "try.toml"


@pytest.fixture
def recorded_run(tmp_path):
    """A function that writes a finished run directory as a launcher would."""

    def write(name: str = "try-1", workers: int = 2, **summary) -> Path:
        run = tmp_path / name
        (run / "checkpoint").mkdir(parents=True)
        (run / "job.toml").write_text('name = "try"\n# <not html>\n')
        records = [record for step in range(1, 11) for record in _records(step, workers)]
        records.append({"kind": "event", "seconds": 4.5, "event": "worker_died", "message": "worker 1 <killed>"})
        (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (run / "summary.json").write_text(json.dumps({**_summary(workers), **summary}))
        return run

    return write


def _records(step: int, workers: int) -> list[dict]:
    examples = 100 * step
    each = [{"worker": w, "examples": examples // workers, "examples_per_second": 50.0 + w} for w in range(workers)]
    progress = {"kind": "progress", "seconds": 0.5 * step, "epoch": step / 5, "examples": examples, "steps": 10 * step}
    progress |= {
        "loss": 2.0 / step,
        "examples_per_second": 200.0,
        "workers_alive": workers,
        "staleness": 1.5,
        "workers": each,
    }
    if step % 5:
        return [progress]
    evaluation = {
        "kind": "evaluation",
        "seconds": 0.5 * step,
        "epoch": step // 5,
        "examples": examples,
        "steps": 10 * step,
    }
    return [progress, evaluation | {"train_loss": 2.0 / step, "evaluation": {"test_accuracy": 0.5 + step / 25}}]


def _summary(workers: int) -> dict:
    return {
        "status": "done",
        "strategy": "easgd",
        "rule": None,
        "local_rule": "sgd",
        "task": "points.py:Points",
        "workers": workers,
        "shards": 1,
        "epochs": 2,
        "steps": 100,
        "examples": 1000,
        "wall_seconds": 5.25,
        "updates_per_second": 20.0,
        "examples_per_second": 190.5,
        "train_loss": 0.2,
        "evaluation": {"test_accuracy": 0.9},
        "best": {"metric": "test_accuracy", "value": 0.9, "epoch": 2},
        "staleness": {"mean": 1.5, "p50": 1, "p95": 3, "max": 4, "histogram": [[0, 5], [1, 10], [4, 5]]},
        "seed": 7,
        "stop_reason": "2 epochs",
        "error": None,
        "skipped_nonfinite": 0,
        "worker_deaths": 1,
        "versions": {"hogshead": "0.1.0"},
    }
