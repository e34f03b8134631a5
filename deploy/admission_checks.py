"""Which admission policy fits which strategy; everything else is refused before any data is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ps.admission import Backup, Bounded, Policy, build_admission
from ps.errors import JobError
from worker.strategies.base import Strategy
from worker.strategies.easgd import EASGD

if TYPE_CHECKING:
    from deploy.job import Job

_MINE = "[admission] policy"


def admission_of(job: Job, strategy: Strategy) -> Policy:
    """The policy of a job.

    Args:
      job: resolved.
      strategy: built from it.

    Raises:
      JobError: it does not fit the strategy or the number of workers; the message says what would.
    """
    policy = build_admission(job.admission.to_table())
    if isinstance(policy, Backup) and policy.backups >= job.workers.count:
        raise JobError(
            f"[admission] backups must be < [workers] count = {job.workers.count}, got {policy.backups}: a step takes the first "
            "count - backups gradients"
        )
    if strategy.rounds:
        _check_synchronous(policy, strategy)
    elif policy.rounds:
        _check_gradients(policy, strategy)
    elif isinstance(policy, Bounded):
        _check_lag(policy, strategy)
    return policy


def _check_synchronous(policy: Policy, strategy: Strategy) -> None:
    """For a strategy that makes synchronous steps whatever the policy."""
    if not policy.rounds:
        raise JobError(
            f'{_MINE} = "{policy.name}": {strategy.name} makes synchronous steps here; leave policy out, or choose another '
            '[strategy], e.g. "downpour"'
        )
    if policy.backups and strategy.name != "synchronous":
        raise JobError(
            f'{_MINE} = "{policy.name}": {strategy.name} averages the parameters of all workers and cannot do without the last; '
            'leave policy out, or choose strategy "synchronous", which pushes gradients'
        )


def _check_gradients(policy: Policy, strategy: Strategy) -> None:
    """Rounds take one gradient per step and worker."""
    remedy = ""
    if isinstance(strategy, EASGD):
        remedy = 'set [strategy] mode = "synchronous" and leave policy out, or choose strategy "synchronous"'
    elif strategy.payload != "gradient":
        remedy = f'set [strategy] push = "gradient", got "{strategy.payload}"'
    else:
        periods = {name: getattr(strategy, name, 1) for name in ("n_fetch", "n_push")}
        if any(period != 1 for period in periods.values()):
            got = ", ".join(f"{name} = {period}" for name, period in periods.items())
            remedy = f"set [strategy] n_fetch and n_push to 1, got {got}"
        elif getattr(strategy, "warmstart", 0):
            remedy = f"set [strategy] warmstart to 0, got {getattr(strategy, 'warmstart', 0)}"
    if remedy:
        raise JobError(
            f'{_MINE} = "{policy.name}": a step takes one gradient from each worker, which {strategy.name} does not give here; '
            f"{remedy}"
        )


def _check_lag(policy: Bounded, strategy: Strategy) -> None:
    """A clock rises with the pushes, so a worker must be let on until its next one."""
    n_push = getattr(strategy, "n_push", 1)
    # Pushed gradients include that of the last step; an update is pushed at the beginning of the step after it.
    needed = n_push - 1 if strategy.payload == "gradient" else n_push
    if policy.max_clock_lag < needed:
        raise JobError(
            f"[admission] max_clock_lag must be >= {needed} with [strategy] n_push = {n_push} and pushes of "
            f"{strategy.payload}s, got {policy.max_clock_lag}: a worker is at the clock of its last push and must get to the "
            "next; raise max_clock_lag or lower n_push"
        )
