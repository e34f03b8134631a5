"""backup: synchronous steps that do not wait for the last gradients, with one replica four times slower."""

from __future__ import annotations

from collections.abc import Sequence
from math import erf
from pathlib import Path
from typing import Any

import numpy as np

from deploy.reproduce import drawing
from deploy.reproduce.claim import Figures, SplitClaim, Verdict
from deploy.reproduce.digits import STEP, WORDS, train

NEEDED, SLOWER = 8, 4
BACKUPS = (0, 1, 2, 4)
STEPS = 700
RATE = 0.4
PASSES = 200
MODEL_STEPS = 20_000
# Chance alone makes about a quarter of each, in so many steps.
TOLERANCE, TOLERANCE_MORE, TOLERANCE_DROPPED = 0.05, 0.15, 0.1
SIGMA = STEP["sigma"]


def measure(part: tuple[int, int]) -> dict[str, Any]:
    """One run: (seed, backups); replica 0 is slow."""
    seed, backups = part
    policy = {"policy": "backup", "backups": backups} if backups else {"policy": "synchronous"}
    replicas = NEEDED + backups
    seconds = STEPS * step_seconds(backups)
    outcome = train(
        seed,
        passes=PASSES,
        strategy="synchronous",
        rule={"name": "sgd", "lr": RATE},
        workers={"count": replicas},
        admission=policy,
        simulation={"step_seconds": STEP, "speeds": [1 / SLOWER] + [1.0] * (replicas - 1)},
        stop={"seconds": seconds},
        evaluation={"every_epochs": 0, "every_seconds": 10 * step_seconds(backups)},
    )
    if outcome.error is not None:
        raise outcome.error
    records = [record for record in outcome.evaluations if record["virtual_seconds"] <= seconds]
    steps, time = outcome.setup.state.shards[0].version, outcome.virtual_seconds
    return {
        "seconds_per_step": time / steps,
        "dropped_per_step": outcome.summary["dropped"] / steps,
        "mean_staleness": outcome.summary["staleness"]["mean"],
        "course": {
            "seconds": [record["virtual_seconds"] for record in records],
            "nll": [record["evaluation"]["train_nll"] for record in records],
        },
    }


def step_seconds(backups: int, points: int = 4000, longest: float = 40.0) -> float:
    """Expected time of the N-th of N + b gradients that begin together, one of them slow: the order statistic.

    The integral of P(fewer than N are there at x) over x.
    """
    x = (np.arange(points) + 0.5) * longest / points
    done, slow_done = (
        np.array([(1 + erf(np.log(value / factor) / (SIGMA * 2**0.5))) / 2 for value in x]) for factor in (1, SLOWER)
    )
    fast = NEEDED + backups - 1
    counts = np.zeros((fast + 2, points))  # P(so many are there)
    counts[0] = 1 - slow_done
    counts[1] = slow_done
    for _ in range(fast):
        counts[1:] = counts[1:] * (1 - done) + counts[:-1] * done
        counts[0] *= 1 - done
    return float(counts[:NEEDED].sum() * longest / points)


def late_model(backups: int, seed: int) -> tuple[float, float]:
    """The same where late gradients are finished before their replica begins anew: (seconds, dropped) per step.

    No closed form but a recursion over rounds; every replica has the time at which its gradient will be there.
    """
    rng = np.random.default_rng([seed, 0xBAC])
    factors = np.ones(NEEDED + backups)
    factors[0] = SLOWER

    def draw(who: np.ndarray | slice) -> np.ndarray:
        return factors[who] * np.exp(SIGMA * rng.standard_normal(factors[who].size))

    ready = draw(slice(None))
    fresh = np.ones(factors.size, bool)  # taken at the present center
    now = dropped = 0.0
    for _ in range(MODEL_STEPS):
        while True:
            end = np.sort(ready[fresh])[NEEDED - 1] if fresh.sum() >= NEEDED else np.inf
            late = ~fresh & (ready < end)
            if not late.any():
                break
            first = np.flatnonzero(late)[ready[late].argmin()]  # it is refused, and begins anew at the present center
            dropped += 1
            ready[first] += draw(np.array([first]))[0]
            fresh[first] = True
        now = end
        took_part = fresh & (ready <= now)
        ready[took_part] = now + draw(took_part)
        fresh = took_part
    return now / MODEL_STEPS, dropped / MODEL_STEPS


