"""Jobs of all kinds for property tests, and a task that counts what it is asked for."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.deploy.simulator.conftest import TASK
from tests.deploy.tasks.least_squares import LeastSquares

EXAMPLES = 40
SPREAD = {"distribution": "lognormal", "median": 1.0, "sigma": 0.5}


class Counting(LeastSquares):
    """Least squares that counts how often each example was used."""

    def __init__(self):
        super().__init__(n=EXAMPLES)

    def loss_and_gradient(self, parameters, batch):
        np.add.at(self.seen, batch["number"], 1)
        return super().loss_and_gradient(parameters, batch)


STRATEGIES = st.one_of(
    st.builds(
        lambda locking: {"name": "hogwild", "locking": locking},
        st.sampled_from(["none", "global", "per_variable", "round_robin"]),
    ),
    st.builds(
        lambda n_fetch, n_push, push, warmstart: {
            "name": "downpour",
            "n_fetch": n_fetch if push == "gradient" else n_push,
            "n_push": n_push,
            "push": push,
            "warmstart": warmstart,
        },
        st.integers(1, 3),
        st.integers(1, 3),
        st.sampled_from(["gradient", "update"]),
        st.sampled_from([0, 0, 3]),
    ),
    st.just({"name": "mdownpour"}),
    st.builds(
        lambda name, tau, mode: {"name": name, "tau": tau, "mode": mode},
        st.sampled_from(["easgd", "eamsgd"]),
        st.integers(1, 3),
        st.sampled_from(["asynchronous", "synchronous"]),
    ),
    st.just({"name": "synchronous"}),
)


def _policies(draw, strategy, workers):
    """What goes with the strategy (deploy/admission_checks.py)."""
    backup = draw(st.integers(1, max(workers - 1, 1)))
    backups = [{"policy": "backup", "backups": backup}] if workers > 1 else []
    if strategy["name"] == "synchronous":
        return draw(st.sampled_from([{}, *backups]))
    if strategy.get("mode") == "synchronous":
        return {}
    n_push = strategy.get("n_push", 1)
    least = n_push - 1 if strategy.get("push", "gradient") == "gradient" else n_push
    choices = [{}, {"policy": "bounded", "max_clock_lag": least + draw(st.integers(0, 3))}]
    gradients = strategy["name"] == "mdownpour" or strategy.get("push") == "gradient"
    gradients |= strategy.get("locking") in ("none", "global")
    if gradients and n_push == strategy.get("n_fetch", 1) == 1 and not strategy.get("warmstart"):
        choices += [{"policy": "synchronous"}, *backups]
    return draw(st.sampled_from(choices))


def _times():
    return st.sampled_from(
        [0.0, 0.2, {"distribution": "exponential", "mean": 0.2}, {"distribution": "uniform", "high": 0.5}]
    )


@st.composite
def _simulations(draw, workers, shards, failures):
    simulation = {
        "step_seconds": draw(st.sampled_from([1.0, 0.1, SPREAD, {"distribution": "exponential", "mean": 1.0}])),
        "speeds": draw(st.sampled_from([[1.0], [1.0, 0.25], [1.0, 2.0, 0.5]])),
        "latency_seconds": draw(_times() | st.lists(_times(), min_size=1, max_size=2)),
        "service_seconds": draw(_times()),
        "pull_seconds": draw(_times()),
        "handoff_seconds": draw(st.sampled_from([0.0, 0.1])),
    }
    if draw(st.booleans()):
        simulation["bandwidth"] = draw(st.sampled_from([200.0, 1000.0, [100.0, 5000.0]]))
    if draw(st.booleans()):
        simulation["stragglers"] = {"probability": 0.2, "slowdown": 5.0}
    if failures and draw(st.booleans()):
        simulation |= _failures(draw, workers, shards)
    return simulation


def _failures(draw, workers, shards):
    # Number 0 never leaves, so that somebody is always there in the end.
    some = st.lists(st.integers(1, workers - 1), min_size=1, max_size=2, unique=True) if workers > 1 else st.just([])
    kinds = {
        "leave": some,
        "join": some,
        "crash": st.lists(st.integers(0, workers - 1), min_size=1, max_size=2, unique=True),
        "crash_shards": st.lists(st.integers(0, shards - 1), min_size=1, max_size=2, unique=True),
    }
    events = [
        {"at": draw(st.integers(0, 25)) * 0.7, kind: numbers}
        for kind in draw(st.lists(st.sampled_from(sorted(kinds)), max_size=4))
        if (numbers := draw(kinds[kind]))
    ]
    simulation = {"restart_seconds": draw(st.sampled_from([0.0, 2.0, 9.0])), "snapshot_seconds": 4.0}
    if events:
        simulation["events"] = events
    if draw(st.booleans()):
        simulation["crash_every_seconds"] = {"distribution": "exponential", "mean": 100.0}
    if draw(st.booleans()):
        simulation["shard_crash_every_seconds"] = {"distribution": "exponential", "mean": 30.0}
    return simulation


def _stops():
    """One bound, and whether it cuts steps off wherever they are."""
    return st.one_of(
        st.builds(lambda count: {"epochs": count}, st.integers(1, 3)),
        st.builds(lambda count: {"steps": count}, st.integers(1, 50)),
        st.builds(lambda count: {"examples": count}, st.integers(1, 100)),
        st.builds(lambda seconds: {"seconds": seconds}, st.floats(1.0, 20.0)),
        st.just({"epochs": 4, "metric": "rmse", "target": 4.5}),
    )


@st.composite
def jobs(draw, failures=True):
    """Sections of a simulated job."""
    workers, shards = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    strategy = draw(STRATEGIES)
    sections = {
        "strategy": strategy,
        "workers": {"count": workers, "max_restarts": 1000},
        "shards": {"count": shards, "reads": draw(st.sampled_from(["torn", "consistent"]))},
        "data": {"batch_size": draw(st.integers(1, 5))},
        "admission": _policies(draw, strategy, workers),
        "simulation": draw(_simulations(workers, shards, failures)),
        "stop": draw(_stops()),
        "evaluation": draw(st.sampled_from([{"every_epochs": 0}, {"every_epochs": 1}, {"every_seconds": 3.0}])),
        "seed": draw(st.integers(0, 5)),
    }
    if strategy["name"] in ("mdownpour", "synchronous"):
        sections["rule"] = draw(
            st.sampled_from([{"name": "sgd", "lr": 1e-3}, {"name": "adaptive_revision", "lr": 0.01}])
        )
        sections["rule"]["schedule"] = {"name": "decay", "beta": 0.5}
    return complete(sections)


@st.composite
def delayed_jobs(draw):
    """The same with a pattern of delays instead of times."""
    strategy = draw(STRATEGIES.filter(lambda it: it["name"] != "synchronous" and it.get("mode") != "synchronous"))
    delay = {"pattern": draw(st.sampled_from(["constant", "minibatch", "random"])), "updates": draw(st.integers(0, 3))}
    return complete(
        {
            "strategy": strategy,
            "shards": {"count": draw(st.integers(1, 3))},
            "data": {"batch_size": draw(st.integers(1, 5))},
            "simulation": {"delay": delay},
            "stop": draw(_stops()),
            "evaluation": draw(st.sampled_from([{"every_epochs": 0}, {"every_seconds": 1.3}])),
            "seed": draw(st.integers(0, 5)),
        }
    )


def complete(sections):
    """What all jobs have in common."""
    return {"task": {"name": TASK, "n": EXAMPLES}, "backend": "simulation", "record": True, **sections}
