"""When a job ends: bounds on work, and a metric that is watched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ps.errors import UsageError

_SMALLER_IS_BETTER = ("loss", "rmse", "mse", "mae", "error", "objective", "cut", "perplexity", "nll")


@dataclass(frozen=True)
class StopRule:
    """Bounds on the work of a job; None is no bound.

    Attributes:
      epochs: passes over the training examples.
      steps: local steps of all replicas together.
      examples: training examples.
    """

    epochs: int | None = None
    steps: int | None = None
    examples: int | None = None

    def examples_left(self, examples: int, steps: int, batch_size: int) -> int:
        """How many more may be handed out after so many examples and steps (a large number where there is no bound)."""
        by_examples = 1 << 62 if self.examples is None else self.examples - examples
        by_steps = 1 << 62 if self.steps is None else (self.steps - steps) * batch_size
        return min(by_examples, by_steps)

    def reached(self, epochs_ended: int, examples: int, steps: int) -> str | None:
        """Which bound has been reached, in words, or None."""
        if self.epochs is not None and epochs_ended >= self.epochs:
            return f"{self.epochs} epochs"
        if self.steps is not None and steps >= self.steps:
            return f"{self.steps} steps"
        if self.examples is not None and examples >= self.examples:
            return f"{self.examples} examples"
        return None


class Goal:
    """A metric watched for the best value, for patience and for a target.

    Args:
      metric: its name; None takes the first of a validation metric, else of any.
      mode: "min", "max" or "auto" (by the name: losses and errors are better when smaller).
      patience: evaluations without a better value before stopping, or None.
      target: value that ends the training, or None.
    """

    def __init__(
        self, metric: str | None = None, mode: str = "auto", patience: int | None = None, target: float | None = None
    ):
        self.metric, self.mode, self.patience, self.target = metric, mode, patience, target
        self.best: float | None = None
        self.best_epoch = -1
        self.waited = 0

    def observe(self, epoch: int, metrics: dict[str, float]) -> str | None:
        """Take in an evaluation; a reason to stop, in words, or None.

        Raises:
          UsageError: the metric asked for is not among those evaluated; the message lists them.
        """
        name = self.metric or _first(metrics)
        if name is None:
            return None
        if name not in metrics:
            raise UsageError(f"[stop] metric = {name!r} is not evaluated; there are: {', '.join(metrics) or 'none'}")
        self.metric = name
        value = metrics[name]
        if self._better(value):
            self.best, self.best_epoch, self.waited = value, epoch, 0
        else:
            self.waited += 1
        if self.target is not None and (value <= self.target if self.smaller else value >= self.target):
            return f"{name} reached {self.target:g}"
        if self.patience is not None and self.waited >= self.patience:
            return f"{name} was not better for {self.waited} evaluations"
        return None

    @property
    def smaller(self) -> bool:
        """Smaller is better."""
        if self.mode != "auto":
            return self.mode == "min"
        return any(word in (self.metric or "") for word in _SMALLER_IS_BETTER)

    def _better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        return self.best is None or (value < self.best if self.smaller else value > self.best)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"metric": self.metric, "best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.metric, self.best = state["metric"], state["best"]
        self.best_epoch, self.waited = state["best_epoch"], state["waited"]


def _first(metrics: dict[str, float]) -> str | None:
    validation = [name for name in metrics if name.startswith("validation_")]
    return (validation or list(metrics) or [None])[0]
