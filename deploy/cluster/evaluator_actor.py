"""The actor that measures the center while the replicas go on."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
from threadpoolctl import threadpool_limits

from deploy.blueprint import averaged_result
from deploy.cluster.ending import end_with_coordinator
from deploy.cluster.facts import RunFacts, node_id
from deploy.cluster.ready import ready
from deploy.cluster.shared_data import share
from deploy.cluster.travel import job_here
from deploy.evaluations import require_finite
from deploy.evaluator import evaluate
from ps.errors import HogsheadError, NonFiniteError, UsageError
from ps.layout import Layout
from ps.segment import SharedArrays
from worker.randomness import OF_EVALUATOR, seed_globals


@ray.remote(num_cpus=0)
class EvaluatorActor:
    """Evaluates one center after another.

    Args:
      facts: of the run.
    """

    def __init__(self, facts: RunFacts):
        end_with_coordinator(facts)
        self._facts, self._setup = facts, None
        self._segment: SharedArrays | None = None

    def evaluate(self, *parts: dict[str, Any]) -> dict[str, Any]:
        """Measure the center that the shards gave, in their order.

        Returns:
          {"metrics": name -> value} or {"error": message, "type": name of its class}.
        """
        try:
            with threadpool_limits(1):
                setup = self._ready()
                vector = result_of(parts, setup.layout)
                require_finite(vector, setup.dataset)
                return {"metrics": evaluate(setup, vector)}
        except (HogsheadError, UsageError) as error:
            kind = "NonFiniteError" if isinstance(error, NonFiniteError) else "TaskError"
            return {"error": str(error), "type": kind}

    def shut_down(self) -> None:
        """Give the shared memory back."""
        if self._segment is not None:
            self._segment.close()

    def _ready(self) -> Any:
        if self._setup is None:
            self._setup = ready(job_here(self._facts))
            self._segment = share(self._setup.dataset, self._facts.uid, node_id())
            self._setup.task.rng = np.random.default_rng([self._setup.job.seed, 3])
            seed_globals(self._setup.job.seed, *OF_EVALUATOR)
        return self._setup


def result_of(parts: Any, layout: Layout) -> np.ndarray:
    """What is evaluated and returned (N,), from what ``ShardActor.vector`` of all shards gave."""
    center = np.concatenate([part["center"] for part in parts])
    if parts[0]["average"] is None:
        return center
    return averaged_result(layout, center, np.concatenate([part["average"] for part in parts]))
