"""Everything that a run needs before its first step: the task and its data in shared memory, the layout, rules and shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deploy.admission_checks import admission_of
from deploy.job import Job
from ps.admission import Clocks, Policy
from ps.errors import TaskError, UsageError
from ps.layout import Layout
from ps.rules import SGD, Scheduled
from ps.rules.base import UpdateRule
from ps.rules.wrappers import chain
from ps.segment import SharedArrays, Specs
from ps.shard import ShardOptions
from ps.state import State, build_state, initialise, private_arrays, state_specs
from worker.coordinator import Plan
from worker.data.dataset import Dataset, as_dataset
from worker.driver import DriverOptions
from worker.gradients import needs_norm
from worker.locking import MODES, Locking
from worker.order import Curriculum, Order, split_validation
from worker.statistics import statistics_specs
from worker.stopping import Goal, StopRule
from worker.strategies.base import Strategy
from worker.task import check_task
from worker.task_calls import call_task

BACKGROUND_BYTES = 16 << 20  # from here on a copy takes milliseconds, long enough to be worth a thread
SWEEP_EXAMPLES = 4096
ORDERS_BYTES, MOST_OPEN_EPOCHS = 16 << 20, 64
_NO_LIMIT = 1 << 30
SNAPSHOTS = 2  # centers waiting for evaluation


@dataclass
class Setup:
    """A job made ready. Arrays lie in shared memory, or in this process's own for a launcher that needs no other.

    Attributes:
      job, task, dataset, strategy, layout: of the run.
      rule: what the shards apply. local_rule: what replicas apply, or None.
      state: the shards.
      order: of the examples. validation: int64, examples held out.
      sweeps: replicas step the mapped center with the task's compiled loop.
      one_by_one: they would, but each example is a step of its own, with a pull and a push: simulated and recorded runs.
      arrays: name -> array: those of ``State``, the statistics, the locks, ``orders`` and ``snapshots``.
      segments: to be closed at the end.
      record_to: the folder in which workers record their operations, or None.
    """

    job: Job
    task: Any
    dataset: Dataset
    strategy: Strategy
    layout: Layout
    rule: UpdateRule
    local_rule: UpdateRule | None
    state: State
    order: Order
    validation: np.ndarray
    sweeps: bool
    one_by_one: bool
    arrays: Mapping[str, np.ndarray]
    segments: list[Any] = field(default_factory=list)
    record_to: Path | None = None

    @property
    def averaging(self) -> float:
        """Weight of one new observation of an averaged parameter."""
        return float(getattr(self.task, "averaging", 0.1))

    @property
    def batch_size(self) -> int:
        """Examples per step: 1 in a sweep."""
        if self.sweeps or self.one_by_one:
            return 1
        asked = self.job.data.batch_size
        return self.order.examples.size if asked == "all" else min(int(asked), self.order.examples.size)

    @property
    def together(self) -> bool:
        """Every push of a gradient is a part of a synchronous step."""
        return self.policy.rounds

    @cached_property
    def policy(self) -> Policy:
        """How far replicas may run apart."""
        return admission_of(self.job, self.strategy)

    @property
    def rounds(self) -> bool:
        """Replicas make synchronous steps, be it by the strategy or by the policy."""
        return self.strategy.rounds or self.policy.rounds

    def driver_options(self) -> DriverOptions:
        """How this job's steps are made."""
        transfers = self.job.workers.transfers
        large = transfers == "auto" and self.layout.nbytes >= BACKGROUND_BYTES
        # What a shard remembers of a read must be of the read that the next gradient is taken at, and a policy that makes
        # replicas wait does so for updates that have been applied.
        in_order = self.rule.remembers is not None or self.policy.joins
        return DriverOptions(
            batch_size=self.batch_size,
            skip_nonfinite=self.job.on_nonfinite == "skip",
            background=(transfers == "background" or large) and not in_order,
            sweep_examples=SWEEP_EXAMPLES,
        )

    def locking(self, worker: int) -> Locking:
        """The locks of a sweep as seen by one worker."""
        mode = MODES[getattr(self.strategy, "locking", "none")]
        words = {name: self.arrays[f"locking.{name}"] for name in ("owners", "turn", "order")}
        return Locking(mode=mode, worker=worker, **words)

    def result_vector(self) -> np.ndarray:
        """What is evaluated and returned (N,): the center, or the strategy's average of it."""
        slot = self.strategy.evaluated_slot
        if slot is None:
            return self.state.center
        return averaged_result(self.layout, self.state.center, self.state.arrays[f"slot.{slot}"])

    def close(self) -> None:
        """Give the shared memory back."""
        for segment in self.segments:
            segment.close()


