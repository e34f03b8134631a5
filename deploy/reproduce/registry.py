"""The claims there are, by name. A new claim is one file and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from deploy.reproduce.claim import Claim
from ps.errors import UsageError, nearest

CLAIMS: dict[str, str] = {
    "A1": "deploy.reproduce.same_optimum:SameOptimum",
    "A2": "deploy.reproduce.lock_free_speed:LockFreeSpeed",
    "A3": "deploy.reproduce.round_robin:RoundRobin",
    "B1": "deploy.reproduce.more_replicas:MoreReplicas",
    "B2": "deploy.reproduce.robust_rates:RobustRates",
    "B3": "deploy.reproduce.survivors:Survivors",
    "C1": "deploy.reproduce.delay_tolerance:DelayTolerance",
    "D1": "deploy.reproduce.stability:Stability",
    "D2": "deploy.reproduce.long_periods:LongPeriods",
    "rules": "deploy.reproduce.rules_exact:RulesExact",
    "beale": "deploy.reproduce.beale:Beale",
    "saddle": "deploy.reproduce.saddle:Saddle",
    "ssp": "deploy.reproduce.bounded_staleness:BoundedStaleness",
    "backup": "deploy.reproduce.backup_workers:BackupWorkers",
}


def names_of(asked: Sequence[str]) -> list[str]:
    """The claims' own spelling of names given in any case, without doubles, in the order given.

    Raises:
      UsageError: there is no such claim.
    """
    known = {name.lower(): name for name in CLAIMS}
    for name in asked:
        if name.lower() not in known:
            raise UsageError(f"there is no claim {name!r}{nearest(name, CLAIMS)}")
    return list(dict.fromkeys(known[name.lower()] for name in asked))


def build_claim(name: str) -> Claim:
    """The claim called ``name``, one of ``CLAIMS``."""
    module, _, attribute = CLAIMS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()
