"""B1: more Downpour replicas reach the same loss in less time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.reproduce import drawing
from deploy.reproduce.claim import Figures, SplitClaim, Verdict
from deploy.reproduce.digits import TRAINED, WORDS, train_to_target

RATE = 0.1
WORKERS = (1, 2, 4, 8, 16)
MOST = {4: 0.35, 16: 0.2}  # p -> of the time of one replica
UPDATES = 6000  # given up


def measure(part: tuple[int, int]) -> dict[str, Any]:
    """Time to the target of one (seed, number of replicas)."""
    seed, workers = part
    return train_to_target(seed, workers, UPDATES, rule={"name": "sgd", "lr": RATE})


class MoreReplicas(SplitClaim):
    """Time to a training loss with 1 to 16 replicas, everything else the same."""

    name = "B1"
    title = "Downpour SGD: more replicas, less time"
    paper = (
        "with more model replicas Downpour SGD reaches the same accuracy in less time, at the price of more "
        "machines; an independent simulation of this setting: 1120, 278 and 113 s with 1, 4 and 16 replicas"
    )
    source = "Dean et al. 2012, section 5, figure 5"
    setting = (
        f"{WORDS}; Downpour, n_fetch = n_push = 1, SGD with rate {RATE}; step time log-normal (median 1 s, σ 0.3), "
        f"virtual; time until the training NLL is {TRAINED}"
    )
    threshold = "time with 4 replicas <= 0.35, with 16 replicas <= 0.2 times that with one, on every seed"
    seconds = 4
    measure = staticmethod(measure)

    def parts(self, seed: int) -> list[tuple[int, int]]:
        return [(seed, workers) for workers in WORKERS]

    def combine(self, seed: int, parts: list[Any], results: list[Any]) -> Figures:
        return {"seed": seed, "runs": {workers: run for (_, workers), run in zip(parts, results, strict=True)}}

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        times = [{workers: run["seconds"] for workers, run in figures["runs"].items()} for figures in runs]
        failed = [workers for row in times for workers in (1, *MOST) if row[workers] is None]
        if failed:
            return Verdict(False, f"not trained within {UPDATES} updates with {failed[0]} replicas")
        worst = {workers: max(row[workers] / row[1] for row in times) for workers in MOST}
        first = ", ".join(f"{times[0][workers]:.0f} s (p={workers})" for workers in (1, *MOST))
        ratios = ", ".join(f"{ratio:.3f} (p={workers})" for workers, ratio in worst.items())
        holds = all(worst[workers] <= most for workers, most in MOST.items())
        return Verdict(holds, f"{first} on seed {runs[0]['seed']}; largest share of the time of one: {ratios}")

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        figure = drawing.figure(10, 4.2)
        left, right = figure.subplots(1, 2)
        for index, (workers, run) in enumerate(runs[0]["runs"].items()):
            label = f"{workers} replica{'s' if workers > 1 else ''}"
            left.plot(run["course"]["seconds"], run["course"]["nll"], color=drawing.COLORS[index], label=label)
        left.axhline(TRAINED, color=drawing.QUIET, linewidth=1, linestyle="--")
        left.set(
            xscale="log", yscale="log", xlabel="virtual seconds", ylabel="training NLL", title="Downpour on digits"
        )
        drawing.plain_ticks(left.xaxis, [1, 10, 100, 1000])
        drawing.plain_ticks(left.yaxis, [0.1, 0.2, 0.5, 1, 2])
        left.legend(fontsize=8)
        for figures in runs:
            times = {workers: run["seconds"] for workers, run in figures["runs"].items() if run["seconds"]}
            right.plot(list(times), list(times.values()), "o-", color=drawing.GOOD, alpha=0.8)
        alone = [figures["runs"][1]["seconds"] for figures in runs if figures["runs"][1]["seconds"]]
        if alone:
            mean = sum(alone) / len(alone)
            right.plot(WORKERS, [mean / p for p in WORKERS], "--", color=drawing.QUIET, label="1/p of one replica's")
            right.plot(list(MOST), [most * mean for most in MOST.values()], "v", color=drawing.BAD, label="threshold")
        right.set(
            xscale="log", yscale="log", xlabel="replicas", ylabel="virtual seconds", title="time to train, each seed"
        )
        drawing.plain_ticks(right.xaxis, WORKERS)
        drawing.plain_ticks(right.yaxis, [50, 100, 200, 500, 1000])
        right.legend(fontsize=8)
        for axes in (left, right):
            axes.grid(alpha=0.3)
        return [drawing.save(figure, path)]
