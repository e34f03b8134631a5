"""One step in private before the workers are forked, so that they inherit every compiled kernel instead of each loading it."""

from __future__ import annotations

import threading
from dataclasses import replace

from deploy.blueprint import Blueprint
from deploy.isolation import is_isolated
from ps.admission import Clocks
from ps.errors import NonFiniteError
from ps.shard import ShardOptions
from ps.state import build_state, initialise, private_arrays, state_specs
from ps.transport.direct import DirectLink
from worker.driver import Driver, Work
from worker.gate import Gate
from worker.randomness import seeded
from worker.replica import Replica
from worker.statistics import Statistics

LARGEST_BYTES = 64 << 20  # a larger model's copies cost more than the loading they save
_STEPS = 2


def rehearse(setup: Blueprint) -> None:
    """Make two steps of the job's strategy on a copy of the initial center; nothing of the run is changed.

    Raises:
      TaskError: the task failed. What is merely not finite is left to the run, which has a policy for it.
    """
    if setup.layout.nbytes > LARGEST_BYTES or is_isolated(setup.job, setup.task, setup.local_rule):
        return
    options = ShardOptions(
        lock_free=setup.job.shards.apply == "lock_free", rounds=setup.rounds, averaging=setup.averaging
    )
    arrays = private_arrays(state_specs(setup.layout, 1, setup.rule, options))
    state = build_state(setup.layout, 1, setup.rule, options, arrays, lambda _index: threading.Lock())
    initialise(state, setup.initial)
    replica = Replica(
        setup.layout, local_rule=setup.local_rule, averaging=setup.averaging, seed=setup.job.seed, sweeps=setup.sweeps
    )
    if hasattr(setup.task, "rng"):
        setup.task.rng = replica.rng
    driver = Driver(
        replica,
        setup.strategy,
        setup.task,
        setup.dataset,
        DirectLink(state),
        setup.rule,
        Statistics.private(),
        replace(setup.driver_options(), background=False, sweep_examples=1),
        setup.locking_in(private_arrays(setup.locking_specs()), 0),
        gate=Gate(setup.policy, Clocks.private(1)),
    )
    try:
        with seeded(setup.job.seed):
            driver.begin()
            driver.run(Work(0, 0, setup.order.examples[: _STEPS * setup.batch_size]))
            driver.finish()
    except NonFiniteError:
        return
