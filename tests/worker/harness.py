"""Small tasks in float64 and a farm of replicas in one process, for tests of strategies and drivers."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from ps.layout import Layout
from ps.rows import Rows
from ps.rules.base import UpdateRule
from ps.shard import ShardOptions
from ps.state import build_state, initialise, private_arrays, state_specs
from ps.transport.direct import DirectLink
from worker.data.dataset import as_dataset
from worker.driver import Driver, DriverOptions, Work
from worker.replica import Replica
from worker.statistics import Statistics
from worker.strategies.base import Strategy

EXAMPLES, FEATURES = 60, 3


class Dense:
    """Least squares on a bent output, 0.5·mean (t + 0.1·t² − y)² with t = w·x + c, so that curvature is not constant."""

    averaged: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((EXAMPLES, FEATURES))
        self.y = self.x @ np.array([1.0, -2.0, 0.5]) + 0.7 + 0.1 * rng.standard_normal(EXAMPLES)

    def parameters(self, rng):
        return {"w": np.array([0.3, -0.2, 0.1]), "c": np.array([0.05])}

    def dataset(self):
        return self.x, self.y

    def loss_and_gradient(self, parameters, batch):
        x, y = batch
        t = x @ parameters["w"] + parameters["c"][0]
        gap = t + 0.1 * t**2 - y
        slope = gap * (1 + 0.2 * t) / len(y)
        return 0.5 * np.mean(gap**2), {"w": x.T @ slope, "c": np.array([slope.sum()])}

    def evaluate(self, parameters):
        return {"loss": float(self.loss_and_gradient(parameters, (self.x, self.y))[0])}


class Averaged(Dense):
    """As ``Dense``, with the running mean of the inputs as an averaged parameter."""

    averaged = ("seen",)
    averaging = 0.2

    def parameters(self, rng):
        return {"seen": np.zeros(FEATURES), **super().parameters(rng)}

    def loss_and_gradient(self, parameters, batch):
        loss, gradient = super().loss_and_gradient(parameters, batch)
        return loss, {**gradient, "seen": batch[0].mean(0)}


class Sparse(Dense):
    """A table of rows, of which an example touches two, and a dense offset: 0.5·mean (Σ row_u + Σ row_v + c − y)²."""

    sparse = ("table",)
    TABLE = (7, 2)

    def __init__(self, seed: int = 0):
        super().__init__(seed)
        rng = np.random.default_rng(seed + 1)
        self.rows = np.stack([rng.permutation(self.TABLE[0])[:2] for _ in range(EXAMPLES)])

    def parameters(self, rng):
        return {"table": np.linspace(-0.3, 0.4, 14).reshape(self.TABLE), "c": np.array([0.05])}

    def dataset(self):
        return self.rows, self.y

    def loss_and_gradient(self, parameters, batch):
        rows, y = batch
        gap = parameters["table"][rows].sum((1, 2)) + parameters["c"][0] - y
        slope = gap / len(y)
        touched = np.unique(rows)
        values = np.zeros((touched.size, self.TABLE[1]))
        for k in range(len(y)):
            values[np.searchsorted(touched, rows[k])] += slope[k]
        return 0.5 * np.mean(gap**2), {"table": Rows(touched, values), "c": np.array([slope.sum()])}


def gradient_in_floats(task: Dense, x: Sequence[float], examples: Sequence[int]) -> list[float]:
    """The gradient of ``Dense`` in plain floats and loops; ``x`` is w and c as one list."""
    total = [0.0] * len(x)
    for example in examples:
        features = [float(value) for value in task.x[example]] + [1.0]
        t = 0.0
        for value, feature in zip(x, features):
            t += value * feature
        slope = (t + 0.1 * t * t - float(task.y[example])) * (1 + 0.2 * t)
        for i, feature in enumerate(features):
            total[i] += slope * feature / len(examples)
    return total


class Farm:
    """Replicas on shards in this process.

    Args:
      strategy: of all replicas.
      rule, local_rule: as a job gives them; None where the strategy has none.
      task: one of the above.
      replicas, shards: how many.
      batch: examples per step.
      options: of the driver, besides the batch size.
    """

    def __init__(
        self,
        strategy: Strategy,
        rule: UpdateRule | None = None,
        local_rule: UpdateRule | None = None,
        *,
        task: Dense | None = None,
        replicas: int = 1,
        shards: int = 1,
        batch: int = 2,
        seed: int = 0,
        **options,
    ):
        self.strategy, self.task, self.batch = strategy, task or Dense(), batch
        self.start = self.task.parameters(np.random.default_rng(0))
        self.layout = Layout.of(self.start, averaged=self.task.averaged, sparse=self.task.sparse)
        self.rule = strategy.shard_rule(rule)
        self.averaging = getattr(self.task, "averaging", 0.1)
        shard_options = ShardOptions(replicas=replicas, rounds=strategy.rounds, averaging=self.averaging)
        self.arrays = private_arrays(state_specs(self.layout, shards, self.rule, shard_options))
        self.state = build_state(self.layout, shards, self.rule, shard_options, self.arrays)
        initialise(self.state, self.start)
        self.failed = threading.Event()
        self.drivers = [
            Driver(
                Replica(self.layout, id=k, peers=replicas, local_rule=local_rule, averaging=self.averaging, seed=seed),
                strategy,
                self.task,
                as_dataset(self.task.dataset()),
                DirectLink(self.state, k, abandoned=self._abandoned),
                self.rule,
                Statistics.private(),
                DriverOptions(batch_size=batch, **options),
            )
            for k in range(replicas)
        ]
        # Every replica has its own examples, as ranges of an epoch would give them.
        rng = np.random.default_rng([seed, 17])
        self.examples = [rng.integers(0, EXAMPLES, 4000) for _ in range(replicas)]
        for driver, examples in zip(self.drivers, self.examples):
            driver.work = Work(0, 0, examples)

    @property
    def center(self) -> np.ndarray:
        return self.state.center

    def begin(self) -> Farm:
        for driver in self.drivers:
            driver.begin()
        return self

    def finish(self) -> None:
        for driver in self.drivers:
            driver.finish()

    def batches(self, replica: int) -> list[list[int]]:
        """The batches that a replica will take, one after the other."""
        examples = self.examples[replica].tolist()
        return [examples[k : k + self.batch] for k in range(0, len(examples), self.batch)]

    def play(self, order: Sequence[int]) -> Farm:
        """Begin, make one step of each replica named in ``order``, and finish."""
        self.begin()
        for replica in order:
            self.drivers[replica].step()
        self.finish()
        return self

    def play_together(self, steps: int) -> Farm:
        """Begin, and let all replicas make ``steps`` synchronous steps, each in a thread of its own."""
        self.begin()
        for shard in self.state.shards:
            for driver in self.drivers:
                shard.join(driver.replica.id)
        errors: list[BaseException] = []

        def run(driver: Driver) -> None:
            try:
                for _ in range(steps):
                    driver.step()
            except BaseException as error:
                errors.append(error)
                self.failed.set()

        threads = [threading.Thread(target=run, args=(driver,)) for driver in self.drivers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        self.finish()
        return self

    def _abandoned(self) -> None:
        if self.failed.is_set():
            raise RuntimeError("another replica failed")


def interleaving(replicas: int, steps: int, seed: int = 0) -> list[int]:
    """A fixed random order in which each replica makes ``steps`` steps."""
    return np.random.default_rng([seed, replicas]).permutation(np.repeat(np.arange(replicas), steps)).tolist()


def distance(actual: Sequence[float], expected: Sequence[float], start: Sequence[float]) -> float:
    """Largest difference relative to the largest movement from ``start``, which must not be nothing."""
    moved = max(abs(e - s) for e, s in zip(expected, start, strict=True))
    assert moved > 1e-3, "the oracle did not move: the comparison would say nothing"
    return max(abs(float(a) - e) for a, e in zip(actual, expected, strict=True)) / moved
