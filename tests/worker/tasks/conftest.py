"""Small data sets for every task, and what their gradients are checked with."""

from __future__ import annotations

import numpy as np
import pytest

from ps.rows import Rows
from worker.tasks import task_class


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A folder with a small, random and nowhere degenerate input for each task."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(7)
    lines = []
    for _ in range(60):
        features = np.sort(rng.choice(25, rng.integers(1, 7), replace=False)) + 1
        pairs = " ".join(f"{feature}:{rng.standard_normal():.5f}" for feature in features)
        lines.append(f"{rng.choice([-1, 1])} {pairs}")
    (folder / "linear.svm").write_text("\n".join(lines))
    pairs = rng.permutation(15 * 12)[:90]
    (folder / "ratings.tsv").write_text(
        "\n".join(f"{p // 12 + 100}\ti{p % 12}\t{rng.integers(1, 11) / 2}" for p in pairs)
    )
    edges = {tuple(sorted(rng.choice(14, 2, replace=False))) for _ in range(50)}
    (folder / "edges.txt").write_text("\n".join(f"{u} {v} {rng.uniform(0.2, 2):.4f}" for u, v in sorted(edges)))
    (folder / "terminals.txt").write_text("0 sky\n1 sea\n2 land\n")
    x = rng.standard_normal((50, 6)).astype(np.float32)
    np.savez(folder / "classes.npz", x=x, y=rng.integers(0, 3, 50))
    np.savez(folder / "reals.npz", x=x, y=rng.standard_normal((50, 2)))
    return folder


@pytest.fixture(scope="session")
def make(files):
    """``make("mlp", loss="squared")``: a task on the small data, in float64 unless told otherwise."""

    def make(name, **options):
        data = {
            "sparse_linear": {"train": files / "linear.svm"},
            "matrix_completion": {"train": files / "ratings.tsv", "rank": 3, "l2": 0.7, "init": 0.5},
            "graph_cuts": {"train": files / "edges.txt", "terminals": files / "terminals.txt"},
            "mlp": {
                "train": files / ("reals.npz" if options.get("loss") == "squared" else "classes.npz"),
                "hidden": [5, 4],
            },
        }[name]
        options = {"dtype": "float64"} | data | options
        return task_class(name)(**{key: str(v) if hasattr(v, "joinpath") else v for key, v in options.items()})

    return make


@pytest.fixture(scope="session")
def somewhere():
    """Random parameters of a task, away from kinks and from the start."""

    def somewhere(task, seed=1):
        rng = np.random.default_rng(seed)
        found = task.parameters(rng)
        for name, value in found.items():
            value += 0.3 * rng.standard_normal(value.shape)
            if name.endswith("variance"):
                np.abs(value, out=value)
        return found

    return somewhere


@pytest.fixture(scope="session")
def dense():
    """A gradient entry as an array of the parameter's shape."""

    def dense(entry, parameter):
        if not isinstance(entry, Rows):
            return entry
        assert entry.rows.dtype == np.int64 and np.unique(entry.rows).size == entry.size
        assert entry.values.shape == (entry.size, parameter[:1].size) and entry.values.dtype == parameter.dtype
        full = np.zeros(parameter.shape, parameter.dtype)
        np.add.at(full.reshape(len(parameter), -1), entry.rows, entry.values)
        return full

    return dense


@pytest.fixture(scope="session")
def central_differences():
    """Gradient of ``loss(parameters)`` by central differences, for the names given."""

    def central_differences(loss, parameters, names, step=1e-6):
        found = {}
        for name in names:
            slope = np.zeros_like(parameters[name])
            for place in np.ndindex(slope.shape):
                kept = parameters[name][place]
                parameters[name][place] = kept + step
                above = loss(parameters)
                parameters[name][place] = kept - step
                slope[place] = (above - loss(parameters)) / (2 * step)
                parameters[name][place] = kept
            found[name] = slope
        return found

    return central_differences
