"""The tasks there are, by name, and the loading of a user's own from a file.

``task_class("sparse_linear")`` imports a built-in one; ``task_class("path/to/file.py:MyTask")`` executes that file
under a module name made of its path. The file's folder is put at the end of ``sys.path``, never first: it may import
what lies beside it, but a user's ``worker.py`` must not hide this package.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path

from ps.docs import docstring
from ps.errors import UsageError, nearest
from ps.extras import install_hint
from worker.tasks.made import made_class

TASKS: dict[str, str] = {
    "sparse_linear": "worker.tasks.sparse_linear:SparseLinear",
    "matrix_completion": "worker.tasks.matrix_completion:MatrixCompletion",
    "graph_cuts": "worker.tasks.graph_cuts:GraphCuts",
    "mlp": "worker.tasks.mlp:MLP",
}
REQUIRED = ("parameters", "dataset", "loss_and_gradient", "evaluate")


def task_class(name: str, folder: str | Path = ".") -> type:
    """The class of a task.

    Args:
      name: a name of ``TASKS``, or ``path/to/file.py:ClassName``.
      folder: what a relative path is relative to (the job file's folder).

    Raises:
      UsageError: unknown name, no such file, a syntax error in it, an exception while it is executed, no such class, or
        a class that lacks a member of the task protocol.
    """
    known = made_class(name)
    if known is not None:
        return _complete(name, known)
    if ".py" in name or "/" in name:
        return _user_class(name, Path(folder))
    if name not in TASKS:
        hint = nearest(name, TASKS)
        raise UsageError(f"there is no task {name!r}{hint}; a task of your own is named 'path/to/file.py:ClassName'")
    module, _, attribute = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def options(cls: type) -> dict[str, inspect.Parameter]:
    """Keyword options of a task's constructor, by name."""
    parameters = inspect.signature(cls).parameters
    return {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def one_line(name: str) -> str:
    """First line of the task's documentation."""
    return docstring(task_class(name)).partition("\n")[0]


def describe(name: str) -> str:
    """The task's documentation with its options, their defaults and meaning, as text."""
    cls = task_class(name)
    defaults = [
        f"  {option} = {'(needed)' if p.default is p.empty else repr(p.default)}" for option, p in options(cls).items()
    ]
    return "\n".join([f"{name}: {docstring(cls)}", "", "Defaults:", *defaults])


def _user_class(name: str, folder: Path) -> type:
    file_name, _, attribute = name.rpartition(":")
    if not file_name or not attribute.isidentifier():
        raise UsageError(f"task {name!r} must be 'path/to/file.py:ClassName'; the name of the class is missing")
    path = (folder / file_name).expanduser().resolve()
    if not path.is_file():
        raise UsageError(
            f"task {name!r}: there is no file {path}; a relative path is relative to the job file's folder"
        )
    module = _load(path, name)
    if not hasattr(module, attribute):
        own = [
            key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
        ]
        raise UsageError(f"task {name!r}: {path.name} has no {attribute!r}{nearest(attribute, own)}")
    cls = getattr(module, attribute)
    if not inspect.isclass(cls):
        raise UsageError(f"task {name!r}: {attribute} must be a class, got {type(cls).__name__}")
    return _complete(name, cls)


def _complete(name: str, cls: type) -> type:
    """The class, if it has what a task must have."""
    missing = [member for member in REQUIRED if not callable(getattr(cls, member, None))]
    if missing:
        raise UsageError(
            f"task {name!r}: {cls.__name__} lacks the method{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            "worker/task.py shows a whole task"
        )
    return cls


def _load(path: Path, name: str):
    """Execute ``path`` as a module of its own name; the same unchanged file is executed once."""
    content = path.read_bytes()
    digest = hashlib.sha256(os.fsencode(path) + b"\0" + content).hexdigest()[:16]
    module_name = f"hogshead_user_{digest}_{path.stem}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"task {name!r}: {path} must be a Python file ending in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickle look their module up there while the file is being executed.
    sys.modules[module_name] = module
    if str(path.parent) not in sys.path:  # at the end, so that its siblings can be imported, and hide nothing
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[module_name]
        raise UsageError(
            f"task {name!r}: {error.filename}, line {error.lineno}, column {error.offset}: {error.msg}"
        ) from error
    except Exception as error:
        del sys.modules[module_name]
        raise UsageError(
            f"task {name!r}: executing {path.name} failed{_line_of(error, path)}: {type(error).__name__}: {error}"
            f"{install_hint(error)}"
        ) from error
    return module


def _line_of(error: BaseException, path: Path) -> str:
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f" in line {line}"
