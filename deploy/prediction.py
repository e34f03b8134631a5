"""Predictions of a trained model, in the form that the user asks for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from ps.errors import UsageError
from worker.tasks.checks import OUTPUTS


def predict_with(
    task: Any, parameters: Mapping[str, np.ndarray], inputs: Any, output: str | None = None, name: str | None = None
) -> Any:
    """The task's predictions.

    Args:
      task: has a method ``predict``.
      parameters: of the trained model, by name.
      inputs: what the task's ``predict`` takes.
      output: one of ``OUTPUTS``; None is what the task predicts by default.
      name: of the task, for messages.

    Raises:
      UsageError: the task, or the model that it trained, has no such output.
    """
    if output is None:
        return task.predict(parameters, inputs)
    if output not in OUTPUTS:
        raise UsageError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    if "output" not in inspect.signature(task.predict).parameters:
        raise UsageError(
            f"task {name or type(task).__name__} predicts one thing only, so that output = {output!r} cannot be chosen; "
            "leave it out"
        )
    return task.predict(parameters, inputs, output=output)
