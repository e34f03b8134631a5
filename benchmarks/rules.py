"""Speed of the update rules: time and memory traffic of a dense step, against numpy and torch.optim in the same run.

    python -m benchmarks.rules [--size 10000000] [--dtype float32] [--repeats 9] [--rules adam sgd] [--out rules.json]

One thread each. Prints JSON with every sample: seconds per step, GB/s (each array read once and, if changed, written
once), and ``times_numpy`` and ``times_torch``, the peer's median over ours. The peers' samples are taken in turn with
ours, so that another load on the machine meets all of them. Torch is left out where it is not installed or has no
such rule.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from ps.errors import UsageError, nearest
from ps.rules import RULES, Context, UpdateRule

LR = 0.01


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code (2: wrong usage)."""
    options = _options(argv)
    try:
        report = measure(options.rules or list(RULES), options.size, options.dtype, options.repeats)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    text = json.dumps(report, indent=1)
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    print(text)
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rules", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=10_000_000, help="elements of the vector")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--repeats", type=int, default=9, help="samples per rule and peer")
    parser.add_argument("--rules", nargs="*", help="which rules (default: all)")
    parser.add_argument("--out", help="also write the JSON to this file")
    return parser.parse_args(argv)


def measure(names: list[str], size: int, dtype: str, repeats: int) -> dict:
    """The whole report, a dict that JSON can hold.

    Raises:
      UsageError: a rule is unknown, or ``size`` or ``repeats`` is < 1.
    """
    for name, value in (("size", size), ("repeats", repeats)):
        if value < 1:
            raise UsageError(f"{name} must be >= 1, got {value}")
    for name in names:
        if name not in RULES:
            raise UsageError(f"there is no rule {name!r}{nearest(name, RULES)}")
    torch = _torch()
    results = {name: _measure_rule(RULES[name](), size, dtype, repeats, torch) for name in names}
    versions = {
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "torch": torch.__version__ if torch else None,
    }
    return {"benchmark": "rules", "size": size, "dtype": dtype, "threads": 1, "versions": versions, "rules": results}


def _torch():
    """The module torch on one thread, or None."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    return torch


def _measure_rule(rule: UpdateRule, size: int, dtype: str, repeats: int, torch) -> dict:
    steps = {"hogshead": _our_step(rule, size, dtype)}
    if rule.name in NUMPY:
        steps["numpy"] = _numpy_step(NUMPY[rule.name], size, dtype)
    if torch and rule.name in TORCH:
        steps["torch"] = _torch_step(torch, rule.name, size, dtype)
    samples = _alternating(steps, repeats)
    medians = {who: statistics.median(values) for who, values in samples.items()}
    ours = medians["hogshead"]
    moved = size * np.dtype(dtype).itemsize * (3 + 2 * len(rule.slots) + (rule.remembers is not None))
    ratios = {f"times_{who}": medians[who] / ours for who in medians if who != "hogshead"}
    return {"median_s": ours, "gigabytes_per_second": moved / ours / 1e9, **ratios, "samples_s": samples}


def _alternating(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of ``repeats`` calls of each, in turn, after two calls that are not counted."""
    samples: dict[str, list[float]] = {who: [] for who in steps}
    for sample in range(-2, repeats):
        for who, step in steps.items():
            started = time.perf_counter()
            step()
            if sample >= 0:
                samples[who].append(time.perf_counter() - started)
    return samples


def _vectors(size: int, dtype: str, count: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(size, np.float32).astype(dtype) for _ in range(count)]


def _our_step(rule: UpdateRule, size: int, dtype: str) -> Callable[[], None]:
    center, gradient = _vectors(size, dtype)
    slots = rule.allocate(size, dtype)
    remembered = None if rule.remembers is None else np.zeros(size, dtype)
    context = Context(step=3, staleness=1, remembered=remembered)
    return lambda: rule.apply(center, slots, gradient, context)


def _numpy_step(step: Callable, size: int, dtype: str) -> Callable[[], None]:
    center, gradient, *slots = _vectors(size, dtype, 4)
    for slot in slots:
        np.abs(slot, out=slot)
    return lambda: step(center, gradient, *slots)


def _torch_step(torch, name: str, size: int, dtype: str) -> Callable[[], None]:
    center, gradient = _vectors(size, dtype)
    parameter = torch.nn.Parameter(torch.from_numpy(center))
    parameter.grad = torch.from_numpy(gradient)
    return TORCH[name](torch.optim, [parameter]).step


# As one writes them in numpy, in place where that is no effort.


def _numpy_sgd(center, gradient, *_slots):
    center -= LR * gradient


def _numpy_momentum(center, gradient, velocity, _unused):
    velocity *= 0.9
    velocity += gradient
    center -= LR * velocity


def _numpy_adagrad(center, gradient, sum_squares, _unused):
    sum_squares += gradient * gradient
    center -= LR * gradient / (np.sqrt(sum_squares) + 1e-10)


def _numpy_rmsprop(center, gradient, mean_square, _unused):
    mean_square *= 0.99
    mean_square += 0.01 * gradient * gradient
    center -= LR * gradient / (np.sqrt(mean_square) + 1e-8)


def _numpy_adam(center, gradient, first, second):
    first *= 0.9
    first += 0.1 * gradient
    second *= 0.999
    second += 0.001 * gradient * gradient
    center -= LR * (first / 0.271) / (np.sqrt(second / 0.002997) + 1e-8)


NUMPY: dict[str, Callable] = {
    "sgd": _numpy_sgd,
    "momentum": _numpy_momentum,
    "adagrad": _numpy_adagrad,
    "rmsprop": _numpy_rmsprop,
    "adam": _numpy_adam,
}

# The fastest that torch has on a CPU: fused where it is offered.
TORCH: dict[str, Callable] = {
    "sgd": lambda optim, p: optim.SGD(p, lr=LR, fused=True),
    "momentum": lambda optim, p: optim.SGD(p, lr=LR, momentum=0.9, fused=True),
    "nag": lambda optim, p: optim.SGD(p, lr=LR, momentum=0.9, nesterov=True, fused=True),
    "adagrad": lambda optim, p: optim.Adagrad(p, fused=True),
    "adadelta": lambda optim, p: optim.Adadelta(p),
    "rmsprop": lambda optim, p: optim.RMSprop(p),
    "adam": lambda optim, p: optim.Adam(p, fused=True),
    "adamax": lambda optim, p: optim.Adamax(p),
    "nadam": lambda optim, p: optim.NAdam(p),
    "amsgrad": lambda optim, p: optim.Adam(p, amsgrad=True, fused=True),
    "adamw": lambda optim, p: optim.AdamW(p, fused=True),
}

if __name__ == "__main__":
    sys.exit(main())
