"""The claims that are measured in virtual time: the quick ones hold, each can fail, and their closed forms are right."""

from __future__ import annotations

import copy
import json
from collections import Counter

import numpy as np
import pytest

from deploy.reproduce import (
    backup_workers,
    bounded_staleness,
    delay_tolerance,
    digits,
    long_periods,
    robust_rates,
    round_robin,
    zipf_task,
)
from deploy.reproduce.registry import build_claim
from deploy.reproduce.runner import reproduce
from ps.rows import Rows
from worker.task import check_task

QUICK = ["A3", "B1", "B3", "ssp", "backup"]


@pytest.mark.parametrize("name", QUICK)
def test_claim_holds(name, tmp_path):
    outcome = reproduce(build_claim(name), [0], tmp_path)
    assert outcome.verdict.holds, outcome.verdict.figure + (outcome.traceback or "")
    assert json.loads((tmp_path / f"{name}.json").read_text())["runs"]
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def judged(name: str, figures) -> bool | None:
    return build_claim(name).judge(figures).holds


# -- A3 -----------------------------------------------------------------------------------------------------------------


def a3_figures(rr=lambda g: round_robin.closed_form(g), hogwild=10.0):
    times = round_robin.GRADIENTS
    speedups = {"RR": [rr(g) for g in times], "Hogwild!": [hogwild] * len(times), "AIG": [5.0] * len(times)}
    return [{"gradient_seconds": times, "speedups": speedups}]


def test_round_robin_can_fail():
    assert judged("A3", a3_figures())
    assert not judged("A3", a3_figures(lambda g: 1.05 * round_robin.closed_form(g)))
    assert not judged("A3", a3_figures(lambda g: max(round_robin.closed_form(g), 1.01)))
    assert not judged("A3", a3_figures(hogwild=11.5))


# -- B1, B2, B3 ---------------------------------------------------------------------------------------------------------


def b1_figures(four=300.0, sixteen=150.0):
    times = {1: 1000.0, 2: 500.0, 4: four, 8: 150.0, 16: sixteen}
    return {"seed": 0, "runs": {workers: {"seconds": seconds} for workers, seconds in times.items()}}


def test_more_replicas_can_fail():
    assert judged("B1", [b1_figures()])
    for other in (b1_figures(four=351.0), b1_figures(sixteen=201.0), b1_figures(sixteen=None)):
        assert not judged("B1", [b1_figures(), other])


def b2_figures(sgd, adagrad):
    return {"SGD": dict(zip(("largest", "best"), sgd, strict=True)),
            "Adagrad": dict(zip(("largest", "best"), adagrad, strict=True))}  # fmt: skip


def test_robust_rates_are_judged_by_the_median():
    good, bad = b2_figures((0.02, 0.4), (0.04, 0.2)), b2_figures((0.02, 0.4), (0.01, 0.2))
    assert judged("B2", [good, good, bad]) and not judged("B2", [good, bad, bad])
    assert not judged("B2", [b2_figures((0.02, 0.4), (None, 0.2)), good, good])


def test_the_scan_finds_the_largest_rate(monkeypatch):
    """The best of one replica, and going down from it until two rates in a row converge."""
    asked = []

    def made_up(seed, workers, updates, every, rule, observer):
        asked.append((workers, rule["lr"]))
        converges = workers == 1 or rule["lr"] in (0.11, 0.04, 0.028, 0.02)
        return {"updates": round(1000 * (1 + abs(np.log(rule["lr"] / 0.32)))) if converges else None}

    monkeypatch.setattr(robust_rates, "train_to_target", made_up)
    found = robust_rates.measure((0, "SGD"))
    assert (found["best"], found["largest"]) == (0.32, 0.11)
    assert [rate for workers, rate in asked if workers == 64] == [0.32, 0.22, 0.16, 0.11, 0.08, 0.056, 0.04, 0.028]


def b3_figures(updates=1050, seconds=150.0):
    run = {"all": {"updates": 1000, "seconds": 100.0}, "half": {"updates": updates, "seconds": seconds}}
    return {"Adagrad": run, "SGD": {"all": {"updates": 1000}, "half": {"updates": None}}}


def test_survivors_can_fail():
    assert judged("B3", [b3_figures()])
    for other in (
        b3_figures(updates=1151),
        b3_figures(updates=849),
        b3_figures(seconds=221.0),
        b3_figures(seconds=None),
    ):
        assert not judged("B3", [b3_figures(), other])


# -- C1 -----------------------------------------------------------------------------------------------------------------


def c1_figures():
    slow = {"0.01": 0.6, "0.02": 0.55, "0.05": 0.52, "0.1": 1.0, "0.2": 1.5, "0.4": 2.3, "0.8": 4.0}
    revised = {"0.05": 0.6, "0.1": 0.55, "0.2": 0.48, "0.4": 0.47, "0.8": 0.6}
    short = {"0.2": 0.4, "0.4": 0.39, "0.8": 0.4}
    losses = {}
    for pattern in delay_tolerance.PATTERNS:
        losses[f"AsyncAdaGrad, D = 3000 {pattern}"] = dict(slow)
        losses[f"AdaptiveRevision, D = 3000 {pattern}"] = dict(revised)
    for rule in delay_tolerance.RULES:
        losses |= {f"{rule}, D = {delay}": dict(short) for delay in (0, 30)}
    return {"losses": losses}


