"""Whether a trained model is better than one that knows no feature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.words import number
from ps.errors import HogsheadError, UsageError
from worker.stopping import Goal
from worker.task_calls import call_task, numbers

_WHAT = {
    "test_accuracy": "the most frequent class of the training data for every example",
    "test_rmse": "the mean of the training data for every example",
}


def no_better_than_baseline(task: Any, evaluation: Mapping[str, float]) -> str | None:
    """The warning for the first metric of ``task.baseline()`` that the model does not beat, or None.

    Args:
      task: may have a method ``baseline`` (see ``worker.task.OptionalMembers``).
      evaluation: last metrics of the trained model, by name.

    A ``baseline`` that fails is a warning too: training has ended well by then.
    """
    if not callable(getattr(task, "baseline", None)):
        return None
    try:
        baseline = numbers("baseline", call_task("baseline", task.baseline))
    except (HogsheadError, UsageError) as error:
        return str(error)
    for name, least in baseline.items():
        value = evaluation.get(name)
        if value is None:
            continue
        if value >= least if Goal(name).smaller else value <= least:
            return f"{name} is {number(value)}, no better than {_WHAT.get(name, 'the baseline')}, {number(least)}"
    return None