def averaged_result(layout: Layout, center: np.ndarray, average: np.ndarray) -> np.ndarray:
    """The average of the trained parameters; running statistics are averages already and come from the center. A new (N,)."""
    return np.concatenate([average[: layout.trained_size], center[layout.trained_size :]])


Allocate = Callable[[Specs, str], Mapping[str, np.ndarray]]


def prepare(job: Job, lock: Callable[[int], Any] | None = None, shared: bool = True, task: Any = None) -> Setup:
    """Build the task, place its data, and make the shards with their initial values.

    Args:
      lock: makes the lock of shard i; None for shards of one process.
      shared: place arrays in shared memory.
      task: to be used instead of a new one.

    Raises:
      UsageError: the job does not fit its task. TaskError: the task's own code failed. MemoryShortage: it does not fit.
    """
    strategy = job.build_strategy()
    policy = admission_of(job, strategy)
    task = job.build_task() if task is None else task
    dataset = as_dataset(call_task("dataset", task.dataset))
    if len(dataset) == 0:
        raise UsageError("the task's data set has no examples")
    initial = call_task("parameters", task.parameters, np.random.default_rng([job.seed, 1]))
    layout = _layout(task, initial)
    rounds = strategy.rounds or policy.rounds
    rule, local_rule = _rules(job, strategy, rounds)
    order, validation = _order(job, task, len(dataset))
    call_task("loss_and_gradient", check_task, task, dataset)
    sweeps = _sweeps(job, strategy, task, rule, rounds)
    one_by_one = sweeps and (job.backend == "simulation" or job.record)
    sweeps = sweeps and not one_by_one
    options = ShardOptions(
        replicas=job.workers.count,
        lock_free=job.shards.apply == "lock_free",
        rounds=rounds,
        backups=policy.backups,
        memory_bytes=job.shards.memory_bytes,
        averaging=float(getattr(task, "averaging", 0.1)),
        seed=job.seed,
    )
    segments: list[Any] = []

    def allocate(specs: Specs, label: str) -> Mapping[str, np.ndarray]:
        if not shared:
            return private_arrays(specs)
        segments.append(SharedArrays.create(specs, label))
        return segments[-1]

    try:
        if shared:
            _share(dataset, allocate)
        specs = {
            **state_specs(layout, job.shards.count, rule, options),
            **statistics_specs(job.workers.count),
            **_run_specs(layout, order, job.workers.count, _locking_sizes(strategy, task, sweeps, job.workers.count)),
        }
        arrays = allocate(specs, "state")
        state = build_state(layout, job.shards.count, rule, options, arrays, **({} if lock is None else {"lock": lock}))
        initialise(state, initial)
    except BaseException:
        for segment in segments:
            segment.close()
        raise
    return Setup(
        job,
        task,
        dataset,
        strategy,
        layout,
        rule,
        local_rule,
        state,
        order,
        validation,
        sweeps,
        one_by_one,
        arrays,
        segments,
    )


def plan_of(setup: Setup) -> Plan:
    """What the coordinator has to know of a job that was set up."""
    job, strategy, stop = setup.job, setup.strategy, setup.job.stop
    return Plan(
        replicas=job.workers.count,
        epoch_size=setup.order.size,
        batch_size=setup.batch_size,
        epoch_barrier=strategy.epoch_barrier or setup.rounds,
        open_epochs=_NO_LIMIT if job.backend == "simulation" else len(setup.arrays["orders"]),
        rounds=setup.rounds,
        backups=setup.policy.backups,
        joins=setup.policy.joins,
        warmstart_examples=strategy.warmstart_steps * setup.batch_size,
        min_range=_min_range(setup),
        evaluate_every=job.evaluation.every_epochs,
        checkpoint_every=job.checkpoint.every_epochs,
        max_restarts=job.workers.max_restarts,
        stop=StopRule(epochs=stop.epochs, steps=stop.steps, examples=stop.examples),
        goal=Goal(stop.metric, stop.mode, stop.patience, stop.target),
    )


