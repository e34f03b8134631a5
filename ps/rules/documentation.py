"""What ``hogshead rules`` shows, read from the rules' own docstrings so that it is written once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields

from ps.docs import docstring

INDENT = "  "


def summary(described: type) -> str:
    """First line of the docstring."""
    return docstring(described).split("\n", 1)[0]


def remarks(described: type) -> str:
    """The paragraphs between the first line and the first section (``Args:`` and the like)."""
    paragraphs = docstring(described).split("\n\n")[1:]
    kept: list[str] = []
    for paragraph in paragraphs:
        if paragraph.startswith(("Args:", "Raises:", "Example:", "References:")):
            break
        kept.append(paragraph)
    return "\n\n".join(kept)


def meanings(described: type) -> dict[str, str]:
    """Name -> meaning of each entry of the docstring's ``Args:`` section, on one line."""
    found: dict[str, str] = {}
    current, inside = "", False
    for line in docstring(described).split("\n"):
        if not inside:
            inside = line == "Args:"
        elif line and not line.startswith(INDENT):
            break
        elif line.startswith(INDENT * 2):
            found[current] += " " + line.strip()
        elif line:
            current, _, meaning = line.strip().partition(": ")
            found[current] = meaning
    return found


def defaults(described: type) -> dict[str, str]:
    """Name -> default value of each field of a dataclass, as it is written in a job ("required" if there is none)."""
    return {field.name: "required" if field.default is MISSING else toml(field.default) for field in fields(described)}


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {toml(entry)}" for name, entry in value.items()) + " }"
    return "not given" if value is None else repr(value)


def parameters(described: type) -> list[str]:
    """One line per hyper-parameter: name, default, meaning."""
    meaning, default = meanings(described), defaults(described)
    width = max((len(f"{name} = {value}") for name, value in default.items()), default=0)
    return [f"{f'{name} = {value}':<{width}}  {meaning[name]}" for name, value in default.items()]
