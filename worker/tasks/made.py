"""Task classes made by a call, such as ``torch_task``: their options, their names in jobs, and where a job finds them again.

A made class at the top level of a file is named ``file.py:NAME`` in a job, as one that is written out. One without a file, made
at a prompt or in a notebook, is known by name in its own process only, and in those forked from it.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ps.docs import docstring
from ps.errors import UsageError

NAMELESS = "python:"  # begins the names of classes without a file
_LIVE: dict[str, tuple[type, str]] = {}  # name in a job -> the class, and the digest of its file


def merge_options(what: str, functions: Mapping[str, tuple[Any, int]], own: Mapping[str, Any]) -> inspect.Signature:
    """The keyword options of several functions together, as those of a task's constructor.

    Args:
      what: the caller, for messages.
      functions: role -> (function, number of its leading parameters that the task gives by itself). What is no function or class
        has no options. An option that two of them name is one.
      own: options of the task itself, name -> default; a function's option of that name keeps its default.

    Raises:
      UsageError: two functions give one option different defaults, or one needs an option that is the task's own.
    """
    found: dict[str, inspect.Parameter] = {}
    for role, (function, skip) in functions.items():
        for name, entry in options_of(function, skip).items():
            if name in own:
                if entry.default is not entry.empty:  # as every module of torch.nn has `device`
                    continue
                raise UsageError(f"{what}: {role} has an option {name!r}, which is the task's own; rename it")
            before = found.get(name)
            if before is not None and not _agree(before.default, entry.default):
                raise UsageError(
                    f"{what}: option {name!r} must have one default, got {before.default!r} and, in {role}, "
                    f"{entry.default!r}"
                )
            found[name] = entry.replace(kind=entry.KEYWORD_ONLY)
    for name, default in own.items():
        found[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
    return inspect.Signature(list(found.values()))


def options_of(function: Any, skip: int = 0) -> dict[str, inspect.Parameter]:
    """A function's parameters that can be given by name, without the first ``skip``; of anything else none."""
    if not is_recipe(function):
        return {}
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    return {
        entry.name: entry for entry in parameters if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY)
    }


def is_recipe(value: Any) -> bool:
    """A function or class, to be called with options; not an object that merely can be called, as a module can."""
    return inspect.isroutine(value) or inspect.isclass(value) or type(value).__name__ == "partial"


def call_recipe(value: Any, given: Mapping[str, Any], *leading: Any) -> Any:
    """What a recipe makes of those of the options that it names; what is no recipe is the thing itself."""
    if not is_recipe(value):
        return value
    wanted = options_of(value, len(leading))
    return value(*leading, **{name: given[name] for name in wanted if name in given})


def _agree(first: Any, second: Any) -> bool:
    return first is second or (type(first) is type(second) and bool(first == second))


def name_in_job(cls: type) -> str:
    """What a job calls a class; ``made_class`` finds it by that in this process, and in those forked from it."""
    module = sys.modules.get(cls.__module__)
    path = Path(getattr(module, "__file__", None) or "")
    names = [key for key, value in vars(module).items() if value is cls] if module is not None else []
    if names and path.suffix == ".py" and path.is_file():
        name = f"{path.resolve()}:{names[0]}"
        _LIVE[name] = (cls, vars(cls).get("source") or _digest(path))
        return name
    known = {found: name for name, (found, _) in _LIVE.items()}
    name = known.get(cls) or _unused(f"{NAMELESS}{cls.__name__}")
    _LIVE[name] = (cls, "")
    return name


def made_class(name: str) -> type | None:
    """The class of that name handed over or made in this process, or None where there is none, or its file has changed since."""
    cls, digest = _LIVE.get(name, (None, ""))
    if cls is None and name.startswith(NAMELESS):
        raise UsageError(
            f"task {name!r} was made in Python without a file, and only that process knows it; to load it elsewhere, put it at "
            "the top level of a file, as a class or as MyTask = hogshead.torch_task(...), and name it 'path/to/file.py:MyTask'"
        )
    if cls is not None and digest and _digest(Path(name.rpartition(":")[0])) != digest:
        return None
    return cls


def make_class(base: type, label: str, signature: inspect.Signature, frame: Any, doc: str, **members: Any) -> type:
    """A subclass of ``base`` that belongs to the module of ``frame``, the caller's.

    Args:
      label: its name until it is assigned to one.
      signature: of its constructor.
      doc: its documentation.
      members: class attributes.
    """
    name = label if label.isidentifier() else base.__name__
    namespace = {"__module__": frame.f_globals.get("__name__", "__main__"), "__qualname__": name, "__doc__": doc}
    source = _digest(Path(frame.f_globals.get("__file__") or ""))
    return type(name, (base,), {**namespace, "__signature__": signature, "source": source, **members})


def bound_options(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options given to the constructor, defaults filled in.

    Raises:
      UsageError: an unknown option, or one that is missing.
    """
    try:
        bound = inspect.signature(cls).bind(**given)
    except TypeError as error:
        raise UsageError(f"{cls.__name__}: {error}") from None
    bound.apply_defaults()
    return dict(bound.arguments)


def title_of(value: Callable[..., Any] | Any) -> str:
    """A function's name, or an object's class's."""
    return getattr(value, "__name__", type(value).__name__)


def first_line(value: Any) -> str:
    """Of its documentation, if it has its own."""
    return docstring(value).partition("\n")[0] if is_recipe(value) else ""


def check_paths(what: str, paths: Any, signature: inspect.Signature) -> None:
    """Raise UsageError if ``paths`` names what is no option."""
    for name in paths:
        if name not in signature.parameters:
            raise UsageError(
                f"{what}: paths names {name!r}, which is no option; there are: {', '.join(signature.parameters) or 'none'}"
            )


def _unused(name: str) -> str:
    number, found = 1, name
    while found in _LIVE:
        number += 1
        found = f"{name}-{number}"
    return found


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "none"
