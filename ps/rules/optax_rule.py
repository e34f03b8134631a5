"""Gradient transformations of optax as rules on flat vectors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ps.errors import JobError, UsageError, nearest
from ps.extras import import_extra
from ps.rules.base import Context, Slots, UpdateRule, check_arrays
from ps.rules.foreign import refuse_options

_PROBE = 3  # elements of the vector that shows what state an optimizer keeps
_RATE = "learning_rate"


@dataclass(frozen=True)
class OptaxRule(UpdateRule):
    """An optimizer of optax that steps a replica's parameters as one flat array, compiled by JAX.

    Leaves of its state of the vector's size lie in the slots, and so does the first element for each single number; leaves
    called ``count`` are the context's step. A schedule of ours scales the update.

    Args:
      optimizer: as a job names it, ``optax.adam``.
      options: the function's keyword options; ``lr`` is short for ``learning_rate``.

    Raises:
      JobError: see ``ps.rules.foreign.build``.
    """

    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    _made: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    local_only: ClassVar[bool] = True
    dense_only: ClassVar[bool] = True
    isolated: ClassVar[bool] = True

    def __post_init__(self) -> None:
        options = dict(self.options)
        if "lr" in options and _RATE not in options:
            options[_RATE] = options.pop("lr")
        object.__setattr__(self, "options", options)
        refuse_options(self.optimizer, options, signature(self.optimizer))
        self._made.update(_probe(self.optimizer, options))

    @property
    def name(self) -> str:  # type: ignore[override]
        """As a job names it."""
        return self.optimizer

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        """The leaves of the optimizer's state but counts, by their paths."""
        return tuple(path for path, kind in self._made["leaves"] if kind != "count")

    def config(self) -> dict[str, Any]:
        return {"name": self.optimizer, **self.options}

    def learning_rate(self, context: Context) -> float:
        given = self.options.get(_RATE, getattr(signature(self.optimizer).get(_RATE), "default", 1.0))
        return float(given) * context.lr_scale

    def before_forking(self) -> None:
        """Raise UsageError if JAX has started its threads in this process, which one forked from it would wait for in vain."""
        refuse_forking(self.optimizer)

    def __reduce__(self) -> Any:
        return OptaxRule, (self.optimizer, dict(self.options))

    def apply(self, center: np.ndarray, slots: Slots, gradient: np.ndarray, context: Context) -> None:
        check_arrays(self, center, gradient)
        if "step" not in self._made:
            self._made["step"], self._made["init"] = _compiled(self._made["transformation"])
        if context.step == 1:
            state = self._made["init"](center)
        else:
            state = self._load(slots, center.dtype, context)
        stepped, state = self._made["step"](center, state, gradient, center.dtype.type(context.lr_scale))
        for (path, kind), leaf in zip(self._made["leaves"], self._made["flatten"](state), strict=True):
            if kind == "array":
                np.copyto(slots[path], np.asarray(leaf))
            elif kind == "number":
                slots[path].flat[0] = float(leaf)
        np.copyto(center, np.asarray(stepped))

    def apply_rows(self, center, slots, rows, gradients, context) -> None:
        raise UsageError(
            f"{self.optimizer}: steps whole vectors and cannot step rows of a table; use a rule without a dot in its name"
        )

    def _load(self, slots: Slots, dtype: np.dtype, context: Context) -> Any:
        leaves: list[Any] = []
        for (path, kind), own in zip(self._made["leaves"], self._made["dtypes"], strict=True):
            if kind == "array":
                leaves.append(slots[path])
            else:
                value = context.step - 1 if kind == "count" else slots[path].flat[0]
                leaves.append(np.asarray(value, dtype if own.kind == "f" else own))
        return self._made["unflatten"](leaves)


def path_of(keys: Any) -> str:
    """Where a leaf stands in a tree of JAX, such as ``layer1.bias`` or ``0.mu``."""
    steps = [getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in keys]
    return ".".join(map(str, steps))


def refuse_forking(what: str) -> None:
    """Raise UsageError if JAX has been used in this process; ``what`` needs it in forked ones."""
    from jax._src import xla_bridge

    if xla_bridge.backends_are_initialized():
        raise UsageError(
            f"{what}: JAX has been used in this process already, and workers forked from it would hang; call JAX only inside the "
            "task's functions and start with `hogshead train JOB.toml`, or use another backend"
        )


def build(name: str, options: Mapping[str, Any]) -> OptaxRule:
    """See ``ps.rules.foreign.build``."""
    return OptaxRule(name, options)


def title(name: str) -> str:
    """For lists."""
    _function(name)
    return name + " of optax (JAX)"


def signature(name: str) -> dict[str, inspect.Parameter]:
    """The function's options by name; errors as ``ps.rules.foreign.build``."""
    return dict(inspect.signature(_function(name)).parameters)


def _function(name: str) -> Callable[..., Any]:
    try:
        optax = import_extra("optax", "jax", name)
    except UsageError as error:
        raise JobError(str(error)) from error
    short = name.partition(".")[2]
    known = {f"optax.{key}" for key, entry in vars(optax).items() if _has_rate(entry)}
    if f"optax.{short}" not in known:
        raise JobError(f"there is no rule {name!r}: optax has no optimizer {short!r}{nearest(name, known)}")
    return getattr(optax, short)


def _has_rate(entry: Any) -> bool:
    """It is an optimizer: a function whose first option is the step size."""
    function = entry.func if isinstance(entry, partial) else entry
    return inspect.isfunction(function) and next(iter(inspect.signature(function).parameters), "") == _RATE


def _probe(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizer and what state it keeps; shapes only, so that no device is touched."""
    jax = import_extra("jax", "jax", name)
    vector = jax.ShapeDtypeStruct((_PROBE,), np.float32)
    try:
        transformation = _function(name)(**options)
        state = jax.eval_shape(transformation.init, vector)
        jax.eval_shape(transformation.update, vector, state, vector)
    except Exception as error:  # whatever optax or JAX make of an option of a wrong type or value
        raise JobError(f"{name}: {type(error).__name__}: {error}") from None
    found, structure = jax.tree_util.tree_flatten_with_path(state)
    leaves = []
    for keys, leaf in found:
        path = path_of(keys)
        if leaf.shape not in ((), (_PROBE,)):
            raise JobError(f"{name}: keeps {path!r}, which is neither a number nor of the vector's size")
        count = path.rpartition(".")[2] == "count" and leaf.dtype.kind == "i"
        leaves.append((path, "array" if leaf.shape else "count" if count else "number"))
    return {
        "transformation": transformation,
        "leaves": tuple(leaves),
        "dtypes": tuple(np.dtype(leaf.dtype) for _, leaf in found),
        "unflatten": structure.unflatten,
        "flatten": jax.tree_util.tree_leaves,
    }


def _compiled(transformation: Any) -> tuple[Any, Any]:
    import jax

    def step(center, state, gradient, scale):
        updates, state = transformation.update(gradient, state, center)
        return center + scale * updates, state

    return jax.jit(step), jax.jit(transformation.init)
