"""The grid: what is varied, what the strategies take of it, and which combinations are one cell."""

from __future__ import annotations

import pytest

from deploy.compare.adapt import with_strategy
from deploy.compare.grid import build_grid, parse_vary, split_values
from ps.errors import UsageError
from worker.strategies import STRATEGIES

JOB = """
[task]
name = "mlp"
hidden = [4]

[data]
train = "sklearn:digits"

[strategy]
name = "easgd"
tau = 4

[local_rule]
name = "sgd"
lr = 0.5
clip_norm = 3.0
"""


@pytest.fixture
def job(tmp_path):
    """A function that writes a job file."""

    def write(text: str = JOB):
        path = tmp_path / "try.toml"
        path.write_text(text)
        return path

    return write


def grid(path, *vary, overrides=(), repeats=1):
    return build_grid(path, parse_vary(vary), overrides, repeats)


def test_values_are_cut_at_commas_outside_brackets():
    assert split_values("1,2") == ["1", "2"]
    assert split_values("[8, 4],[2]") == ["[8, 4]", "[2]"]
    assert split_values("{a = [1, 2], b = 1},'x,y'") == ["{a = [1, 2], b = 1}", "'x,y'"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "something to vary"),
        (["workers"], "KEY=VALUE"),
        (["workers="], "KEY=VALUE"),
        (["workers=1,,2"], "KEY=VALUE"),
        (["workers=1", "workers.count=2"], "given twice"),
    ],
)
def test_wrong_variations_are_refused(texts, message):
    with pytest.raises(UsageError, match=message):
        parse_vary(texts)


def test_every_combination_is_a_cell_once(job):
    cells = grid(job(), "strategy=sequential,easgd,downpour", "workers=1,4", "strategy.tau=2,8")
    assert [(cell.strategy, cell.workers, cell.settings["strategy.tau"]) for cell in cells] == [
        ("sequential", 1, None),
        ("easgd", 1, 2),
        ("easgd", 1, 8),
        ("easgd", 4, 2),
        ("easgd", 4, 8),
        ("downpour", 1, None),
        ("downpour", 4, None),
    ]
    assert all(cell.jobs for cell in cells)
    assert len({cell.name for cell in cells}) == len(cells)
    assert [cell.jobs[0].strategy.options.get("tau") for cell in cells] == [None, 2, 8, 2, 8, None, None]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_takes_every_other_ones_job(job, name):
    defaults = (
        JOB.replace("tau = 4", "")
        .replace("easgd", name)
        .replace("local_rule", STRATEGIES[name].server_rule and "rule" or "local_rule")
    )
    cells = grid(job(defaults), f"strategy={','.join(STRATEGIES)}", "workers=1,2")
    assert [cell.refused for cell in cells] == [""] * len(cells)
    assert {cell.strategy for cell in cells} == set(STRATEGIES)


@pytest.mark.parametrize(
    ("strategy", "part", "rule", "lr"),
    [
        ("easgd", "local_rule", "sgd", 0.5),
        ("eamsgd", "local_rule", "nag", 0.05),  # a tenth: momentum 0.9 makes ten times of it
        ("downpour", "rule", "sgd", 0.5),
        ("downpour", "local_rule", "sgd", 0.5),
        ("mdownpour", "rule", "nag", 0.05),
        ("hogwild", "rule", "sgd", 0.5),
        ("synchronous", "rule", "sgd", 0.5),
        ("sequential", "rule", "sgd", 0.5),
    ],
)
def test_a_plain_rule_goes_along(job, strategy, part, rule, lr):
    (cell,) = grid(job(), f"strategy={strategy}")
    found = getattr(cell.jobs[0], part)
    assert found["name"] == rule and found["lr"] == pytest.approx(lr)
    if (strategy, part) != ("downpour", "local_rule"):
        assert found["clip_norm"] == 3.0
    assert "schedule" not in found


@pytest.mark.parametrize(
    ("strategy", "name", "lr"),
    [("easgd", "sgd", 0.2), ("downpour", "sgd", 0.2), ("sequential", "momentum", 0.04), ("eamsgd", "nag", 0.04)],
)
def test_momentum_belongs_to_those_named_after_it(strategy, name, lr):
    source = "synchronous"
    tables = {"strategy": {"name": source}, "rule": {"name": "momentum", "lr": 0.04, "momentum": 0.8}}
    adapted = with_strategy(tables, strategy)
    rule = adapted["local_rule"] if strategy in ("easgd", "eamsgd") else adapted["rule"]
    assert (rule["name"], rule["lr"]) == (name, pytest.approx(lr))


