"""The same job with another strategy: what of its options and rules goes along, and what takes its place.

A comparison is fair when all strategies take the same steps. So the rule that steps with gradients goes along, be it the
server's or the replicas'; what does not fit is replaced by its nearest relative:

- Momentum belongs to the strategies that are named after it (eamsgd, mdownpour) and to sequential and synchronous. The
  others take plain SGD at the same effective step size, lr / (1 - momentum); the other way round likewise.
- A rule that knows of delay becomes the one that it is without delay, where nothing is delayed or replicas step alone.
- eamsgd and mdownpour keep their own default rule where the job's is neither plain nor momentum.

Strategy options that both strategies have go along; the others take their defaults. What the job says in ``[compare.NAME]``
wins over all of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from deploy.schema import check_keys
from ps.errors import JobError, nearest

Tables = dict[str, Any]
RULE_PARTS = ("rule", "local_rule")
ON_ANY_RULE = ("clip_norm", "clip_value", "weight_decay", "decoupled_weight_decay", "noise", "schedule")
_WITH_MOMENTUM = ("momentum", "nag")
_NAMED_AFTER_MOMENTUM = ("eamsgd", "mdownpour")
_KEEP_MOMENTUM = (*_NAMED_AFTER_MOMENTUM, "sequential", "synchronous")
_KNOW_DELAY = ("hogwild", "downpour", "mdownpour")
_WITHOUT_DELAY = {
    "async_adagrad": {"name": "adagrad", "initial": 1.0},
    "adaptive_revision": {"name": "adagrad", "initial": 1.0},
    "dc_asgd": {"name": "sgd"},
    "staleness_aware": {"name": "sgd"},
}


def with_strategy(tables: Tables, name: str) -> Tables:
    """The tables of a job (as in its file, names as tables) with the strategy ``name``; ``[compare]`` is taken out.

    Raises:
      UsageError: there is no such strategy, or ``[compare]`` is wrong.
    """
    from worker.strategies import strategy_class

    target = strategy_class(name)
    tables = dict(tables)
    own = _own_tables(tables.pop("compare", {}), name, target)
    before = (tables.get("strategy") or {}).get("name", name)
    tables["strategy"] = {**(tables.get("strategy") or {}), "name": before}
    if before != name:
        source = strategy_class(before)
        rule = _suited(_gradient_rule(tables, source), name)
        tables = _exchanged(tables, source, target)
        _place(tables, target, rule)
    tables["strategy"] = {**tables["strategy"], **{key: own[key] for key in own if key not in RULE_PARTS}}
    for part in set(RULE_PARTS) & set(own):
        given = {"name": own[part]} if isinstance(own[part], str) else own[part]
        tables[part] = given if "name" in given else {**(tables.get(part) or {}), **given}
    return tables


def gradient_part(strategy: type, options: Mapping[str, Any]) -> str:
    """Which of ``rule`` and ``local_rule`` turns gradients into steps that last."""
    pushes_updates = options.get("push") == "update"
    return "local_rule" if strategy.server_rule is None or pushes_updates else "rule"


def fits(keys: tuple[str, ...], strategy: type) -> bool:
    """Whether a strategy has any use for the key ``keys``, e.g. ``("strategy", "tau")``."""
    section, key = keys[0], keys[-1]
    if section == "strategy" and key != "name":
        return key in _options(strategy)
    if section in RULE_PARTS:
        return (strategy.server_rule if section == "rule" else strategy.own_rule) is not None
    return not (strategy.single and section in ("workers", "admission"))


def renamed_rule(table: Mapping[str, Any], name: str) -> Tables:
    """Another rule with its own defaults; what goes with any rule is kept."""
    if table.get("name") == name:
        return dict(table)
    return {"name": name, **{key: table[key] for key in ON_ANY_RULE if key in table}}


def _own_tables(compare: Any, name: str, target: type) -> Tables:
    """``[compare.NAME]``, checked: options of the strategy, and ``rule`` and ``local_rule``."""
    from worker.strategies import STRATEGIES

    if not isinstance(compare, Mapping):
        raise JobError(f"[compare] must hold a table per strategy, e.g. [compare.{name}], got {compare!r}")
    for key in compare:
        if key not in STRATEGIES:
            raise JobError(f"[compare.{key}]: there is no such strategy{nearest(key, STRATEGIES)}")
    own = dict(compare.get(name, {}))
    check_keys(f"compare.{name}", own, [*_options(target), *RULE_PARTS])
    return own


def _gradient_rule(tables: Tables, source: type) -> Tables:
    """The job's rule that steps with gradients, with the source strategy's defaults and what it adds to the rule."""
    part = gradient_part(source, tables["strategy"])
    given = tables.get(part) or {}
    default = (source.server_rule if part == "rule" else source.own_rule) or {}
    rule = dict(given) if "name" in given else {**default, **given}
    backoff = tables["strategy"].get("backoff", getattr(source, "backoff", 1.0))
    if backoff != 1.0:  # Hogwild!'s, a schedule by another name
        rule.setdefault("schedule", {"name": "decay", "beta": backoff})
    return rule


def _suited(rule: Tables, target: str) -> Tables | None:
    """The rule as the strategy ``target`` should take it; None for that strategy's default."""
    if rule["name"] in _WITHOUT_DELAY and target not in _KNOW_DELAY:
        plain = _WITHOUT_DELAY[rule["name"]]
        rule = {**plain, **_some(rule, "lr", *ON_ANY_RULE)}
    if rule["name"] in _WITH_MOMENTUM and target not in _KEEP_MOMENTUM:
        lr = _option(rule, "lr") / (1.0 - _option(rule, "momentum"))
        return {"name": "sgd", "lr": lr, **_some(rule, *ON_ANY_RULE)}
    if target not in _NAMED_AFTER_MOMENTUM:
        return rule
    if rule["name"] == "sgd":
        return {"name": "nag", "momentum": 0.9, "lr": _option(rule, "lr") * (1.0 - 0.9), **_some(rule, *ON_ANY_RULE)}
    if rule["name"] in _WITH_MOMENTUM:
        return {"name": "nag", **_some(rule, "lr", "momentum", *ON_ANY_RULE)}
    return None


