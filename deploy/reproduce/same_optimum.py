"""A1: without locks Hogwild! reaches the optimum that locking and serial training reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.reproduce import drawing
from deploy.reproduce.claim import Claim, Figures, Verdict
from deploy.reproduce.trained import evaluations_of

EPOCHS, BETA, RATE = 20, 0.9, 0.002
TOLERANCE = 0.01
SCHEMES = {"Hogwild!": "none", "AIG": "per_variable", "RR": "round_robin"}
WORKERS = (1, 2)


class SameOptimum(Claim):
    """A support vector machine on UCI Adult: serial, and each locking scheme with one process and with two."""

    name = "A1"
    title = "Hogwild! reaches the optimum of serial training"
    paper = (
        "after 20 epochs Hogwild! and round-robin end at the same error: RCV1 .297 train, .339 test for both; Netflix .754 and "
        ".754 train"
    )
    source = "Niu, Recht, Ré, Wright 2011, section 6, figure 2"
    setting = (
        f"sparse SVM on UCI Adult (bundled, 32 561 examples), {EPOCHS} epochs, step {RATE} times {BETA} after each; real "
        "processes: serial; Hogwild!, AIG and RR with 1 and 2"
    )
    threshold = f"final objective within {TOLERANCE:.0%} of serial, for every scheme and number of processes"
    seconds = 5

    def run(self, seed: int) -> Figures:
        schedule = {"name": "decay", "beta": BETA}
        curves = {"serial": _curve(seed, {"name": "sequential"}, {"schedule": schedule}, 1)}
        for label, locking in SCHEMES.items():
            for workers in WORKERS:
                strategy = {"name": "hogwild", "locking": locking, "backoff": BETA}
                curves[f"{label}, {workers}"] = _curve(seed, strategy, {}, workers)
        serial = curves["serial"]["objective"][-1]
        gaps = {label: curve["objective"][-1] / serial - 1 for label, curve in curves.items() if label != "serial"}
        return {"curves": curves, "gaps": gaps}

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        gap, label = max((abs(gap), label) for run in runs for label, gap in run["gaps"].items())
        objective, accuracy = (runs[0]["curves"]["serial"][name][-1] for name in ("objective", "test_accuracy"))
        sentence = (
            f"serial objective {objective:.4f} (test accuracy {accuracy:.1%}); the farthest from it, by {gap:.2%}, "
            f"is {label} process{'es' if label.endswith('2') else ''}"
        )
        return Verdict(gap <= TOLERANCE, sentence)

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        figure = drawing.figure(10, 4.2)
        left, right = figure.subplots(1, 2)
        curves = runs[0]["curves"]
        for index, (label, curve) in enumerate(curves.items()):
            style = "-" if index == 0 else (0, (1 + index, 1 + index / 2))
            epochs = range(1, len(curve["objective"]) + 1)
            left.plot(epochs, curve["objective"], linestyle=style, color=_color(index), label=label)
        left.set(xlabel="epoch", ylabel="objective", title="SVM on UCI Adult", xticks=range(0, EPOCHS + 1, 5))
        left.legend(fontsize=8)
        for index, label in enumerate(runs[0]["gaps"], start=1):
            right.plot([100 * run["gaps"][label] for run in runs], [-index] * len(runs), "o", color=_color(index))
        right.axvspan(-100 * TOLERANCE, 100 * TOLERANCE, color=drawing.GOOD, alpha=0.1, label="threshold")
        right.set_yticks([-index for index in range(1, len(curves))], list(runs[0]["gaps"]))
        right.set(xlabel="final objective over serial, %", title="distance from serial, each seed")
        right.legend(fontsize=8)
        for axes in (left, right):
            axes.grid(alpha=0.3)
        return [drawing.save(figure, path)]


def _color(index: int) -> str:
    return drawing.COLORS[index % len(drawing.COLORS)]


def _curve(seed: int, strategy: dict[str, Any], rule: dict[str, Any], workers: int) -> dict[str, list[float]]:
    """Objective and test accuracy after each epoch."""
    ends = evaluations_of(
        task={"name": "sparse_linear", "loss": "hinge", "bias": False},  # the paper's model has none
        data={"train": "hogshead:a9a", "test": "hogshead:a9a.t", "batch_size": 1},
        strategy=strategy,
        rule={"name": "sgd", "lr": RATE, **rule},
        workers={"count": workers},
        stop={"epochs": EPOCHS},
        seed=seed,
    )
    return {name: [record["evaluation"][name] for record in ends] for name in ("objective", "test_accuracy")}
