"""Watching `hogshead train` from outside: the time to its first step, and the memory of its processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KIB = 1024


def start(job: Path, run: Path, overrides: Sequence[str]) -> subprocess.Popen[str]:
    """Start `hogshead train JOB --json` as a user would, from the checkout."""
    options = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-m", "deploy.cli", "train", str(job), "--json", "--run", str(run), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def records(process: subprocess.Popen[str]) -> Iterator[dict]:
    """The records of a run as they come; the last is its summary."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for the end.

    Raises:
      RuntimeError: the run failed, with what it said.
    """
    _, said = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"hogshead train ended with {process.returncode}: {said.strip()}")


def first_step_seconds(job: Path, run: Path, overrides: Sequence[str]) -> float:
    """Seconds from the command to the record of its first step; the job ends with that step."""
    begun = time.perf_counter()
    process = start(job, run, [*overrides, "stop.steps=1"])
    seen = None
    for record in records(process):
        if seen is None and record.get("steps", 0) >= 1:
            seen = time.perf_counter() - begun
    finish(process)
    if seen is None:
        raise RuntimeError("hogshead train made no step")
    return seen


def memory_samples(job: Path, run: Path, overrides: Sequence[str], seconds: float) -> list[dict]:
    """Memory of all processes of a run, looked at whenever it reports progress, for at least ``seconds`` of training.

    Returns:
      One dict a sample: ``seconds``, ``pss_bytes`` and ``rss_bytes``, lists with the launcher first, then its children.
    """
    process = start(job, run, [*overrides, f"stop.seconds={seconds}", "stop.epochs=1000000"])
    samples = []
    for record in records(process):
        if record["kind"] == "progress" and record["workers_alive"]:
            found = [memory_of(pid) for pid in (process.pid, *children_of(process.pid))]
            found = [entry for entry in found if entry]
            samples.append(
                {
                    "seconds": record["seconds"],
                    "pss_bytes": [entry["Pss"] for entry in found],
                    "rss_bytes": [entry["Rss"] for entry in found],
                }
            )
    finish(process)
    return samples


def children_of(pid: int) -> list[int]:
    """Child processes in the order they were started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def memory_of(pid: int) -> dict[str, int]:
    """``Pss`` (shared pages divided among those who map them) and ``Rss`` in bytes; empty if the process has gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {row[0][:-1]: int(row[1]) * KIB for row in words if row[0] in ("Pss:", "Rss:")}
