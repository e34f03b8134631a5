"""The task of the claims B1 to B3, D2, ssp and backup: a small perceptron on handwritten digits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from deploy.job import Job
from deploy.progress import Observer
from deploy.simulation import Outcome, simulate
from ps.errors import HogsheadError, NonFiniteError
from worker.data.dataset import ArrayDataset
from worker.tasks.mlp import MLP

TASK = f"{Path(__file__).resolve()}:Digits"  # as a job names it
BATCH = 16
TRAINED = 0.1  # mean negative log-likelihood of the training examples
STEP = {"distribution": "lognormal", "median": 1.0, "sigma": 0.3}  # virtual seconds of one step
MEAN_STEP = math.exp(0.3**2 / 2)
WORDS = "scikit-learn's digits (80 % of 1 797 train), MLP 64-48-10, batches of 16"


def at_least_three(seeds: Sequence[int]) -> list[int]:
    """The seeds, and those that follow where there are fewer than three: for thresholds of means and medians."""
    return [*seeds, *range(seeds[-1] + 1, seeds[-1] + 1 + 3 - len(seeds))]


class Digits(MLP):
    """64-48-10 perceptron on scikit-learn's digits; evaluates ``train_nll`` and ``test_error``.

    Args:
      passes: over the examples that make one epoch, >= 1. With many of them nobody waits at an epoch's end.
    """

    def __init__(self, passes: int = 1):
        super().__init__("sklearn:digits", hidden=[48], scale=1 / 16, test_fraction=0.2)
        self._passes = passes

    def dataset(self) -> Any:
        """The training examples, several times over."""
        return self._train if self._passes == 1 else Repeated(self._train, self._passes)

    def evaluate(self, parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Mean negative log-likelihood over the training set, and the share of test examples that are misread."""
        assert self._test is not None
        train, test = (self.measure(parameters, part.arrays()) for part in (self._train, self._test))
        return {"train_nll": train["loss"], "test_error": 1 - test["accuracy"]}


class Repeated:
    """Examples that are there several times."""

    def __init__(self, examples: ArrayDataset, times: int):
        self._examples, self._times = examples, times

    def __len__(self) -> int:
        return self._times * len(self._examples)

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return self._examples.take(indices % len(self._examples))


@lru_cache(maxsize=2)
def _task(passes: int) -> Digits:
    return Digits(passes)


class Hopeless(HogsheadError):
    """What ends a run that is given up."""


class GiveUp(Observer):
    """Ends a run whose training NLL is too large at some point.

    Args:
      above: updates -> largest NLL to go on with after so many.
    """

    def __init__(self, above: Mapping[int, float]):
        self._above = above

    def evaluation(self, record: dict[str, Any]) -> None:
        nll = record["evaluation"]["train_nll"]
        if any(record["updates"] >= updates and nll > most for updates, most in self._above.items()):
            raise Hopeless(f"training NLL {nll:.3f} after {record['updates']} updates")


def train(seed: int, observer: Observer | None = None, passes: int = 1, **sections: Any) -> Outcome:
    """Simulate a job on the digits.

    Args:
      seed: of initial values, order of examples and times.
      observer: may give up.
      passes: see ``Digits``.
      sections: of the job; [task] and the batch size are filled in.

    Raises:
      HogsheadError: the run failed for another reason than numbers that are not finite, or being given up; these are in
        the outcome.
    """
    filled_in = {"backend": "simulation", "task": {"name": TASK, "passes": passes}, "data": {"batch_size": BATCH}}
    with np.errstate(over="ignore", invalid="ignore"):  # too large a rate is told by what is not finite in the end
        outcome = simulate(Job.from_dict({**filled_in, "seed": seed, **sections}), _task(passes), observer)
    if outcome.error is not None and not isinstance(outcome.error, (NonFiniteError, Hopeless)):
        raise outcome.error
    return outcome


def train_to_target(
    seed: int, workers: int, updates: int, every: int = 8, observer: Observer | None = None, **sections: Any
) -> dict[str, Any]:
    """Downpour (n_fetch = n_push = 1) until the training set's negative log-likelihood is ``TRAINED``.

    Args:
      workers: replicas, whose steps take ``STEP``.
      updates: at which it is given up.
      every: updates between two evaluations, about.
      observer: may give up earlier.
      sections: of the job, e.g. ``rule``; [simulation] is added to the step times.

    Returns:
      ``seconds`` (virtual) and ``updates`` at which it was reached, None if it was not; ``course``: the lists
      ``seconds`` and ``nll``.
    """
    outcome = train(
        seed,
        observer,
        strategy="downpour",
        workers={"count": workers},
        stop={"steps": updates, "metric": "train_nll", "target": TRAINED},
        evaluation={"every_epochs": 0, "every_seconds": every * MEAN_STEP / workers},
        **{**sections, "simulation": {"step_seconds": STEP, **sections.get("simulation", {})}},
    )
    records = outcome.evaluations
    reached = next((record for record in records if record["evaluation"]["train_nll"] <= TRAINED), None)
    return {
        "seconds": reached and reached["virtual_seconds"],
        "updates": reached and reached["updates"],
        "course": {
            "seconds": [record["virtual_seconds"] for record in records],
            "nll": [record["evaluation"]["train_nll"] for record in records],
        },
    }
