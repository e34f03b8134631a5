"""Each rule that torch.optim has, against torch.optim, on the gradients of one and the same noisy quadratic."""

from __future__ import annotations

import numpy as np
import pytest

from ps import rules
from ps.rules import Context

from .cases import TOLERANCE, relative_error

torch = pytest.importorskip("torch", reason="torch is the reference here; pip install 'hogshead[test]'")
optim = torch.optim

STEPS, SIZE = 200, 17
CASES = {
    "sgd": (rules.SGD(lr=0.1), lambda p: optim.SGD(p, lr=0.1)),
    "sgd-weight-decay": (rules.WeightDecay(rules.SGD(lr=0.1), 0.3), lambda p: optim.SGD(p, lr=0.1, weight_decay=0.3)),
    "momentum": (rules.Momentum(lr=0.05), lambda p: optim.SGD(p, lr=0.05, momentum=0.9)),
    "momentum-dampening": (
        rules.Momentum(lr=0.05, momentum=0.8, dampening=0.4),
        lambda p: optim.SGD(p, lr=0.05, momentum=0.8, dampening=0.4),
    ),
    "nag": (rules.NAG(lr=0.05), lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    "adagrad": (rules.Adagrad(lr=0.1), lambda p: optim.Adagrad(p, lr=0.1)),
    "adagrad-initial": (
        rules.Adagrad(lr=0.1, initial=0.1, eps=1e-7),
        lambda p: optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1, eps=1e-7),
    ),
    "adadelta": (rules.Adadelta(), lambda p: optim.Adadelta(p)),
    "rmsprop": (rules.RMSprop(), lambda p: optim.RMSprop(p)),
    "rmsprop-momentum": (
        rules.RMSprop(decay=0.9, momentum=0.9),
        lambda p: optim.RMSprop(p, alpha=0.9, momentum=0.9),
    ),
    "adam": (rules.Adam(lr=0.01), lambda p: optim.Adam(p, lr=0.01)),
    "adam-weight-decay": (
        rules.WeightDecay(rules.Adam(lr=0.01, beta1=0.7), 0.2),
        lambda p: optim.Adam(p, lr=0.01, betas=(0.7, 0.999), weight_decay=0.2),
    ),
    "adamax": (rules.AdaMax(), lambda p: optim.Adamax(p)),
    "nadam": (rules.Nadam(lr=0.01), lambda p: optim.NAdam(p, lr=0.01)),
    "amsgrad": (rules.AMSGrad(lr=0.01, beta2=0.9), lambda p: optim.Adam(p, lr=0.01, betas=(0.9, 0.9), amsgrad=True)),
    "adamw": (rules.AdamW(lr=0.01, weight_decay=0.3), lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.3)),
    "adamw-wrapped": (
        rules.DecoupledWeightDecay(rules.Adam(lr=0.01), 0.3),
        lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.3),
    ),
}


def problem():
    rng = np.random.default_rng(3)
    half = rng.standard_normal((SIZE, SIZE)) / SIZE**0.5
    return half @ half.T + 0.1 * np.eye(SIZE), rng.standard_normal((STEPS, SIZE)), rng.standard_normal(SIZE)


def with_torch(make, scheduler=None):
    matrix, noise, start = problem()
    vector = torch.tensor(start, requires_grad=True)
    optimizer = make([vector])
    schedule = scheduler(optimizer) if scheduler else None
    for t in range(STEPS):
        vector.grad = torch.from_numpy(matrix @ vector.detach().numpy() + noise[t])
        optimizer.step()
        if schedule:
            schedule.step()
    return vector.detach().numpy()


def with_rule(rule, sign=1.0):
    matrix, noise, start = problem()
    center, slots = start.copy(), rule.allocate(SIZE, "float64")
    for t in range(STEPS):
        before = center.copy()
        rule.apply(center, slots, matrix @ center + noise[t], Context(step=t + 1, epoch=t))
        if sign < 0:
            center[:] = before - (center - before)
            if not np.isfinite(center).all() or np.abs(center).max() > 1e6:
                break
    return center


@pytest.mark.parametrize("label", CASES)
def test_equals_torch_over_200_steps(label):
    rule, make = CASES[label]
    start = problem()[2]
    assert relative_error(with_rule(rule), with_torch(make), start) <= TOLERANCE


@pytest.mark.parametrize("label", CASES)
def test_a_wrong_sign_is_noticed(label):
    rule, make = CASES[label]
    assert not relative_error(with_rule(rule, sign=-1), with_torch(make), problem()[2]) <= 0.1


@pytest.mark.parametrize(
    ("schedule", "scheduler"),
    [
        ({"name": "decay", "beta": 0.97}, lambda o: optim.lr_scheduler.ExponentialLR(o, 0.97)),
        ({"name": "step", "every": 30, "gamma": 0.5, "unit": "step"}, lambda o: optim.lr_scheduler.StepLR(o, 30, 0.5)),
        (
            {"name": "cosine", "length": STEPS, "final": 0.1},
            lambda o: optim.lr_scheduler.CosineAnnealingLR(o, STEPS, 0.001),
        ),
    ],
    ids=["decay", "step", "cosine"],
)
def test_schedules_equal_torch(schedule, scheduler):
    """Also inside decoupled weight decay, which the schedule scales."""
    rule = rules.build_rule({"name": "adamw", "lr": 0.01, "weight_decay": 0.3, "schedule": schedule})
    wanted = with_torch(lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.3), scheduler)
    assert relative_error(with_rule(rule), wanted, problem()[2]) <= TOLERANCE
    wrapped = rules.build_rule({"name": "adam", "lr": 0.01, "decoupled_weight_decay": 0.3, "schedule": schedule})
    assert relative_error(with_rule(wrapped), wanted, problem()[2]) <= TOLERANCE


def test_clip_by_value_equals_torch():
    gradient = np.array([0.2, -3.0, 5.0, -0.4])
    center = np.zeros(4)
    rules.ClipByValue(rules.SGD(lr=1.0), 0.5).apply(center, {}, gradient, Context())
    parameter = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    parameter.grad = torch.from_numpy(gradient.copy())
    torch.nn.utils.clip_grad_value_([parameter], 0.5)
    np.testing.assert_array_equal(-center, parameter.grad.numpy())


def test_moving_average_equals_batch_normalisation():
    """Running mean of torch's BatchNorm1d over ten batches, pushed one by one."""
    layer = torch.nn.BatchNorm1d(3, momentum=0.2, dtype=torch.float64)
    center, rule = np.zeros(3), rules.MovingAverage(weight=0.2)
    batches = np.random.default_rng(0).standard_normal((10, 8, 3)) + 2.0
    for batch in batches:
        layer(torch.from_numpy(batch))
        rule.apply(center, {}, batch.mean(axis=0), Context())
    np.testing.assert_allclose(center, layer.running_mean.numpy(), rtol=1e-12)
