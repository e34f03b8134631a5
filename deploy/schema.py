"""Keys of a job's sections: type, bound, meaning, and errors that say section, key, what was got and an example.

A section is a frozen dataclass whose fields are made with ``key``; its types and bounds are checked at construction, so
a section built in Python is as safe as one read from a file.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import Any, ClassVar

from ps.errors import JobError, meant, nearest

_TYPE_WORDS = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}


def key(
    default: Any = MISSING,
    *,
    help: str,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    one_of: tuple[str, ...] = (),
    example: Any = None,
) -> Any:
    """A field of a section.

    Args:
      default: value where the job says nothing; without one the key is required.
      help: one line of meaning, shown by ``hogshead keys``.
      at_least, at_most, above, below: bounds (>=, <=, >, <) of a number.
      one_of: the only strings allowed.
      example: a value to show in errors; the default stands in for it.
    """
    bounds = dict(at_least=at_least, at_most=at_most, above=above, below=below)
    metadata = dict(help=help, **bounds, one_of=one_of, example=example)
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Section:
    """Base of the sections with fixed keys; checks every field at construction."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        hints = type_hints(type(self))
        for entry in fields(self):
            value = check_type(
                self.section, entry.name, getattr(self, entry.name), hints[entry.name], example_of(entry)
            )
            check_bounds(self.section, entry, value)
            object.__setattr__(self, entry.name, value)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> typing.Self:
        """Build the section from a table of a job; refuses unknown keys.

        Raises:
          JobError: unknown or missing key, wrong type, value out of its bound.
        """
        check_keys(cls.section, table, [entry.name for entry in fields(cls)])
        require_keys(cls.section, table, fields(cls))
        return cls(**table)

    def to_table(self) -> dict[str, Any]:
        """All keys with their values; what is not set is left out (TOML has no null)."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value != {}}


@cache
def type_hints(cls: type) -> dict[str, Any]:
    """Resolved annotations of ``cls``, once per class."""
    return typing.get_type_hints(cls)


def label(section: str, name: str = "") -> str:
    """``[stop] epochs``, or the bare key where there is no section."""
    return f"[{section}] {name}".strip() if section else name


def example_of(entry: Field) -> Any:
    """A value to show for this key."""
    shown = entry.metadata.get("example")
    if shown is not None:
        return shown
    return entry.default if entry.default not in (MISSING, None) else None


def check_keys(
    section: str, table: object, known: Iterable[str], elsewhere: Mapping[str, str] = types.MappingProxyType({})
) -> None:
    """Refuse keys that are not ``known``; ``elsewhere`` maps a key to the section that has it.

    Raises:
      JobError: ``table`` is no table or has an unknown key.
    """
    if not isinstance(table, Mapping):
        raise JobError(f"{label(section)} must be a table, got {show(table)}")
    known = list(known)
    for name in table:
        if name in known:
            continue
        if name in elsewhere:
            raise JobError(f"{label(section, name)}: unknown key; it belongs to [{elsewhere[name]}]")
        raise JobError(f"{label(section, name)}: unknown key{nearest(name, known)}")


def require_keys(section: str, table: Mapping[str, Any], entries: Iterable[Field]) -> None:
    """Refuse a table that lacks a key without default."""
    for entry in entries:
        if entry.default is MISSING and entry.default_factory is MISSING and entry.name not in table:
            raise JobError(f"{label(section, entry.name)} is missing{_example_text(entry.name, example_of(entry))}")


def check_type(section: str, name: str, value: Any, expected: Any, example: Any = None) -> Any:
    """``value`` as ``expected`` (an integer becomes a float where a number is wanted).

    Raises:
      JobError: the value is of another type.
    """
    for option in _options(expected):
        matched, converted = _match(value, option)
        if matched:
            return converted
    words = " or ".join(_describe(option) for option in _options(expected) if option is not type(None))
    choices = [choice for option in _options(expected) for choice in typing.get_args(option) if isinstance(choice, str)]
    hint = meant(value, choices) if isinstance(value, str) and choices else _example_text(name, example)
    raise JobError(f"{label(section, name)} must be {words}, got {show(value)}{hint}")


def check_bounds(section: str, entry: Field, value: Any) -> None:
    """Refuse a value outside the bounds that the field states."""
    rules = entry.metadata
    if isinstance(value, str) and rules.get("one_of") and value not in rules["one_of"]:
        raise JobError(
            f"{label(section, entry.name)} must be {bound_text(entry)}, got {value!r}{meant(value, rules['one_of'])}"
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    inside = (
        (rules.get("at_least") is None or value >= rules["at_least"])
        and (rules.get("at_most") is None or value <= rules["at_most"])
        and (rules.get("above") is None or value > rules["above"])
        and (rules.get("below") is None or value < rules["below"])
    )
    if not inside:
        raise JobError(f"{label(section, entry.name)} must be {bound_text(entry)}, got {value!r}")


def bound_text(entry: Field) -> str:
    """The bound of a field in words: ``>= 1``, ``one of 'a', 'b'``, or nothing."""
    rules = entry.metadata
    parts = [
        f"{sign} {rules[name]:.15g}"
        for name, sign in (("at_least", ">="), ("above", ">"), ("at_most", "<="), ("below", "<"))
        if rules.get(name) is not None
    ]
    if rules.get("one_of"):
        choices = ", ".join(repr(choice) for choice in rules["one_of"])
        choices = choices if len(rules["one_of"]) == 1 else f"one of {choices}"
        return f"{' and '.join(parts)} or {choices}" if parts else choices
    return " and ".join(parts)


def show(value: Any) -> str:
    """A value and its type as the user wrote them: ``'ten' (a string)``."""
    if isinstance(value, bool):
        return str(value).lower()
    word = next((text for kind, text in _TYPE_WORDS.items() if type(value) is kind), type(value).__name__)
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({word})"


def _options(expected: Any) -> tuple[Any, ...]:
    if typing.get_origin(expected) in (typing.Union, types.UnionType):
        return typing.get_args(expected)
    return (expected,)


def _match(value: Any, option: Any) -> tuple[bool, Any]:
    """Whether ``value`` is of type ``option``, and the value to use."""
    origin = typing.get_origin(option)
    if option is Any:
        return True, value
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(option)), value
    kind = origin or option
    if kind is type(None):
        return value is None, value
    if kind is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
        return is_number, float(value) if is_number else value
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if kind in (list, tuple) or (isinstance(kind, type) and issubclass(kind, typing.Sequence) and kind is not str):
        return _match_sequence(value, option, kind)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return isinstance(value, Mapping), value
    return (isinstance(value, kind), value) if isinstance(kind, type) else (True, value)


def _match_sequence(value: Any, option: Any, kind: type) -> tuple[bool, Any]:
    """A list or tuple, its elements checked; made a tuple where a tuple is wanted."""
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        return False, value
    inner = [entry for entry in typing.get_args(option) if entry is not Ellipsis]
    if len(inner) == 1:
        checked = [_match(entry, choice) for entry in value for choice in _options(inner[0])[:1]]
        if not all(matched for matched, _ in checked):
            return False, value
        value = [converted for _, converted in checked]
    return True, tuple(value) if kind is tuple else list(value)


_PLURALS = {int: "integers", float: "numbers", str: "strings"}


def _describe(option: Any) -> str:
    if typing.get_origin(option) is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(option))
    kind = typing.get_origin(option) or option
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a table"
    if kind in (tuple, list):
        inner = [_PLURALS.get(entry) for entry in typing.get_args(option) if entry is not Ellipsis]
        return f"a list of {inner[0]}" if len(inner) == 1 and inner[0] else "a list"
    return _TYPE_WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def _example_text(name: str, example: Any) -> str:
    if example is None:
        return ""
    from ps.rules.documentation import toml

    return f", e.g. {name} = {toml(example)}"
