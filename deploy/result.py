"""What training gives back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy.prediction import predict_with
from deploy.run_directory import read_metrics
from ps.errors import UsageError
from worker.data.fetch import local


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
      task: the task that was trained.
      parameters: name -> array, the trained parameters.
      summary: what stands in ``summary.json``.
      run: the run directory.
      error: why it failed, or None.
    """

    task: Any = field(repr=False)
    parameters: dict[str, np.ndarray] = field(repr=False)
    summary: dict[str, Any]
    run: Path
    error: Exception | None = None

    @property
    def evaluation(self) -> dict[str, float]:
        """The last evaluation: name -> value."""
        return self.summary["evaluation"]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``."""
        return read_metrics(self.run)

    def predict(self, inputs: Any, output: str | None = None) -> np.ndarray:
        """The task's predictions for ``inputs``: a file name, or what the task's ``predict`` takes.

        Args:
          output: "label", "score" or "probability", of a task that has them; None is what it predicts by default.

        Raises:
          UsageError: the task cannot predict, or has no such output.
        """
        if not callable(getattr(self.task, "predict", None)):
            raise UsageError(f"task {type(self.task).__name__} has no method predict")
        if isinstance(inputs, (str, Path)):
            inputs = self.task.load_inputs(local(str(inputs), "predict"))
            for note in self.task.input_notes() if hasattr(self.task, "input_notes") else []:
                warnings.warn(note, stacklevel=2)
        return predict_with(self.task, self.parameters, inputs, output)
