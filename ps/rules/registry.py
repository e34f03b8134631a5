"""From the section ``[rule]`` of a job to a rule, and what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any

from ps.errors import JobError, UsageError, nearest
from ps.rules import documentation, foreign
from ps.rules.adam import Adam, AdaMax, AdamW, AMSGrad, Nadam, QHAdam
from ps.rules.adaptive import Adadelta, Adagrad, RMSprop
from ps.rules.adding import Add
from ps.rules.base import UpdateRule
from ps.rules.delay import DCASGD, AdaptiveRevision, AsyncAdaGrad, DynSGD, StalenessAware
from ps.rules.descent import NAG, QHM, SGD, AggMo, Momentum
from ps.rules.schedules import SCHEDULES, Schedule
from ps.rules.transforms import ClipByNorm, ClipByValue, GradientNoise, WeightDecay
from ps.rules.wrappers import DecoupledWeightDecay, Scheduled

RULES: dict[str, type[UpdateRule]] = {
    rule.name: rule
    for rule in (
        SGD, Momentum, NAG, AggMo, QHM,
        Adagrad, Adadelta, RMSprop, Adam, AdaMax, Nadam, AMSGrad, AdamW, QHAdam,
        AsyncAdaGrad, AdaptiveRevision, DCASGD, StalenessAware, DynSGD, Add,
    )
}  # fmt: skip

# Innermost first: see ps.rules.transforms for why in this order.
WRAPPERS: dict[str, Callable[[UpdateRule, Any], UpdateRule]] = {
    "weight_decay": WeightDecay,
    "noise": lambda rule, options: _noise(rule, options),
    "clip_value": ClipByValue,
    "clip_norm": ClipByNorm,
    "decoupled_weight_decay": DecoupledWeightDecay,
    "schedule": lambda rule, options: Scheduled(rule, build_schedule(options)),
}

WRAPPER_MEANINGS: dict[str, str] = {
    "clip_norm": "scale a gradient down to this norm if it is longer",
    "clip_value": "limit each element of a gradient to ± this",
    "weight_decay": "L2: this times the parameters is added to the gradient (adamw: its own parameter)",
    "decoupled_weight_decay": "parameters shrink by lr times this, beside the step",
    "noise": "{eta, gamma}: normal noise of variance eta/(1+t)^gamma is added to the gradient",
    "schedule": '{name = "' + "|".join(SCHEDULES) + '", ...}: the step size over steps or epochs',
}


def build_rule(config: Mapping[str, Any]) -> UpdateRule:
    """The rule that a job's ``[rule]`` or ``[local_rule]`` asks for, in its wrappers.

    Args:
      config: ``name``, the rule's hyper-parameters, and any of the keys of ``WRAPPERS``.

    Raises:
      JobError: the name or a key is unknown (the nearest one is named), or a value is out of its bound.

    Example:
      >>> build_rule({"name": "sgd", "lr": 0.1, "schedule": {"name": "decay", "beta": 0.9}}).config()
      {'name': 'sgd', 'lr': 0.1, 'schedule': {'name': 'decay', 'beta': 0.9, 'unit': 'epoch'}}
    """
    config = dict(config)
    name = config.pop("name") if foreign.is_foreign(config.get("name")) else _name(config, "rule", RULES)
    own = options_of(name)
    wrapped = {key: config.pop(key) for key in WRAPPERS if key in config and key not in own}
    if name in RULES and "weight_decay" in own and "decoupled_weight_decay" in wrapped:
        title = RULES[name].__name__
        raise JobError(f"{title}: it decays weights itself; use weight_decay, not decoupled_weight_decay")
    rule = _construct(RULES[name], config, name, also=WRAPPERS) if name in RULES else foreign.build(name, config)
    for key, wrapper in WRAPPERS.items():
        if key in wrapped:
            rule = _refused_as_job_error(f"{key}: ", wrapper, rule, wrapped[key])
    return rule


def options_of(name: str) -> set[str]:
    """Names of a rule's own hyper-parameters; JobError for one of another library that is not there."""
    if foreign.is_foreign(name):
        return foreign.own_options(name)
    return {field.name for field in fields(RULES[name])}  # type: ignore[arg-type]


