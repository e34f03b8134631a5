"""From the tables of a job file to checked, complete ones: overrides, shorthands, defaults, paths."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from deploy.recordable import with_recording
from deploy.schema import check_keys, check_type, label, require_keys, show, type_hints
from deploy.sections import (
    FIXED_SECTIONS,
    NAMED_SECTIONS,
    DataSection,
    StrategySection,
    TaskSection,
    WorkersSection,
    check_top_level,
)
from ps.errors import JobError, UsageError, nearest

_POSITION = re.compile(
    r"^(?P<what>.*?)\s*\(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$", re.DOTALL
)
SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9_+-]+:")  # sklearn:digits, hogshead:a9a; a single letter would be a drive
_SIGN_BIT = 1 << 63
ReadRule = Callable[[str, Mapping[str, Any]], dict[str, Any]]
ReadTask = Callable[[Mapping[str, Any], set[tuple[str, ...]], Path], tuple[TaskSection, DataSection]]


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
      JobError: no such file, not text, or a syntax error (with line, column and the line itself).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(f"{path}: no such job file{_job_files_near(path)}") from None
    except IsADirectoryError:
        raise JobError(f"{path} is a folder, not a job file{_job_files_near(path / 'x.toml')}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path}{_syntax_error(str(error), text)}") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise JobError(f"{path}: a value cannot be read: {error}") from None


def resolve(
    document: Mapping[str, Any],
    overrides: Sequence[str],
    folder: Path,
    name: str,
    *,
    read_rule: ReadRule | None = None,
    read_task: ReadTask | None = None,
) -> dict[str, Any]:
    """Keyword arguments of ``Job`` for these tables; see ``Job.from_dict``.

    Args:
      read_rule, read_task: instead of ``resolve_rule`` and ``resolve_task``, for who must not import a user's code.
    """
    read_rule, read_task = read_rule or resolve_rule, read_task or resolve_task
    tables = with_names(copied(document))
    tables.pop("compare", None)  # for `hogshead compare` alone
    overridden = apply_overrides(tables, overrides)
    tables = with_names(tables)
    _refuse_long_integers(tables)
    check_top_level(tables)
    for part in (*NAMED_SECTIONS, *FIXED_SECTIONS):
        check_keys(part, tables.get(part, {}), tables.get(part, {}))  # a table at all, whatever its keys
    strategy_class = _strategy_class(tables)
    tables = with_recording(tables)
    try:
        tables = copied(strategy_class.resolve(tables)) if hasattr(strategy_class, "resolve") else tables
    except UsageError as error:
        raise JobError(_in_section("strategy", error)) from error
    parts: dict[str, Any] = {"name": name, **check_top_level(tables)}
    parts["strategy"] = _strategy_section(tables["strategy"], strategy_class)
    for part in ("rule", "local_rule"):
        if tables.get(part) is not None:
            parts[part] = read_rule(part, tables[part])
    for part, section in FIXED_SECTIONS.items():
        if part != "data":
            parts[part] = section.from_table(tables.get(part, {}))
    parts["workers"] = _workers_of_delay(tables, parts)
    parts["task"], parts["data"] = read_task(tables, overridden, folder)
    return parts


def _refuse_long_integers(value: Any, *keys: str) -> None:
    """Refuse integers of more than 64 bits, the most that TOML knows, wherever they stand; arrays could not hold them."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            _refuse_long_integers(entry, *keys, str(name))
    elif isinstance(value, (list, tuple)):
        for entry in value:
            _refuse_long_integers(entry, *keys)
    elif isinstance(value, int) and not -_SIGN_BIT <= value < _SIGN_BIT:
        section, name = ".".join(keys[:-1]), keys[-1] if keys else ""
        raise JobError(f"{label(section, name)} must fit 64 bits (at most {_SIGN_BIT - 1}), got {show(value)}")


def _workers_of_delay(tables: Mapping[str, Any], parts: Mapping[str, Any]) -> WorkersSection:
    """The section ``[workers]``, whose count a delay pattern of the simulation decides."""
    workers, needed = parts["workers"], parts["simulation"].delayed_workers()
    if needed is None or parts.get("backend") != "simulation" or workers.count == needed:
        return workers
    if "count" in tables.get("workers", {}):
        raise JobError(
            f"[workers] count is {workers.count}, but [simulation] delay of {parts['simulation'].delay['updates']} updates needs "
            f"{needed}; leave count out"
        )
    return replace(workers, count=needed)


