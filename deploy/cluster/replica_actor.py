"""The actor of a replica: builds the task on its node, connects to the shards, trains, and tells the coordinator."""

from __future__ import annotations

import queue
import threading
from typing import Any

import ray
from threadpoolctl import threadpool_limits

from deploy.blueprint import Blueprint
from deploy.cluster.ending import die, end_with_coordinator
from deploy.cluster.endpoints import Endpoints
from deploy.cluster.facts import Gone, RunFacts, ask, node_id
from deploy.cluster.links import connect
from deploy.cluster.memory import watch
from deploy.cluster.out_of_memory import be_killed_first, seen
from deploy.cluster.ready import grouped, ready
from deploy.cluster.shared_data import share
from deploy.cluster.travel import job_here
from deploy.cluster.worker import ClusterWorker
from deploy.memory import require_worker
from deploy.rehearsal import rehearse
from deploy.worker_loop import error_fields
from ps.errors import MemoryShortage
from ps.segment import SharedArrays

REPORT_S = 0.25


@ray.remote(concurrency_groups={"control": 1, "watch": 1})
class ReplicaActor:
    """One replica, from its start to its end. Ray does not restart it: the coordinator replaces it with a new incarnation.

    Args:
      facts: of the run. replica, incarnation: who this is.
    """

    def __init__(self, facts: RunFacts, replica: int, incarnation: int):
        be_killed_first(True)
        end_with_coordinator(facts)
        bound = facts.cluster().replica_memory_mb
        self._facts, self._replica, self._incarnation = facts, replica, incarnation
        self._node = node_id()
        strategy = facts.job["strategy"]
        self._grouped = strategy.get("between_nodes", "none") != "none"
        self._endpoints = Endpoints()
        self._worker: ClusterWorker | None = None
        self._early: list[dict[str, Any]] = []  # messages before the worker is there
        self._lock = threading.Lock()
        self._outbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._news = threading.Event()
        self._said = 0
        self._words: dict[str, dict[str, Any]] = {}  # the last ones, for a coordinator that comes after a killed one
        self._holding = False
        self._segment: SharedArrays | None = None
        self._over = threading.Event()
        threading.Thread(target=self._report, name="report", daemon=True).start()
        threading.Thread(target=self._train, name="train", daemon=True).start()
        watch(bound, f"worker {replica}", "replica_memory_mb", self._too_large)

    # -- by the coordinator -------------------------------------------------------------------------------------------

    @ray.method(concurrency_group="control")
    def tell(self, message: dict[str, Any]) -> None:
        """Take a message; those for the worker's loop wait there."""
        kind = message["kind"]
        if kind == "endpoints":
            if not self._grouped:
                self._endpoints.update(message["endpoints"])
        elif kind == "group":
            if message["node"] == self._node:
                self._endpoints.update([message["place"]])
        elif kind == "peers":
            if self._worker is not None:
                self._worker.replica.peers = message["peers"]
        else:
            with self._lock:
                if self._worker is None:
                    self._early.append(message)
                else:
                    self._worker.inbox.put(message)

    @ray.method(concurrency_group="control")
    def hold(self, timeout_s: float, still: bool = False) -> dict[str, Any] | None:
        """Begin no transfer until ``release``; returns where this replica is, or None if a transfer takes too long.

        Args:
          still: also begin no step, and push first what the last one has computed, if that takes no longer than ``timeout_s``.
        """
        worker = self._worker
        if worker is None:
            return {"queue": [], "lately": [], "at_hand": (-1, 0)}
        if still:
            worker.rest.begin(timeout_s)
        if not self._holding:
            self._holding = worker.link.hold(timeout_s)
        return {**worker.held(), "counted": worker.counters()} if self._holding else None

    @ray.method(concurrency_group="control")
    def release(self) -> None:
        """End ``hold``."""
        if self._worker is not None:
            self._worker.rest.end()
        if self._holding and self._worker is not None:
            self._holding = False
            self._worker.link.release()

    @ray.method(concurrency_group="control")
    def seen_versions(self) -> list[tuple[int, int]]:
        """Of each shard: the generation and the highest version that an answer to this replica had."""
        return [] if self._worker is None else list(self._worker.link.seen)

    @ray.method(concurrency_group="control")
    def introduce(self) -> dict[str, Any]:
        """Who this is and what it holds, for a coordinator that has been restarted."""
        self.release()
        held = {"queue": [], "lately": [], "at_hand": (-1, 0)} if self._worker is None else self._worker.held()
        facts = {"joined": self._worker is not None, "node": self._node, "said": self._said}
        return {**facts, "words": list(self._words.values()), **held}

    def shut_down(self) -> None:
        """Give the shared memory back."""
        if self._segment is not None:
            self._segment.close()

    @ray.method(concurrency_group="watch")
    def wait_end(self) -> None:
        """Return when this replica has ended as it should; the call fails when its process dies."""
        self._over.wait()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        with threadpool_limits(1):
            try:
                setup = self._prepare()
                worker = connect(
                    setup, self._facts, self._replica, self._incarnation, self._node, self._endpoints, self._say
                )
                with self._lock:
                    self._worker = worker
                    for message in self._early:
                        worker.inbox.put(message)
                worker.run()
            except Gone:
                die(self._facts)
            except Exception as error:
                self._say({"kind": "error", **error_fields(error)})
        if self._segment is not None:
            self._segment.close()
        self._say({"kind": "over"})

    def _too_large(self, error: MemoryShortage) -> None:
        self._say({"kind": "error", **error_fields(error), "fatal": True})
        self._say({"kind": "over"})

    def _prepare(self) -> Blueprint:
        """The task and its data, on this node."""
        setup = ready(job_here(self._facts))
        require_worker(setup)
        self._segment = share(setup.dataset, self._facts.uid, self._node)
        rehearse(setup)
        if grouped(setup):
            place = ask(self._facts, "group_of", self._node)
            self._endpoints.update([] if place is None else [place])
        else:
            self._endpoints.update(ask(self._facts, "endpoints"))
        return setup

    def _say(self, message: dict[str, Any]) -> None:
        if message["kind"] in ("finished", "error"):
            self._words[message["kind"]] = message
        self._outbox.put(message)
        self._news.set()

    def _report(self) -> None:
        """Tell the coordinator what happened and what was counted, in order; what it has not taken is told again."""
        try:
            while not self._over.is_set():
                self._news.wait(REPORT_S)
                self._news.clear()
                items = []
                while not self._outbox.empty():
                    items.append(self._outbox.get())
                worker = self._worker
                report = {} if worker is None else {**worker.counters(), "transports": _transports(worker)}
                report["seen"] = seen()
                ask(self._facts, "report", self._replica, self._incarnation, self._node, self._said, items, report)
                self._said += len(items)
                if any(item["kind"] == "over" for item in items):
                    self._over.set()
        except Gone:
            die(self._facts)


def _transports(worker: ClusterWorker) -> list[str]:
    return [getattr(port, "transport", "") for port in worker.link.ports]