def build_schedule(config: Mapping[str, Any]) -> Schedule:
    """The schedule that ``schedule = {name = ..., ...}`` asks for; errors as ``build_rule``."""
    options = _table("schedule", config, '{name = "decay", beta = 0.9}')
    schedule_type = SCHEDULES[_name(options, "schedule", SCHEDULES)]
    if "then" in options:
        options["then"] = build_schedule(options["then"])
    return _construct(schedule_type, options, f"schedule {schedule_type.name}")


def one_line(name: str) -> str:
    """What the rule ``name`` is, in one line.

    Raises:
      UsageError: there is no such rule.
    """
    return foreign.one_line(name) if foreign.is_foreign(name) else documentation.summary(_rule_type(name))


def describe(name: str) -> str:
    """A page about the rule ``name``: formula, parameters with defaults and meaning, state, source.

    Raises:
      UsageError: there is no such rule.
    """
    also = ["", "every rule also takes", *(f"  {key:<22}  {meaning}" for key, meaning in WRAPPER_MEANINGS.items())]
    if foreign.is_foreign(name):
        return foreign.describe(name) + "\n".join(also) + "\n"
    rule_type = _rule_type(name)
    example = rule_type()
    state = ", ".join(example.slots) or "none"
    lines = [f"{name}: {documentation.summary(rule_type)}", "", documentation.remarks(rule_type), ""]
    lines += [f"formula   {rule_type.formula}", f"state     {state}", f"takes     a pushed {rule_type.pushes}"]
    if rule_type.remembers:
        lines.append(f"remembers {rule_type.remembers}, as of each reader's last pull")
    lines += [f"source    {rule_type.source}", "", "parameters (with defaults)"]
    lines += [f"  {line}" for line in documentation.parameters(rule_type)]
    return "\n".join(lines + also) + "\n"


def _noise(rule: UpdateRule, options: object) -> GradientNoise:
    return _construct(GradientNoise, _table("noise", options, "{eta = 0.01}"), "noise", rule=rule)


def _rule_type(name: str) -> type[UpdateRule]:
    if name not in RULES:
        raise UsageError(f"there is no rule {name!r}{nearest(name, RULES)}")
    return RULES[name]


def _table(key: str, value: object, example: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise JobError(f"{key} must be a table such as {example}, got {value!r}")
    return dict(value)


def _name(options: dict[str, Any], what: str, known: Mapping[str, type]) -> str:
    """Take ``name`` out of ``options``."""
    if "name" not in options:
        raise JobError(f"{what}: name is missing{nearest('', known)}")
    name = options.pop("name")
    if not isinstance(name, str) or name not in known:
        raise JobError(f"{what}: there is no {what} {name!r}{nearest(str(name), known)}")
    return name


def _construct(wanted: type, options: Mapping[str, Any], where: str, also: Collection[str] = (), **given: Any) -> Any:
    """``wanted(**given, **options)`` with unknown keys, missing keys and values out of bounds as JobErrors."""
    known = {field.name: field for field in fields(wanted) if field.name not in given}  # type: ignore[arg-type]
    for key in options:
        if key not in known:
            raise JobError(f"{where}: there is no parameter {key!r}{nearest(key, [*known, *also])}")
    for key, field in known.items():
        if field.default is MISSING and key not in options:
            raise JobError(f"{where}: {key} is missing")
    return _refused_as_job_error("", wanted, **given, **options)


def _refused_as_job_error(where: str, construct: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return construct(*arguments, **options)
    except JobError:
        raise
    except UsageError as error:
        raise JobError(f"{where}{error}") from None
