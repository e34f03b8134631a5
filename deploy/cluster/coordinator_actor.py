"""The coordinator's actor: the launcher in a thread of its own, and the methods by which the other actors and the user reach it.

Ray starts it again when it dies. It then finds the journal of its predecessor, and the actors that have gone on meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from deploy.cluster.ending import clear
from deploy.cluster.facts import RunFacts
from deploy.cluster.journal import Journal, is_whole
from deploy.cluster.out_of_memory import be_killed_first
from deploy.cluster.relay import Relay
from deploy.cluster.travel import stowed
from deploy.run_directory import RunDirectory
from ps.errors import HogsheadError, UsageError

# Whoever starts this actor imports this module: what takes long to import is imported where the actor runs.
if TYPE_CHECKING:
    from deploy.cluster.conduct import Cluster
    from ps.transport.following import Whereabouts

_FOLLOW_S = 1.0
_LINGER_S = 15.0  # after the end


@ray.remote(concurrency_groups={"reports": 1, "shards": 4, "watch": 4})
class CoordinatorActor:
    """Runs one job.

    Args:
      facts: of the run. run: its directory, on this node. resume: go on from its checkpoint.
    """

    def __init__(self, facts: RunFacts, run: str, resume: bool):
        logging.getLogger("ray").setLevel(
            logging.ERROR
        )  # it warns of detached shards in a placement group, which are meant
        be_killed_first(False)
        self._facts, self._run, self._resume = facts, Path(run), resume
        self._relay = Relay()
        self._cluster: Cluster | None = None
        self._ready = threading.Event()
        threading.Thread(target=self._main, name="conduct", daemon=True).start()

    # -- by replicas and shards ---------------------------------------------------------------------------------------

    @ray.method(concurrency_group="reports")
    def report(
        self, replica: int, incarnation: int, node: str, first: int, items: list[dict[str, Any]], report: dict[str, Any]
    ) -> None:
        """See ``Cluster.report``."""
        self._at_work().report(replica, incarnation, node, first, items, report)

    @ray.method(concurrency_group="shards")
    def shard_state(self, index: int) -> Mapping[str, Any]:
        """What a shard begins with."""
        return self._at_work().shards.state_of(index)

    @ray.method(concurrency_group="shards")
    def serves(self, place: Whereabouts, version: int) -> None:
        """A shard is served."""
        self._at_work().serves(place, version)

    @ray.method(concurrency_group="shards")
    def endpoints(self) -> list[dict[str, Any]]:
        """Where the shards are served, as far as known."""
        return self._at_work().shards.endpoints()

    @ray.method(concurrency_group="shards")
    def group_of(self, node: str) -> dict[str, Any] | None:
        """Where a node's group is; see ``Groups``."""
        return self._at_work().groups.place_of(node)

    @ray.method(concurrency_group="shards")
    def group_begins(self, number: int) -> int:
        """See ``Groups.begins``."""
        return self._at_work().groups.begins(number)

    @ray.method(concurrency_group="shards")
    def group_serves(self, number: int, place: dict[str, Any]) -> None:
        """See ``Groups.serves``."""
        self._at_work().groups.serves(number, place)

    @ray.method(concurrency_group="shards")
    def too_large(self, message: str) -> None:
        """A shard takes more memory than it may."""
        self._at_work().too_large(message)

    @ray.method(concurrency_group="shards")
    def files(self) -> dict[str, Any] | None:
        """What travels with the job."""
        return stowed(self._run, self._facts.uid)

    # -- by the user --------------------------------------------------------------------------------------------------

    @ray.method(concurrency_group="watch")
    def ping(self) -> None:
        """Answer."""

    @ray.method(concurrency_group="watch")
    def follow(self, life: str, position: int) -> Mapping[str, Any]:
        """Records after ``position``; see ``Relay.since``."""
        return self._relay.since(life, position, _FOLLOW_S)

    @ray.method(concurrency_group="watch")
    def stop(self) -> None:
        """End the training as ^C does."""
        self._at_work().stop_asked = time.monotonic()

    @ray.method(concurrency_group="watch")
    def save(self, timeout_s: float, leaving: str | None = None) -> bool:
        """Have a checkpoint written now, perhaps because a node is ``leaving``; whether there was one in time."""
        return self._at_work().save_soon(timeout_s, leaving)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._conduct()
        except (HogsheadError, UsageError) as error:
            self._relay.failed(error)
        except Exception as error:  # a fault of ours: its traceback goes to the log, its words to the user
            self._relay.failed(error)
            raise
        finally:
            Journal(self._run, self._facts.uid).remove()
            self._ready.set()
            self._relay.ended()
            self._leave()

    def _leave(self) -> None:
        """Nobody may be there any more to end this actor: it does so once whoever follows has had time to see the end."""
        time.sleep(_LINGER_S)
        ray.kill(self._facts.coordinator())

    def _conduct(self) -> None:
        from deploy.cluster.conduct import Cluster
        from deploy.cluster.ready import ready
        from deploy.rehearsal import rehearse

        journal = Journal(self._run, self._facts.uid)
        known = journal.read()
        if known is not None and not is_whole(known):  # killed before the first step, or after the last
            clear(self._facts.uid)
        if known is not None and "over" in known:
            self._relay.finished(known["over"])
            return
        job = self._facts.build_job().with_run(self._run, resume=self._resume)
        open_directory = RunDirectory.create if known is None else RunDirectory.reopen
        with open_directory(job, self._relay.event) as directory:
            if known is None:
                journal.write({})
            setup = ready(job)
            if known is None or not is_whole(known):
                rehearse(setup)
            self._cluster = Cluster(setup, directory, self._relay, self._facts)
            self._ready.set()
            self._cluster.run()

    def _at_work(self) -> Cluster:
        """The launcher, once it is there."""
        self._ready.wait()
        if self._cluster is None:
            raise RuntimeError("the run did not begin")
        return self._cluster
