"""Schedules, clipping, weight decay, noise and averages of the center, alone and together."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ps import rules
from ps.errors import UsageError
from ps.rules import SCHEDULES, Context, build_schedule, transforms
from ps.rules.wrappers import chain

from .cases import gradients

PLAIN = rules.SGD(lr=1.0)


def moved(rule, gradient, **context):
    """What one application takes from a center of zeros: the gradient that an SGD of rate 1 saw."""
    center = np.zeros_like(gradient)
    rule.apply(center, rule.allocate(center.size, center.dtype), gradient, Context(**context))
    return -center


def factors(config, units, count="step"):
    schedule = build_schedule(config)
    return [schedule.factor(Context(step=k + 1) if count == "step" else Context(epoch=k)) for k in range(units)]


@pytest.mark.parametrize(
    ("config", "count", "wanted"),
    [
        ({"name": "constant"}, "step", [1, 1, 1]),
        ({"name": "decay", "beta": 0.5}, "epoch", [1, 0.5, 0.25]),
        ({"name": "decay", "beta": 0.5}, "step", [1, 1, 1]),
        ({"name": "decay", "beta": 0.5, "unit": "step"}, "step", [1, 0.5, 0.25]),
        ({"name": "step", "every": 2, "gamma": 0.1}, "epoch", [1, 1, 0.1, 0.1, 0.01]),
        ({"name": "inverse_sqrt"}, "step", [1, 1 / math.sqrt(2), 1 / math.sqrt(3), 0.5]),
        ({"name": "inverse_sqrt", "period": 2}, "step", [1, 1, 1 / math.sqrt(1.5), 1 / math.sqrt(2)]),
        ({"name": "cosine", "length": 4, "final": 0.2}, "epoch",
         [1, 0.2 + 0.4 * (1 + math.sqrt(0.5)), 0.6, 0.2 + 0.4 * (1 - math.sqrt(0.5)), 0.2, 0.2]),
        ({"name": "warmup", "length": 4}, "step", [0.25, 0.5, 0.75, 1, 1, 1]),
        ({"name": "warmup", "length": 2, "start": 0.5}, "step", [0.75, 1, 1]),
        ({"name": "warmup", "length": 2, "then": {"name": "decay", "beta": 0.5, "unit": "step"}}, "step",
         [0.5, 1, 1, 0.5, 0.25]),
        ({"name": "warmup", "length": 2, "unit": "epoch", "then": {"name": "decay", "beta": 0.5}}, "epoch",
         [0.5, 1, 1, 0.5]),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_schedules(config, count, wanted):
    assert factors(config, len(wanted), count) == pytest.approx(wanted)


def test_the_table_of_schedules_is_complete():
    assert set(SCHEDULES) == {"constant", "decay", "step", "inverse_sqrt", "cosine", "warmup"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "decay", "beta": 1.5}, r"beta must be a number in \(0, 1\], got 1.5"),
        ({"name": "decay", "beta": 0}, "beta must be a number > 0"),
        ({"name": "step", "every": 0}, "every must be an integer >= 1, got 0"),
        ({"name": "step", "every": 1.5}, "every must be an integer >= 1, got 1.5"),
        ({"name": "cosine", "unit": "epochs"}, "unit must be 'step' or 'epoch', got 'epochs'"),
        ({"name": "warmup", "then": "decay"}, "schedule must be a table"),
        ({"name": "warmup", "lenght": 3}, "there is no parameter 'lenght'; did you mean 'length'"),
    ],
)
def test_schedules_check_their_bounds(config, message):
    with pytest.raises(UsageError, match=message):
        build_schedule(config)


def test_a_schedule_scales_the_step_and_the_rate_told():
    rule = rules.Scheduled(rules.SGD(lr=2.0), build_schedule({"name": "decay", "beta": 0.5}))
    assert rule.learning_rate(Context(epoch=2)) == 0.5
    np.testing.assert_allclose(moved(rule, np.ones(2), epoch=2), 0.5)


def test_clip_by_norm_scales_down_and_never_up():
    rule = rules.ClipByNorm(PLAIN, 1.0)
    np.testing.assert_allclose(moved(rule, np.array([3.0, 4.0])), [0.6, 0.8])
    np.testing.assert_array_equal(moved(rule, np.array([0.3, 0.4])), [0.3, 0.4])
    np.testing.assert_array_equal(moved(rule, np.zeros(2)), 0.0)


def test_clip_by_norm_believes_the_pusher_about_the_whole():
    rule = rules.ClipByNorm(PLAIN, 1.0)
    np.testing.assert_allclose(moved(rule, np.array([0.3, 0.4]), gradient_norm=10.0), [0.03, 0.04])
    np.testing.assert_array_equal(moved(rule, np.array([3.0, 4.0]), gradient_norm=0.5), [3.0, 4.0])


def test_clip_by_norm_sees_all_of_a_vector_of_many_blocks(monkeypatch):
    monkeypatch.setattr(transforms, "BLOCK_ELEMENTS", 16)
    gradient = gradients(1, 101)[0].astype(np.float32)
    got = moved(rules.ClipByNorm(PLAIN, 1.0), gradient)
    np.testing.assert_allclose(got, gradient / np.linalg.norm(gradient), rtol=1e-5)


def test_clip_by_norm_of_a_gradient_with_nan_hides_nothing():
    assert np.isnan(moved(rules.ClipByNorm(PLAIN, 1.0), np.array([1.0, np.nan, 2.0]))).all()


@pytest.mark.parametrize(
    "wrap", [lambda r: rules.ClipByValue(r, 1.0), lambda r: rules.WeightDecay(r, 1.0), lambda r: rules.GradientNoise(r)]
)
def test_clip_by_norm_must_stand_outside_what_hands_on_blocks(wrap):
    with pytest.raises(UsageError, match="rule must be free of ClipByNorm.*the other way round"):
        wrap(rules.Scheduled(rules.ClipByNorm(PLAIN, 1.0), build_schedule({"name": "constant"})))


def test_decay_of_pushed_updates_is_refused():
    with pytest.raises(UsageError, match="rule must be a rule that takes gradients"):
        rules.WeightDecay(rules.Add(), 0.1)


def test_weight_decay_adds_to_the_gradient_and_decoupled_does_not():
    for rule, wanted in (
        (rules.WeightDecay(rules.Adagrad(lr=0.1, eps=0.0), 0.5), [1.9, -1.9]),
        (rules.DecoupledWeightDecay(rules.Adagrad(lr=0.1, eps=0.0), 0.5), [1.9, -1.9]),
    ):
        center = np.array([2.0, -2.0])
        rule.apply(center, rule.allocate(2, "float64"), np.zeros(2), Context())
        # Adagrad's first step is lr whatever the gradient's size: 0.1; and the decoupled 0.1·0.5·2 = 0.1.
        np.testing.assert_allclose(center, wanted)
    center = np.array([2.0])
    rule = rules.DecoupledWeightDecay(rules.Adagrad(lr=0.1, eps=0.0), 0.25)
    rule.apply(center, rule.allocate(1, "float64"), np.array([-3.0]), Context(lr_scale=0.5))
    assert center[0] == pytest.approx(2.0 * (1 - 0.05 * 0.25) + 0.05)


def noise_of(seed, step, size=200_000, eta=0.3, offset=0):
    return moved(rules.GradientNoise(PLAIN, eta), np.zeros(size), seed=seed, step=step, offset=offset)


def test_noise_is_normal_with_the_stated_variance():
    for step in (1, 50):
        noise = noise_of(seed=1, step=step) / math.sqrt(0.3 / step**0.55)
        moments = [np.mean(noise**k) for k in (1, 2, 3, 4)]
        np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.05)
        assert np.mean(np.abs(noise) < 1.0) == pytest.approx(0.6827, abs=0.005)
        assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.01


def test_noise_depends_on_seed_step_and_index_and_on_nothing_else():
    base = noise_of(1, 2)
    np.testing.assert_array_equal(base, noise_of(1, 2))
    np.testing.assert_array_equal(base[100:], noise_of(1, 2, size=200_000 - 100, offset=100))
    for other in (noise_of(2, 2), noise_of(1, 3), noise_of(-1, 2), noise_of(1, 2, offset=7)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.01


def test_noise_of_rows_is_that_of_the_vector():
    table = np.zeros((5, 4))
    rule = rules.GradientNoise(PLAIN, 1.0)
    rule.apply_rows(table, {}, np.array([1, 3]), np.zeros((2, 4)), Context(step=3, seed=8, offset=50))
    whole = -moved(rule, np.zeros(20), step=3, seed=8, offset=50).reshape(5, 4)
    np.testing.assert_array_equal(table[[1, 3]], whole[[1, 3]])
    np.testing.assert_array_equal(table[[0, 2, 4]], 0.0)


@pytest.mark.parametrize("rate", [None, 0.25])
@pytest.mark.parametrize("ready", [True, False], ids=["initialised", "by the first step"])
def test_averaged_center(rate, ready):
    """The running average is the mean of the initial value and of all values since; the other the recursion itself."""
    rule = rules.AveragedCenter(rules.Momentum(lr=0.1), rate)
    center, plain = np.linspace(-1, 1, 5), np.linspace(-1, 1, 5)
    slots, plain_slots = rule.allocate(5, "float64"), rules.Momentum().allocate(5, "float64")
    assert rule.slots == ("velocity", "average")
    if ready:
        rule.initialise(center, slots)
        np.testing.assert_array_equal(slots["average"], center)
    seen, recursion = [center.copy()], center.copy()
    for t, gradient in enumerate(gradients(30, 5)):
        rule.apply(center, slots, gradient, Context(step=t + 1))
        rules.Momentum(lr=0.1).apply(plain, plain_slots, gradient, Context(step=t + 1))
        seen.append(center.copy())
        recursion = 0.75 * recursion + 0.25 * center
    np.testing.assert_array_equal(center, plain)
    np.testing.assert_allclose(slots["average"], np.mean(seen, axis=0) if rate is None else recursion, rtol=1e-12)


def test_averaged_center_of_rows_averages_over_each_row_s_updates():
    rule = rules.AveragedCenter(PLAIN)
    table, steps = np.array([[1.0], [1.0]]), np.zeros(2, np.int64)
    slots = {"average": np.zeros((2, 1))}
    rule.initialise(table, slots)
    for t, rows in enumerate(([0, 1], [0], [0])):
        rule.apply_rows(table, slots, np.array(rows), np.ones((len(rows), 1)), Context(step=t + 1, row_steps=steps))
    np.testing.assert_allclose(slots["average"][:, 0], [np.mean([1, 0, -1, -2]), np.mean([1, 0])])


def test_averaged_center_refuses_a_rate_out_of_bounds():
    for rate in (0.0, 1.5, "fast"):
        with pytest.raises(UsageError, match="AveragedCenter: rate must be"):
            rules.AveragedCenter(PLAIN, rate)


def test_a_wrapper_is_in_all_else_the_rule_inside():
    rule = rules.build_rule(
        {"name": "adaptive_revision", "initial": 2.0, "clip_norm": 1.0, "schedule": {"name": "decay"}}
    )
    inner = chain(rule)[-1]
    assert isinstance(inner, rules.AdaptiveRevision)
    assert (rule.slots, rule.remembers, rule.pushes) == (inner.slots, "gradient_sum", "gradient")
    assert (rule.name, rule.formula, rule.source) == (inner.name, inner.formula, inner.source)
    assert rule.initial_slot("z") == 2.0
    assert rules.ClipByValue(rules.Add(), 1.0).pushes == "update"


def test_a_wrapper_refuses_what_is_no_rule():
    with pytest.raises(UsageError, match="rule must be an update rule, got 'sgd'"):
        rules.ClipByNorm("sgd", 1.0)


def test_order_in_a_job():
    """Clipping sees what was pushed; noise and L2 come after it; the schedule scales decoupled decay."""
    config = {"weight_decay": 0.1, "noise": {}, "clip_value": 1.0, "clip_norm": 1.0, "decoupled_weight_decay": 0.1}
    rule = rules.build_rule({"name": "sgd", "schedule": {"name": "decay"}, **config})
    assert [type(inner).__name__ for inner in chain(rule)] == [
        "Scheduled", "DecoupledWeightDecay", "ClipByNorm", "ClipByValue", "GradientNoise", "WeightDecay", "SGD",
    ]  # fmt: skip
    center = np.array([10.0])
    rules.build_rule({"name": "sgd", "lr": 1.0, "weight_decay": 0.1, "clip_norm": 0.5}).apply(
        center, {}, np.ones(1), Context()
    )
    assert center[0] == pytest.approx(10.0 - (0.5 + 1.0))


def test_threads_can_share_a_wrapper():
    rule = rules.build_rule({"name": "adam", "clip_norm": 1.0, "weight_decay": 0.1, "noise": {"eta": 0.1}})
    size = 3 * transforms.BLOCK_ELEMENTS + 17

    def work(seed):
        center = np.full(size, 0.1 * seed, np.float32)
        slots = rule.allocate(size)
        for t in range(4):
            rule.apply(center, slots, gradients(1, size, seed)[0].astype(np.float32), Context(step=t + 1, seed=seed))
        return center

    alone = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(4)))
    np.testing.assert_array_equal(together, alone)