def _open_epochs(order: Order) -> int:
    """Epochs that the fastest worker may be ahead of the slowest: as many as fit a few megabytes."""
    return min(max(ORDERS_BYTES // (8 * order.examples.size), 2), MOST_OPEN_EPOCHS)


def _min_range(setup: Setup) -> int:
    """The smallest range of examples worth a message; in virtual time messages cost nothing, and small ones even things out."""
    if setup.sweeps:
        return SWEEP_EXAMPLES
    return setup.batch_size if setup.job.backend == "simulation" else 4 * setup.batch_size


def _layout(task: Any, initial: Any) -> Layout:
    if not isinstance(initial, Mapping) or not all(isinstance(value, np.ndarray) for value in initial.values()):
        raise TaskError("the task's parameters must return a dict of numpy arrays by name")
    return Layout.of(initial, averaged=getattr(task, "averaged", ()), sparse=getattr(task, "sparse", ()))


def _rules(job: Job, strategy: Strategy, rounds: bool) -> tuple[UpdateRule, UpdateRule | None]:
    """What the shards and the replicas apply; refuses a rule that takes something else than it would be given."""
    rule, local_rule = job.build_rule(), job.build_local_rule()
    if rule is not None and rule.pushes != strategy.payload:
        raise UsageError(
            f"[rule] {rule.name}: takes a pushed {rule.pushes}, but what {strategy.name} pushes here is its {strategy.payload}; "
            f"choose another rule, or for downpour another [strategy] push"
        )
    if local_rule is not None and local_rule.pushes != "gradient":
        raise UsageError(
            f"[local_rule] {local_rule.name}: takes a pushed {local_rule.pushes}, but local steps take gradients"
        )
    if rounds and job.shards.count > 1 and rule is not None and needs_norm(rule):
        raise UsageError(
            "[rule] clip_norm: a synchronous step knows the norm of the mean gradient only where it is whole; "
            "set [shards] count to 1, or use clip_value"
        )
    return strategy.shard_rule(rule), local_rule


def _order(job: Job, task: Any, examples: int) -> tuple[Order, np.ndarray]:
    training, validation = split_validation(examples, job.data.validation, job.seed)
    curriculum = difficulty = None
    if job.data.curriculum:
        curriculum = Curriculum(**job.data.curriculum)
        given = getattr(task, "difficulty", None)
        if given is not None:
            difficulty = np.asarray(call_task("difficulty", given), dtype=np.float64)
            if difficulty.shape != (examples,):
                raise UsageError(f"the task's difficulty() must have shape ({examples},), got {difficulty.shape}")
            difficulty = difficulty[training]
    order = Order(
        training,
        seed=job.seed,
        shuffle=job.data.shuffle,
        replacement=job.data.replacement,
        curriculum=curriculum,
        difficulty=difficulty,
    )
    return order, validation


def _sweeps(job: Job, strategy: Strategy, task: Any, rule: UpdateRule, rounds: bool) -> bool:
    """Whether steps are the task's compiled loop: it has one, the strategy uses it, and the rule is plain SGD.

    A synchronous step takes a gradient, which a sweep does not give.
    """
    inner = chain(rule)
    plain = type(inner[-1]) is SGD and all(isinstance(wrapper, Scheduled) for wrapper in inner[:-1])
    compiled = callable(getattr(task, "sweep", None))
    sweeps = strategy.may_sweep(job.data.batch_size) and plain and compiled and not rounds
    strategy.check(sweeps or (job.backend == "simulation" and not rounds))  # it has locks of its own for single steps
    return sweeps


def _share(dataset: Dataset, allocate: Allocate) -> None:
    """Move the data set's arrays to where every process sees the same pages."""
    own = dataset.arrays()
    if not own:
        return
    placed = allocate({name: (array.shape, array.dtype.str) for name, array in own.items()}, "data")
    for name, array in own.items():
        np.copyto(placed[name], array)
    dataset.replace({name: placed[name] for name in own})


def _locking_sizes(strategy: Strategy, task: Any, sweeps: bool, workers: int) -> Specs:
    mode = MODES[getattr(strategy, "locking", "none")]
    lockables = int(getattr(task, "lockables", 1)) if sweeps else 1
    return Locking.sizes(mode, lockables, workers)


def _run_specs(layout: Layout, order: Order, workers: int, locking: Specs) -> Specs:
    specs = {f"locking.{name}": spec for name, spec in locking.items()}
    specs |= Clocks.specs(workers)
    specs["orders"] = ((_open_epochs(order), order.examples.size), "int64")
    specs["snapshots"] = ((SNAPSHOTS, layout.size), layout.dtype)
    specs["mail"] = ((workers,), "int64")  # counts messages sent to each worker, to be looked at between two steps
    return specs
