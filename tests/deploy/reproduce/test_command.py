"""``hogshead reproduce`` with made-up claims: what is printed and written, exit codes, claims that raise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy.cli import main
from deploy.reproduce import registry, runner
from deploy.reproduce.claim import Claim, SplitClaim, Verdict
from deploy.reproduce.pool import cores, parallel
from ps.errors import HogsheadError

ROOT = Path(__file__).resolve().parents[3]


class Made(Claim):
    """Holds; its figure is the sum of the seeds."""

    name = "Z1"
    title = "A made-up claim"
    paper, source, setting, threshold = "sums add up", "nobody 1900", "a sum", "sum >= 0"
    seconds = 1

    def run(self, seed):
        return {"seed": seed, "array": np.arange(2.0), "worst": float("inf")}

    def judge(self, runs):
        return Verdict(True, f"sum {sum(run['seed'] for run in runs)}")

    def draw(self, runs, path):
        path.write_bytes(b"picture")
        return [path]


class Fails(Made):
    name = "Z2"
    title = "A claim that fails"

    def judge(self, runs):
        return Verdict(False, "sum [-1]")


class Raises(Made):
    name = "Z3"
    seeded = False

    def run(self, seed):
        raise ZeroDivisionError("on purpose")


class Unmeasurable(Made):
    name = "Z4"

    def judge(self, runs):
        return Verdict(None, "no cores")


class Undrawable(Made):
    name = "Z5"

    def draw(self, runs, path):
        raise OSError("no ink")


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """The registry holds the made-up claims only."""
    claims = {claim.name: claim for claim in (Made, Fails, Raises, Unmeasurable, Undrawable)}
    names = {name: f"{__name__}:{claim.__name__}" for name, claim in claims.items()}
    monkeypatch.setattr("deploy.reproduce.command.CLAIMS", names)  # first: importing it takes the registry as it is
    monkeypatch.setattr(registry, "CLAIMS", names)
    monkeypatch.setattr("deploy.reproduce.command.build_claim", lambda name: claims[name]())


def reproduce(tmp_path, *argv) -> int:
    return main(["reproduce", *argv, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("names", "code"), [(["Z1"], 0), (["Z4"], 0), (["Z1", "Z4"], 0), (["Z1", "Z2"], 1), (["Z3"], 1), (["Z5"], 1)]
)
def test_exit_code(tmp_path, capsys, names, code):
    assert reproduce(tmp_path, *names) == code
    said = capsys.readouterr()
    assert said.err == ""
    for name in names:
        assert (tmp_path / "out" / f"{name}.json").is_file() and said.out.count(f"{name}  ") >= 2


def test_all_goes_on_after_a_claim_that_raises(tmp_path, capsys):
    assert reproduce(tmp_path, "--all", "--seeds", "3") == 1
    said = capsys.readouterr().out
    table = said.strip().split("\n\n")[-1].splitlines()
    assert [line.split()[0] for line in table] == ["Z1", "Z2", "Z3", "Z4", "Z5"]
    words = ["HOLDS", "DOES NOT HOLD", "DOES NOT HOLD", "NOT MEASURABLE HERE", "DOES NOT HOLD"]
    assert all(word in line for word, line in zip(words, table, strict=True))
    assert "ZeroDivisionError: on purpose" in said and "Traceback" not in said and "sum [-1]" in said


def test_what_is_printed_and_written(tmp_path, capsys):
    assert reproduce(tmp_path, "z1", "Z1", "--seeds", "3") == 0
    said = capsys.readouterr().out
    for text in ("sums add up (nobody 1900)", "a sum", "sum >= 0", "sum 3", "HOLDS  3 seeds", "Z1.png"):
        assert text in said
    document = json.loads((tmp_path / "out" / "Z1.json").read_text())
    assert document["seeds"] == [0, 1, 2] and document["holds"] is True and document["error"] is None
    assert document["runs"][2] == {"seed": 2, "array": [0.0, 1.0], "worst": None}
    assert {"paper", "source", "setting", "threshold", "figure", "versions", "seconds"} <= set(document)


def test_a_claim_that_raises_is_written_with_its_traceback(tmp_path, capsys):
    reproduce(tmp_path, "Z3", "--seeds", "2", "--debug")
    assert "Traceback" in capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "Z3.json").read_text())
    assert document["holds"] is False and "on purpose" in document["error"] and document["seeds"] == [0]


def test_a_figure_that_cannot_be_drawn_is_kept(tmp_path):
    reproduce(tmp_path, "Z5")
    document = json.loads((tmp_path / "out" / "Z5.json").read_text())
    assert document["runs"][0]["seed"] == 0 and document["figure"] == "OSError: no ink"


def test_list_runs_nothing(tmp_path, capsys):
    assert reproduce(tmp_path, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[1].startswith("Z2      A claim that fails")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["Z9"], "there is no claim 'Z9'"),
        (["Z1x"], "did you mean 'Z1'?"),
        ([], "reproduce needs a claim"),
        (["Z1", "--all"], "got both"),
        (["Z1", "--seeds", "0"], "--seeds must be >= 1 and <= 1000, got 0"),
        (["Z1", "--seeds", "1000000000000"], "--seeds must be >= 1 and <= 1000, got 1000000000000"),
        (["Z1", "--out", "/dev/null/x"], "--out /dev/null/x: cannot be made"),
    ],
)
def test_wrong_usage(argv, message, capsys):
    assert main(["reproduce", *argv]) == 2
    assert message in capsys.readouterr().err


def _square(number: int) -> int:
    return number * number


def _process(_: int) -> tuple[int, int]:
    from threadpoolctl import threadpool_info

    return os.getpid(), max((entry["num_threads"] for entry in threadpool_info()), default=1)


def _raise_at_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


def _die(number: int) -> int:
    os._exit(1)


def test_parallel_keeps_the_order(monkeypatch):
    for count in (1, 2):
        monkeypatch.setattr("deploy.reproduce.pool.cores", lambda count=count: count)
        assert parallel(_square, range(7)) == [0, 1, 4, 9, 16, 25, 36]
        assert parallel(_square, []) == []
        with pytest.raises(ValueError, match="three"):
            parallel(_raise_at_three, [1, 2, 3, 4])
    found = parallel(_process, range(4))
    assert os.getpid() not in {pid for pid, _ in found} and {threads for _, threads in found} == {1}
    with pytest.raises(HogsheadError, match="one of 2 processes died"):
        parallel(_die, [1, 2])
    assert cores() >= 1


INTERRUPTED = """
import os, signal
from deploy.reproduce import pool
def wait(_):
    os.write(1, b"%d\\n" % os.getpid())
    signal.pause()
pool.cores = lambda: 2
try:
    pool.parallel(wait, [1, 2, 3])
except KeyboardInterrupt:
    print("interrupted")
"""


def test_interrupting_ends_all_processes_at_once():
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            pids = [int(process.stdout.readline()) for _ in range(2)]
            process.send_signal(signal.SIGINT)  # to the parent alone
            out, err = process.communicate()
        finally:
            process.kill()
    assert (out, err) == ("interrupted\n", "")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class Split(SplitClaim):
    measure = staticmethod(_square)

    def parts(self, seed):
        return [seed, seed + 1]

    def combine(self, seed, parts, results):
        return {"seed": seed, "squares": dict(zip(parts, results, strict=True))}


def test_parts_of_all_seeds_come_back_to_their_own():
    claim = Split()
    wanted = [{"seed": seed, "squares": {seed: seed**2, seed + 1: (seed + 1) ** 2}} for seed in (0, 5)]
    assert claim.run_all([0, 5]) == wanted and claim.run(5) == wanted[1]


def test_plain_values():
    given = {1: (np.float32(0.5), np.array([[1, 2]])), "x": [float("nan"), None, True, "s"]}
    assert runner.plain(given) == {"1": [0.5, [[1, 2]]], "x": [None, None, True, "s"]}
