"""From a job's section to a rule, its errors, and the pages that ``hogshead rules`` shows."""

from __future__ import annotations

import doctest
import pickle
from dataclasses import fields

import numpy as np
import pytest

from ps import rules
from ps.errors import JobError, UsageError
from ps.rules import (
    RULES,
    SCHEDULES,
    adaptive,
    build_rule,
    describe,
    documentation,
    one_line,
    registry,
    transforms,
    wrappers,
)
from ps.rules.wrappers import Wrapper

NAMES = {
    "sgd", "momentum", "nag", "aggmo", "qhm", "adagrad", "adadelta", "rmsprop", "adam", "adamax", "nadam", "amsgrad",
    "adamw", "qhadam", "async_adagrad", "adaptive_revision", "dc_asgd", "staleness_aware", "dynsgd", "add",
}  # fmt: skip


def test_all_rules_are_there():
    assert set(RULES) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_built_with_defaults_and_back(name):
    rule = build_rule({"name": name})
    assert type(rule) is RULES[name] and rule == RULES[name]()
    assert build_rule(rule.config()) == rule
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert rule.config()["name"] == name


def test_wrapped_and_back():
    schedule = {"name": "warmup", "length": 5, "then": {"name": "cosine", "length": 7}}
    config = {
        "name": "aggmo",
        "lr": 1,
        "betas": [0, 0.5],
        "clip_norm": 2,
        "clip_value": 0.5,
        "weight_decay": 0.1,
        "schedule": schedule,
    }
    rule = build_rule({**config, "noise": {"eta": 0.1}, "decoupled_weight_decay": 0})
    assert build_rule(rule.config()) == rule
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert rule.config()["betas"] == [0, 0.5]
    assert rule.config()["schedule"]["then"] == {"name": "cosine", "length": 7, "final": 0.0, "unit": "epoch"}


def test_the_configuration_given_is_left_as_it_was():
    config = {"name": "sgd", "schedule": {"name": "warmup", "then": {"name": "decay"}}, "noise": {"eta": 0.1}}
    build_rule(config)
    assert config == {"name": "sgd", "schedule": {"name": "warmup", "then": {"name": "decay"}}, "noise": {"eta": 0.1}}


def test_adamw_keeps_its_own_weight_decay():
    assert build_rule({"name": "adamw", "weight_decay": 0.3}) == rules.AdamW(weight_decay=0.3)
    assert build_rule({"name": "adam", "weight_decay": 0.3}) == rules.WeightDecay(rules.Adam(), 0.3)


REFUSED = [
    ({}, "rule: name is missing; there are: adadelta, "),
    ({"name": "adagard"}, "there is no rule 'adagard'; did you mean 'adagrad'?"),
    ({"name": 3}, "there is no rule 3"),
    ({"name": "sgd", "learning_rat": 1}, "sgd: there is no parameter 'learning_rat'"),
    ({"name": "adam", "beta_1": 0.9}, "adam: there is no parameter 'beta_1'; did you mean 'beta1'?"),
    ({"name": "sgd", "clip_nrom": 1}, "did you mean 'clip_norm'?"),
    ({"name": "sgd", "lr": -0.1}, "SGD: lr must be a number > 0, got -0.1"),
    ({"name": "sgd", "lr": "0.1"}, "SGD: lr must be a number > 0, got '0.1'"),
    ({"name": "sgd", "clip_norm": 0}, "clip_norm: ClipByNorm: bound must be a number > 0, got 0"),
    ({"name": "sgd", "weight_decay": -1}, "weight_decay: WeightDecay: decay must be a number >= 0"),
    ({"name": "sgd", "noise": 0.1}, "noise must be a table such as {eta = 0.01}, got 0.1"),
    ({"name": "sgd", "noise": {"eta": 0.1, "gama": 1}}, "noise: there is no parameter 'gama'; did you mean 'gamma'?"),
    ({"name": "sgd", "schedule": "decay"}, "schedule must be a table such as"),
    ({"name": "sgd", "schedule": {"beta": 0.9}}, "schedule: name is missing; there are: constant, cosine"),
    ({"name": "sgd", "schedule": {"name": "decay", "beta": 2}}, "Decay: beta must be"),
    ({"name": "add", "weight_decay": 0.1}, "rule must be a rule that takes gradients"),
    ({"name": "adamw", "decoupled_weight_decay": 0.1}, "AdamW: it decays weights itself"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_refused(config, message):
    with pytest.raises(JobError) as caught:
        build_rule(config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "described", [*RULES.values(), *SCHEDULES.values(), *Wrapper.__subclasses__()], ids=lambda t: t.__name__
)
def test_every_parameter_is_documented(described):
    meanings = documentation.meanings(described)
    if described is transforms.GradientTransform:
        return
    assert set(meanings) == {field.name for field in fields(described)}
    assert all(len(meaning) > 4 for name, meaning in meanings.items())
    assert documentation.summary(described).endswith((".", ":"))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_pages(name):
    page, rule_type = describe(name), RULES[name]
    assert one_line(name) in page and "\n" not in one_line(name)
    assert rule_type.formula in page and rule_type.source in page and rule_type.formula and rule_type.source
    for field in fields(rule_type):
        assert f"  {field.name} = " in page
    assert "clip_norm" in page and "schedule" in page


def test_a_page_gives_defaults_as_a_job_writes_them():
    page = describe("nadam")
    assert 'form = "torch"' in page and "lr = 0.002" in page
    assert "eps_inside = false" in describe("adagrad")
    assert "betas = [0.0, 0.9, 0.99]" in describe("aggmo")
    assert "remembers gradient_sum" in describe("adaptive_revision")


def test_pages_of_unknown_rules():
    for show in (describe, one_line):
        with pytest.raises(UsageError, match="there is no rule 'adm'; did you mean 'adam'"):
            show("adm")


def test_examples_in_docstrings_run():
    names = {"np": np, **vars(rules)}
    for module, least in ((registry, 1), (adaptive, 1), (wrappers, 0)):
        result = doctest.testmod(module, extraglobs=names)
        assert result.failed == 0 and result.attempted >= least
