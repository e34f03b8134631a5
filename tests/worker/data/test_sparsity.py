"""Omega, Delta and rho against their definitions."""

import numpy as np
import pytest

from worker.data import sparsity as module
from worker.data.sparsity import sparsity


def rows(seed, count=40, features=30):
    rng = np.random.default_rng(seed)
    return [np.sort(rng.choice(features, rng.integers(1, 5), replace=False)) for _ in range(count)]


def csr(examples):
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in examples])])
    return indptr.astype(np.int64), np.concatenate(examples).astype(np.int32)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definitions(seed):
    examples = [set(row.tolist()) for row in rows(seed)]
    found = sparsity(*csr(rows(seed)))
    assert found.omega == max(map(len, examples))
    assert found.delta == max(sum(v in e for e in examples) for v in range(30)) / 40
    assert found.rho == max(sum(bool(e & other) for other in examples) for e in examples) / 40
    assert found.rho_sampled == 40


def test_a_large_set_is_sampled_and_bounds_rho_from_below(monkeypatch):
    exact = sparsity(*csr(rows(0)))
    monkeypatch.setattr(module, "_EXACT_WORK", 20)
    sampled = sparsity(*csr(rows(0)))
    assert 1 <= sampled.rho_sampled < 40 and 0 < sampled.rho <= exact.rho
    assert (sampled.omega, sampled.delta) == (exact.omega, exact.delta)