def test_delay_aware_rules_stay_where_there_is_delay():
    tables = {"strategy": {"name": "downpour", "n_fetch": 16}, "rule": {"name": "adaptive_revision", "lr": 0.3}}
    assert with_strategy(tables, "hogwild")["rule"]["name"] == "adaptive_revision"
    assert with_strategy(tables, "sequential")["rule"] == {"name": "adagrad", "initial": 1.0, "lr": 0.3}
    assert with_strategy(tables, "easgd")["local_rule"] == {"name": "adagrad", "initial": 1.0, "lr": 0.3}
    assert with_strategy(tables, "downpour")["rule"] == tables["rule"]
    assert "n_fetch" not in with_strategy(tables, "easgd")["strategy"]


def test_hogwilds_backoff_becomes_a_schedule_and_none_is_added():
    tables = {"strategy": {"name": "hogwild", "backoff": 0.8}, "rule": {"name": "sgd", "lr": 0.005}}
    adapted = with_strategy(tables, "sequential")
    assert adapted["rule"]["schedule"] == {"name": "decay", "beta": 0.8} and adapted["data"] == {"batch_size": 1}
    back = with_strategy({"strategy": {"name": "sequential"}, "rule": {"name": "sgd", "lr": 0.1}}, "hogwild")
    assert back["strategy"]["backoff"] == 1.0


def test_the_job_has_the_last_word_on_a_strategy(job):
    rules = 'n_push = 3\nrule = { name = "adagrad", lr = 0.02 }\n[compare.eamsgd]\nlocal_rule = { lr = 0.3 }\n'
    text = f"{JOB}\n[compare.downpour]\n{rules}"
    downpour, eamsgd, easgd = grid(job(text), "strategy=downpour,eamsgd,easgd")
    assert downpour.jobs[0].strategy.options["n_push"] == 3
    assert (downpour.jobs[0].rule["name"], downpour.jobs[0].rule["lr"]) == ("adagrad", 0.02)
    assert (eamsgd.jobs[0].local_rule["name"], eamsgd.jobs[0].local_rule["lr"]) == ("nag", 0.3)
    assert easgd.jobs[0].local_rule["lr"] == 0.5


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[compare.easdg]\ntau = 1", "did you mean 'easgd'"),
        ("[compare.easgd]\ntua = 1", r"\[compare.easgd\] tua.*'tau'"),
    ],
)
def test_a_wrong_word_for_a_strategy_is_refused(job, table, message):
    with pytest.raises(UsageError, match=message):
        grid(job(f"{JOB}\n{table}\n"), "strategy=easgd")


def test_lr_and_rule_mean_the_rule_that_steps_with_gradients(job):
    cells = grid(job(), "strategy=downpour,eamsgd", "lr=0.1,0.2", overrides=["rule=momentum"])
    assert [(cell.jobs[0].rule or cell.jobs[0].local_rule)["name"] for cell in cells] == ["sgd", "sgd", "nag", "nag"]
    lrs = [(cell.jobs[0].rule or cell.jobs[0].local_rule)["lr"] for cell in cells]
    assert lrs == pytest.approx([1.0, 2.0, 0.1, 0.2])


def test_a_key_that_no_strategy_of_the_grid_knows_is_refused(job):
    with pytest.raises(UsageError, match="tua"):
        grid(job(), "strategy=easgd,downpour", "strategy.tua=1,2")
    with pytest.raises(UsageError, match="unknown strategy 'easdg'"):
        grid(job(), "strategy=easdg")


def test_one_impossible_combination_does_not_stop_the_others(job):
    fine, refused = grid(job(), "workers=2,0")
    assert fine.jobs and not fine.refused
    assert not refused.jobs and "workers" in refused.refused


def test_repeats_differ_in_their_seed_alone(job):
    (cell,) = grid(job(), "workers=2", overrides=["seed=5"], repeats=3)
    assert [one.seed for one in cell.jobs] == [5, 6, 7]
    assert len({one.to_toml().replace(f"seed = {one.seed}", "") for one in cell.jobs}) == 1
