"""The claims that take seconds hold, their pictures are drawn, and each of them can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.reproduce import beale, rules_exact, saddle, stability
from deploy.reproduce import lock_free_speed as speed
from deploy.reproduce.registry import CLAIMS, build_claim
from deploy.reproduce.runner import reproduce

QUICK = ["A1", "D1", "rules", "beale", "saddle"]


@pytest.mark.parametrize("name", QUICK)
def test_claim_holds(name, tmp_path):
    outcome = reproduce(build_claim(name), [0], tmp_path)
    assert outcome.verdict.holds, outcome.verdict.figure + (outcome.traceback or "")
    document = json.loads((tmp_path / f"{name}.json").read_text())
    assert document["holds"] is True and document["seeds"] == [0] and document["runs"]
    for file in outcome.files:
        assert file.parent == tmp_path and file.stat().st_size > 1000, file
        if file.suffix == ".gif":
            check_animation(file, {"beale": 94, "saddle": saddle.SHOWN + 1}[name])


def check_animation(file: Path, frames: int) -> None:
    from PIL import Image

    with Image.open(file) as animation:
        assert (animation.n_frames, animation.info["loop"]) == (frames, 0)
        first, last = (_frame(animation, index) for index in (0, frames - 1))
    assert (first[2, 2] == 255).all()  # the background is white
    assert (first != last).any(-1).mean() > 0.005  # paths were drawn


@pytest.mark.parametrize("name", CLAIMS)
def test_claim_says_what_it_is(name):
    claim = build_claim(name)
    assert claim.name == name and claim.seconds > 0
    for text in (claim.title, claim.paper, claim.source, claim.setting, claim.threshold):
        assert text and "  " not in text


def _frame(animation, index: int) -> np.ndarray:
    animation.seek(index)
    return np.array(animation.convert("RGB"))


def test_check_points_notice_another_momentum(monkeypatch):
    others = [replace(racer, rule=racer.rule | {"form": "survey", "lr": 2e-3}) if racer.label == "Momentum" else racer
              for racer in beale.RACERS]  # fmt: skip
    monkeypatch.setattr(beale, "RACERS", others)
    claim = beale.Beale()
    verdict = claim.judge([claim.run(0)])
    assert not verdict.holds and "is Momentum at step" in verdict.figure


def test_the_saddle_notices_another_rate(monkeypatch):
    others = [
        replace(racer, rule=racer.rule | {"lr": 0.011}) if racer.label == "SGD" else racer for racer in saddle.RACERS
    ]
    monkeypatch.setattr(saddle, "RACERS", others)
    claim = saddle.Saddle()
    assert not claim.judge([claim.run(0)]).holds
    assert saddle.steps_to_leave(np.zeros((3, 2))) is None


@pytest.mark.parametrize("surface", [beale, saddle], ids=["beale", "saddle"])
def test_gradients_are_those_of_the_surface(surface):
    point, step = np.array([0.7, -1.3]), 1e-6
    wanted = [
        (surface.value(*(point + shift)) - surface.value(*(point - shift))) / (2 * step) for shift in step * np.eye(2)
    ]
    np.testing.assert_allclose(surface.gradient(point), wanted, rtol=1e-7)


def test_the_rules_notice_one_per_mille():
    cases = [
        replace(case, config=case.config | {"lr": 1.001 * case.config.get("lr", 1.0)})
        for case in rules_exact.CASES
        if case.config["name"] != "rmsprop"
    ]
    assert min(rules_exact.error_of(case, 0) for case in cases) > 1e6 * rules_exact.TOLERANCE
    verdict = rules_exact.RulesExact().judge([{"errors": {"sgd": 1e-16, "nag": float("nan")}}])
    assert not verdict.holds and "not nag" in verdict.figure


def test_every_rule_of_the_survey_has_a_case():
    from ps.rules import RULES

    assert {case.config["name"] for case in rules_exact.CASES} == set(RULES) - {"add"}
    labels = [f"{case.label} ({case.convention})" for case in rules_exact.CASES]
    assert len(set(labels)) == len(labels)


def test_the_map_of_easgd_is_its_formula():
    eta, alpha = 0.3, 0.2
    wanted = [[1 - eta - alpha, alpha], [alpha, 1 - alpha]]
    np.testing.assert_allclose(stability.easgd_step(eta, alpha), wanted, rtol=1e-12)


def test_instability_is_noticed(monkeypatch):
    monkeypatch.setattr(stability, "POINTS", 20)
    monkeypatch.setattr(stability, "largest_stable_alpha", lambda eta: 1.0)
    claim = stability.Stability()
    assert not claim.judge([claim.run(0)]).holds


def test_another_optimum_is_noticed():
    claim = build_claim("A1")
    curves = {"serial": {"objective": [0.35], "test_accuracy": [0.85]}}
    for gap, holds in ((0.009, True), (-0.009, True), (0.011, False), (-0.011, False)):
        assert claim.judge([{"curves": curves, "gaps": {"Hogwild!, 2": gap, "AIG, 1": 0.0}}]).holds is holds


def _round(serial: float, hogwild: float, aig: float, free: float = 2.0) -> dict:
    return {"free_cores": free, "by_others": 0.02, "serial": serial, "Hogwild!": hogwild, "AIG": aig}


def test_speed_is_judged_by_medians():
    claim = speed.LockFreeSpeed(repeats=3)
    fast = [_round(1, 1.5, 1), _round(1, 1.6, 1), _round(1, 1.1, 1)]
    for rounds, holds in ((fast, True), ([*fast[:1], _round(1, 1.3, 1), _round(1, 1.3, 1)], False)):
        assert claim.judge([{"cores": 2, "rounds": rounds, "lost": []}]).holds is holds
    slower_than_locking = [_round(1, 1.5, 1.4)] * 3
    assert claim.judge([{"cores": 2, "rounds": slower_than_locking, "lost": []}]).holds is False


def test_speed_is_not_measurable_on_one_core_or_a_busy_machine(monkeypatch, tmp_path):
    claim = speed.LockFreeSpeed(repeats=3)
    busy = {"cores": 2, "rounds": [_round(1, 1.5, 1)], "lost": [_round(1, 0.8, 1, free=1.2)] * 4}
    verdict = claim.judge([busy])
    assert verdict.holds is None and "1.20 times" in verdict.figure
    slow = {"cores": 2, "rounds": [_round(1, 1.0, 1)] * 3, "lost": []}
    assert claim.judge([busy, slow]).holds is False
    fast = {"cores": 2, "rounds": [_round(1, 1.5, 1)] * 3, "lost": []}
    assert claim.judge([fast, fast, slow]).holds is True  # the median of all rounds
    assert claim.judge([fast, slow, slow]).holds is False
    monkeypatch.setattr(speed, "cores", lambda: 1)
    outcome = reproduce(claim, [0], tmp_path)
    assert outcome.verdict.holds is None and "1 core" in outcome.verdict.figure and outcome.traceback is None


def test_speed_repeats_the_rounds_that_others_disturb(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "PATIENCE_S", 0.0)
    free = iter([2.0, 2.0, 1.0, 2.0])  # a good round, one that is disturbed later, one not begun, a good one
    used = iter(
        [0.0] * 6 + [0.0, 0.3, 0.0, 0.0, 0.0, 0.0] + [0.01] * 6
    )  # by others, during each of two runs of three schemes
    monkeypatch.setattr(speed, "free_cores", lambda: next(free))
    monkeypatch.setattr(speed.Others, "cores", lambda self: next(used))
    monkeypatch.setattr(speed, "cores", lambda: 2)
    claim = speed.LockFreeSpeed(examples=400, features=100, repeats=2)
    run = claim.run(0)
    assert (len(run["rounds"]), len(run["lost"])) == (2, 2)
    assert min(entry[name] for entry in run["rounds"] for name in speed.SCHEMES) > 0
    assert claim.draw([run], tmp_path / "A2.png")[0].stat().st_size > 1000
    monkeypatch.setattr(speed, "free_cores", lambda: 1.0)
    monkeypatch.setattr(claim, "_rate", lambda name, seed: 1.0)
    run = claim.run(0)
    assert (len(run["rounds"]), len(run["lost"])) == (0, speed.MOST_LOST + 1)


def test_the_work_of_others_is_told_from_ones_own(monkeypatch):
    times = iter(
        [(10.0, 100.0, 5.0), (14.0, 107.0, 11.0)]
    )  # four seconds: seven of all cores' work, six of them one's own
    monkeypatch.setattr(speed.Others, "_times", staticmethod(lambda: next(times)))
    assert speed.Others().cores() == 0.25


def test_what_the_system_tells_of_its_work_grows(monkeypatch):
    monkeypatch.undo()
    first = speed.Others._times()
    sum(i * i for i in range(2_000_000))
    second = speed.Others._times()
    assert second[0] >= first[0] and second[1] >= first[1] and second[2] > first[2]
