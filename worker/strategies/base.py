"""What a strategy is: a frozen dataclass of options whose ``step`` is a generator of commands.

It does no I/O and knows no clock, no transport and no random state but the replica's. One call of ``step`` is one reading of the
paper's loop. A driver performs the commands (worker/driver.py on a link; the simulator in virtual time).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

from ps.errors import JobError, UsageError
from ps.rules.base import UpdateRule
from worker.commands import Command, Pull
from worker.replica import Replica

Steps = Generator[Command, Any, None]
Tables = dict[str, Any]


class Strategy:
    """Base of all strategies.

    Class attributes:
      name: as in a job.
      server_rule: the default ``[rule]`` of a job, or None for strategies whose shards apply no rule.
      own_rule: the default ``[local_rule]``, or None for strategies without local steps.
      rounds: synchronous steps; the shards keep a contribution per replica.
      epoch_barrier: all replicas finish an epoch before any begins the next.
      single: only one replica can run it.
      keeps_parameters: a replica's own parameters matter from one step to the next; otherwise each step begins with a pull.
      source: where it comes from.
    """

    name: ClassVar[str] = ""
    server_rule: ClassVar[Tables | None] = None
    own_rule: ClassVar[Tables | None] = None
    rounds: ClassVar[bool] = False
    epoch_barrier: ClassVar[bool] = False
    single: ClassVar[bool] = False
    keeps_parameters: ClassVar[bool] = True
    source: ClassVar[str] = ""

    def begin(self, replica: Replica) -> Steps:
        """Before the first step of an incarnation: by default a pull."""
        yield Pull()

    def step(self, replica: Replica) -> Steps:
        """One local step."""
        raise NotImplementedError

    def finish(self, replica: Replica) -> Steps:
        """After the last step: nothing by default."""
        yield from ()

    def shard_rule(self, rule: UpdateRule | None) -> UpdateRule:
        """What the shards apply to a push: the job's ``[rule]``, or what the strategy makes of it."""
        assert rule is not None, f"{self.name} needs a server rule"
        return rule

    @property
    def accrues(self) -> bool:
        """A replica may hold gradients or updates that it has not pushed when its last step is done; ``finish`` pushes them."""
        return False

    def may_sweep(self, batch_size: int | str) -> bool:
        """Steps may be the task's compiled loop over single examples, where it has one and the rule is plain SGD."""
        return False

    def check(self, sweeps: bool) -> None:
        """Refuse what cannot be done with (``sweeps``) or without the compiled loop; raises UsageError."""

    @property
    def evaluated_slot(self) -> str | None:
        """The slot that is the result, where it is not the center itself."""
        return None

    @property
    def vectors(self) -> int:
        """Vectors of the model's size that a replica writes besides its parameters, its gradient and its rule's slots."""
        return 0

    @property
    def payload(self) -> str:
        """What is pushed: "gradient" or "update"; the server's rule must take that."""
        return "gradient"

    @property
    def warmstart_steps(self) -> int:
        """Steps that replica 0 makes alone before the others are released."""
        return 0

    @classmethod
    def resolve(cls, tables: Tables) -> Tables:
        """A job's tables with the defaults that depend on the strategy; refuses what does not go together."""
        tables = dict(tables)
        for part, default, other in (("rule", cls.server_rule, "local_rule"), ("local_rule", cls.own_rule, "rule")):
            if default is None and tables.get(part) is not None:
                raise JobError(
                    f"[{part}]: {cls.name} has no {'server rule' if part == 'rule' else 'local steps'}; "
                    f"put the update rule into [{other}]"
                )
            if default is not None:
                given = tables.get(part) or {}
                tables[part] = dict(given) if "name" in given else {**default, **given}
        workers = dict(tables.get("workers") or {})
        if cls.single and workers.setdefault("count", 1) != 1:
            raise JobError(f"[workers] count: {cls.name} runs in one process, got {workers['count']}; set it to 1")
        tables["workers"] = workers
        return tables


def require(condition: bool, strategy: Strategy, option: str, bound: str, remedy: str = "") -> None:
    """Refuse an option: ``EASGD: tau must be >= 1 local step, got 0``."""
    if not condition:
        tail = f"; {remedy}" if remedy else ""
        raise UsageError(
            f"{type(strategy).__name__}: {option} must be {bound}, got {getattr(strategy, option)!r}{tail}"
        )