def _exchanged(tables: Tables, source: type, target: type) -> Tables:
    """The tables with the strategy exchanged and without rules."""
    kept = {key: value for key, value in tables["strategy"].items() if key in _options(target)}
    rest = {key: value for key, value in tables.items() if key not in RULE_PARTS}
    rest["strategy"] = {"name": target.name, **kept}
    if "backoff" in _options(target):
        rest["strategy"]["backoff"] = 1.0  # its default would shrink steps that the others keep
    if target.single:
        rest["workers"] = {**(tables.get("workers") or {}), "count": 1}
        rest.pop("admission", None)
    if source.name == "hogwild" and target.single and "batch_size" not in (tables.get("data") or {}):
        rest["data"] = {**(tables.get("data") or {}), "batch_size": 1}  # the serial version of Hogwild!
    return rest


def _place(tables: Tables, target: type, rule: Tables | None) -> None:
    """Put the rule where the strategy takes it."""
    if rule is None:
        return
    part = gradient_part(target, tables["strategy"])
    tables[part] = rule
    if part == "rule" and target.own_rule is not None and rule["name"] == "sgd":
        tables["local_rule"] = _some(rule, "name", "lr")  # between two pulls replicas go as the server goes


def _options(strategy: type) -> list[str]:
    try:
        return [entry.name for entry in fields(strategy) if entry.init]
    except TypeError:  # a strategy without options is no dataclass
        return []


def _option(rule: Mapping[str, Any], key: str) -> float:
    """An option of a rule, or its default."""
    from ps.rules import RULES

    return float(rule.get(key, getattr(RULES[rule["name"]], key)))


def _some(table: Mapping[str, Any], *keys: Iterable[str]) -> Tables:
    return {key: table[key] for key in keys if key in table}
