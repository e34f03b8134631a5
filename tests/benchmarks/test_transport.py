"""The benchmark of the transports, tiny, so that it cannot rot."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark():
    """``benchmarks.transport``, found as `python -m` finds it from the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield importlib.import_module("benchmarks.transport")


def test_every_way_is_measured_against_its_peer(benchmark, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "SAMPLE_S", 1e-3)
    out = tmp_path / "transport.json"
    assert benchmark.main(["--sizes", "400", "--repeats", "2", "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == report
    ways = report["sizes"]["400"]
    assert set(ways["memory"]) == {"pull", "push", "exchange"}
    assert set(ways["grpc"]) == {"pull", "push", "exchange", "pipelined"}
    for operation in (*ways["memory"].values(), *ways["grpc"].values()):
        assert len(operation["samples_s"]) == len(operation["peer_samples_s"]) == 2
        assert min(operation["samples_s"]) > 0 and operation["times_peer"] > 0
        middle = sum(operation["samples_s"]) / 2
        assert operation["microseconds"] == pytest.approx(middle * 1e6)
        assert operation["gigabytes_per_second"] == pytest.approx(400 / middle / 1e9)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--sizes", "402"], "sizes must be multiples of 4 bytes, got 402"),
        (["--repeats", "0"], "repeats must be >= 1, got 0"),
        (["--ways", "gprc"], "there is no way 'gprc'; did you mean 'grpc'?"),
    ],
)
def test_wrong_usage_is_said(benchmark, capsys, arguments, message):
    assert benchmark.main(arguments) == 2
    assert message in capsys.readouterr().err
