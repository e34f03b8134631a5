"""D2: with long communication periods DOWNPOUR falls apart and elastic averaging does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from deploy.reproduce import drawing
from deploy.reproduce.claim import Figures, SplitClaim, Verdict
from deploy.reproduce.digits import WORDS, at_least_three, train

WORKERS, STEPS = 4, 1500
BETA, DELTA = 0.9, 0.9
PERIODS = (1, 64)
# The same for all three. Smaller ones are not judged, as learning is slow then: also DOWNPOUR with tau = 1, whose center
# takes every step of every replica, is far from its best after these steps. They are run for information.
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
SLOWER = (0.003, 0.005)
TIMES, POINTS_LONGER, POINTS_SHORT = 5.0, 0.005, 0.01
METHODS = ("DOWNPOUR", "EASGD", "EAMSGD")


def measure(part: tuple[int, str, int, float]) -> float:
    """Test error of the center, 1 where it is not finite; one (seed, method, tau, rate)."""
    seed, method, tau, rate = part
    outcome = train(
        seed,
        **_sections(method, tau, rate),
        workers={"count": WORKERS},
        simulation={"delay": {"pattern": "random", "updates": WORKERS - 1}},
        stop={"steps": WORKERS * STEPS},
        evaluation={"every_epochs": 0},
    )
    return 1.0 if outcome.error is not None else outcome.evaluations[-1]["evaluation"]["test_error"]


def _sections(method: str, tau: int, rate: float) -> dict[str, Any]:
    if method == "DOWNPOUR":
        strategy = {"name": "downpour", "push": "update", "n_fetch": tau, "n_push": tau}
        return {"strategy": strategy, "local_rule": {"name": "sgd", "lr": rate}}
    strategy = {"name": method.lower(), "tau": tau, "beta": BETA}
    rule = {"name": "sgd"} if method == "EASGD" else {"name": "nag", "momentum": DELTA, "form": "lookahead"}
    return {"strategy": strategy, "local_rule": {**rule, "lr": rate}}


class LongPeriods(SplitClaim):
    """Test errors over methods, periods and rates. The thresholds are of means, so at least three seeds are run."""

    name = "D2"
    title = "EASGD bears long communication periods, DOWNPOUR does not"
    paper = (
        "as tau grows DOWNPOUR falls behind or becomes unstable, EASGD and EAMSGD hardly change; an independent "
        "simulation of this setting at tau = 64: DOWNPOUR 16 to 45 % test error, EASGD 1.5 %, EAMSGD 1.7 %; at "
        "tau = 1 1.6 to 1.8 %"
    )
    source = "Zhang, Choromanska, LeCun 2015, section 5 and supplement"
    setting = (
        f"{WORDS}; {WORKERS} replicas in random order, {STEPS} steps each, β = {BETA}, δ = {DELTA}; test error of "
        "the center at the end, mean of at least 3 seeds, at the best of the rates "
        f"{', '.join(f'{rate:g}' for rate in RATES)}"
    )
    threshold = (
        "DOWNPOUR's error at tau = 64 >= 5 times EASGD's; EASGD's at tau = 64 <= its error at tau = 1 + 0.5 "
        "points; all three within 1 point at tau = 1"
    )
    seconds = 120
    measure = staticmethod(measure)

    def run_all(self, seeds: Sequence[int]) -> list[Figures]:
        return super().run_all(at_least_three(seeds))

    def parts(self, seed: int) -> list[tuple[int, str, int, float]]:
        grid = [(seed, method, tau, rate) for tau in PERIODS for method in METHODS for rate in RATES]
        return [*grid, *((seed, "DOWNPOUR", tau, rate) for tau in PERIODS for rate in SLOWER)]

    def combine(self, seed: int, parts: list[Any], results: list[Any]) -> Figures:
        errors: dict[str, dict[str, float]] = {}
        for (_, method, tau, rate), error in zip(parts, results, strict=True):
            errors.setdefault(f"{method}, tau = {tau}", {})[f"{rate:g}"] = error
        return {"seed": seed, "test_errors": errors}

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        best = {(method, tau): best_error(runs, method, tau, RATES) for tau in PERIODS for method in METHODS}
        short, long = PERIODS
        errors = {tau: [best[method, tau][0] for method in METHODS] for tau in PERIODS}
        times = best["DOWNPOUR", long][0] / max(best["EASGD", long][0], 1e-9)
        holds = (
            times >= TIMES
            and best["EASGD", long][0] <= best["EASGD", short][0] + POINTS_LONGER
            and max(errors[short]) - min(errors[short]) <= POINTS_SHORT
        )
        said = "; ".join(
            f"tau = {tau}: " + ", ".join(f"{method} {best[method, tau][0]:.1%}" for method in METHODS)
            for tau in PERIODS
        )
        slow, rate = best_error(runs, "DOWNPOUR", long, SLOWER)
        as_slow, _ = best_error(runs, "DOWNPOUR", short, [rate])
        at = best["DOWNPOUR", long][1]
        sentence = (
            f"{said} (DOWNPOUR {times:.1f} times EASGD, at rate {at:g}); not judged, as slow rates learn "
            f"little in this time: DOWNPOUR at rate {rate:g} {as_slow:.1%} (tau = {short}) and {slow:.1%} (tau = {long})"
        )
        return Verdict(holds, sentence)

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        figure = drawing.figure(10, 4.4)
        colors = dict(zip(METHODS, (drawing.BAD, drawing.GOOD, drawing.COLORS[2]), strict=True))
        for axes, tau in zip(figure.subplots(1, 2, sharey=True), PERIODS, strict=True):
            for method in METHODS:
                tables = [run["test_errors"][f"{method}, tau = {tau}"] for run in runs]
                rates = sorted(tables[0], key=float)
                places = [float(rate) for rate in rates]
                for table in tables:
                    axes.plot(places, [100 * table[rate] for rate in rates], ".", color=colors[method], alpha=0.5)
                means = [100 * mean(table[rate] for table in tables) for rate in rates]
                axes.plot(places, means, color=colors[method], label=method)
            axes.set(xscale="log", yscale="log", xlabel="rate", title=f"τ = {tau}")
            axes.set_xlim(min(SLOWER) * 0.8, RATES[-1] * 1.25)
            drawing.plain_ticks(axes.xaxis, (min(SLOWER), *RATES))
            drawing.plain_ticks(axes.yaxis, [1, 2, 5, 10, 20, 50, 100])
            axes.grid(alpha=0.3)
            axes.legend(loc="upper left" if tau == 1 else "center")
        figure.axes[0].set_ylabel("test error, % (dots: seeds, lines: means)")
        span = min(SLOWER) * 0.8, RATES[0] * 0.84
        for axes in figure.axes:
            axes.axvspan(*span, color=drawing.QUIET, alpha=0.15, linewidth=0)
            axes.annotate("too slow to judge", (span[0], 1), xytext=(4, 6), textcoords="offset points", fontsize=8)
        return [drawing.save(figure, path)]


def best_error(runs: Sequence[Figures], method: str, tau: int, rates: Sequence[float]) -> tuple[float, float]:
    """The smallest mean error over the seeds, and the rate that gives it: one rate for all seeds."""
    tables = [run["test_errors"][f"{method}, tau = {tau}"] for run in runs]
    return min((mean(table[f"{rate:g}"] for table in tables), rate) for rate in rates)