class BackupWorkers(SplitClaim):
    """Time per step and dropped gradients with 0 to 4 backup replicas."""

    name = "backup"
    title = "Backup replicas take the slowest out of synchronous steps"
    paper = (
        "with N + b replicas a step takes the first N gradients and drops the others: the time of a step is that "
        "of the N-th fastest, and gradients are never stale"
    )
    source = "Chen et al. 2016, section 3"
    setting = (
        f"{WORDS}; synchronous steps of N = {NEEDED} gradients, b of {', '.join(map(str, BACKUPS))}, step time "
        f"log-normal (median 1 s, σ 0.3), one replica {SLOWER} times slower, about {STEPS} steps each"
    )
    threshold = (
        "time per step within 5 % of the N-th order statistic for b <= 1 and within 15 % for more (late replicas "
        "begin late); times within 5 % and dropped gradients within 10 % of a recursion over rounds that knows of "
        "that; staleness 0"
    )
    seconds = 10
    measure = staticmethod(measure)

    def parts(self, seed: int) -> list[tuple[int, int]]:
        return [(seed, backups) for backups in reversed(BACKUPS)]

    def combine(self, seed: int, parts: list[Any], results: list[Any]) -> Figures:
        runs = {backups: result for (_, backups), result in zip(parts, results, strict=True)}
        return {"seed": seed, "runs": runs, "model": {backups: late_model(backups, seed) for backups in BACKUPS}}

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        closed = {backups: step_seconds(backups) for backups in BACKUPS}
        off = {backups: max(_off(run, backups, closed[backups]) for run in runs) for backups in BACKUPS}
        modelled = max(_off(run, backups, run["model"][backups][0]) for run in runs for backups in BACKUPS)
        refused = max(
            abs(run["runs"][backups]["dropped_per_step"] - run["model"][backups][1])
            / max(run["model"][backups][1], 0.05)
            for run in runs
            for backups in BACKUPS
        )
        stale = max(run["runs"][backups]["mean_staleness"] for run in runs for backups in BACKUPS)
        holds = (
            all(off[backups] <= (TOLERANCE if backups <= 1 else TOLERANCE_MORE) for backups in BACKUPS)
            and modelled <= TOLERANCE
            and refused <= TOLERANCE_DROPPED
            and stale == 0
        )
        first = runs[0]["runs"]
        times = ", ".join(f"{first[backups]['seconds_per_step']:.2f} ({closed[backups]:.2f})" for backups in BACKUPS)
        dropped = ", ".join(f"{first[backups]['dropped_per_step']:.2f}" for backups in BACKUPS)
        sentence = (
            f"b = {', '.join(map(str, BACKUPS))}: {times} s a step (order statistic), {dropped} dropped a step; "
            f"farthest off {max(off.values()):.1%}, off the recursion {modelled:.1%} (time) and {refused:.1%} "
            f"(dropped); staleness {stale:g}"
        )
        return Verdict(holds, sentence)

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        figure = drawing.figure(12, 4.2)
        losses, times, dropped = figure.subplots(1, 3)
        for index, backups in enumerate(BACKUPS):
            course = runs[0]["runs"][backups]["course"]
            losses.plot(course["seconds"], course["nll"], color=drawing.COLORS[index], label=f"b = {backups}")
        losses.set(xscale="log", yscale="log", xlabel="virtual seconds", ylabel="training NLL", title="loss")
        drawing.plain_ticks(losses.xaxis, [10, 30, 100, 300, 1000, 3000])
        drawing.plain_ticks(losses.yaxis, [0.05, 0.1, 0.2, 0.5, 1])
        losses.legend(fontsize=8)
        places = range(len(BACKUPS))
        closed = [step_seconds(backups) for backups in BACKUPS]
        times.bar(places, closed, color=drawing.QUIET, alpha=0.4, label="order statistic")
        for axes, key, which in ((times, "seconds_per_step", 0), (dropped, "dropped_per_step", 1)):
            for index, run in enumerate(runs):
                first = index == 0
                axes.plot(places, [run["model"][b][which] for b in BACKUPS], "_", color="black", markersize=22,
                          markeredgewidth=1.5, label="recursion over rounds" if first else None)  # fmt: skip
                axes.plot(
                    places,
                    [run["runs"][b][key] for b in BACKUPS],
                    "o",
                    color=drawing.BAD,
                    label="run" if first else None,
                )
            axes.set_xticks(places, [str(b) for b in BACKUPS])
            axes.set(xlabel=f"backup replicas beside N = {NEEDED}", xlim=(-0.6, len(BACKUPS) - 0.4), ylim=(0, None))
            axes.legend(fontsize=8)
        times.set(ylabel="seconds per step", title="time of a step")
        dropped.set(ylabel="dropped gradients per step", title="what is dropped")
        for axes in figure.axes:
            axes.grid(alpha=0.3)
        return [drawing.save(figure, path)]


def _off(run: Figures, backups: int, wanted: float) -> float:
    return abs(run["runs"][backups]["seconds_per_step"] / wanted - 1)
