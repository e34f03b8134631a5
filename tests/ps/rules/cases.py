"""The table of rules under test, and the runs that the tests compare. A new rule is one more row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ps import rules
from ps.rules.base import Context

from . import oracles
from .oracles import Occasion

STEPS = 200
TOLERANCE = 1e-10  # of the movement


@dataclass(frozen=True)
class Case:
    """A rule and its oracle; eps is large enough in all of them to be seen in the result."""

    label: str
    rule: rules.UpdateRule
    oracle: Callable


RULES_UNDER_TEST = [
    Case("sgd", rules.SGD(lr=0.1), oracles.sgd(0.1)),
    Case("momentum", rules.Momentum(lr=0.01, momentum=0.8), oracles.momentum(0.01, 0.8)),
    Case("momentum-damped", rules.Momentum(lr=0.01, dampening=0.3), oracles.momentum(0.01, 0.9, 0.3)),
    Case("momentum-survey", rules.Momentum(lr=0.01, form="survey"), oracles.momentum(0.01, 0.9, rate_inside=True)),
    Case("nag-torch", rules.NAG(lr=0.01), oracles.nag_torch(0.01, 0.9)),
    Case("nag-lookahead", rules.NAG(lr=0.01, form="lookahead"), oracles.nag_lookahead(0.01, 0.9)),
    Case("aggmo", rules.AggMo(lr=0.03, betas=(0.0, 0.8, 0.95)), oracles.aggmo(0.03, (0.0, 0.8, 0.95))),
    Case("qhm", rules.QHM(lr=0.1, nu=0.6, beta=0.97), oracles.qhm(0.1, 0.6, 0.97)),
    Case("adagrad", rules.Adagrad(lr=0.1, eps=1e-3), oracles.adagrad(0.1, 1e-3)),
    Case("adagrad-survey", rules.Adagrad(lr=0.1, eps=1e-3, eps_inside=True), oracles.adagrad(0.1, 1e-3, inside=True)),
    Case("adagrad-optax", rules.Adagrad(lr=0.1, eps=1e-3, initial=0.1), oracles.adagrad(0.1, 1e-3, initial=0.1)),
    Case("adadelta", rules.Adadelta(rho=0.95, eps=1e-3, lr=0.7), oracles.adadelta(0.7, 0.95, 1e-3)),
    Case("rmsprop", rules.RMSprop(eps=1e-3, decay=0.9), oracles.rmsprop(0.01, 0.9, 1e-3)),
    Case(
        "rmsprop-survey",
        rules.RMSprop(eps=1e-3, decay=0.9, eps_inside=True),
        oracles.rmsprop(0.01, 0.9, 1e-3, inside=True),
    ),
    Case("rmsprop-torch-momentum", rules.RMSprop(eps=1e-3, momentum=0.7), oracles.rmsprop(0.01, 0.99, 1e-3, 0.7)),
    Case(
        "rmsprop-optax-momentum",
        rules.RMSprop(eps=1e-3, momentum=0.7, initial=0.2, momentum_after_lr=True),
        oracles.rmsprop(0.01, 0.99, 1e-3, 0.7, 0.2, rate_inside=True),
    ),
    Case("adam", rules.Adam(lr=0.01, beta1=0.8, beta2=0.95, eps=1e-3), oracles.adam(0.01, 0.8, 0.95, 1e-3)),
    Case("adamw", rules.AdamW(lr=0.01, eps=1e-3, weight_decay=0.2), oracles.adam(0.01, 0.9, 0.999, 1e-3, 0.2)),
    Case("adamax", rules.AdaMax(lr=0.01, beta2=0.9, eps=1e-2), oracles.adamax(0.01, 0.9, 0.9, 1e-2)),
    Case("adamax-survey", rules.AdaMax(lr=0.01, beta2=0.9, eps=0), oracles.adamax(0.01, 0.9, 0.9, 0.0)),
    *(
        Case(f"nadam-{form}", rules.Nadam(lr=0.01, eps=1e-3, form=form), oracles.nadam(0.01, 0.9, 0.999, 1e-3, form))
        for form in ("torch", "optax", "survey")
    ),
    *(
        Case(
            f"amsgrad-{form}",
            rules.AMSGrad(lr=0.01, beta2=0.9, eps=1e-3, form=form),
            oracles.amsgrad(0.01, 0.9, 0.9, 1e-3, form),
        )
        for form in ("torch", "optax", "survey")
    ),
    Case(
        "qhadam",
        rules.QHAdam(lr=0.01, beta1=0.95, beta2=0.9, eps=1e-3, nu1=0.7, nu2=0.8),
        oracles.qhadam(0.01, 0.95, 0.9, 1e-3, 0.7, 0.8),
    ),
    Case("async_adagrad", rules.AsyncAdaGrad(lr=0.1), oracles.adagrad(0.1, 0.0, initial=1.0)),
    Case("adaptive_revision", rules.AdaptiveRevision(lr=0.1), oracles.adaptive_revision(0.1)),
    Case(
        "adaptive_revision-star", rules.AdaptiveRevision(lr=0.1, star=True), oracles.adaptive_revision(0.1, star=True)
    ),
    Case("dc_asgd", rules.DCASGD(lr=0.05), oracles.dc_asgd(0.05, 0.04)),
    Case(
        "dc_asgd-adaptive", rules.DCASGD(lr=0.02, adaptive=True, eps=1e-2), oracles.dc_asgd(0.02, 2.0, True, eps=1e-2)
    ),
    Case("staleness_aware", rules.StalenessAware(lr=0.1), oracles.staleness_aware(0.1)),
    Case("dynsgd", rules.DynSGD(lr=0.3), oracles.dynsgd(0.3)),
    Case("add", rules.Add(lr=0.5), oracles.add(0.5)),
    Case("moving_average", rules.MovingAverage(weight=0.1), oracles.moving_average(0.1)),
]
LABELS = [case.label for case in RULES_UNDER_TEST]

WRAPPED = {
    "clip_norm": lambda rule: rules.ClipByNorm(rule, 1.5),
    "clip_value": lambda rule: rules.ClipByValue(rule, 0.4),
    "weight_decay": lambda rule: rules.WeightDecay(rule, 0.1),
    "noise": lambda rule: rules.GradientNoise(rule, 0.3),
    "decoupled": lambda rule: rules.DecoupledWeightDecay(rule, 0.1),
    "schedule": lambda rule: rules.Scheduled(rule, rules.SCHEDULES["inverse_sqrt"]()),
    "averaged": lambda rule: rules.AveragedCenter(rule),
    "averaged-constant": lambda rule: rules.AveragedCenter(rule, 0.2),
}


def all_rules() -> dict[str, rules.UpdateRule]:
    """Every rule of the table, two in each wrapper, and one in all wrappers of a job."""
    found = {case.label: case.rule for case in RULES_UNDER_TEST}
    for key, wrap in WRAPPED.items():
        # Schedules and noise count pushes, Adam's bias correction a row's updates: a vector has one count for both.
        inner = rules.RMSprop(momentum=0.5) if key in ("schedule", "noise") else rules.Adam(lr=0.01)
        found[f"{key}({inner.name})"] = wrap(inner)
        found[f"{key}(adaptive_revision)"] = wrap(rules.AdaptiveRevision(lr=0.1))
    nested = {
        "weight_decay": 0.1,
        "noise": {"eta": 0.1},
        "clip_value": 0.5,
        "clip_norm": 1.0,
        "decoupled_weight_decay": 0.1,
    }
    schedule = {"name": "warmup", "length": 5, "then": {"name": "decay", "unit": "step"}}
    found["everything(momentum)"] = rules.build_rule({"name": "momentum", **nested, "schedule": schedule})
    return found


def gradients(steps: int, size: int, seed: int = 0) -> np.ndarray:
    """Random gradients (steps, size) in float64 whose scale differs between coordinates and drifts over time."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-1.5, 0.5, size)
    drift = 1.0 + 0.5 * np.sin(np.arange(steps) / 20.0)
    return (rng.standard_normal((steps, size)) + 0.2) * scale * drift[:, None]