@pytest.mark.parametrize(
    ("key", "alpha", "loss"),
    [
        ("AsyncAdaGrad, D = 3000 constant", "0.4", 0.9),  # not twice as bad with the old rate
        ("AsyncAdaGrad, D = 3000 minibatch", "0.4", 0.9),
        ("AsyncAdaGrad, D = 3000 constant", "0.05", 0.48),  # nearly as good with a rate of its own
        ("AsyncAdaGrad, D = 3000 minibatch", "0.2", 0.51),  # its best rate halves only
        ("AdaptiveRevision, D = 3000 constant", "0.1", 0.46),  # its best rate falls four times
        ("AsyncAdaGrad, D = 30", "0.4", 0.393),
        ("AdaptiveRevision, D = 30", "0.4", 0.387),
    ],
)
def test_delay_tolerance_can_fail(key, alpha, loss):
    figures = c1_figures()
    assert judged("C1", [figures])
    worse = copy.deepcopy(figures)
    worse["losses"][key][alpha] = loss
    assert not judged("C1", [worse])


def test_a_small_study_of_delay(monkeypatch):
    """Without delay both rules are one; with a long one the rule that knows of it is better at the same rate."""
    monkeypatch.setattr(delay_tolerance, "_task", lambda seed: zipf_task.ZipfLogistic(3000, 300, 10, seed))
    loss = {
        (rule, delay): delay_tolerance.measure((0, rule, "constant", delay, 0.4))
        for rule in delay_tolerance.RULES
        for delay in (0, 300)
    }
    assert loss["AsyncAdaGrad", 0] == pytest.approx(loss["AdaptiveRevision", 0], rel=1e-5)
    assert loss["AsyncAdaGrad", 0] < loss["AdaptiveRevision", 300] < loss["AsyncAdaGrad", 300]


def test_generated_features_have_the_frequencies_of_zipf():
    chosen, labels = zipf_task.generate(20_000, 200, 5, seed=0)
    assert all(len(set(row)) == 5 for row in chosen[:500].tolist()) and set(labels) == {-1.0, 1.0}
    first = Counter(chosen[:, 0].tolist())  # the first draw is not yet changed by leaving out what was drawn
    weights = 1 / np.arange(1, 201) ** zipf_task.EXPONENT
    for feature in (0, 1, 10):
        assert first[feature] / 20_000 == pytest.approx(weights[feature] / weights.sum(), rel=0.1)


def test_the_gradient_of_the_generated_task():
    task = zipf_task.ZipfLogistic(50, 30, 4, seed=1)
    assert check_task(task) == pytest.approx(np.log(2))
    weights = np.random.default_rng(0).standard_normal(30)
    for rows in ([3], [3, 7, 9]):
        batch = task.dataset().take(np.array(rows))
        _, gradient = task.loss_and_gradient({"weights": weights}, batch)
        found = np.zeros(30)
        assert isinstance(gradient["weights"], Rows)
        found[gradient["weights"].rows] = gradient["weights"].values
        wanted = [
            (_loss(task, weights + shift, batch) - _loss(task, weights - shift, batch)) / 2e-6
            for shift in 1e-6 * np.eye(30)
        ]
        np.testing.assert_allclose(found, wanted, atol=1e-8)


def _loss(task, weights, batch) -> float:
    return task.loss_and_gradient({"weights": weights}, batch)[0]


# -- D2 -----------------------------------------------------------------------------------------------------------------


def d2_figures(downpour=0.2, easgd=0.02, alone=0.018):
    errors = {"DOWNPOUR, tau = 64": downpour, "EASGD, tau = 64": easgd, "EAMSGD, tau = 64": 0.02}
    errors |= {"DOWNPOUR, tau = 1": 0.016, "EASGD, tau = 1": alone, "EAMSGD, tau = 1": 0.02}
    rates = (*long_periods.SLOWER, *long_periods.RATES)
    return {"test_errors": {key: {f"{rate:g}": error for rate in rates} for key, error in errors.items()}}


def test_long_periods_can_fail():
    assert judged("D2", [d2_figures()] * 3)
    assert not judged("D2", [d2_figures(downpour=0.0999)] * 3)
    assert not judged("D2", [d2_figures(easgd=0.0235)] * 3)
    assert not judged("D2", [d2_figures(alone=0.031, easgd=0.031)] * 3)


def test_one_rate_is_the_best_for_all_seeds():
    runs = [d2_figures(), d2_figures(), d2_figures()]
    for run, errors in zip(runs, ((0.0, 0.1), (0.2, 0.1), (0.2, 0.1)), strict=True):
        run["test_errors"]["EASGD, tau = 64"] |= dict(zip(("0.1", "0.2"), errors, strict=True))
    assert long_periods.best_error(runs, "EASGD", 64, (0.1, 0.2)) == (pytest.approx(0.1), 0.2)


