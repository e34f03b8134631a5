"""Docstrings that are shown to users, also by an interpreter that drops them (``python -OO``)."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from typing import Any

_KEPT_BELOW = 2  # levels of optimisation


def docstring(described: Any) -> str:
    """The docstring of a class or function, cleaned; empty if there is none."""
    if sys.flags.optimize < _KEPT_BELOW:
        return inspect.getdoc(described) or ""
    try:
        # A dataclass without a docstring is given its signature as one, so what is there now does not count.
        source = ast.parse(textwrap.dedent(inspect.getsource(described))).body[0]
    except (OSError, TypeError, SyntaxError):
        return ""
    documented = isinstance(source, (ast.ClassDef, ast.FunctionDef))
    return (ast.get_docstring(source) or "") if documented else ""
