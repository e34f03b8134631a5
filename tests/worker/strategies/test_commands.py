"""The exact commands that each strategy yields, step by step."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from ps.errors import JobError, UsageError
from ps.layout import Layout
from ps.rules import NAG, SGD, Add, AveragedCenter, MovingAverage
from worker.commands import ComputeGradient, Exchange, Pull, Push, Sweep
from worker.replica import Replica
from worker.strategies import (
    EAMSGD,
    EASGD,
    STRATEGIES,
    Downpour,
    Hogwild,
    MDownpour,
    Sequential,
    Synchronous,
    describe,
    one_line,
    strategy_class,
)

LAYOUT = Layout.of({"w": np.zeros(2)})
GRADIENT = np.array([1.0, -2.0])
PULL, GRADIENT_HERE = "pull", "gradient at parameters"


def replica_of(local_rule=None, **fields) -> Replica:
    return Replica(LAYOUT, local_rule=local_rule or SGD(lr=0.5), **fields)


def told(command, replica: Replica) -> str:
    """A command in words; vectors by what they are on the replica."""
    match command:
        case Pull(wait, into):
            return (
                "pull"
                + ("" if wait else " in the background")
                + ("" if into is None else f" into {name_of(into, replica)}")
            )
        case ComputeGradient(at):
            return f"gradient at {'parameters' if at is None else name_of(at, replica)}"
        case Push(payload, count, wait, together):
            values = np.asarray(payload).tolist()
            how = " together" if together else "" if wait else " in the background"
            return f"push {values} of {count}{how}"
        case Exchange(alpha):
            return f"exchange {alpha:g}"
        case Sweep():
            return "sweep"


def name_of(vector: np.ndarray, replica: Replica) -> str:
    if vector is replica.parameters:
        return "parameters"
    return next((name for name, buffer in replica._buffers.items() if buffer is vector), "something else")


def steps(strategy, replica: Replica, count: int) -> list[list[str]]:
    """The commands of ``count`` steps, each gradient being GRADIENT."""
    return [commands(strategy.step(replica), replica, clock=True) for _ in range(count)]


def commands(generator, replica: Replica, clock: bool = False) -> list[str]:
    answer, seen = None, []
    try:
        while True:
            command = generator.send(answer)
            seen.append(told(command, replica))
            answer = GRADIENT.copy() if isinstance(command, ComputeGradient) else None
    except StopIteration:
        replica.clock += clock
        return seen


def test_downpour_gradients():
    """It pushes at step 0, and what it pushes is the sum since the last push."""
    replica = replica_of()
    strategy = Downpour(n_fetch=2, n_push=3)
    fetch, push_1 = "pull in the background", "push [1.0, -2.0] of 1 in the background"
    push_3 = "push [3.0, -6.0] of 3 in the background"
    assert steps(strategy, replica, 7) == [
        [fetch, GRADIENT_HERE, push_1],
        [GRADIENT_HERE],
        [fetch, GRADIENT_HERE],
        [GRADIENT_HERE, push_3],
        [fetch, GRADIENT_HERE],
        [GRADIENT_HERE],
        [fetch, GRADIENT_HERE, push_3],
    ]
    assert replica.parameters.tolist() == [-3.5, 7.0]  # seven local steps; nothing was pulled here
    assert commands(strategy.finish(replica), replica) == []


def test_downpour_updates():
    replica = replica_of()
    strategy = Downpour(n_fetch=2, n_push=2, push="update")
    push = "push [-1.0, 2.0] of 2"
    assert steps(strategy, replica, 5) == [
        [PULL, GRADIENT_HERE],
        [GRADIENT_HERE],
        [push, PULL, GRADIENT_HERE],
        [GRADIENT_HERE],
        [push, PULL, GRADIENT_HERE],
    ]
    assert commands(strategy.finish(replica), replica) == ["push [-0.5, 1.0] of 1"]


def test_mdownpour_and_hogwild_and_sequential():
    serial = [PULL, GRADIENT_HERE, "push [1.0, -2.0] of 1"]
    for strategy in (MDownpour(), Hogwild(), Sequential()):
        assert steps(strategy, replica_of(), 2) == [serial, serial]


def test_sweeps():
    for strategy in (Hogwild(), Sequential()):
        assert steps(strategy, replica_of(sweeps=True), 2) == [["sweep"], ["sweep"]]


def test_easgd_takes_the_gradient_before_the_elastic_step():
    replica = replica_of(peers=3)
    first = ["exchange 0.3", "gradient at snapshot"]
    assert steps(EASGD(tau=3), replica, 4) == [first, [GRADIENT_HERE], [GRADIENT_HERE], first]


def test_easgd_alpha_overrules_beta():
    assert steps(EASGD(tau=1, alpha=0.25), replica_of(peers=3), 1)[0][0] == "exchange 0.25"


def test_eamsgd_looks_ahead():
    replica = replica_of(NAG(lr=0.1, momentum=0.9, form="lookahead"), peers=2)
    first = ["exchange 0.45", "gradient at look-ahead"]
    assert steps(EAMSGD(tau=2), replica, 3) == [first, ["gradient at look-ahead"], first]


def test_synchronous_easgd():
    replica = replica_of(peers=2)
    strategy = EASGD(tau=2, mode="synchronous")
    together = [GRADIENT_HERE, "pull into center", "push [0.0, 0.0] of 1 together"]
    assert steps(strategy, replica, 2) == [together, [GRADIENT_HERE]]
    assert strategy.rounds and strategy.epoch_barrier
    assert not EASGD().rounds and not EASGD().epoch_barrier


def test_synchronous():
    assert steps(Synchronous(), replica_of(), 1) == [[PULL, GRADIENT_HERE, "push [1.0, -2.0] of 1 together"]]
    assert Synchronous.rounds and Synchronous.epoch_barrier


@pytest.mark.parametrize("name", STRATEGIES)
def test_begin_is_a_pull(name):
    """Center and replicas share one initial value, also those that come later."""
    replica = replica_of()
    assert commands(STRATEGIES[name]().begin(replica), replica) == ["pull"]


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"downpour"}))
def test_finish_is_nothing(name):
    replica = replica_of()
    assert commands(STRATEGIES[name]().finish(replica), replica) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Downpour(n_fetch=0), "Downpour: n_fetch must be >= 1 local step, got 0"),
        (lambda: Downpour(n_push=-1), "Downpour: n_push must be >= 1 local step, got -1"),
        (lambda: Downpour(average_weight=0), "Downpour: average_weight must be > 0 and <= 1, got 0"),
        (lambda: Downpour(warmstart=-1), "Downpour: warmstart must be >= 0 steps, got -1"),
        (lambda: EASGD(tau=0), "EASGD: tau must be >= 1 local step, got 0"),
        (lambda: EASGD(beta=1.0), "EASGD: beta must be > 0 and < 1, got 1.0"),
        (lambda: EAMSGD(alpha=1.5), "EAMSGD: alpha must be > 0 and < 1, got 1.5; leave it out for beta / p"),
        (
            lambda: EASGD(alpha=0.1, mode="synchronous"),
            'EASGD: alpha must be left out in mode "synchronous", got 0.1; set beta, the center\'s rate',
        ),
        (lambda: Hogwild(backoff=0), "Hogwild: backoff must be > 0 and <= 1, got 0"),
        (lambda: Hogwild(locking="per_variable").check(sweeps=False), "Hogwild: locking must be .* got 'per_variable'"),
        (lambda: strategy_class("easdg"), "unknown strategy 'easdg'; did you mean 'easgd'?"),
    ],
)
def test_options_are_refused(make, message):
    with pytest.raises(UsageError, match=message.replace("?", r"\?").replace("(", r"\(")):
        make()


def test_locking_inside_the_sweep_is_accepted_with_one():
    Hogwild(locking="per_variable").check(sweeps=True)
    Hogwild(locking="global").check(sweeps=False)


def test_what_the_shards_apply():
    assert Downpour().shard_rule(SGD(lr=0.1)) == SGD(lr=0.1)
    assert Downpour(average="running").shard_rule(SGD(lr=0.1)) == AveragedCenter(SGD(lr=0.1), rate=None)
    assert Downpour(average="moving", average_weight=0.2).shard_rule(Add()) == AveragedCenter(Add(), rate=0.2)
    assert EASGD(beta=0.8).shard_rule(None) == MovingAverage(weight=0.8)
    assert Downpour().payload == "gradient" and Downpour(push="update").payload == "update"
    assert Downpour(warmstart=7).warmstart_steps == 7 and EASGD().warmstart_steps == 0
    assert Downpour().evaluated_slot is None and Downpour(average="moving").evaluated_slot == "average"


def test_who_may_sweep():
    assert Hogwild().may_sweep(32) and Sequential().may_sweep(1)
    assert not Sequential().may_sweep(2) and not Sequential().may_sweep("all") and not Downpour().may_sweep(1)


# -- the defaults of a job ------------------------------------------------------------------------------------------


def resolved(name, **tables):
    options = tables.pop("strategy", {})
    return STRATEGIES[name].resolve({"strategy": {"name": name, **options}, **tables})


@pytest.mark.parametrize("name", STRATEGIES)
def test_default_rules_complete_a_job(name):
    tables, cls = resolved(name), STRATEGIES[name]
    for part, default in (("rule", cls.server_rule), ("local_rule", cls.own_rule)):
        assert (tables.get(part) is None) == (default is None)
        if default is not None:
            assert tables[part]["name"] == default["name"]


def test_rules_given_in_part_or_by_name():
    assert resolved("downpour", rule={"lr": 0.3})["rule"] == {"name": "adagrad", "lr": 0.3}
    assert resolved("downpour", rule={"name": "sgd"})["rule"] == {"name": "sgd"}  # not adagrad's step size
    assert resolved("downpour", strategy={"push": "update"})["rule"] == {"name": "add"}
    assert resolved("eamsgd", local_rule={"lr": 0.2})["local_rule"]["form"] == "lookahead"
    assert resolved("easgd", local_rule={"name": "nag"})["local_rule"] == {"form": "lookahead", "name": "nag"}
    assert resolved("easgd", local_rule={"name": "nag", "form": "torch"})["local_rule"]["form"] == "torch"


def test_hogwild_backs_off_and_is_lock_free():
    tables = resolved("hogwild", strategy={"backoff": 0.8})
    assert tables["rule"]["schedule"] == {"name": "decay", "beta": 0.8}
    assert tables["shards"]["apply"] == "lock_free"
    assert "schedule" not in resolved("hogwild", strategy={"backoff": 1})["rule"]
    own = {"name": "sgd", "schedule": {"name": "constant"}}
    assert resolved("hogwild", rule=own)["rule"]["schedule"] == {"name": "constant"}
    assert resolved("hogwild", strategy={"locking": "global"})["shards"]["apply"] == "locked"
    assert resolved("hogwild", shards={"apply": "locked", "count": 2})["shards"] == {"apply": "locked", "count": 2}


@pytest.mark.parametrize(
    ("name", "tables", "message"),
    [
        (
            "easgd",
            {"rule": {"name": "sgd"}},
            r"\[rule\]: easgd has no server rule; put the update rule into \[local_rule\]",
        ),
        (
            "hogwild",
            {"local_rule": {"lr": 1}},
            r"\[local_rule\]: hogwild has no local steps; put the update rule into \[rule\]",
        ),
        ("sequential", {"workers": {"count": 2}}, "sequential runs in one process, got 2; set it to 1"),
    ],
)
def test_tables_that_do_not_go_together(name, tables, message):
    with pytest.raises(JobError, match=message):
        resolved(name, **tables)


@pytest.mark.parametrize("name", STRATEGIES)
def test_descriptions(name):
    assert 20 < len(one_line(name)) < 130
    text = describe(name)
    cls = STRATEGIES[name]
    assert text.startswith(f"{name}: {one_line(name)}") and cls.source in text
    for default in (cls.server_rule, cls.own_rule):
        assert default is None or f'name = "{default["name"]}"' in text
    assert all(f"  {option.name} = " in text or f"  {option.name} " in text for option in fields(cls))
