"""Each rule against a scalar loop in plain floats, and the proof that the comparison can fail."""

from __future__ import annotations

import numpy as np
import pytest

from ps.rules import RULES, Context

from .cases import LABELS, RULES_UNDER_TEST, STEPS, TOLERANCE, gradients, relative_error, run, run_oracle

START = np.random.default_rng(7).standard_normal(13)
PUSHED = gradients(STEPS, START.size)
by_case = pytest.mark.parametrize("case", RULES_UNDER_TEST, ids=LABELS)


@pytest.fixture(scope="module")
def wanted():
    """The oracle's result per label, computed once."""
    return {case.label: run_oracle(case.oracle, START, PUSHED) for case in RULES_UNDER_TEST}


def test_every_rule_of_the_registry_is_under_test():
    assert set(RULES) <= {case.rule.name for case in RULES_UNDER_TEST}


@by_case
def test_equals_the_oracle(case, wanted):
    assert np.isfinite(wanted[case.label]).all()
    assert relative_error(run(case.rule, START, PUSHED), wanted[case.label], START) <= TOLERANCE


@by_case
def test_a_wrong_sign_is_noticed(case, wanted):
    assert relative_error(run(case.rule, START, PUSHED, sign=-1), wanted[case.label], START) > 0.1


@by_case
def test_every_coefficient_is_noticed(case, wanted, monkeypatch):
    """A scalar of the kernel that is wrong by 1 % changes the result by more than the tolerance."""
    original = type(case.rule).coefficients
    plain = original(case.rule, np.array([3]), Context(count=2))[0]
    unseen = []
    for column in np.flatnonzero(plain):

        def mutated(rule, steps, context, column=column):
            table = original(rule, steps, context)
            table[:, column] *= 1.01
            return table

        monkeypatch.setattr(type(case.rule), "coefficients", mutated)
        if relative_error(run(case.rule, START, PUSHED), wanted[case.label], START) <= 10 * TOLERANCE:
            unseen.append(int(column))
    assert unseen == []


@by_case
def test_float32_stays_near(case, wanted):
    """Single precision follows the oracle to single precision's own error, on the same numbers."""
    got = run(case.rule, START, PUSHED, dtype="float32")
    assert got.dtype == np.float32
    assert relative_error(got, wanted[case.label], START) < 2e-3
