"""Exact consequences of McMahan and Streeter's update, and what the other delay-aware rules do at their limits."""

from __future__ import annotations

import numpy as np
import pytest

from ps import rules
from ps.rules import Context

from .cases import gradients

SIZE = 9


def test_without_delay_adaptive_revision_is_adagrad_from_one():
    pushed = gradients(300, SIZE)
    center, reference = np.zeros(SIZE), np.zeros(SIZE)
    rule, adagrad = rules.AdaptiveRevision(lr=0.3), rules.Adagrad(lr=0.3, initial=1.0, eps=0.0)
    slots, adagrad_slots = rule.allocate(SIZE, "float64"), adagrad.allocate(SIZE, "float64")
    for t, gradient in enumerate(pushed):
        rule.apply(center, slots, gradient, Context(step=t + 1, remembered=slots["gradient_sum"].copy()))
        adagrad.apply(reference, adagrad_slots, gradient, Context(step=t + 1))
    np.testing.assert_allclose(center, reference, rtol=1e-9)
    np.testing.assert_allclose(slots["z"], adagrad_slots["sum_squares"], rtol=1e-9)


@pytest.mark.parametrize("star", [False, True])
def test_updates_that_all_read_at_zero_end_as_one_update_of_their_sum(star):
    """z = 1 + (Σg)² and x = −αΣg/√z: with gradients of one sign z only rises, so the running maximum does not bind."""
    pushed = np.abs(gradients(50, SIZE))
    center, rule = np.zeros(SIZE), rules.AdaptiveRevision(lr=0.3, star=star)
    slots = rule.allocate(SIZE, "float64")
    for t, gradient in enumerate(pushed):
        rule.apply(center, slots, gradient, Context(step=t + 1, staleness=t, remembered=np.zeros(SIZE)))
    total = pushed.sum(axis=0)
    np.testing.assert_allclose(slots["gradient_sum"], total, rtol=1e-12)
    np.testing.assert_allclose(slots["z"], 1.0 + total**2, rtol=1e-9)
    np.testing.assert_allclose(center, -0.3 * total / np.sqrt(1.0 + total**2), rtol=1e-9)


def test_the_running_maximum_binds_after_opposite_signs():
    """+K then −K, both read at 0: z is back at 1, the star's x at 0; with z' the step stays that of K."""
    size = 5.0
    for star, wanted in ((True, 0.0), (False, 0.0)):
        center, rule = np.zeros(1), rules.AdaptiveRevision(lr=1.0, star=star)
        slots = rule.allocate(1, "float64")
        for gradient in (size, -size):
            rule.apply(center, slots, np.array([gradient]), Context(remembered=np.zeros(1)))
        assert slots["z"][0] == pytest.approx(1.0)
        assert center[0] == pytest.approx(wanted, abs=1e-12)
        if not star:
            assert slots["z_max"][0] == 1.0 + size**2
        rule.apply(center, slots, np.array([1.0]), Context(remembered=slots["gradient_sum"].copy()))
        assert center[0] == pytest.approx(-1.0 / np.sqrt(2.0) if star else -1.0 / np.sqrt(1.0 + size**2))


def test_star_stays_finite_where_z_falls_below_zero():
    """K read at 0, −K read at 0, K read after the first: z = 1 − K² < 0, and the step size is that of the initial z."""
    size, center, rule = 3.0, np.zeros(1), rules.AdaptiveRevision(lr=1.0, star=True)
    slots = rule.allocate(1, "float64")
    for gradient, read in ((size, 0.0), (-size, 0.0), (size, size)):
        rule.apply(center, slots, np.array([gradient]), Context(remembered=np.array([read])))
    assert slots["z"][0] == pytest.approx(1.0 - size**2)
    assert center[0] == pytest.approx(-size)


def test_without_memory_adaptive_revision_is_async_adagrad():
    pushed = gradients(40, SIZE)
    results = []
    for rule in (rules.AdaptiveRevision(lr=0.2), rules.AdaptiveRevision(lr=0.2, star=True), rules.AsyncAdaGrad(lr=0.2)):
        center = np.zeros(SIZE)
        slots = rule.allocate(SIZE, "float64")
        for t, gradient in enumerate(pushed):
            rule.apply(center, slots, gradient, Context(step=t + 1, staleness=5, remembered=None))
        results.append(center)
    np.testing.assert_allclose(results[0], results[2], rtol=1e-12)
    np.testing.assert_allclose(results[1], results[2], rtol=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
def test_dc_asgd_without_memory_or_movement_is_sgd(adaptive):
    gradient, wanted = gradients(1, SIZE)[0], np.ones(SIZE)
    rules.SGD(lr=0.1).apply(wanted, {}, gradient, Context())
    for remembered in (None, np.ones(SIZE)):
        center, rule = np.ones(SIZE), rules.DCASGD(lr=0.1, adaptive=adaptive)
        rule.apply(center, rule.allocate(SIZE, "float64"), gradient, Context(staleness=3, remembered=remembered))
        np.testing.assert_array_equal(center, wanted)


def test_dc_asgd_compensates_a_quadratic_with_unit_gradient():
    """f = x²/2 has Hessian 1 = g² where |g| = 1: with λ = 1 the result is the gradient at the present center."""
    read, center = np.array([1.0, -1.0]), np.array([1.5, -0.25])
    wanted = center - 0.1 * center
    rules.DCASGD(lr=0.1, strength=1.0).apply(center, {}, read.copy(), Context(remembered=read))
    np.testing.assert_allclose(center, wanted, rtol=1e-15)


def test_dc_asgd_strength_follows_its_form():
    assert rules.DCASGD().strength == 0.04
    assert rules.DCASGD(adaptive=True).strength == 2.0
    assert rules.DCASGD(adaptive=True, strength=0.5).strength == 0.5


@pytest.mark.parametrize(
    ("rule", "steps"),
    [(rules.StalenessAware(lr=1.0), [-1.0, -1.0, -1 / 2, -1 / 7]), (rules.DynSGD(), [1.0, 1 / 2, 1 / 3, 1 / 8])],
    ids=["staleness_aware", "dynsgd"],
)
def test_rate_by_staleness(rule, steps):
    for staleness, wanted in zip((0, 1, 2, 7), steps, strict=True):
        center = np.zeros(1)
        rule.apply(center, {}, np.ones(1), Context(staleness=staleness))
        assert center[0] == pytest.approx(wanted)
