"""The benchmark of the rules, tiny, so that it cannot rot."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from ps.rules import RULES

PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "rules.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmarks_rules", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_runs_on_all_rules_and_keeps_every_sample(benchmark, capsys, tmp_path):
    out = tmp_path / "rules.json"
    assert benchmark.main(["--size", "100", "--repeats", "2", "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == report
    assert set(report["rules"]) == set(RULES) and report["size"] == 100
    for name, result in report["rules"].items():
        assert all(len(samples) == 2 for samples in result["samples_s"].values()), name
        assert result["gigabytes_per_second"] > 0
    assert "times_numpy" in report["rules"]["adam"]


def test_peers_are_named_as_our_rules_are(benchmark):
    assert set(benchmark.NUMPY) | set(benchmark.TORCH) <= set(RULES)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rules", "adm"], "there is no rule 'adm'; did you mean 'adam'?"),
        (["--size", "0"], "size must be >= 1, got 0"),
    ],
)
def test_wrong_usage(benchmark, capsys, argv, message):
    assert benchmark.main(argv) == 2
    assert message in capsys.readouterr().err
