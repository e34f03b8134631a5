"""Training on this machine: Hogwild! against serial and locking, the time to the first step, the memory of a worker.

    python -m benchmarks.train [throughput] [first_step] [memory] [--examples 200000] [--repeats 5] [--out train.json]

Prints JSON with every sample. ``throughput`` (Niu et al. 2011, figures 3 to 5): examples per second of a sparse support
vector machine on generated examples in RCV1's shape, serial, Hogwild! and AIG (a lock per variable) in turn, so that
another load on the machine meets all of them; a sample is one epoch, the first of each run being left out.
``first_step``: seconds from the command to its first step, kernels cached. ``memory``: what a further worker adds to the
sum of the processes' proportional set sizes (PSS), as shared pages count once; the RSS, where they count in each
process, stands beside it. The pages of shared libraries are also divided with unrelated processes that map them, so a
busy machine blurs the PSS by some MB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

import hogshead
from benchmarks.processes import first_step_seconds, memory_samples
from deploy.reproduce.generated_task import TASK, generate
from ps.errors import UsageError

FOLDER = Path(__file__).resolve().parent
EXAMPLES = FOLDER.parent / "examples"
NOT_WORKERS = 2  # the launcher and the evaluator come first in a sample
PARTS = ("throughput", "first_step", "memory")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code (1: a run failed, 2: wrong usage)."""
    options = _options(argv)
    try:
        _check(options)
        with tempfile.TemporaryDirectory(prefix="hogshead-benchmark-") as folder:
            report = {"benchmark": "train", **machine(), **_measure(options, Path(folder))}
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except (RuntimeError, hogshead.HogsheadError) as error:
        print(error, file=sys.stderr)
        return 1
    text = json.dumps(report, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--examples", type=int, default=200_000, help="generated examples (RCV1 has 781265)")
    parser.add_argument("--features", type=int, default=47_236, help="generated features")
    parser.add_argument("--nonzeros", type=int, default=80, help="features drawn per example, doubles are dropped")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of a run; the first is not counted")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each scheme, and of each job's first step")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="workers of Hogwild! and AIG")
    parser.add_argument("--jobs", nargs="+", default=None, help="jobs for first_step and memory (default: the bundled)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of those jobs")
    parser.add_argument("--memory-workers", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--memory-seconds", type=float, default=2.0, help="training time of a memory run")
    parser.add_argument("--out", help="also write the JSON to this file")
    return parser.parse_args(argv)


def _check(options: argparse.Namespace) -> None:
    for part in options.parts:
        if part not in PARTS:
            raise UsageError(f"there is no part {part!r}; there are {', '.join(PARTS)}")
    for name, least in (("examples", 1), ("features", 1), ("nonzeros", 1), ("epochs", 2), ("repeats", 1)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} must be >= {least}, got {getattr(options, name)}")
    if min(options.workers) < 1 or min(options.memory_workers) < 1:
        raise UsageError("--workers and --memory-workers must be >= 1")
    if len(set(options.memory_workers)) < 2:
        raise UsageError("--memory-workers needs two different numbers to tell what a worker adds")
    options.jobs = [
        Path(job) for job in options.jobs or (EXAMPLES / "adult_hogwild.toml", EXAMPLES / "digits_easgd.toml")
    ]
    for job in options.jobs:
        if not job.is_file():
            raise UsageError(f"there is no job {job}")


def machine() -> dict:
    """What the figures depend on."""
    versions = {"python": platform.python_version(), "numpy": np.__version__, "hogshead": hogshead.__version__}
    return {"cores": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()[0], "versions": versions}


def _measure(options: argparse.Namespace, folder: Path) -> dict:
    parts = options.parts or PARTS
    report = {}
    if "throughput" in parts:
        report["throughput"] = throughput(options, folder)
    if "first_step" in parts:
        report["first_step"] = {job.stem: _first_step(job, options, folder) for job in options.jobs}
    if "memory" in parts:
        report["memory"] = {job.stem: _memory(job, options, folder) for job in options.jobs}
    return report


def throughput(options: argparse.Namespace, folder: Path) -> dict:
    """Examples per second of each scheme, and how much faster Hogwild! is."""
    schemes = {"serial": ({"name": "sequential"}, 1)}
    for count in options.workers:
        schemes[f"hogwild_{count}"] = ({"name": "hogwild", "locking": "none"}, count)
        schemes[f"aig_{count}"] = ({"name": "hogwild", "locking": "per_variable"}, count)
    samples: dict[str, list[list[float]]] = {name: [] for name in schemes}
    for repeat in range(options.repeats):
        for name, (strategy, workers) in schemes.items():
            samples[name].append(_epochs(strategy, workers, options, folder / f"{name}-{repeat}"))
    medians = {name: statistics.median(statistics.median(run) for run in runs) for name, runs in samples.items()}
    ratios = {
        f"hogwild_{count}_over_{other}": medians[f"hogwild_{count}"] / medians[name]
        for count in options.workers
        for other, name in (("serial", "serial"), ("aig", f"aig_{count}"))
    }
    return {
        "data": {**_task(options), "mean_nonzeros": _mean_nonzeros(options)},
        "unit": "examples/s",
        "median": medians,
        "ratios": ratios,
        "samples": samples,
    }


def _task(options: argparse.Namespace) -> dict:
    return {name: getattr(options, name) for name in ("examples", "features", "nonzeros")}


def _mean_nonzeros(options: argparse.Namespace) -> float:
    """Of the first examples; those used are in the module as the job loads it."""
    examples = min(options.examples, 10_000)
    indptr, *_ = generate(examples, options.features, options.nonzeros, seed=0)
    return float(indptr[-1] / examples)


def _epochs(strategy: dict, workers: int, options: argparse.Namespace, run: Path) -> list[float]:
    """Examples per second of each epoch but the first of one run."""
    result = hogshead.train(
        task={"name": TASK, **_task(options)},
        data={"batch_size": 1},
        strategy=strategy,
        rule={"name": "sgd", "lr": 0.1},
        workers={"count": workers},
        stop={"epochs": options.epochs},
        checkpoint={"every_epochs": 0},
        run=run,
        quiet=True,
    )
    ends = [record for record in result.metrics if record["kind"] == "evaluation"]
    return [
        (later["examples"] - earlier["examples"]) / (later["seconds"] - earlier["seconds"])
        for earlier, later in pairwise(ends)
        if later["examples"] > earlier["examples"]
    ]


def _first_step(job: Path, options: argparse.Namespace, folder: Path) -> dict:
    """Seconds to the first step; the first run, which may compile, is not counted."""
    names = ["uncounted", *range(options.repeats)]
    found = [first_step_seconds(job, folder / f"first-{job.stem}-{name}", options.set) for name in names]
    return {"unit": "s", "median": statistics.median(found[1:]), "uncounted": found[0], "samples": found[1:]}


def _memory(job: Path, options: argparse.Namespace, folder: Path) -> dict:
    """Median sum over the processes for each number of workers, the slope (what one more worker adds), and the most that
    a single worker had."""
    runs = {}
    for count in sorted(set(options.memory_workers)):
        overrides = [*options.set, f"workers.count={count}"]
        samples = memory_samples(job, folder / f"memory-{job.stem}-{count}", overrides, options.memory_seconds)
        whole = [sample for sample in samples if len(sample["pss_bytes"]) == count + NOT_WORKERS]
        if not whole:
            raise RuntimeError(f"{job}: no sample of all processes; train longer with --memory-seconds")
        runs[str(count)] = {"samples": samples}
        for kind in ("pss", "rss"):
            found = [sample[f"{kind}_bytes"] for sample in whole]
            runs[str(count)][f"total_{kind}_bytes"] = statistics.median(map(sum, found))
            runs[str(count)][f"largest_worker_{kind}_bytes"] = max(max(each[NOT_WORKERS:]) for each in found)
    counts = [int(count) for count in runs]
    added = {
        f"added_worker_{kind}_bytes": float(
            np.polyfit(counts, [run[f"total_{kind}_bytes"] for run in runs.values()], 1)[0]
        )
        for kind in ("pss", "rss")
    }
    return {"unit": "bytes", **added, "workers": runs}


if __name__ == "__main__":
    sys.exit(main())
