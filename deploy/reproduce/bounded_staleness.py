"""ssp: how far a clock bound lets replicas run apart, and what that costs, with one replica four times slower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.reproduce import drawing
from deploy.reproduce.claim import Figures, SplitClaim, Verdict
from deploy.reproduce.digits import WORDS, train
from deploy.simulation import Outcome
from worker import trace

REPLICAS, SLOWER = 8, 4
BOUNDS = (0, 1, 3, 10, None)  # None: asynchronous
SECONDS = 240  # virtual, of the runs with one slow replica
SLOW_STEPS = 0.1  # share of steps that take SLOWER times as long, where any replica may be hit
RANDOM_SECONDS = 1000
RATE = 0.05
PASSES = 100
TOLERANCE = 0.05


def measure(part: tuple[int, str, int | None]) -> dict[str, Any]:
    """One run: (seed, which replicas are slow, bound)."""
    seed, slow, bound = part
    if slow == "one":
        seconds: float = SECONDS
        simulation: dict[str, Any] = {"speeds": [1 / SLOWER] + [1.0] * (REPLICAS - 1)}
    else:
        seconds = RANDOM_SECONDS
        simulation = {"stragglers": {"probability": SLOW_STEPS, "slowdown": float(SLOWER)}}
    policy = {"policy": "asynchronous"} if bound is None else {"policy": "bounded", "max_clock_lag": bound}
    outcome = train(
        seed,
        passes=PASSES,
        strategy="downpour",
        rule={"name": "sgd", "lr": RATE},
        workers={"count": REPLICAS},
        admission=policy,
        simulation={"step_seconds": 1.0, **simulation},
        stop={"seconds": seconds},
        evaluation={"every_epochs": 0, "every_seconds": 4.0 if slow == "one" else seconds},
        record=True,
    )
    if outcome.error is not None:
        raise outcome.error
    return {**_of_trace(outcome, seconds), "course": _course(outcome, seconds)}


def _of_trace(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Counts from the operations up to ``seconds``."""
    columns = outcome.trace.columns()
    inside = columns["time"] <= seconds
    kind, replica = columns["kind"][inside], columns["replica"][inside]
    pushes = kind == trace.PUSH
    staleness = columns["staleness"][inside][pushes]
    return {
        "updates": int(pushes.sum()),
        "mean_staleness": float(staleness.mean()),
        "largest_staleness": int(staleness.max()),
        "largest_lag": _largest_lag(kind.tolist(), replica.tolist()),
        "clocks": [columns["time"][inside][pushes & (replica == number)].tolist() for number in (0, 1)],
    }


def _largest_lag(kinds: list[int], replicas: list[int]) -> int:
    """How many steps a replica that begins one is ahead of the slowest, at most."""
    clocks, largest = [0] * REPLICAS, 0
    for kind, replica in zip(kinds, replicas, strict=True):
        if kind == trace.PUSH:
            clocks[replica] += 1
        elif kind == trace.COMPUTE:
            largest = max(largest, clocks[replica] - min(clocks))
    return largest


def _course(outcome: Outcome, seconds: float) -> dict[str, list[float]]:
    records = [record for record in outcome.evaluations if record["virtual_seconds"] <= seconds]
    return {
        "seconds": [record["virtual_seconds"] for record in records],
        "nll": [record["evaluation"]["train_nll"] for record in records],
    }


