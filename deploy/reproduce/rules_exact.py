"""rules: every update rule equals its formula, in the convention that it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.reproduce import drawing
from deploy.reproduce import formulas as f
from deploy.reproduce import formulas_adam as a
from deploy.reproduce.claim import Claim, Figures, Verdict
from ps.rules import Context, build_rule

STEPS = 200
SIZE = 40
TOLERANCE = 1e-10
LARGEST_DELAY = 5


@dataclass(frozen=True)
class Case:
    """A rule as a job would ask for it, whose convention that is, and the formula."""

    label: str
    convention: str
    config: dict[str, Any]
    formula: f.Formula


def _case(convention: str, formula: f.Formula, name: str, label: str = "", **options: Any) -> Case:
    return Case(label or name, convention, {"name": name, **options}, formula)


# Values of eps are large enough to be seen at the tolerance.
CASES = [
    _case("torch", f.sgd(0.1), "sgd", lr=0.1),
    _case("torch", f.momentum(0.02, 0.9), "momentum", lr=0.02),
    _case("torch", f.momentum(0.02, 0.9, 0.3), "momentum", "momentum, dampened", lr=0.02, dampening=0.3),
    _case("survey", f.momentum_survey(0.02, 0.9), "momentum", "momentum", lr=0.02, form="survey"),
    _case("torch", f.nag(0.02, 0.9), "nag", lr=0.02),
    _case("EAMSGD", f.nag_lookahead(0.02, 0.9), "nag", lr=0.02, form="lookahead"),
    _case("paper", f.aggmo(0.02, (0.0, 0.9, 0.99)), "aggmo", lr=0.02),
    _case("paper", f.qhm(0.1, 0.7, 0.97), "qhm", lr=0.1, beta=0.97),
    _case("torch", f.adagrad(0.1, 1e-3), "adagrad", lr=0.1, eps=1e-3),
    _case("survey", f.adagrad(0.1, 1e-3, inside=True), "adagrad", lr=0.1, eps=1e-3, eps_inside=True),
    _case("optax", f.adagrad(0.1, 1e-3, 0.1), "adagrad", lr=0.1, eps=1e-3, initial=0.1),
    _case("torch", f.adadelta(1.0, 0.9, 1e-4), "adadelta", eps=1e-4),
    _case("torch", f.rmsprop(0.01, 0.99, 1e-3), "rmsprop", eps=1e-3),
    _case("torch", f.rmsprop(0.01, 0.9, 1e-3, 0.7), "rmsprop", "rmsprop, momentum", eps=1e-3, decay=0.9, momentum=0.7),
    _case("survey", f.rmsprop(0.01, 0.9, 1e-3, inside=True), "rmsprop", eps=1e-3, decay=0.9, eps_inside=True),
    _case("optax", f.rmsprop(0.01, 0.9, 1e-3, 0.7, 0.2, late=True), "rmsprop", "rmsprop, momentum",
          eps=1e-3, decay=0.9, momentum=0.7, initial=0.2, momentum_after_lr=True),
    _case("torch", a.adam(0.01, 0.9, 0.999, 1e-3), "adam", lr=0.01, eps=1e-3),
    _case("torch", a.adam(0.01, 0.9, 0.999, 1e-3, 0.2), "adamw", lr=0.01, eps=1e-3, weight_decay=0.2),
    _case("torch", a.adamax(0.01, 0.9, 0.99, 1e-2), "adamax", lr=0.01, beta2=0.99, eps=1e-2),
    _case("survey", a.adamax(0.01, 0.9, 0.99, 0.0), "adamax", lr=0.01, beta2=0.99, eps=0.0),
    _case("torch", a.nadam(0.01, 0.9, 0.999, 1e-3, 4e-3), "nadam", lr=0.01, eps=1e-3),
    _case("survey", a.nadam_plain(0.01, 0.9, 0.999, 1e-3, 0), "nadam", lr=0.01, eps=1e-3, form="survey"),
    _case("optax", a.nadam_plain(0.01, 0.9, 0.999, 1e-3, 1), "nadam", lr=0.01, eps=1e-3, form="optax"),
    *(
        _case(form, a.amsgrad(0.01, 0.9, 0.95, 1e-3, form), "amsgrad", lr=0.01, beta2=0.95, eps=1e-3, form=form)
        for form in ("torch", "survey", "optax")
    ),
    _case("paper", a.qhadam(0.01, 0.95, 0.99, 1e-3, 0.7, 0.8), "qhadam",
          lr=0.01, beta1=0.95, beta2=0.99, eps=1e-3, nu2=0.8),
    _case("paper", f.adagrad(0.1, 0.0, 1.0), "async_adagrad", lr=0.1),
    _case("paper", a.adaptive_revision(0.1), "adaptive_revision", lr=0.1),
    _case("paper", a.dc_asgd(0.05, 0.04), "dc_asgd", lr=0.05),
    _case("paper", a.dc_asgd_adaptive(0.02, 2.0, 0.95, 1e-2), "dc_asgd", "dc_asgd, adaptive",
          lr=0.02, adaptive=True, eps=1e-2),
    _case("paper", a.staleness_aware(0.1), "staleness_aware", lr=0.1),
    _case("paper", a.dynsgd(0.3), "dynsgd", lr=0.3),
]  # fmt: skip


class RulesExact(Claim):
    """Each case of ``CASES`` against its formula, on a noisy quadratic whose gradients follow the path."""

    name = "rules"
    title = "Every update rule is its published formula"
    paper = "the formulas of SGD, Momentum, NAG, Adagrad, Adadelta, RMSprop, Adam and its family, and of the delay-aware rules"
    source = "Ruder 2016, section 4; torch.optim; optax; the rules' own papers"
    setting = (
        f"{len(CASES)} rules and conventions, compiled, against plain numpy: {STEPS} steps in float64 on a noisy quadratic "
        f"of {SIZE} variables; delays up to {LARGEST_DELAY} for the rules that know of delay"
    )
    threshold = f"largest difference <= {TOLERANCE:g} of the largest movement, for every rule"
    seconds = 3

    def run(self, seed: int) -> Figures:
        return {"errors": {f"{case.label} ({case.convention})": error_of(case, seed) for case in CASES}}

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        errors = worst_of(runs)
        name = max(errors, key=lambda name: errors[name] if np.isfinite(errors[name]) else np.inf)
        wrong = [name for name, error in errors.items() if not error <= TOLERANCE]
        verdict = (
            f"largest error {errors[name]:.1e}, of {name}; {len(errors) - len(wrong)} of {len(errors)} within the bound"
        )
        return Verdict(not wrong, verdict + (f"; not {', '.join(wrong)}" if wrong else ""))

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        errors = worst_of(runs)
        figure = drawing.figure(7.5, 8.2)
        axes = figure.add_subplot()
        places = np.arange(len(errors))[::-1]
        widths = np.maximum(list(errors.values()), 1e-17)
        axes.barh(places, widths, left=0, color=[drawing.GOOD if w <= TOLERANCE else drawing.BAD for w in widths])
        for place, error in zip(places, errors.values(), strict=True):
            if error == 0:
                axes.text(1.3e-17, place, "equal to the last bit", va="center", fontsize=7, color=drawing.QUIET)
        axes.axvline(TOLERANCE, color=drawing.BAD, linestyle="--", linewidth=1)
        axes.text(TOLERANCE * 0.8, places[0] + 0.9, "threshold", ha="right", va="center", fontsize=8, color=drawing.BAD)
        axes.set(xscale="log", xlim=(1e-17, 1e-8), ylim=(-0.7, len(errors) + 0.9))
        axes.set_yticks(places, list(errors), fontsize=8)
        axes.set_xlabel(f"relative error after {STEPS} steps (float64)")
        axes.set_title(self.title)
        axes.grid(axis="x", alpha=0.3)
        return [drawing.save(figure, path)]


def worst_of(runs: Sequence[Figures]) -> dict[str, float]:
    """The largest error of each rule over all seeds; not a number stays so."""
    return {name: float(np.max([run["errors"][name] for run in runs])) for name in runs[0]["errors"]}


def error_of(case: Case, seed: int) -> float:
    """Largest difference between the rule and its formula, in units of the largest movement."""
    rng = np.random.default_rng([seed, 100])
    half = rng.standard_normal((SIZE, SIZE)) / np.sqrt(SIZE)
    matrix = half @ half.T + 0.1 * np.eye(SIZE)
    noise = rng.standard_normal((STEPS, SIZE))
    start = rng.standard_normal(SIZE)
    delays = [int(rng.integers(0, min(LARGEST_DELAY, t) + 1)) for t in range(STEPS)]
    got = _by_rule(case, start, matrix, noise, delays)
    wanted = _by_formula(case, start, matrix, noise, delays)
    return float(np.max(np.abs(got - wanted)) / np.max(np.abs(wanted - start)))


def _by_rule(case: Case, start: np.ndarray, matrix: np.ndarray, noise: np.ndarray, delays: list[int]) -> np.ndarray:
    rule = build_rule(case.config)
    sign = -1.0 if rule.pushes == "update" else 1.0  # what is added goes downhill
    center, slots, past = start.copy(), rule.allocate(start.size, "float64"), []
    for t in range(STEPS):
        past.append(_remembered(rule.remembers, center, slots))
        context = Context(step=t + 1, staleness=delays[t], remembered=past[t - delays[t]])
        rule.apply(center, slots, sign * (matrix @ center + noise[t]), context)
    return center


def _remembered(what: str | None, center: np.ndarray, slots: dict[str, np.ndarray]) -> np.ndarray | None:
    if what is None:
        return None
    return (center if what == "center" else slots[what]).copy()


def _by_formula(case: Case, start: np.ndarray, matrix: np.ndarray, noise: np.ndarray, delays: list[int]) -> np.ndarray:
    step, x = case.formula(start), start
    sign = -1.0 if case.config["name"] == "dynsgd" else 1.0
    for t in range(STEPS):
        x = step(x, sign * (matrix @ x + noise[t]), t + 1, delays[t])
    return x
