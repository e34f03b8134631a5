"""B2: with many replicas Adagrad keeps more of its best rate than SGD does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from deploy.reproduce import drawing
from deploy.reproduce.claim import Figures, SplitClaim, Verdict
from deploy.reproduce.digits import TRAINED, WORDS, GiveUp, at_least_three, train_to_target

RULES: dict[str, dict[str, Any]] = {
    "SGD": {"name": "sgd"},
    "Adagrad": {"name": "adagrad", "eps": 1e-8, "eps_inside": True},
}
RATES = (0.01, 0.014, 0.02, 0.028, 0.04, 0.056, 0.08, 0.11, 0.16, 0.22, 0.32, 0.45, 0.64, 0.9)  # factors of about √2
MANY = 64
UPDATES = 16_000  # in which a run converges or does not
LEAST = 2.0
# Runs that converge at all in the end were far below these; 2.3 is the NLL of ten equal probabilities.
NO_HOPE = {UPDATES // 4: 2.2, UPDATES // 2: 1.0}


def measure(part: tuple[int, str]) -> dict[str, Any]:
    """One (seed, rule): updates to the target by rate, for one replica and for many; None where it did not converge."""
    seed, rule = part
    alone = _scan(seed, rule, 1, RATES[::-1], until=_twice_the_best)
    best = -min((count, -rate) for rate, count in alone.items() if count is not None)[1]
    below = [rate for rate in RATES[::-1] if rate <= best]
    many = _scan(seed, rule, MANY, below, until=lambda counts: None not in counts[-2:] and len(counts) > 1)
    largest = max((rate for rate, count in many.items() if count is not None), default=None)
    return {"alone": alone, "many": many, "best": best, "largest": largest}


def _scan(seed: int, rule: str, workers: int, rates: Sequence[float], until: Any) -> dict[float, int | None]:
    """Updates to the target at each of ``rates`` in turn, until what was seen is enough."""
    found: dict[float, int | None] = {}
    for rate in rates:
        sections = {"rule": {**RULES[rule], "lr": rate}, "observer": GiveUp(NO_HOPE)}
        found[rate] = train_to_target(seed, workers, UPDATES, every=max(workers, 8), **sections)["updates"]
        if until(list(found.values())):
            break
    return found


def _twice_the_best(counts: list[int | None]) -> bool:
    """Lower rates will only take longer."""
    reached = [count for count in counts if count is not None]
    return bool(reached) and counts[-1] is not None and counts[-1] > 2 * min(reached)


class RobustRates(SplitClaim):
    """Best rate of one replica, and the largest with which many converge; the threshold is of a median of seeds."""

    name = "B2"
    title = "Adagrad bears many replicas better than SGD"
    paper = (
        "Adagrad makes Downpour SGD robust to asynchrony and many replicas; independent simulations of this "
        "setting: with 64 replicas SGD converges up to .03 of a best rate of .4 to .8, Adagrad up to .03 of .1 to "
        ".2"
    )
    source = "Dean et al. 2012, sections 4.1 and 5"
    setting = (
        f"{WORDS}; Downpour, n_fetch = n_push = 1, step time log-normal (median 1 s, σ 0.3), Adagrad with ε = 1e-8 "
        f"inside the root; rates {RATES[0]} to {RATES[-1]} in factors of √2; converged: training NLL {TRAINED} "
        f"within {UPDATES} updates"
    )
    threshold = (
        f"largest rate that converges with {MANY} replicas over the best rate of one replica: Adagrad's >= "
        f"{LEAST:g} times SGD's, median of at least 3 seeds"
    )
    seconds = 80
    measure = staticmethod(measure)

    def run_all(self, seeds: Sequence[int]) -> list[Figures]:
        return super().run_all(at_least_three(seeds))

    def parts(self, seed: int) -> list[tuple[int, str]]:
        return [(seed, rule) for rule in RULES]

    def combine(self, seed: int, parts: list[Any], results: list[Any]) -> Figures:
        return {"seed": seed, **{rule: result for (_, rule), result in zip(parts, results, strict=True)}}

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        missing = [rule for run in runs for rule in RULES if run[rule]["largest"] is None]
        if missing:
            return Verdict(False, f"{missing[0]} converges at none of the rates with {MANY} replicas")
        ratios = [share(run, "Adagrad") / share(run, "SGD") for run in runs]
        shares = "; ".join(
            f"{rule} " + ", ".join(f"{run[rule]['largest']:g} of {run[rule]['best']:g}" for run in runs)
            for rule in RULES
        )
        figure = median(ratios)
        each = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        return Verdict(figure >= LEAST, f"{shares}; Adagrad keeps {figure:.1f} times the share of SGD (seeds: {each})")

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        figure = drawing.figure(10, 4.2)
        for axes, rule in zip(figure.subplots(1, 2, sharey=True), RULES, strict=True):
            for which, label, color in (
                ("alone", "1 replica", drawing.QUIET),
                ("many", f"{MANY} replicas", drawing.GOOD),
            ):
                for index, run in enumerate(runs):
                    _draw_counts(axes, run[rule][which], color, label if index == 0 else None)
            for index, run in enumerate(runs):
                if run[rule]["largest"] is not None:
                    arrow = {"arrowstyle": "->", "color": drawing.BAD, "shrinkA": 0, "shrinkB": 0}
                    height = UPDATES * 1.3 ** (index + 1)
                    axes.annotate("", (run[rule]["largest"], height), (run[rule]["best"], height), arrowprops=arrow)
            axes.axhline(UPDATES, color=drawing.QUIET, linewidth=1, linestyle="--")
            axes.set(xscale="log", yscale="log", xlabel="rate (crosses: does not converge)", title=rule)
            axes.set(xlim=(RATES[0] * 0.8, RATES[-1] * 1.25), ylim=(150, 4 * UPDATES))
            drawing.plain_ticks(axes.xaxis, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
            drawing.plain_ticks(axes.yaxis, [200, 500, 1000, 2000, 5000, 10000])
            axes.grid(alpha=0.3)
            axes.legend(loc="lower left")
        figure.axes[0].set_ylabel(f"updates to training NLL {TRAINED}")
        figure.suptitle(
            "arrows: from the best rate of one replica to the largest that many bear, each seed", fontsize=10
        )
        return [drawing.save(figure, path)]


def share(run: Figures, rule: str) -> float:
    """What is left of the best rate of one replica."""
    return run[rule]["largest"] / run[rule]["best"]


def _draw_counts(axes: Any, counts: dict[float, int | None], color: str, label: str | None) -> None:
    reached = {rate: count for rate, count in sorted(counts.items()) if count is not None}
    axes.plot(list(reached), list(reached.values()), "o-", color=color, markersize=4, label=label)
    failed = [rate for rate, count in counts.items() if count is None]
    axes.plot(failed, [UPDATES] * len(failed), "x", color=color)