@pytest.mark.parametrize("method", long_periods.METHODS)
def test_one_run_of_each_method(method, monkeypatch):
    monkeypatch.setattr(long_periods, "STEPS", 60)
    errors = [long_periods.measure((0, method, tau, 0.1)) for tau in (1, 64)]
    assert errors[0] < 0.6 and errors[0] != errors[1]


def test_means_and_medians_are_of_three_seeds():
    assert digits.at_least_three([0]) == [0, 1, 2] and digits.at_least_three([4, 7]) == [4, 7, 8]
    assert digits.at_least_three(range(5)) == [0, 1, 2, 3, 4]


# -- ssp ----------------------------------------------------------------------------------------------------------------


def ssp_figures():
    found = {"seed": 0, "one": {}, "any": {}}
    ends = bounded_staleness.step_seconds_of_all(), bounded_staleness.step_seconds_of_one()
    for index, bound in enumerate(bounded_staleness.BOUNDS):
        label = bounded_staleness.label(bound)
        found["one"][label] = bounded_staleness.expected(bound)
        step = ends[0] + index / 4 * (ends[1] - ends[0])
        found["any"][label] = {"updates": 8 * bounded_staleness.RANDOM_SECONDS / step}
    return found


@pytest.mark.parametrize(
    ("slow", "bound", "figure", "factor"),
    [
        ("one", "s = 3", "updates", 1.06),
        ("one", "asynchronous", "mean_staleness", 0.94),
        ("one", "s = 10", "largest_lag", 1.1),
        ("any", "s = 0", "updates", 0.94),
        ("any", "asynchronous", "updates", 1.06),
        ("any", "s = 3", "updates", 0.7),  # slower than s = 1
    ],
)
def test_bounded_staleness_can_fail(slow, bound, figure, factor):
    assert judged("ssp", [ssp_figures()])
    other = ssp_figures()
    other[slow][bound][figure] *= factor
    assert not judged("ssp", [ssp_figures(), other])


@pytest.mark.parametrize("bound", bounded_staleness.BOUNDS)
def test_closed_forms_of_a_bound_by_counting(bound):
    """Second by second: the slow replica's clock, and that of a fast one, which begins a step where it may."""
    fast = free = began = 0
    waited = False
    for now in range(bounded_staleness.SECONDS):
        fast += began  # of the second before
        began = int(bound is None or fast - now // 4 <= bound)
        waited = waited or not began
        free += began and not waited
    assert bounded_staleness.fast_steps(bound) == fast + began
    assert bounded_staleness.free_steps(bound) == free


# -- backup -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backups", backup_workers.BACKUPS)
def test_order_statistic_by_drawing(backups):
    rng = np.random.default_rng(0)
    times = np.exp(0.3 * rng.standard_normal((40_000, 8 + backups)))
    times[:, 0] *= 4
    assert backup_workers.step_seconds(backups) == pytest.approx(np.sort(times, 1)[:, 7].mean(), rel=0.01)


def test_the_recursion_is_the_order_statistic_where_nobody_is_late(monkeypatch):
    monkeypatch.setattr(backup_workers, "MODEL_STEPS", 4000)
    seconds, dropped = backup_workers.late_model(0, seed=0)
    assert seconds == pytest.approx(backup_workers.step_seconds(0), rel=0.02) and dropped == 0
    seconds, dropped = backup_workers.late_model(1, seed=0)
    assert seconds == pytest.approx(backup_workers.step_seconds(1), rel=0.02)
    assert dropped == pytest.approx(seconds / (4 * digits.MEAN_STEP), rel=0.05)  # all of the slow one's, nobody else's


def backup_figures(seconds=1.0, dropped=1.0, staleness=0.0):
    figures = {"seed": 0, "runs": {}, "model": {}}
    for backups in backup_workers.BACKUPS:
        step = backup_workers.step_seconds(backups)
        figures["runs"][backups] = {"seconds_per_step": seconds * step, "dropped_per_step": dropped * backups,
                                    "mean_staleness": staleness}  # fmt: skip
        figures["model"][backups] = (step, backups)
    return figures


def test_backup_workers_can_fail():
    assert judged("backup", [backup_figures()])
    for other in ({"seconds": 1.06}, {"dropped": 0.89}, {"staleness": 0.1}):
        assert not judged("backup", [backup_figures(), backup_figures(**other)])


# -- what they share ----------------------------------------------------------------------------------------------------


def test_a_run_is_given_up():
    above = digits.GiveUp({64: 1e-3})
    found = digits.train_to_target(0, 4, 4000, every=32, rule={"name": "sgd", "lr": 0.1}, observer=above)
    assert found["seconds"] is None and len(found["course"]["nll"]) in (2, 3)
    diverged = digits.train_to_target(0, 4, 400, every=32, rule={"name": "sgd", "lr": 1e30})
    assert diverged["updates"] is None


def test_repeated_examples():
    task, once = digits.Digits(passes=3), digits.Digits()
    many, size = task.dataset(), len(once.dataset())
    assert len(many) == 3 * size
    np.testing.assert_array_equal(many[np.array([5, 2 * size + 5])]["x"], once.dataset().take(np.array([5, 5]))["x"])
