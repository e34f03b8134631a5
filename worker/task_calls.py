"""Calls into a user's task: named views in, checked gradients out, and its own errors shown as its own."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ps.errors import HogsheadError, MemoryShortage, TaskError, UsageError, shortened
from ps.layout import Layout
from ps.rows import Rows
from ps.rules.kernels import all_below
from worker.data.dataset import Dataset
from worker.gradients import Gradient, add_rows
from worker.locking import Locking

_KNOWN_VECTORS = 16
_ROOT = Path(__file__).resolve().parents[1]


def call_task(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a task's method; what it raises becomes a TaskError with the traceback shortened to the task's code.

    Our own errors pass as they are: a task may say itself what its user has to change.
    """
    try:
        return function(*args)
    except (HogsheadError, UsageError):
        raise
    except MemoryError as error:
        raise MemoryShortage(f"the task's {what} lacks memory: {str(error) or 'an allocation failed'}") from error
    except Exception as error:
        said = shortened(str(error))
        raise TaskError(f"the task's {what} raised {type(error).__name__}: {said}\n{_own_frames(error)}") from error


def _own_frames(error: BaseException) -> str:
    """The traceback without our own frames."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if Path(frame.filename).resolve().parent not in (_ROOT / "worker", _ROOT / "deploy")
    ]
    return "".join(traceback.format_list(own)).rstrip()


def numbers(what: str, metrics: Any) -> dict[str, float]:
    """What a task's method returned as metrics, name -> number.

    Raises:
      TaskError: it is no dict of numbers.
    """
    try:
        return {str(name): float(value) for name, value in metrics.items()}
    except (AttributeError, TypeError, ValueError):
        raise TaskError(f"the task's {what} must return a dict of numbers by name, got {metrics!r:.200}") from None


def _number(what: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TaskError(f"the task's {what} must return one number, the loss, got {value!r:.200}") from None


class TaskCalls:
    """A task bound to its data set and layout.

    Args:
      task: see ``worker.task.Task``.
      dataset: where batches come from.
      layout: of its parameters.
    """

    def __init__(self, task: Any, dataset: Dataset, layout: Layout):
        self.task, self.dataset, self.layout = task, dataset, layout
        self._gradient = np.zeros(layout.size, layout.dtype)
        self._gradient_views = layout.views(self._gradient)
        self._names = {parameter.name for parameter in layout.parameters}
        self._views: dict[int, tuple[np.ndarray, dict[str, np.ndarray]]] = {}
        self._into = getattr(task, "loss_and_gradient_into", None)

    def views(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Named views of one of the few vectors that are used again and again."""
        known = self._views.get(id(flat))
        if known is None:
            if len(self._views) >= _KNOWN_VECTORS:  # somebody makes a new vector each time: keep none of them for ever
                self._views.clear()
            known = self._views[id(flat)] = (flat, self.layout.views(flat))
        return known[1]

    def gradient(self, point: np.ndarray, examples: np.ndarray) -> tuple[float, Gradient]:
        """Mean loss and gradient at ``point`` (N,) over ``examples``; valid until the next call.

        Raises:
          TaskError: the task raised, or its gradient does not fit its parameters.
        """
        batch = call_task("dataset", self.dataset.take, examples)
        if self._into is not None:
            loss = call_task("loss_and_gradient_into", self._into, self.views(point), batch, self._gradient_views)
            return _number("loss_and_gradient_into", loss), self._gradient
        answer = call_task("loss_and_gradient", self.task.loss_and_gradient, self.views(point), batch)
        loss, parts = self._checked(answer)
        if any(isinstance(part, Rows) for part in parts.values()):
            return loss, parts
        for name, view in self._gradient_views.items():
            np.copyto(view, parts[name], casting="same_kind")
        return loss, self._gradient

    def dense(self, payload: Gradient) -> np.ndarray:
        """A payload as one flat vector (N,), valid until the next call; rows are added up into zeros."""
        if isinstance(payload, np.ndarray):
            return payload
        self._gradient[:] = 0
        for name, part in payload.items():
            parameter = self.layout[name]
            view = self._gradient[parameter.offset : parameter.stop]
            if isinstance(part, Rows):
                add_rows(part.rows, part.values.reshape(part.size, parameter.width), view.reshape(-1, parameter.width))
            else:
                np.copyto(view, part.reshape(-1))
        return self._gradient

    def sweep(self, center: np.ndarray, examples: np.ndarray, step_size: float, locking: Locking) -> float:
        """The task's compiled loop over ``examples``, in place; returns the sum of their losses before their updates."""
        return _number("sweep", call_task("sweep", self.task.sweep, self.views(center), examples, step_size, locking))

    def measure(self, point: np.ndarray, examples: np.ndarray) -> dict[str, float]:
        """Means over ``examples`` in evaluation mode: the task's ``measure``, else its loss."""
        batch = call_task("dataset", self.dataset.take, examples)
        measure = getattr(self.task, "measure", None)
        if measure is not None:
            return numbers("measure", call_task("measure", measure, self.views(point), batch))
        loss, _ = self._checked(call_task("loss_and_gradient", self.task.loss_and_gradient, self.views(point), batch))
        return {"loss": loss}

    def _checked(self, answer: Any) -> tuple[float, dict[str, Any]]:
        try:
            loss, parts = answer
            loss = float(loss)
        except (TypeError, ValueError):
            raise TaskError(
                f"the task's loss_and_gradient must return (loss, dict of gradients), got {answer!r:.200}"
            ) from None
        if not isinstance(parts, Mapping):
            raise TaskError(f"the task's loss_and_gradient must return a dict of gradients, got {type(parts).__name__}")
        if parts.keys() != self._names and not self._may_lack_some(parts):
            raise TaskError(
                f"the task's gradient must name the parameters {', '.join(sorted(self._names))}, "
                f"got {', '.join(sorted(map(str, parts)))}"
            )
        return loss, {name: self._fitting(name, part) for name, part in parts.items()}

    def _may_lack_some(self, parts: Mapping[str, Any]) -> bool:
        """A batch may leave whole parameters untouched where gradients are sparse."""
        return parts.keys() <= self._names and any(isinstance(part, Rows) for part in parts.values())

    def _fitting(self, name: str, part: Any) -> Any:
        parameter = self.layout[name]
        if isinstance(part, Rows):
            if not parameter.sparse:
                raise TaskError(f"the gradient of {name!r} came as rows: name it in the task's attribute `sparse`")
            if part.rows.dtype.kind not in "iu":
                raise TaskError(f"the gradient of {name!r}: rows must be integers, got dtype {part.rows.dtype}")
            if part.values.size != part.size * parameter.width:
                shape = (part.size, parameter.width)
                raise TaskError(f"the gradient of {name!r}: values must have shape {shape}, got {part.values.shape}")
            if not all_below(part.rows, parameter.shape[0]):
                raise TaskError(
                    f"the gradient of {name!r}: rows must be >= 0 and < {parameter.shape[0]}, got {part.rows}"
                )
            values = np.ascontiguousarray(part.values, dtype=self.layout.dtype)
            return Rows(part.rows.astype(np.int64, copy=False), values)
        if isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part):
            raise TaskError(f"the gradient of {name!r} has masked values; return gradient.filled(0)")
        array = np.asarray(part)
        if array.shape != parameter.shape:
            raise TaskError(f"the gradient of {name!r} must have shape {parameter.shape}, got {array.shape}")
        if array.dtype.kind not in "fiu":
            raise TaskError(f"the gradient of {name!r} must be real numbers, got dtype {array.dtype}")
        return np.ascontiguousarray(array, dtype=self.layout.dtype)
