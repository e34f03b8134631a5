"""When a job ends: bounds on work, and a metric that is watched."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from ps.errors import UsageError

# Anywhere in a metric's name, in lower case: too long to be part of another word.
_SMALLER_ANYWHERE = (
    "loss", "rmse", "mse", "msle", "mae", "mape", "error", "objective", "perplexity", "nll", "regret", "entropy", "deviance",
    "divergence", "distance", "residual", "latency", "negative_log_likelihood",
)  # fmt: skip
# Whole words of a metric's name: "test_wer" has one, "answered" and "power" have none.
_SMALLER_WORDS = frozenset(
    "cut err wer cer ter mer eer ece brier fid kl kld ppl bpc bpb bpd rms rmsd rmsle mpe smape crps cost risk".split()
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # test_wer, test/WER and testWer have the same words


def smaller_is_better(metric: str) -> bool:
    """Guess from its name whether a metric is better when smaller: losses and errors are, all else is not.

    Example:
      >>> [name for name in ("test_wer", "RMSLE", "cumulativeRegret", "answered", "f1") if smaller_is_better(name)]
      ['test_wer', 'RMSLE', 'cumulativeRegret']
    """
    lower, words = metric.lower(), {word.lower() for word in _WORDS.findall(metric)}
    if "neg" in words:  # neg_log_loss and the like of scikit-learn, which turn a loss round
        return False
    return any(part in lower for part in _SMALLER_ANYWHERE) or not words.isdisjoint(_SMALLER_WORDS)


def counted(count: float, word: str) -> str:
    """``1 epoch``, ``2 epochs``, ``0.5 seconds``."""
    return f"{count:.12g} {word}{'' if count == 1 else 's'}"


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
        """What has been done, in words, if that reaches a bound, else None.

        A run that goes on with a smaller bound may have done more than that.
        """
        if self.epochs is not None and epochs_ended >= self.epochs:
            return counted(epochs_ended, "epoch")
        if self.steps is not None and steps >= self.steps:
            return counted(steps, "step")
        if self.examples is not None and examples >= self.examples:
            return counted(examples, "example")
        return None


class Goal:
    """A metric watched for the best value, for patience and for a target.

    Args:
      metric: its name; None takes the first of a validation metric, else of any.
      mode: "min", "max" or "auto" (by the name, see ``smaller_is_better``).
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
        self._told = False

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
            return f"{name} was not better for {counted(self.waited, 'evaluation')}"
        return None

    @property
    def may_end(self) -> bool:
        """An evaluation may end the training."""
        return self.patience is not None or self.target is not None

    @property
    def smaller(self) -> bool:
        """Smaller is better."""
        if self.mode != "auto":
            return self.mode == "min"
        return smaller_is_better(self.metric or "")

    def guess(self) -> str | None:
        """What mode "auto" takes for better, in words, once, if patience or a target goes by it; else None."""
        decides = self.patience is not None or self.target is not None
        if self._told or not decides or self.mode != "auto" or self.metric is None:
            return None
        self._told = True
        better, other = ("smaller", "max") if self.smaller else ("larger", "min")
        return f'{better} {self.metric} is better, by its name; if not so, set [stop] mode = "{other}"'

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
