"""Facts about single rules that no oracle states: look-ahead points, limits, counts, bounds of hyper-parameters."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from ps import rules
from ps.errors import UsageError
from ps.rules import RULES, Context
from ps.rules.adam import momenta, momentum_products

from .cases import TOLERANCE, gradients, relative_error, run


def test_nag_look_ahead_points_are_the_vectors_of_the_torch_form():
    """The same gradients, taken at x + δv by one form and at the vector by the other: EAMSGD's lines and torch's."""
    matrix = np.diag([1.0, 0.3, 0.05])
    torch_form, lookahead = rules.NAG(lr=0.1, momentum=0.8), rules.NAG(lr=0.1, momentum=0.8, form="lookahead")
    x, y = np.ones(3), np.ones(3)
    x_slots, y_slots = lookahead.allocate(3, "float64"), torch_form.allocate(3, "float64")
    out = np.empty(3)
    v, paper = np.zeros(3), np.ones(3)
    for t in range(1, 100):
        point = lookahead.gradient_point(x, x_slots, out)
        assert point is out
        np.testing.assert_allclose(point, y, rtol=1e-12, atol=1e-14)
        lookahead.apply(x, x_slots, matrix @ point, Context(step=t))
        assert torch_form.gradient_point(y, y_slots, out) is y
        torch_form.apply(y, y_slots, matrix @ y, Context(step=t))
        v = 0.8 * v - 0.1 * (matrix @ (paper + 0.8 * v))
        paper = paper + v
    np.testing.assert_allclose(x, paper, rtol=1e-12)
    assert not np.allclose(x, y)


def test_gradient_point_goes_through_wrappers():
    rule = rules.build_rule({"name": "nag", "form": "lookahead", "clip_norm": 1.0, "schedule": {"name": "decay"}})
    out = np.empty(2)
    point = rule.gradient_point(np.ones(2), {"velocity": np.array([1.0, -1.0])}, out)
    np.testing.assert_allclose(point, [1.9, 0.1])


PAIRS = {
    "aggmo of one beta is momentum": (rules.AggMo(lr=0.01, betas=(0.9,)), rules.Momentum(lr=0.01)),
    "qhm with nu 0 is sgd": (rules.QHM(lr=0.1, nu=0.0), rules.SGD(lr=0.1)),
    "qhadam with nu 1, 1 is adam": (
        rules.QHAdam(lr=0.01, beta1=0.9, nu1=1.0, nu2=1.0),
        rules.Adam(lr=0.01),
    ),
    "async adagrad is adagrad from 1": (rules.AsyncAdaGrad(lr=0.1), rules.Adagrad(lr=0.1, eps=0.0, initial=1.0)),
    "adamw without decay is adam": (rules.AdamW(lr=0.01, weight_decay=0.0), rules.Adam(lr=0.01)),
    "momentum 0 is sgd": (rules.Momentum(lr=0.1, momentum=0.0), rules.SGD(lr=0.1)),
    "nag with momentum 0 is sgd": (rules.NAG(lr=0.1, form="lookahead", momentum=0.0), rules.SGD(lr=0.1)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_limits(pair):
    start, pushed = np.linspace(-1, 1, 9), gradients(100, 9)
    got, wanted = (run(rule, start, pushed) for rule in pair)
    assert relative_error(got, wanted, start) <= TOLERANCE


def test_conventions_differ_where_they_are_said_to_differ():
    """Options that name a convention change the result by far more than rounding."""
    start, pushed = np.linspace(-1, 1, 9), gradients(100, 9)
    families = [
        [rules.Nadam(form=form) for form in ("torch", "optax", "survey")],
        [rules.AMSGrad(beta2=0.9, form=form) for form in ("torch", "optax", "survey")],
        [rules.Momentum(form=form) for form in ("torch", "survey")],
        [rules.Adagrad(eps=1e-2), rules.Adagrad(eps=1e-2, eps_inside=True), rules.Adagrad(eps=1e-2, initial=0.1)],
        [rules.RMSprop(momentum=0.9), rules.RMSprop(momentum=0.9, momentum_after_lr=True)],
        [rules.AdaMax(eps=1e-2), rules.AdaMax(eps=0.0)],
    ]
    for family in families:
        results = [run(rule, start, pushed) for rule in family]
        for i, left in enumerate(results):
            for right in results[i + 1 :]:
                assert relative_error(left, right, start) > 1e-5, family


def test_moving_average_of_a_sum_is_that_of_its_observations_in_turn():
    at_once, in_turn = np.array([1.0]), np.array([1.0])
    rule = rules.MovingAverage(weight=0.3)
    rule.apply(at_once, {}, np.array([3 * 5.0]), Context(count=3))
    for _ in range(3):
        rule.apply(in_turn, {}, np.array([5.0]), Context())
    assert at_once[0] == pytest.approx(in_turn[0], rel=1e-12)


@pytest.mark.parametrize(
    "rule",
    [rules.Adagrad(eps=0.0), rules.RMSprop(eps=0.0), rules.RMSprop(eps=0.0, momentum=0.5), rules.Adam(eps=0.0),
     rules.AMSGrad(eps=0.0), rules.AdaMax(eps=0.0), rules.Nadam(eps=0.0), rules.QHAdam(eps=0.0)],
    ids=lambda rule: f"{rule.name}-{len(rule.slots)}",
)  # fmt: skip
def test_without_eps_a_coordinate_without_gradient_stays(rule):
    center = np.ones(4)
    slots = rule.allocate(4, "float64")
    for t in range(3):
        rule.apply(center, slots, np.array([1.0, 0.0, -1.0, 0.0]), Context(step=t + 1))
    assert center[1] == center[3] == 1.0 and center[0] < 1.0 < center[2]


def test_momentum_products_are_those_of_a_plain_loop_and_end_when_negligible():
    table = momentum_products(0.9, 4e-3, 1 << 20)
    product = 1.0
    for t in range(1, table.size):
        product *= 0.9 * (1 - 0.5 * 0.96 ** (t * 4e-3))
        assert table[t] == pytest.approx(product, rel=1e-12)
    assert table.size < 1000 and table[-1] < 1e-17
    assert momenta(0.9, 0.0, np.array([1]))[0] == pytest.approx(0.45)


def test_nadam_is_finite_at_a_very_late_step():
    center, rule = np.ones(2), rules.Nadam(beta1=0.999)
    rule.apply(center, rule.allocate(2, "float64"), np.ones(2), Context(step=3_000_000))
    assert np.isfinite(center).all() and (center < 1).all()


BAD_NUMBERS = [-1.0, math.nan, math.inf, "0.1", True, None]


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=repr)
@pytest.mark.parametrize("rule_type", [*RULES.values(), rules.MovingAverage], ids=lambda t: t.__name__)
def test_every_number_is_checked(rule_type, bad):
    checked = 0
    for field in fields(rule_type):
        if not isinstance(field.default, float) and field.name != "strength":
            continue
        if bad is None and field.name == "strength":
            continue  # not given: the form's own
        with pytest.raises(UsageError, match=rf"^{rule_type.__name__}: {field.name} must be .*, got {bad!r}"):
            rule_type(**{field.name: bad})
        checked += 1
    assert checked


REFUSED = [
    (lambda: rules.SGD(lr=0), "SGD: lr must be a number > 0, got 0"),
    (lambda: rules.Momentum(momentum=1.0), r"momentum must be a number in \[0, 1\), got 1.0; .*try 0.9"),
    (lambda: rules.Momentum(form="pytorch"), "form must be 'torch' or 'survey', got 'pytorch'"),
    (lambda: rules.Momentum(dampening=1.1), r"dampening must be a number in \[0, 1\], got 1.1"),
    (lambda: rules.NAG(form="survey"), "form must be 'torch' or 'lookahead'"),
    (lambda: rules.AggMo(betas=()), r"betas must be a list of numbers in \[0, 1\), got \(\); the paper's are"),
    (lambda: rules.AggMo(betas=[0.9, 1.0]), "betas must be"),
    (lambda: rules.AggMo(betas=0.9), "betas must be"),
    (lambda: rules.QHM(nu=1.5), "nu must be"),
    (lambda: rules.Adadelta(eps=0.0), "eps must be a number > 0, got 0.0; with eps = 0 the first step is zero"),
    (lambda: rules.Adam(beta2=1), "beta2 must be"),
    (lambda: rules.Adagrad(eps_inside=1), "eps_inside must be true or false, got 1"),
    (lambda: rules.Nadam(form="keras"), "form must be"),
    (lambda: rules.AsyncAdaGrad(initial=0.0), "initial must be a number > 0"),
    (lambda: rules.DCASGD(adaptive="yes"), "adaptive must be true or false"),
    (lambda: rules.MovingAverage(weight=1.5), "weight must be"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_bounds(make, message):
    with pytest.raises(UsageError, match=message):
        make()
