"""Packages that are not installed with Hogshead but on demand: imported where they are used, missed in words."""

from __future__ import annotations

import importlib
from types import ModuleType

from ps.errors import UsageError

_TITLES = {"torch": "PyTorch", "jax": "JAX", "optax": "optax"}
_EXTRA_OF = {"torch": "torch", "jax": "jax", "jaxlib": "jax", "optax": "jax"}


def import_extra(module: str, extra: str, what: str) -> ModuleType:
    """Import an optional package.

    Args:
      module: its name. extra: of Hogshead, that installs it. what: needs it, for the message.

    Raises:
      UsageError: it is not installed, or does not load; names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        title = _TITLES.get(module, module)
        found = "" if isinstance(error, ModuleNotFoundError) and error.name == module else f" (importing it: {error})"
        raise UsageError(
            f"{what} needs {title}, which is not installed{found}; install it with: pip install 'hogshead[{extra}]'"
        ) from error


def install_hint(error: BaseException) -> str:
    """``"; install it with: …"`` where the error is that one of those packages is missing, else ""."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name not in _EXTRA_OF:
        return ""
    return f"; install it with: pip install 'hogshead[{_EXTRA_OF[name]}]'"
