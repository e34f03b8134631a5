"""The strategies by name."""

from __future__ import annotations

from ps.errors import UsageError, nearest
from ps.rules import documentation
from worker.strategies.base import Strategy
from worker.strategies.baselines import Sequential, Synchronous
from worker.strategies.downpour import Downpour, MDownpour
from worker.strategies.easgd import EAMSGD, EASGD
from worker.strategies.hogwild import Hogwild

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy for strategy in (Hogwild, Downpour, MDownpour, EASGD, EAMSGD, Synchronous, Sequential)
}


def strategy_class(name: str) -> type[Strategy]:
    """The class of a strategy.

    Raises:
      UsageError: there is none of that name; the nearest is named.
    """
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}{nearest(name, STRATEGIES)}")
    return STRATEGIES[name]


def one_line(name: str) -> str:
    """The first line of a strategy's description."""
    return documentation.summary(strategy_class(name))


def describe(name: str) -> str:
    """A page about a strategy: options with defaults and meaning, its default rules, its source."""
    cls = strategy_class(name)
    lines = [f"{name}: {documentation.summary(cls)}", "", documentation.remarks(cls), ""]
    for part, default in (("rule", cls.server_rule), ("local_rule", cls.own_rule)):
        shown = (
            "none" if default is None else ", ".join(f"{key} = {documentation.toml(v)}" for key, v in default.items())
        )
        lines.append(f"{part:10}  {shown}")
    lines += [f"{'source':10}  {cls.source}", "", "options (with defaults)"]
    lines += [f"  {line}" for line in documentation.parameters(cls)] or ["  none"]
    return "\n".join(lines) + "\n"


__all__ = [
    "EAMSGD",
    "EASGD",
    "STRATEGIES",
    "Downpour",
    "Hogwild",
    "MDownpour",
    "Sequential",
    "Strategy",
    "Synchronous",
    "describe",
    "one_line",
    "strategy_class",
]