def apply_overrides(tables: dict[str, Any], overrides: Sequence[str]) -> set[tuple[str, ...]]:
    """Write ``section.key=value`` texts into ``tables``; returns the key paths that were set.

    Raises:
      JobError: a text without ``=`` or without a key, or one that goes through something that is no table.
    """
    changed = set()
    for text in overrides:
        left, separator, right = text.partition("=")
        keys = tuple(part.strip() for part in left.split("."))
        if not separator or not all(keys):
            raise JobError(f"--set {text!r}: must be section.key=value, e.g. --set strategy.tau=16")
        table = tables
        for part in keys[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise JobError(f"--set {text!r}: {part!r} is not a table but {table!r}")
        if right.strip():
            table[keys[-1]] = parse_value(right.strip())
            changed.add(keys)
        else:
            table.pop(keys[-1], None)
    return changed


def overrides_of(settings: Mapping[str, Any] | None) -> list[str]:
    """``{"strategy.tau": 16}`` as ``["strategy.tau=16"]``, which ``apply_overrides`` takes; None removes the key."""
    return [f"{key}={'' if value is None else _inline(value)}" for key, value in (settings or {}).items()]


def _inline(value: Any) -> str:
    """A TOML value on one line."""
    import tomli_w

    if isinstance(value, Mapping):
        entries = (f"{tomli_w.dumps({key: 0}).partition('=')[0]}= {_inline(entry)}" for key, entry in value.items())
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return tomli_w.dumps({"value": value}).partition("=")[2].strip()


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself as a string where it is a bare word."""
    try:
        value = tomllib.loads(f"value = {text}")
        if list(value) == ["value"] and isinstance(value["value"], (bool, int, float, str, list, dict)):
            return value["value"]
    except ValueError:  # TOMLDecodeError, or a number of more digits than Python reads
        pass
    if re.fullmatch(r"[+-]?(\d+\.|\.\d+)([eE][+-]?\d+)?", text):  # .05 and 5. are numbers everywhere but in TOML
        return float(text)
    if text[0] in "[{\"'":
        raise JobError(
            f"--set: {text!r} is not a TOML value; quote it for the shell, e.g. --set 'task.hidden=[64, 32]'"
        )
    return text


def resolve_rule(part: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """The rule's table with its defaults filled in, once ``ps.rules`` has accepted it."""
    from ps.rules import RULES, build_rule

    _require_name(part, table, RULES)
    try:
        complete = {"name": table["name"], **_rule_defaults(table), **table}
        rule = build_rule(complete)
        if part == "rule" and rule.local_only:
            raise JobError(
                f"{table['name']}: optimizers of other libraries step replicas, in [local_rule]; the server's rules are "
                f"{', '.join(RULES)}"
            )
    except UsageError as error:
        raise JobError(_in_section(part, error)) from error
    return complete


def _rule_defaults(table: Mapping[str, Any]) -> dict[str, Any]:
    from ps.rules import RULES, foreign

    name = table["name"]
    if foreign.is_foreign(name):
        given = {"learning_rate"} if "lr" in table else set()  # optax's long name for it
        return {key: value for key, value in foreign.defaults(name).items() if key not in given}
    return _defaults(RULES[name]) if name in RULES else {}


def resolve_task(
    tables: Mapping[str, Any], overridden: set[tuple[str, ...]], folder: Path
) -> tuple[TaskSection, DataSection]:
    """The sections ``[task]`` and ``[data]``: options checked against the constructor, paths made absolute."""
    from worker.tasks import TASKS, task_class

    table, data = dict(tables.get("task") or {}), tables.get("data", {})
    _require_name("task", table, TASKS)
    bases = {key: Path.cwd() for key in overridden}
    name = absolute_task(table.pop("name"), bases.get(("task", "name"), folder))
    try:
        cls = task_class(name)
    except UsageError as error:
        raise JobError(_in_section("task", error)) from error
    known = DataSection.framework_keys()
    framework = {key: value for key, value in data.items() if key in known}
    extra = {key: value for key, value in data.items() if key not in known}
    _check_task_options(name, cls, table, extra)
    for section, options in (("task", table), ("data", extra)):
        for key in set(getattr(cls, "paths", ())) & set(options):
            options[key] = absolute(options[key], bases.get((section, key), folder))
    curriculum = framework.get("curriculum")
    if curriculum == {}:
        framework.pop("curriculum")
    return TaskSection(name, table), DataSection(**framework, options=extra)


def absolute(value: Any, folder: Path) -> Any:
    """File names (a string or a list of them) made absolute; bundled ones such as ``hogshead:a9a`` stay."""
    if isinstance(value, list):
        return [absolute(entry, folder) for entry in value]
    if not isinstance(value, str) or SCHEME.match(value):
        return value
    return str((folder / Path(value).expanduser()).resolve())


def _strategy_class(tables: Mapping[str, Any]) -> type:
    from worker.strategies import STRATEGIES

    table = tables.get("strategy") or {}
    _require_name("strategy", table, STRATEGIES)
    if table["name"] not in STRATEGIES:
        raise JobError(f"[strategy] name: unknown strategy {table['name']!r}{nearest(table['name'], STRATEGIES)}")
    return STRATEGIES[table["name"]]


def _strategy_section(table: Mapping[str, Any], cls: type) -> StrategySection:
    """Check the strategy's options by their types, then by constructing it."""
    options = {key: value for key, value in table.items() if key != "name"}
    entries = {entry.name: entry for entry in fields(cls) if entry.init}
    check_keys("strategy", options, entries)
    require_keys("strategy", options, entries.values())
    hints = type_hints(cls)
    for key, value in options.items():
        default = entries[key].default
        options[key] = check_type("strategy", key, value, hints[key], None if default is MISSING else default)
    try:
        cls(**options)
    except UsageError as error:
        raise JobError(_in_section("strategy", error)) from error
    return StrategySection(table["name"], {**_defaults(cls), **options})


def _check_task_options(name: str, cls: type, task: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse options that the task's constructor does not take, takes twice, or lacks."""
    parameters = [
        entry for entry in inspect.signature(cls).parameters.values() if entry.kind is not entry.VAR_POSITIONAL
    ]
    open_ended = any(entry.kind is entry.VAR_KEYWORD for entry in parameters)
    known = [entry.name for entry in parameters if entry.kind is not entry.VAR_KEYWORD]
    if not open_ended:
        check_keys("data", data, [*DataSection.framework_keys(), *known])
        check_keys("task", task, ["name", *known])
    for key in task:
        if key in data:
            raise JobError(f"{key} stands both in [task] and in [data]; keep one")
    for entry in parameters:
        required = entry.default is entry.empty and entry.kind is not entry.VAR_KEYWORD
        if required and entry.name not in task and entry.name not in data:
            section = "data" if entry.name in getattr(cls, "paths", ()) else "task"
            raise JobError(
                f"{label(section, entry.name)} is missing: task {name!r} needs it; see `hogshead tasks {name}`"
            )


def absolute_task(name: Any, folder: Path) -> str:
    """The name of a task in a job: ``/absolute/file.py:Class``, a built-in one, or one that only this process knows."""
    if isinstance(name, type):
        from worker.tasks.made import name_in_job

        return name_in_job(name)
    file, separator, attribute = name.rpartition(":")
    if not separator or not file.endswith(".py"):
        return name
    return f"{(folder / Path(file).expanduser()).resolve()}:{attribute}"


def _require_name(part: str, table: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    if "name" not in table:
        raise JobError(f"[{part}] name is missing; there are: {', '.join(sorted(known))}")
    if not isinstance(table["name"], str) and not (part == "task" and isinstance(table["name"], type)):
        check_type(part, "name", table["name"], str, sorted(known)[0])


def _defaults(cls: type) -> dict[str, Any]:
    """Defaults of a dataclass's options, those that are plain values."""
    if not is_dataclass(cls):
        return {}
    values = {entry.name: entry.default for entry in fields(cls) if entry.init and entry.default is not MISSING}
    return {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str, list, tuple))}


def with_names(tables: dict[str, Any]) -> dict[str, Any]:
    """``task = "mlp"`` is short for ``[task] name = "mlp"``, likewise strategy and rules."""
    return {
        key: {"name": value} if key in NAMED_SECTIONS and isinstance(value, (str, type)) else value
        for key, value in tables.items()
        if value is not None
    }


def copied(value: Any) -> Any:
    """Nested tables as new dicts, so that nothing of the caller's is changed."""
    return {key: copied(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value


def _in_section(part: str, error: Exception) -> str:
    text = str(error)
    return text if text.startswith("[") else f"[{part}] {text}"


def _syntax_error(message: str, text: str) -> str:
    found = _POSITION.match(message)
    if not found:
        return f": not valid TOML: {message}"
    lines = text.splitlines() or [""]
    line = int(found["line"] or len(lines))
    column = int(found["column"] or len(lines[-1]) + 1)
    shown = lines[line - 1] if line <= len(lines) else ""
    return f", line {line}, column {column}: not valid TOML: {found['what']}\n  {shown}\n  {' ' * (column - 1)}^"


def _job_files_near(path: Path) -> str:
    """What job files lie where the user looked."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix == ".toml")
    except OSError:
        return ""
    return nearest(path.name, names) if names else ""
