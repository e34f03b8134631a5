"""A job made ready but for its shards: the task and its data, the layout, the rules, the order of the examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from deploy.admission_checks import admission_of
from deploy.isolation import examiner, refuse_unforkable
from deploy.job import Job
from deploy.memory import require_processes, require_room
from ps.admission import Policy
from ps.errors import TaskError, UsageError
from ps.layout import Layout
from ps.rules import SGD, Scheduled
from ps.rules.base import UpdateRule
from ps.rules.wrappers import chain
from ps.segment import Specs
from ps.shard import ShardOptions
from worker.coordinator import Plan
from worker.data.dataset import Dataset, as_dataset
from worker.driver import DriverOptions
from worker.gradients import needs_norm
from worker.locking import MODES, Locking
from worker.order import Curriculum, Order, split_validation
from worker.randomness import seeded
from worker.stopping import Goal, StopRule
from worker.strategies.base import Strategy
from worker.task import check_task
from worker.task_calls import call_task

BACKGROUND_BYTES = 16 << 20  # from here on a copy takes milliseconds, long enough to be worth a thread
SWEEP_EXAMPLES = 4096
NO_LIMIT = 1 << 30


@dataclass
class Blueprint:
    """What every process of a run knows of its job, wherever the shards are.

    Attributes:
      job, task, dataset, strategy, layout: of the run.
      initial: name -> array, the parameters before the first step.
      rule: what the shards apply. local_rule: what replicas apply, or None.
      shard_options: of all shards.
      order: of the examples. validation: int64, examples held out.
      sweeps: replicas step the mapped center with the task's compiled loop.
      one_by_one: they would, but each example is a step of its own, with a pull and a push: simulated and recorded runs.
    """

    job: Job
    task: Any
    dataset: Dataset
    strategy: Strategy
    layout: Layout
    initial: Mapping[str, np.ndarray]
    rule: UpdateRule
    local_rule: UpdateRule | None
    shard_options: ShardOptions
    order: Order
    validation: np.ndarray
    sweeps: bool
    one_by_one: bool

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
        # One worker repeats exactly, unless the job has its parameters arrive whenever a thread gets round to it.
        several = self.job.workers.count > 1
        large = transfers == "auto" and several and self.layout.nbytes >= BACKGROUND_BYTES
        # What a shard remembers of a read must be of the read that the next gradient is taken at, and a policy that makes
        # replicas wait does so for updates that have been applied.
        in_order = self.rule.remembers is not None or self.policy.joins
        return DriverOptions(
            batch_size=self.batch_size,
            skip_nonfinite=self.job.on_nonfinite == "skip",
            background=(transfers == "background" or large) and not in_order,
            sweep_examples=SWEEP_EXAMPLES,
        )

    def locking_specs(self) -> Specs:
        """Arrays for the locks of a sweep."""
        lockables = int(getattr(self.task, "lockables", 1)) if self.sweeps else 1
        sizes = Locking.sizes(self._locking_mode, lockables, self.job.workers.count)
        return {f"locking.{name}": spec for name, spec in sizes.items()}

    def locking_in(self, arrays: Mapping[str, np.ndarray], worker: int) -> Locking:
        """The locks of a sweep in the arrays of ``locking_specs``, as seen by one worker."""
        words = {name: arrays[f"locking.{name}"] for name in ("owners", "turn", "order")}
        return Locking(mode=self._locking_mode, worker=worker, **words)

    @property
    def _locking_mode(self) -> int:
        return MODES[getattr(self.strategy, "locking", "none")]

    def plan(self, open_epochs: int = NO_LIMIT) -> Plan:
        """What the coordinator has to know of this job.

        Args:
          open_epochs: orders of so many epochs are kept; see ``Plan``.
        """
        job, strategy, stop = self.job, self.strategy, self.job.stop
        return Plan(
            replicas=job.workers.count,
            epoch_size=self.order.size,
            batch_size=self.batch_size,
            epoch_barrier=strategy.epoch_barrier or self.rounds,
            exact=job.workers.count == 1 and job.backend != "simulation",  # in virtual time nothing happens in between
            open_epochs=open_epochs,
            rounds=self.rounds,
            backups=self.policy.backups,
            joins=self.policy.joins,
            warmstart_examples=strategy.warmstart_steps * self.batch_size,
            min_range=self._min_range(),
            evaluate_every=job.evaluation.every_epochs,
            checkpoint_every=job.checkpoint.every_epochs,
            max_restarts=job.workers.max_restarts,
            stop=StopRule(epochs=stop.epochs, steps=stop.steps, examples=stop.examples),
            goal=Goal(stop.metric, stop.mode, stop.patience, stop.target),
        )

    def _min_range(self) -> int:
        """The smallest range worth a message; in virtual time messages cost nothing, and small ranges even things out."""
        if self.sweeps:
            return SWEEP_EXAMPLES
        return self.batch_size if self.job.backend == "simulation" else 4 * self.batch_size


def draw(job: Job, task: Any = None) -> Blueprint:
    """Build the task and everything that follows from it and the job.

    Args:
      task: to be used instead of a new one.

    Raises:
      UsageError: the job does not fit its task. TaskError: the task's own code failed. MemoryShortage: it needs more memory
        than is free.
    """
    require_processes(job)
    with seeded(job.seed):  # a task may draw its data or parameters from np.random, on each node of a cluster
        return _draw(job, task)


def _draw(job: Job, task: Any) -> Blueprint:
    strategy = job.build_strategy()
    policy = admission_of(job, strategy)
    task = job.build_task() if task is None else task
    dataset = as_dataset(call_task("dataset", task.dataset))
    if len(dataset) == 0:
        raise UsageError("the task's data set has no examples")
    refuse_unforkable(job, task, job.build_local_rule())
    examine = examiner(job, task)
    initial = examine(lambda: call_task("parameters", task.parameters, np.random.default_rng([job.seed, 1])))
    layout = _layout(task, initial)
    rounds = strategy.rounds or policy.rounds
    rule, local_rule = _rules(job, strategy, rounds)
    if local_rule is not None and local_rule.dense_only and layout.tables:
        raise UsageError(
            f"[local_rule] {local_rule.name}: steps dense gradients only, but the task's {layout.tables[0].name!r} is sparse; "
            "choose a rule without a dot in its name"
        )
    order, validation = _order(job, task, len(dataset))
    sweeps = steps_in_place(job, strategy, callable(getattr(task, "sweep", None)), rule, rounds)
    one_by_one = sweeps and (job.backend == "simulation" or job.record)
    options = ShardOptions(
        replicas=job.workers.count,
        lock_free=job.shards.apply == "lock_free",
        rounds=rounds,
        backups=policy.backups,
        memory_bytes=job.shards.memory_bytes,
        averaging=float(getattr(task, "averaging", 0.1)),
        seed=job.seed,
        skip_nonfinite=job.on_nonfinite == "skip",
    )
    setup = Blueprint(
        job=job,
        task=task,
        dataset=dataset,
        strategy=strategy,
        layout=layout,
        initial=initial,
        rule=rule,
        local_rule=local_rule,
        shard_options=options,
        order=order,
        validation=validation,
        sweeps=sweeps and not one_by_one,
        one_by_one=one_by_one,
    )
    require_room(setup)
    examine(lambda: {"loss": np.array(call_task("loss_and_gradient", check_task, task, dataset))})
    return setup


def averaged_result(layout: Layout, center: np.ndarray, average: np.ndarray) -> np.ndarray:
    """The average of the trained parameters; running statistics are averages already and come from the center. A new (N,)."""
    return np.concatenate([average[: layout.trained_size], center[layout.trained_size :]])


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


def steps_in_place(job: Job, strategy: Strategy, compiled: bool, rule: UpdateRule, rounds: bool) -> bool:
    """Whether steps are the task's compiled loop: it has one, the strategy uses it, and the rule is plain SGD.

    A synchronous step takes a gradient, which a sweep does not give.
    """
    inner = chain(rule)
    plain = type(inner[-1]) is SGD and all(isinstance(wrapper, Scheduled) for wrapper in inner[:-1])
    sweeps = strategy.may_sweep(job.data.batch_size) and plain and compiled and not rounds
    strategy.check(sweeps or (job.backend == "simulation" and not rounds))  # it has locks of its own for single steps
    return sweeps
