"""The crew of a cluster: replica actors and the evaluator's, started, told, watched and replaced."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

from deploy.cluster.evaluator_actor import EvaluatorActor
from deploy.cluster.facts import RunFacts
from deploy.cluster.memory import reserved
from deploy.cluster.out_of_memory import Seen, killed_by_kernel, killed_by_ray, memory_of
from deploy.cluster.placement import alive_nodes, has_process, on_node
from deploy.cluster.replica_actor import ReplicaActor
from deploy.cluster.section import ClusterSection
from deploy.crew import EVALUATOR

_WATCH_S = 0.05
END_S = 20.0  # to give shared memory back, before an actor is killed


@dataclass
class Member:
    """One replica actor.

    Attributes:
      handle: its actor. incarnation: of the replica. end: settled when it has ended, or has died.
      heard: items of its reports that were taken.
      here: it has said something: its node has it.
      node: where it runs, once it is here.
      seen: its memory, as it told last.
      error: the last error it has reported.
      over: it has ended as it should.
    """

    handle: Any
    incarnation: int
    end: Any
    heard: int = 0
    here: bool = False
    node: str = ""
    seen: Seen | None = None
    error: dict[str, Any] | None = None
    over: bool = False
    reports: dict[str, Any] = field(default_factory=dict)


class ClusterCrew:
    """Replica actors by replica id, and the evaluator.

    Args:
      facts: of the run. cluster: its section.
      home: node of the coordinator.
      shard_on: gives the handle of a shard on a node, or None.
    """

    def __init__(
        self, facts: RunFacts, cluster: ClusterSection, home: str, shard_on: Callable[[str], Any] = lambda node: None
    ):
        self._facts, self._cluster, self._home, self._shard_on = facts, cluster, home, shard_on
        self.members: dict[int, Member] = {}
        self.node: str | None = None  # where workers must run, if not anywhere
        self.events: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._evaluator: Any = None
        self._evaluating: list[Any] = []
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch-crew", daemon=True)
        self._watcher.start()

    # -- starting -----------------------------------------------------------------------------------------------------

    def start_worker(self, replica: int, incarnation: int, restored: Any = None) -> None:
        """Ask Ray for the actor that is ``replica`` from now on; it begins once a node has room."""
        handle = ReplicaActor.options(
            name=_name(replica, incarnation),
            namespace=self._facts.uid,
            lifetime="detached",
            num_cpus=self._cluster.replica_cpus,
            num_gpus=self._cluster.replica_gpus,
            **reserved(self._cluster.replica_memory_mb),
            scheduling_strategy="SPREAD" if self.node is None else on_node(self.node, soft=False),
        ).remote(self._facts, replica, incarnation)
        with self._lock:
            self.members[replica] = Member(handle, incarnation, handle.wait_end.remote())

    def adopt(self, incarnations: Mapping[int, int]) -> dict[int, dict[str, Any] | None]:
        """Find the actors that an earlier coordinator has started: what each holds, or None if it is gone.

        Args:
          incarnations: replica -> the one that was started last.
        """
        calls: dict[int, Any] = {}
        for replica, incarnation in incarnations.items():
            with suppress(ValueError):
                handle = ray.get_actor(_name(replica, incarnation), namespace=self._facts.uid)
                with self._lock:  # from now on it is heard
                    self.members[replica] = Member(handle, incarnation, None)
                calls[replica] = handle.introduce.remote()
        if calls:  # those that no node has room for yet do not answer, and are waited for together
            ray.wait(list(calls.values()), num_returns=len(calls), timeout=_PATIENCE_S, fetch_local=False)
        return {
            replica: self._adopted(replica, calls[replica]) if replica in calls else None for replica in incarnations
        }

    def _adopted(self, replica: int, call: Any) -> dict[str, Any] | None:
        member = self.members[replica]
        try:
            held = ray.get(call, timeout=_ANSWERED_S)
        except (ActorDiedError, RayTaskError):
            with self._lock:
                del self.members[replica]
            return None
        except RayError:  # not scheduled yet, or out of reach: it will speak up, or be found dead
            held = {"queue": [], "lately": [], "joined": False, "at_hand": (-1, 0)}
        else:
            self._acquaint(replica, member, held)
        member.end = member.handle.wait_end.remote()  # not watched before it is known how it ends
        return held

    def _acquaint(self, replica: int, member: Member, held: dict[str, Any]) -> None:
        """Take what an adopted replica says of itself, also what it had told to the coordinator that was killed."""
        with self._lock:
            member.here, member.node = member.here or held["joined"], held["node"]
            member.heard = max(member.heard, held["said"])
        for words in held["words"]:
            if words["kind"] == "error":
                member.error = words
            else:
                self.events.put((replica, words))

    def start_evaluator(self) -> None:
        """Start the evaluator beside the coordinator."""
        self._evaluator = EvaluatorActor.options(
            name=_EVALUATOR,
            namespace=self._facts.uid,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=3,
            scheduling_strategy=on_node(self._home, soft=True),
        ).remote(self._facts)

    # -- talking ------------------------------------------------------------------------------------------------------

    def tell(self, key: int, kind: str, **fields: Any) -> None:
        """Send a message; one to an actor that has died is lost, and ``poll`` tells of its death."""
        member = self.members.get(key)
        if member is not None:
            member.handle.tell.remote({"kind": kind, **fields})

    def tell_all(self, kind: str, **fields: Any) -> None:
        """Send a message to every replica."""
        for replica in list(self.members):
            self.tell(replica, kind, **fields)

    def evaluate(self, parts: list[Any]) -> None:
        """Have the evaluator measure what the shards gave (references); ``poll`` gives its answer."""
        self._evaluating.append(self._evaluator.evaluate.remote(*parts))

    def heard(
        self, replica: int, incarnation: int, node: str, first: int, items: list[dict[str, Any]], report: dict[str, Any]
    ) -> None:
        """Take what a replica has counted, then its items that have not been taken before; nothing of one that was replaced."""
        with self._lock:
            member = self.members.get(replica)
            if member is None or member.incarnation != incarnation:
                return
            if not member.here:
                member.here, member.node = True, node
                member.heard = first  # an earlier coordinator has taken those before
            member.seen = report.pop("seen", None)
            if report:
                member.reports = report
            for item in items[max(member.heard - first, 0) :]:
                member.heard += 1
                if item["kind"] == "error":
                    member.error = item
                elif item["kind"] == "over":
                    member.over = True
                else:
                    self.events.put((replica, item))

    def poll(self, timeout_s: float) -> Iterator[tuple[int, dict[str, Any]]]:
        """Messages within ``timeout_s`` as (key, message); the last of a replica is ``ended``, or ``died``."""
        try:
            yield self.events.get(timeout=max(timeout_s, 1e-3))
            while True:
                yield self.events.get_nowait()
        except queue.Empty:
            return

    def workers(self) -> list[int]:
        """Replicas that are at work on some node."""
        with self._lock:
            return [replica for replica, member in self.members.items() if member.here]

    def handles(self) -> dict[int, Any]:
        """The actors of those."""
        with self._lock:
            return {replica: member.handle for replica, member in self.members.items() if member.here}

    def waiting(self) -> list[int]:
        """Replicas that no node has had room for yet."""
        with self._lock:
            return [replica for replica, member in self.members.items() if not member.here]

    def homeless(self) -> int:
        """How many replicas Ray has no node for, as it tells when asked; others that wait are only slow to begin."""
        with self._lock:
            waiting = [member.handle for member in self.members.values() if not member.here]
        return sum(not has_process(handle) for handle in waiting)

    def kill(self, key: int) -> None:
        """Kill a replica's actor, whatever it is doing; ``poll`` tells of its death."""
        if key in self.members:
            self.dismiss(key)
            self.events.put((key, {"kind": "died", "type": "Killed", "message": "killed", "fatal": False}))

    # -- ending -------------------------------------------------------------------------------------------------------

    def dismiss(self, replica: int) -> None:
        """Kill an actor and forget it."""
        with self._lock:
            member = self.members.pop(replica, None)
        if member is not None:
            ray.kill(member.handle)

    def end(self) -> None:
        """Kill whatever still lives."""
        self._closed.set()
        calls = [handle.shut_down.remote() for handle in self.handles().values()]
        if calls:  # on a node without a shard nobody else would sweep up after them
            ray.wait(calls, num_returns=len(calls), timeout=END_S, fetch_local=False)
        for replica in list(self.members):
            self.dismiss(replica)
        if self._evaluator is not None:
            with suppress(RayError, GetTimeoutError):
                ray.get(self._evaluator.shut_down.remote(), timeout=END_S)
            ray.kill(self._evaluator)
        self._watcher.join()

    # -- watching -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Turn actors that have ended, and answers of the evaluator, into events."""
        while not self._closed.is_set():
            with self._lock:
                ends = {member.end: replica for replica, member in self.members.items() if member.end is not None}
            waiting = [*ends, *self._evaluating[:1]]
            if not waiting:
                self._closed.wait(_WATCH_S)
                continue
            try:
                ready, _ = ray.wait(waiting, num_returns=1, timeout=_WATCH_S)
                for reference in ready:
                    if reference in ends:
                        self._ended(ends[reference], reference)
                    else:
                        self._evaluated(reference)
            except RayError:  # Ray's own head is away: look again
                self._closed.wait(_WATCH_S)

    def _ended(self, replica: int, reference: Any) -> None:
        error: Exception | None = None
        try:
            ray.get(reference)
        except RayError as died:
            error = died
        with self._lock:
            member = self.members.get(replica)
            if member is None or member.end is not reference:
                return
            if isinstance(error, ActorUnavailableError):  # out of reach; whether it is dead is not known yet
                member.end = member.handle.wait_end.remote()
                self._closed.wait(_WATCH_S)
                return
            del self.members[replica]
        if error is None:
            ray.kill(member.handle)  # it has said all it had to say
        if error is None and member.error is None:
            self.events.put((replica, {"kind": "ended"}))
            return
        # Beside the watching: what became of it may have to be asked of its node.
        threading.Thread(target=self._tell_death, args=(replica, member, error), name="tell-death", daemon=True).start()

    def _tell_death(self, replica: int, member: Member, error: Exception | None) -> None:
        try:
            death = self._death(member, error)
        except Exception as trouble:  # Ray's own head is away, say; the death must be told all the same
            death = _killed(f"{_reason(error)} ({_reason(trouble)})")
        self.events.put((replica, {**death, "report": member.reports}))

    def _death(self, member: Member, error: Exception | None) -> dict[str, Any]:
        """A message about an actor that died: its own last words, or what became of it; ``node_lost``: its node is gone, too."""
        if member.error is not None:
            return {**member.error, "kind": "died"}
        by_ray = killed_by_ray(error, member.handle._actor_id.hex())
        if by_ray is not None:
            return _killed(by_ray)
        nodes = alive_nodes()
        if member.node and member.node not in nodes:
            return _killed(f"its node left the cluster ({member.node[:8]})", node_lost=True)
        by_kernel = None
        if member.node and member.seen is not None:
            now = memory_of(member.node, self._shard_on(member.node))
            by_kernel = killed_by_kernel(member.node, nodes[member.node]["NodeManagerAddress"], member.seen, now)
        return _killed(by_kernel or _reason(error))

    def _evaluated(self, reference: Any) -> None:
        try:
            answer = ray.get(reference)
        except RayError as error:
            answer = {"error": f"the evaluator died: {_reason(error)}", "type": "TaskError"}
        self._evaluating.remove(reference)
        kind = "error" if "error" in answer else "evaluated"
        self.events.put((EVALUATOR, {"kind": kind, "message": answer.get("error"), **answer}))


_PATIENCE_S = 30.0
_ANSWERED_S = 1.0  # to fetch what has been answered
_EVALUATOR = "evaluator"


def _name(replica: int, incarnation: int) -> str:
    return f"replica-{replica}-{incarnation}"


def _killed(message: str, node_lost: bool = False) -> dict[str, Any]:
    return {"kind": "died", "type": "Killed", "message": message, "fatal": False, "node_lost": node_lost}


def _reason(error: Exception | None) -> str:
    """What Ray says of a death, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("exit type" in line.lower() for line in lines):
        return "its process was killed (by somebody, or by the kernel because memory ran out), or it crashed"
    told = [line for line in lines if "exit" in line.lower() or "died" in line.lower() or "error" in line.lower()]
    return (told or lines or ["its process died"])[-1][:300]
