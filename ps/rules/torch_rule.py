"""Optimizers of torch.optim as rules on flat vectors."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ps.errors import JobError, UsageError, nearest
from ps.extras import import_extra
from ps.rules.base import Context, Slots, UpdateRule, check_arrays, require
from ps.rules.foreign import refuse_options

_PROBE = 3  # elements of the vector that shows what state an optimizer keeps
# What is not a hyper-parameter: the parameters themselves, and switches for graphs of CUDA and for gradients of gradients.
_HIDDEN = ("params", "capturable", "differentiable")


def tensor_of(array: np.ndarray) -> Any:
    """The array (any shape, aligned, native byte order) as a CPU tensor over the same memory; of read-only arrays too."""
    import torch

    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():  # torch has no read-only tensors; whoever asks for one here only reads it
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


@dataclass(frozen=True)
class TorchRule(UpdateRule):
    """An optimizer of torch.optim that steps a replica's parameters as one flat tensor.

    The same steps as the optimizer makes on a single parameter of that length. What it remembers lies in the slots, which the
    optimizer changes in place; ``step`` is the context's. Thread-safe: an optimizer at work is used by one call at a time.

    Args:
      optimizer: as a job names it, ``torch.Adam``.
      options: the constructor's keyword options.

    Raises:
      JobError: see ``ps.rules.foreign.build``.
    """

    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    _kept: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)
    _idle: list[Any] = field(init=False, repr=False, compare=False, default_factory=list)

    local_only: ClassVar[bool] = True
    dense_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", dict(self.options))
        refuse_options(self.optimizer, self.options, signature(self.optimizer))
        self._kept.update(_probe(self))

    @property
    def name(self) -> str:  # type: ignore[override]
        """As a job names it."""
        return self.optimizer

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        """The optimizer's state of the vector's size, then its single numbers but the step, sorted."""
        return (*self._kept["arrays"], *self._kept["numbers"])

    def config(self) -> dict[str, Any]:
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in self.options.items()}
        return {"name": self.optimizer, **plain}

    def learning_rate(self, context: Context) -> float:
        given = self.options.get("lr", signature(self.optimizer)["lr"].default)
        return float(given) * context.lr_scale

    def __reduce__(self) -> Any:
        return TorchRule, (self.optimizer, dict(self.options))

    def apply(self, center: np.ndarray, slots: Slots, gradient: np.ndarray, context: Context) -> None:
        check_arrays(self, center, gradient)
        try:
            at_work = None if context.step == 1 else self._idle.pop()
        except IndexError:
            at_work = None
        # New for a first step, because some optimizers fill their state when they are made.
        at_work = at_work or _make(self.optimizer, self.options, center)
        self._step(at_work, center, slots, gradient, context)
        self._idle[:] = [at_work]

    def apply_rows(self, center, slots, rows, gradients, context) -> None:
        raise UsageError(
            f"{self.optimizer}: steps whole vectors and cannot step rows of a table; use a rule without a dot in its name"
        )

    def _step(self, optimizer: Any, center: np.ndarray, slots: Slots, gradient: np.ndarray, context: Context) -> None:
        (group,) = optimizer.param_groups
        (parameter,) = group["params"]
        group["lr"] = self.learning_rate(context)
        parameter.data, parameter.grad = tensor_of(center), tensor_of(gradient)
        state = optimizer.state[parameter]
        if context.step > 1:
            state.clear()
            state.update(self._load(slots, context))
        optimizer.step()
        self._store(state, slots)
        parameter.grad = None
        state.clear()

    def _load(self, slots: Slots, context: Context) -> dict[str, Any]:
        state = {key: tensor_of(slots[key]) for key in self._kept["arrays"]}
        for key, like in self._kept["numbers"].items():
            state[key] = like(float(slots[key].flat[0]))
        if self._kept["step"] is not None:
            state["step"] = self._kept["step"](float(context.step - 1))
        return state

    def _store(self, state: Mapping[str, Any], slots: Slots) -> None:
        """Copy what the optimizer did not change in place."""
        for key in self._kept["arrays"]:
            if key in state and state[key].data_ptr() != slots[key].ctypes.data:
                np.copyto(slots[key], state[key].numpy())
        for key in self._kept["numbers"]:
            slots[key].flat[0] = float(state[key])


def build(name: str, options: Mapping[str, Any]) -> TorchRule:
    """See ``ps.rules.foreign.build``."""
    return TorchRule(name, options)


def title(name: str) -> str:
    """For lists."""
    return f"torch.optim.{_class(name).__name__} of PyTorch"


def signature(name: str) -> dict[str, inspect.Parameter]:
    """The constructor's options by name; errors as ``ps.rules.foreign.build``."""
    found = inspect.signature(_class(name)).parameters
    return {key: entry for key, entry in found.items() if key not in _HIDDEN and entry.kind is not entry.VAR_KEYWORD}


def _class(name: str) -> type:
    try:
        optim = import_extra("torch.optim", "torch", name)
    except UsageError as error:
        raise JobError(str(error)) from error
    short = name.partition(".")[2]
    cls = getattr(optim, short, None)
    known = {
        f"torch.{key}" for key, entry in vars(optim).items() if inspect.isclass(entry) and _is_optimizer(entry, optim)
    }
    if f"torch.{short}" not in known or cls is None:
        raise JobError(f"there is no rule {name!r}: torch.optim has no optimizer {short!r}{nearest(name, known)}")
    return cls


def _is_optimizer(entry: type, optim: Any) -> bool:
    return issubclass(entry, optim.Optimizer) and entry is not optim.Optimizer


def _make(name: str, options: Mapping[str, Any], vector: np.ndarray) -> Any:
    """The optimizer over one parameter, ``vector`` itself."""
    import torch

    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    parameter = torch.nn.Parameter(tensor_of(vector))
    try:
        return _class(name)([parameter], **given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise JobError(f"{name}: {error}") from None


def _probe(rule: TorchRule) -> dict[str, Any]:
    """What the optimizer keeps, from two steps on a small vector."""
    import torch

    optimizer = _make(rule.optimizer, rule.options, np.ones(_PROBE, np.float32))
    (parameter,) = optimizer.param_groups[0]["params"]
    has_rate = "lr" in optimizer.param_groups[0]
    require(has_rate, rule, "optimizer", "an optimizer with a step size lr")
    try:
        for _ in range(2):
            parameter.grad = torch.full((_PROBE,), 0.5)
            optimizer.step()
    except (TypeError, ValueError, RuntimeError) as error:
        raise JobError(f"{rule.optimizer}: cannot step a flat vector: {error}") from None
    kept: dict[str, Any] = {"arrays": (), "numbers": {}, "step": None}
    for key, value in sorted(optimizer.state[parameter].items()):
        if torch.is_tensor(value) and value.shape == (_PROBE,):
            kept["arrays"] += (key,)
        elif isinstance(value, (int, float)) or (torch.is_tensor(value) and value.dim() == 0):
            like = type(value) if not torch.is_tensor(value) else _number_like(value.dtype)
            if key == "step":
                kept["step"] = like
            else:
                kept["numbers"][key] = like
        elif value is not None:
            raise JobError(f"{rule.optimizer}: keeps {key!r}, which is neither a number nor of the vector's size")
    return kept


def _number_like(dtype: Any) -> Any:
    import torch

    return lambda value: torch.tensor(value, dtype=dtype)
