"""Compile the kernels that most jobs use, into numba's cache: so that a cluster's first job does not wait on each machine.

python -m deploy.container.kernels
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Rules of the examples; others are compiled at their first use.
_RULES = ("sgd", "momentum", "nag", "adagrad", "adam", "adaptive_revision")


def jobs() -> Iterator[dict[str, Any]]:
    """Short jobs that call the kernels."""
    workers, stop = {"count": 2}, {"steps": 20}
    digits = {"task": {"name": "mlp", "hidden": [8]}, "data": {"train": "sklearn:digits", "test_fraction": 0.2}}
    for rule in _RULES:
        yield {**digits, "strategy": "downpour", "rule": {"name": rule, "lr": 0.01}, "workers": workers, "stop": stop}
    yield {**digits, "strategy": "easgd", "local_rule": {"name": "sgd", "lr": 0.01}, "workers": workers, "stop": stop}
    sparse = {"task": "sparse_linear", "data": {"train": "hogshead:a9a", "test": "hogshead:a9a.t"}}
    yield {**sparse, "strategy": "hogwild", "rule": {"name": "sgd", "lr": 0.01}, "workers": workers, "stop": stop}


def main() -> None:
    import hogshead

    with tempfile.TemporaryDirectory() as folder:
        for number, job in enumerate(jobs()):
            hogshead.train(job, run=Path(folder) / str(number), quiet=True)


if __name__ == "__main__":
    main()
