"""Rules of other libraries: ``torch.NAME`` is a class of torch.optim, ``optax.NAME`` a transformation of optax.

They step a replica's own parameters as one flat vector. Their state lives in the caller's slots, as our rules' does, so that
checkpoints hold it: arrays of the vector's size as they are, single numbers in the first element of a slot of their own, and
counts of steps not at all, since the context knows the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ps.errors import JobError
from ps.rules.base import UpdateRule

LIBRARIES = {"torch": "a class of torch.optim, e.g. torch.Adam", "optax": "a function of optax, e.g. optax.adam"}


def is_foreign(name: object) -> bool:
    """``name`` begins with the name of one of the libraries and a dot."""
    return isinstance(name, str) and name.partition(".")[0] in LIBRARIES and "." in name


def _module(name: str) -> ModuleType:
    if name.startswith("torch."):
        from ps.rules import torch_rule

        return torch_rule
    from ps.rules import optax_rule

    return optax_rule


def build(name: str, options: Mapping[str, Any]) -> UpdateRule:
    """The rule ``name`` with these options of its own.

    Raises:
      JobError: the package is not installed; there is no such optimizer, or none that steps a flat vector; an option is unknown,
        missing or refused by the library.
    """
    return _module(name).build(name, options)


def defaults(name: str) -> dict[str, Any]:
    """The library's defaults of the options, those that a job can hold; errors as ``build``."""
    found = _module(name).signature(name)
    values = {key: entry.default for key, entry in found.items() if entry.default is not entry.empty}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if _plain(value)}


def own_options(name: str) -> set[str]:
    """Names of its own options, which go before wrappers of the same name; errors as ``build``."""
    return set(_module(name).signature(name))


def one_line(name: str) -> str:
    """What it is, in one line; errors as ``build``."""
    return f"{_module(name).title(name)}, for [local_rule]"


def describe(name: str) -> str:
    """A page: options with their defaults, and where to read on; errors as ``build``."""
    given = defaults(name)
    lines = [f"{name}: {one_line(name)}.", "", "The parameters are stepped as one flat vector, dense gradients only."]
    lines += ["", "parameters (with the library's defaults)"]
    for key in _module(name).signature(name):
        lines.append(f"  {key} = {given[key]!r}" if key in given else f"  {key}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(isinstance(entry, (bool, int, float, str)) for entry in value)
    return isinstance(value, (bool, int, float, str))


def refuse_options(name: str, options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raise JobError for an option that the library does not take, or for a missing one."""
    from ps.errors import nearest

    for key in options:
        if key not in known:
            raise JobError(f"{name}: there is no parameter {key!r}{nearest(key, known)}")
    for key, entry in known.items():
        if entry.default is entry.empty and key not in options:
            raise JobError(f"{name}: {key} is missing")
