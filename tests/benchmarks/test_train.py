"""The benchmark of training, tiny, so that it cannot rot."""

from __future__ import annotations

import importlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from deploy.reproduce.generated_task import generate

ROOT = Path(__file__).resolve().parents[2]
ADULT = str(ROOT / "examples" / "adult_hogwild.toml")


@pytest.fixture(scope="module")
def benchmark():
    """``benchmarks.train``, found as `python -m` finds it from the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield importlib.import_module("benchmarks.train")


def run(benchmark, capsys, *argv: str) -> dict:
    assert benchmark.main(list(argv)) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_throughput_keeps_every_sample(benchmark, capsys, tmp_path):
    small = ["--examples", "2000", "--features", "500", "--nonzeros", "10", "--epochs", "3", "--repeats", "2"]
    report = run(benchmark, capsys, "throughput", *small, "--out", str(tmp_path / "train.json"))
    assert json.loads((tmp_path / "train.json").read_text()) == report
    found = report["throughput"]
    assert set(found["samples"]) == {"serial", "hogwild_2", "aig_2"} == set(found["median"])
    for runs in found["samples"].values():
        assert [len(epochs) for epochs in runs] == [2, 2]
        assert min(map(min, runs)) > 0
    assert set(found["ratios"]) == {"hogwild_2_over_serial", "hogwild_2_over_aig"}
    assert 1 < found["data"]["mean_nonzeros"] <= 10


def test_first_step_and_memory_of_a_job(benchmark, capsys):
    small = ["--repeats", "1", "--memory-workers", "1", "2", "--memory-seconds", "1"]
    report = run(benchmark, capsys, "first_step", "memory", "--jobs", ADULT, *small)
    assert len(report["first_step"]["adult_hogwild"]["samples"]) == 1
    workers = report["memory"]["adult_hogwild"]["workers"]
    for count in ("1", "2"):
        for sample in workers[count]["samples"]:
            assert len(sample["pss_bytes"]) == len(sample["rss_bytes"])
            assert all(pss <= rss for pss, rss in zip(sample["pss_bytes"], sample["rss_bytes"], strict=True))
        assert workers[count]["total_pss_bytes"] > workers[count]["largest_worker_pss_bytes"] > 0


def test_generated_examples_are_rows_of_unit_norm():
    indptr, indices, values, labels = generate(300, 50, 12, seed=1)
    for start, stop in pairwise(indptr):
        assert (np.diff(indices[start:stop]) > 0).all()
        assert np.linalg.norm(values[start:stop]) == pytest.approx(1, rel=1e-5)
    assert indices.min() >= 0 and indices.max() < 50 and set(labels) == {-1.0, 1.0}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["thoughput"], "there is no part 'thoughput'"),
        (["--epochs", "1"], "--epochs must be >= 2, got 1"),
        (["--jobs", "absent.toml"], "there is no job absent.toml"),
        (["--memory-workers", "2", "2"], "two different numbers"),
    ],
)
def test_wrong_usage(benchmark, capsys, argv, message):
    assert benchmark.main(argv) == 2
    assert message in capsys.readouterr().err


def test_a_failing_job_is_told(benchmark, capsys):
    assert benchmark.main(["first_step", "--repeats", "1", "--jobs", ADULT, "--set", "data.train=absent"]) == 1
    assert "there is no file" in capsys.readouterr().err
