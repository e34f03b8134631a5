"""A3: taking turns costs more than it gains where gradients are cheap, and little where they are dear."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from deploy.job import Job
from deploy.reproduce import drawing
from deploy.reproduce.claim import Figures, SplitClaim, Verdict
from deploy.simulation import simulate
from worker.tasks.sparse_linear import SparseLinear

REPLICAS = 10
WRITE, HANDOFF = 2e-6, 1e-4  # about what an update of 70 coordinates takes, and waking another thread up
GRADIENTS = (1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
CHEAP, DEAR = (1e-6, 1e-5, 3e-5), (1e-3, 3e-3, 1e-2)
NEAR = 0.10
CLOSED = 0.03
ROUNDS = 150  # updates of each replica, about
SCHEMES = {
    "serial": ({"name": "sequential"}, 1),
    "Hogwild!": ({"name": "hogwild", "locking": "none"}, REPLICAS),
    "AIG": ({"name": "hogwild", "locking": "per_variable"}, REPLICAS),
    "RR": ({"name": "hogwild", "locking": "round_robin"}, REPLICAS),
}


@lru_cache(maxsize=1)
def _task() -> SparseLinear:
    return SparseLinear("hogshead:a9a", bias=False)  # the paper's model has none


def measure(part: tuple[int, str, float]) -> float:
    """Updates per virtual second of one (seed, scheme, gradient time)."""
    seed, scheme, gradient = part
    strategy, workers = SCHEMES[scheme]
    each = workers * HANDOFF if scheme == "RR" else 0.0
    job = Job.from_dict(
        {
            "backend": "simulation",
            "task": {"name": "sparse_linear", "loss": "hinge", "bias": False},
            "data": {"train": "hogshead:a9a", "batch_size": 1},
            "strategy": strategy,
            "rule": {"name": "sgd", "lr": 0.002},
            "workers": {"count": workers},
            "simulation": {"step_seconds": gradient, "service_seconds": WRITE, "handoff_seconds": HANDOFF},
            "stop": {"seconds": ROUNDS * max(gradient + WRITE, each)},
            "evaluation": {"every_epochs": 0},
            "seed": seed,
        }
    )
    outcome = simulate(job, task=_task())
    if outcome.error is not None:
        raise outcome.error
    return outcome.summary["updates"] / outcome.virtual_seconds


def closed_form(gradient: float) -> float:
    """Speed-up of round robin over serial: (g + c) / max((g + c)/p, c + h)."""
    return (gradient + WRITE) / max((gradient + WRITE) / REPLICAS, WRITE + HANDOFF)


class RoundRobin(SplitClaim):
    """Speed-up over serial training of three schemes at many gradient times."""

    name = "A3"
    title = "Round robin is slower than serial training where gradients are cheap"
    paper = (
        "round-robin (RR) is slower than serial training on cheap gradients and catches up with Hogwild! only "
        "when a gradient takes about a millisecond (10 cores: RCV1 Hogwild! 9.5 s, RR 61.8 s)"
    )
    source = "Niu, Recht, Ré, Wright 2011, section 6"
    setting = (
        f"SVM on UCI Adult in virtual time: {REPLICAS} processors, gradient time g from 1 µs to 10 ms, write c = "
        f"{WRITE * 1e6:g} µs, hand-off h = {HANDOFF * 1e6:g} µs; updates per second of serial, Hogwild!, AIG and RR"
    )
    threshold = (
        f"RR below 1 times serial for g <= 30 µs, within {NEAR:.0%} of Hogwild! for g >= 1 ms, within {CLOSED:.0%} "
        "of the closed form (g+c)/max((g+c)/p, c+h) everywhere"
    )
    seconds = 6
    measure = staticmethod(measure)

    def parts(self, seed: int) -> list[tuple[int, str, float]]:
        return [(seed, scheme, gradient) for gradient in GRADIENTS for scheme in reversed(SCHEMES)]

    def combine(self, seed: int, parts: list[Any], results: list[Any]) -> Figures:
        rates = {(scheme, gradient): rate for (_, scheme, gradient), rate in zip(parts, results, strict=True)}
        speedups = {
            scheme: [rates[scheme, gradient] / rates["serial", gradient] for gradient in GRADIENTS]
            for scheme in SCHEMES
        }
        return {"gradient_seconds": GRADIENTS, "speedups": speedups}

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        at = {gradient: index for index, gradient in enumerate(GRADIENTS)}
        of = [run["speedups"] for run in runs]
        cheap = max(row["RR"][at[gradient]] for row in of for gradient in CHEAP)
        gap = max(1 - row["RR"][at[gradient]] / row["Hogwild!"][at[gradient]] for row in of for gradient in DEAR)
        off = max(abs(row["RR"][at[g]] / closed_form(g) - 1) for row in of for g in GRADIENTS)
        sentence = (
            f"RR {of[0]['RR'][at[1e-5]]:.2f} times serial at g = 10 µs (Hogwild! "
            f"{of[0]['Hogwild!'][at[1e-5]]:.1f}), at most {cheap:.2f} up to 30 µs; behind Hogwild! by at most "
            f"{gap:.1%} from 1 ms on; farthest from the closed form {off:.1%}"
        )
        return Verdict(cheap < 1 and gap <= NEAR and off <= CLOSED, sentence)

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        figure = drawing.figure(7, 4.4)
        axes = figure.add_subplot()
        hollow = {"markerfacecolor": "none", "linewidth": 1}
        styles: dict[str, dict[str, Any]] = {
            "Hogwild!": {"color": drawing.GOOD, "marker": "o", "markersize": 10, **hollow},
            "AIG": {"color": drawing.COLORS[1], "marker": "s", "markersize": 6, **hollow},
            "RR": {"color": drawing.BAD, "marker": "o", "markersize": 5, "linestyle": "none"},
        }
        fine = [10 ** (-6 + 4 * k / 200) for k in range(201)]
        axes.plot(fine, [closed_form(g) for g in fine], color=drawing.BAD, linewidth=1, label="RR, closed form")
        for scheme, style in styles.items():
            for index, run in enumerate(runs):
                axes.plot(GRADIENTS, run["speedups"][scheme], label=scheme if index == 0 else None, **style)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.annotate("serial", (1.1e-2, 1), va="bottom", ha="right")
        axes.set(xscale="log", yscale="log", xlabel="time of a gradient, seconds", ylabel="speed-up over serial")
        drawing.plain_ticks(axes.yaxis, [0.03, 0.1, 0.3, 1, 3, 10])
        axes.set_title(f"{REPLICAS} processors, write {WRITE * 1e6:g} µs, hand-off {HANDOFF * 1e6:g} µs")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        return [drawing.save(figure, path)]