def fast_steps(bound: int | None, seconds: int = SECONDS) -> int:
    """Steps of a fast replica: its clock may be ``bound`` + 1 beyond that which the slow one had a second before."""
    return seconds if bound is None else min(seconds, (seconds - 1) // SLOWER + bound + 1)


def free_steps(bound: int | None, seconds: int = SECONDS) -> int:
    """Those of them that it begins without having waited."""
    return next((c for c in range(seconds) if bound is not None and c > c // SLOWER + bound), seconds)


def expected(bound: int | None) -> dict[str, float]:
    """Updates, largest lag and mean staleness with one slow replica, in closed form.

    A fast replica that does not wait meets one update of each other fast one and 1/4 of the slow one's during its step.
    Those that wait are released together, and their updates come together: the first meets none, the last p - 2. Each
    update of a fast one falls into one step of the slow one.
    """
    fast, free, others = fast_steps(bound), free_steps(bound), REPLICAS - 1
    updates = others * fast + SECONDS // SLOWER
    staleness = others * (free * (others - 1 + 1 / SLOWER) + (fast - free) * (others - 1) / 2 + fast)
    lag = SECONDS - 1 - (SECONDS - 1) // SLOWER if bound is None else bound
    return {"updates": updates, "largest_lag": lag, "mean_staleness": staleness / updates}


def step_seconds_of_all() -> float:
    """Mean time of a step for which all wait, each slow with probability ``SLOW_STEPS``."""
    return 1 + (SLOWER - 1) * (1 - (1 - SLOW_STEPS) ** REPLICAS)


def step_seconds_of_one() -> float:
    """The same where nobody waits."""
    return 1 + (SLOWER - 1) * SLOW_STEPS


class BoundedStaleness(SplitClaim):
    """Updates, lag and staleness in a given time under each bound."""

    name = "ssp"
    title = "A bound on clocks: time against staleness"
    paper = (
        "a replica may be at most s clocks ahead of the slowest: s = 0 is bulk synchronous, a larger s hides "
        "passing delays, and no finite s hides a replica that is slow for good"
    )
    source = "Ho et al. 2013, sections 2 and 3"
    setting = (
        f"{WORDS}; Downpour, {REPLICAS} replicas, steps of 1 virtual second, s of 0, 1, 3, 10 and without bound: "
        f"{SECONDS} s with one replica {SLOWER} times slower; {RANDOM_SECONDS} s in which each step of anybody "
        f"takes {SLOWER} s with probability {SLOW_STEPS}"
    )
    threshold = (
        "one slow replica: updates (time), mean staleness within 5 % of the closed form, largest lag exactly s; "
        "passing delays: seconds per step at s = 0 and without bound within 5 % of theirs, and falling in between"
    )
    seconds = 8
    measure = staticmethod(measure)

    def parts(self, seed: int) -> list[tuple[int, str, int | None]]:
        return [(seed, slow, bound) for slow in ("any", "one") for bound in reversed(BOUNDS)]

    def combine(self, seed: int, parts: list[Any], results: list[Any]) -> Figures:
        figures: Figures = {"seed": seed, "one": {}, "any": {}}
        for (_, slow, bound), result in zip(parts, results, strict=True):
            figures[slow][label(bound)] = result
        return figures

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        errors = {name: 0.0 for name in ("updates", "mean_staleness")}
        lags_right, falls, ends = True, True, 0.0
        for run in runs:
            for bound in BOUNDS:
                found, wanted = run["one"][label(bound)], expected(bound)
                for name in errors:
                    errors[name] = max(errors[name], abs(found[name] / wanted[name] - 1))
                lags_right = lags_right and found["largest_lag"] == wanted["largest_lag"]
            paces = [pace(run, bound) for bound in BOUNDS]
            falls = falls and all(later < earlier for earlier, later in zip(paces, paces[1:], strict=False))
            ends = max(ends, abs(paces[0] / step_seconds_of_all() - 1), abs(paces[-1] / step_seconds_of_one() - 1))
        first = runs[0]["one"]
        stale = ", ".join(f"{first[label(bound)]['mean_staleness']:.2f}" for bound in BOUNDS)
        steps = ", ".join(f"{pace(runs[0], bound):.2f}" for bound in BOUNDS)
        names = ", ".join(map(label, BOUNDS))
        sentence = (
            f"({names}) with one slow replica: mean staleness {stale}; off the closed form by at most "
            f"{errors['updates']:.1%} (updates), {errors['mean_staleness']:.1%} (staleness), lags "
            f"{'as' if lags_right else 'NOT as'} bounded; passing delays: {steps} s a step, ends off by {ends:.1%}"
        )
        holds = lags_right and falls and max(*errors.values(), ends) <= TOLERANCE
        return Verdict(holds, sentence)

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        figure = drawing.figure(11, 7.4)
        (clocks, losses), (staleness, paces) = figure.subplots(2, 2)
        _draw_clocks(clocks, runs[0])
        for index, bound in enumerate(BOUNDS):
            course = runs[0]["one"][label(bound)]["course"]
            losses.plot(course["seconds"], course["nll"], color=drawing.COLORS[index], label=label(bound))
        losses.set(yscale="log", xlabel="virtual seconds", ylabel="training NLL", title="one slow replica: loss")
        drawing.plain_ticks(losses.yaxis, [0.1, 0.2, 0.5, 1, 2])
        losses.legend(fontsize=8)
        places = range(len(BOUNDS))
        staleness.bar(places, [expected(bound)["mean_staleness"] for bound in BOUNDS], color=drawing.QUIET, alpha=0.4,
                      label="closed form")  # fmt: skip
        for index, run in enumerate(runs):
            measured = [run["one"][label(bound)]["mean_staleness"] for bound in BOUNDS]
            staleness.plot(places, measured, "o", color=drawing.BAD, label="run" if index == 0 else None)
            paces.plot(places, [pace(run, bound) for bound in BOUNDS], "o-", color=drawing.GOOD)
        staleness.set(ylabel="mean staleness, updates", title="one slow replica: staleness")
        staleness.legend()
        paces.axhline(step_seconds_of_all(), color=drawing.BAD, linestyle="--", label="all wait, closed form")
        paces.axhline(step_seconds_of_one(), color=drawing.QUIET, linestyle="--", label="nobody waits, closed form")
        title = f"anybody {SLOWER} times slower in {SLOW_STEPS:.0%} of steps: time"
        paces.set(ylabel="seconds per step", title=title, ylim=(0, None))
        paces.legend()
        for axes in (staleness, paces):
            axes.set_xticks(places, [label(bound) for bound in BOUNDS])
            axes.set_xlim(-0.6, len(BOUNDS) - 0.4)
        for axes in figure.axes:
            axes.grid(alpha=0.3)
        return [drawing.save(figure, path)]


def _draw_clocks(axes: Any, run: Figures, until: float = 80.0) -> None:
    """The clocks of the slow replica and of a fast one, and the closed form of the latter."""
    for index, bound in enumerate(BOUNDS):
        times = [time for time in run["one"][label(bound)]["clocks"][1] if time <= until]
        axes.step(
            [0, *times], range(len(times) + 1), where="post", color=drawing.COLORS[index], label=f"fast, {label(bound)}"
        )
        seconds = range(1, math.floor(until) + 1)
        axes.plot(seconds, [fast_steps(bound, t) for t in seconds], ":", color="black", linewidth=0.9)
    times = [time for time in run["one"][label(0)]["clocks"][0] if time <= until]
    axes.step([0, *times], range(len(times) + 1), where="post", color="black", linewidth=2, label="slow")
    axes.set(xlabel="virtual seconds", ylabel="clock", title="clocks (dotted: closed form)", ylim=(0, 60))
    axes.legend(fontsize=8)


def pace(run: Figures, bound: int | None) -> float:
    """Seconds per step of a replica, where anybody may be slow."""
    return RANDOM_SECONDS * REPLICAS / run["any"][label(bound)]["updates"]


def label(bound: int | None) -> str:
    """As the figures and pictures call it."""
    return "asynchronous" if bound is None else f"s = {bound}"