def occasions(steps: int, seed: int = 0) -> list[Occasion]:
    """Delays, counts and rates of a run; ``read`` is filled in by who runs."""
    rng = np.random.default_rng(seed + 1000)
    delays = [int(rng.integers(0, min(6, t) + 1)) for t in range(steps)]
    return [Occasion(1.0 / (1.0 + 0.01 * t), delays[t], int(rng.integers(1, 4)), None) for t in range(steps)]


def forgotten(t: int) -> bool:
    """Whether the reader memory had no room at 0-based step ``t``."""
    return t % 7 == 3


def run(rule, start: np.ndarray, pushed: np.ndarray, sign: float = 1.0, dtype: str = "float64") -> np.ndarray:
    """The vector after all of ``pushed`` (steps, n); ``sign=-1`` reverses each step, as a kernel with a wrong sign."""
    center = start.astype(dtype)
    slots = rule.allocate(center.size, dtype)
    rule.initialise(center, slots)
    past = []
    for t, occasion in enumerate(occasions(len(pushed))):
        past.append((center if rule.remembers == "center" else slots.get(rule.remembers, center)).copy())
        remembered = None if rule.remembers is None or forgotten(t) else past[t - occasion.delay]
        context = Context(
            step=t + 1,
            staleness=occasion.delay,
            count=occasion.count,
            lr_scale=occasion.lr_scale,
            remembered=remembered,
        )
        before = center.copy()
        rule.apply(center, slots, pushed[t].astype(dtype), context)
        if sign < 0:
            center[:] = before - (center - before)
    return center


def run_oracle(oracle: Callable, start: np.ndarray, pushed: np.ndarray) -> np.ndarray:
    """The same by the oracle, one number at a time."""
    return np.array([_run_number(oracle, x, pushed[:, i].tolist()) for i, x in enumerate(start.tolist())])


def _run_number(oracle: Callable, x: float, pushed: list[float]) -> float:
    state, past = {}, []
    for t, (g, occasion) in enumerate(zip(pushed, occasions(len(pushed)), strict=True)):
        past.append(dict(state, x=x))
        occasion.read = None if forgotten(t) else past[t - occasion.delay]
        x = oracle(state, x, g, t + 1, occasion)
    return x


def relative_error(got: np.ndarray, wanted: np.ndarray, start: np.ndarray) -> float:
    """Largest difference in units of the largest movement."""
    return float(np.max(np.abs(got - wanted)) / np.max(np.abs(wanted - start)))
