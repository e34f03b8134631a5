"""What the coordinator knows of its workers and shards: what those reported last, and what these said when looked at."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from deploy.cluster.crew import ClusterCrew
from deploy.cluster.shards import Shards
from deploy.cluster.tally import Tally
from deploy.summary import total_counts

_SEEN_S = 2.0
_COUNTS_S = 10.0  # at the end nobody else waits, and what is not told then is never counted


class Overview:
    """Args:
    tally: takes the workers' counters. shards, crew: of the run.
    """

    def __init__(self, tally: Tally, shards: Shards, crew: ClusterCrew):
        self._tally, self._shards, self._crew = tally, shards, crew
        self._links: dict[int, dict[str, Any]] = {}  # of every worker that there has been
        self._looks: list[dict[str, Any] | None] = []

    def take_reports(self) -> None:
        """Take the newest reports into the counters."""
        for replica, member in list(self._crew.members.items()):
            report, member.reports = member.reports, {}
            if report:
                self._tally.report(replica, report)
                self._shards.saw_all(report.get("seen_versions", ()))
                self._links[replica] = {"worker": replica, "node": member.node[:8], "links": report["transports"]}

    def ask_what_was_seen(self, others: Mapping[int, Any]) -> None:
        """Ask all workers, and ``others`` with a method ``seen_versions``, which version of each shard they have seen."""
        self.take_reports()
        handles = (*self._crew.handles().values(), *others.values())
        # In the middle of an upgrade some actors may still be of an earlier version, which has no such method.
        calls = [handle.seen_versions.remote() for handle in handles if hasattr(handle, "seen_versions")]
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=_SEEN_S) if calls else ([], [])
        for call in ready:
            with suppress(RayError):  # it has died with the shard, and what it reported last is known
                self._shards.saw_all(ray.get(call))

    def look(self) -> None:
        """Ask the shards, once all are served."""
        self._looks = self._shards.look() if self._shards.ready else []

    @property
    def shard_away(self) -> bool:
        """One did not answer the last look."""
        return None in self._looks

    def shard_counts(self) -> dict[str, int]:
        """``Shard.counts`` of all shards together, as they are now; those of one that does not answer are missing."""
        answers = self._shards.look(_COUNTS_S) if self._shards.ready else self._shards.look()
        looks = [look for look in answers if look is not None]
        names = {"torn_updates": 0, "duplicate_pushes": 0, "memory_fallbacks": 0}
        return total_counts([names, *(look["counts"] for look in looks)])

    def shard_facts(self) -> list[dict[str, Any]]:
        """For every shard: where it is, and what it said when it was looked at."""
        facts = []
        for index, place in sorted(self._shards.places.items()):
            look = (self._looks[index] if index < len(self._looks) else None) or {}
            known = {"shard": index, "node": place.node[:8], "address": place.address, "version": look.get("version")}
            facts.append({**known, **look.get("served", {})})
        return facts

    def node_facts(self) -> list[dict[str, Any]]:
        """For every worker: its node, and how it reaches each shard."""
        return [self._links[replica] for replica in sorted(self._links)]
