"""B3: when half of Downpour's replicas die, the others simply go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.reproduce import drawing
from deploy.reproduce.claim import Figures, SplitClaim, Verdict
from deploy.reproduce.digits import TRAINED, WORDS, train_to_target

WORKERS, KILLED, AT = 16, 8, 20.0
RULES: dict[str, dict[str, Any]] = {
    "Adagrad": {"name": "adagrad", "lr": 0.05, "eps": 1e-8, "eps_inside": True},
    "SGD": {"name": "sgd", "lr": 0.1},  # for information: so near to what 16 replicas bear that 8 need fewer updates
}
UPDATES = 8000  # given up
MORE_UPDATES, MORE_TIME = 0.15, 2.2


def measure(part: tuple[int, str, bool]) -> dict[str, Any]:
    """One run: (seed, rule, whether half are killed)."""
    seed, rule, kills = part
    events = [{"at": AT, "leave": list(range(WORKERS - KILLED, WORKERS))}]
    simulation = {"events": events} if kills else {}
    return train_to_target(seed, WORKERS, UPDATES, rule=RULES[rule], simulation=simulation)


class Survivors(SplitClaim):
    """The same run with and without the loss of half of its replicas, for good."""

    name = "B3"
    title = "Downpour SGD goes on when half of the replicas die"
    paper = "when a machine in one replica fails, the other replicas go on training and updating the parameters"
    source = "Dean et al. 2012, section 4.1"
    setting = (
        f"{WORDS}; Downpour, n_fetch = n_push = 1, Adagrad with rate 0.05, {WORKERS} replicas, step time "
        f"log-normal (median 1 s, σ 0.3); {KILLED} of them die at {AT:g} s and do not come back; until the "
        f"training NLL is {TRAINED}"
    )
    threshold = (
        f"converges, in as many updates within {MORE_UPDATES:.0%} as the run that loses nobody and at most {MORE_TIME} "
        "times its time, on every seed"
    )
    seconds = 5
    measure = staticmethod(measure)

    def parts(self, seed: int) -> list[tuple[int, str, bool]]:
        return [(seed, rule, kills) for rule in RULES for kills in (False, True)]

    def combine(self, seed: int, parts: list[Any], results: list[Any]) -> Figures:
        figures: Figures = {"seed": seed}
        for (_, rule, kills), result in zip(parts, results, strict=True):
            figures.setdefault(rule, {})["half" if kills else "all"] = result
        return figures

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        if any(run["Adagrad"][which]["seconds"] is None for run in runs for which in ("all", "half")):
            return Verdict(False, f"not trained within {UPDATES} updates")
        updates = [run["Adagrad"]["half"]["updates"] / run["Adagrad"]["all"]["updates"] for run in runs]
        times = [run["Adagrad"]["half"]["seconds"] / run["Adagrad"]["all"]["seconds"] for run in runs]
        holds = all(abs(ratio - 1) <= MORE_UPDATES for ratio in updates) and max(times) <= MORE_TIME
        changes = ", ".join(f"{ratio - 1:+.1%}" for ratio in updates)
        longer = ", ".join(f"{ratio:.2f}" for ratio in times)
        others = ", ".join(_change(run["SGD"]) for run in runs)
        return Verdict(
            holds, f"updates {changes}; {longer} times the time (SGD with rate 0.1, not judged: updates {others})"
        )

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        figure = drawing.figure(10, 4.2)
        labels = {"all": f"{WORKERS} replicas", "half": f"{KILLED} of them die"}
        for axes, rule in zip(figure.subplots(1, 2, sharey=True), RULES, strict=True):
            for (which, label), color in zip(labels.items(), (drawing.GOOD, drawing.BAD), strict=True):
                for index, run in enumerate(runs):
                    course = run[rule][which]["course"]
                    first = label if index == 0 else None
                    axes.plot(course["seconds"], course["nll"], color=color, alpha=0.75, linewidth=1.2, label=first)
            axes.axvline(AT, color=drawing.QUIET, linewidth=1, linestyle=":")
            axes.annotate(
                f"{KILLED} die",
                (AT, 0.02),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
            )
            axes.axhline(TRAINED, color=drawing.QUIET, linewidth=1, linestyle="--")
            axes.set(yscale="log", xlabel="virtual seconds", title=f"{rule}, rate {RULES[rule]['lr']:g}")
            drawing.plain_ticks(axes.yaxis, [0.1, 0.2, 0.5, 1, 2, 5])
            axes.grid(alpha=0.3)
            axes.legend()
        figure.axes[0].set_ylabel("training NLL, each seed")
        return [drawing.save(figure, path)]


def _change(run: dict[str, dict[str, Any]]) -> str:
    counts = run["half"]["updates"], run["all"]["updates"]
    return "not trained" if None in counts else f"{counts[0] / counts[1] - 1:+.1%}"
