"""The simulator: real seconds and memory for many replicas and updates.

    python -m benchmarks.simulation [digits] [linear] [wide] [--replicas 10000] [--updates 1000000] [--out simulation.json]

``digits``: 64 replicas of a perceptron on scikit-learn's digits, Downpour SGD, 10 000 updates. ``linear``: Hogwild! on the
bundled UCI Adult, 10 000 replicas, a million updates. ``wide``: the same on generated examples in RCV1's shape (47 236
features), where a copy of the parameters for each replica would take two gigabytes; a tenth of the updates. Each is run in a
process of its own and prints seconds, microseconds per update, and the highest resident memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.train import machine

PARTS = ("digits", "linear", "wide")
STEPS = {"distribution": "lognormal", "median": 1.0, "sigma": 0.3}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code (1: a run failed)."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--replicas", type=int, default=10_000, help="of linear and wide")
    parser.add_argument("--updates", type=int, default=1_000_000, help="of linear; wide makes a tenth")
    parser.add_argument("--out", help="also write the JSON to this file")
    options = parser.parse_args(argv)
    report: dict[str, Any] = {"benchmark": "simulation", **machine()}
    for part in options.parts or PARTS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            report[part] = pool.apply(measure, (part, options.replicas, options.updates))
        if report[part]["status"] != "done":
            print(f"{part}: {report[part]['error']}", file=sys.stderr)
            return 1
    text = json.dumps(report, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def measure(part: str, replicas: int, updates: int) -> dict[str, Any]:
    """One run."""
    import hogshead
    from deploy.simulation import simulate

    job = hogshead.load(backend="simulation", evaluation={"every_epochs": 0}, **sections(part, replicas, updates))
    started = time.perf_counter()
    summary = simulate(job).summary
    seconds = time.perf_counter() - started
    return {
        "replicas": job.workers.count,
        "updates": summary["updates"],
        "seconds": seconds,
        "microseconds_per_update": seconds / summary["updates"] * 1e6,
        "highest_resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "virtual_seconds": summary["virtual_seconds"],
        "mean_staleness": summary["staleness"]["mean"],
        "status": summary["status"],
        "error": summary["error"],
    }


def sections(part: str, replicas: int, updates: int) -> dict[str, Any]:
    """The sections of a job."""
    if part == "digits":
        return {
            "task": {"name": "mlp", "hidden": [48], "scale": 0.0625},
            "data": {"train": "sklearn:digits", "test_fraction": 0.2, "batch_size": 16},
            "strategy": "downpour",
            "workers": {"count": 64},
            "simulation": {"step_seconds": STEPS},
            "stop": {"steps": 10_000},
        }
    generated = {"task": {"name": f"{generated_task()}:GeneratedSVM", "examples": 100_000}}
    bundled = {"task": {"name": "sparse_linear", "bias": False}, "data": {"train": "hogshead:a9a"}}
    return {
        **(bundled if part == "linear" else generated),
        "strategy": "hogwild",
        "rule": {"name": "sgd", "lr": 0.001},
        "workers": {"count": replicas},
        "simulation": {"step_seconds": STEPS, "latency_seconds": 0.1},
        "stop": {"steps": updates if part == "linear" else updates // 10},
    }


def generated_task() -> Path:
    """The file of the task with generated examples."""
    from deploy.reproduce import generated_task

    return Path(generated_task.__file__)


if __name__ == "__main__":
    sys.exit(main())
