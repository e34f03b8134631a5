"""The groups of a run as the coordinator sees them: one per node that has replicas."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from deploy.blueprint import Blueprint
from deploy.cluster.crew import END_S, ClusterCrew
from deploy.cluster.facts import RunFacts
from deploy.cluster.group_actor import GroupActor
from deploy.cluster.links import inner_plan, shard_plans
from deploy.cluster.placement import alive_nodes, on_node
from deploy.cluster.ready import first_group

_ROUNDS = 8  # exchanges with each at the end of an epoch: what is left of a difference is (1 - alpha)**8
_CALL_S = 30.0
GROUP = -4  # the key of its messages


class Groups:
    """Args:
    facts: of the run. setup: the job made ready. crew: is told where its groups are.
    """

    def __init__(self, facts: RunFacts, setup: Blueprint, crew: ClusterCrew):
        self._facts, self._setup, self._crew = facts, setup, crew
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}  # node -> number
        self._incarnations: dict[int, int] = {}  # number -> owners begun
        self._places: dict[str, dict[str, Any]] = {}
        self.handles: dict[int, Any] = {}

    def place_of(self, node: str) -> dict[str, Any] | None:
        """Where the group of a node is; None while it begins, and then it is told. Called in another thread."""
        with self._lock:
            if node not in self._numbers:
                self.want(node)
            return self._places.get(node)

    def want(self, node: str) -> None:
        """Have the launcher begin a node's group."""
        self._crew.events.put((GROUP, {"kind": "wanted", "node": node}))

    def reserve(self, node: str) -> bool:
        """Give a node's group its number; False if it has one. To be written down before the group begins."""
        living = alive_nodes()
        with self._lock:
            if node in self._numbers or node not in living:
                return False
            for gone in [known for known in self._numbers if known not in living]:
                self.handles.pop(self._numbers.pop(gone), None)
                self._places.pop(gone, None)
            numbers = range(first_group(self._setup), self._setup.shard_options.replicas)
            self._numbers[node] = min(set(numbers) - set(self._numbers.values()))
            return True

    def begin(self, node: str) -> None:
        """Start the group of a node that has a number."""
        number, strategy = self._numbers[node], self._setup.strategy
        self.handles[number] = GroupActor.options(
            name=f"group-{number}-{node[:16]}",
            namespace=self._facts.uid,
            lifetime="detached",
            max_restarts=-1,
            num_cpus=0,
            scheduling_strategy=on_node(node, soft=False),
        ).remote(
            self._facts,
            number,
            inner_plan(self._setup),
            shard_plans(self._setup),
            strategy.tau,
            strategy.beta,
        )

    def begins(self, number: int) -> int:
        """An owner of a group begins; returns its incarnation.

        It is newer than those before, also where a coordinator was killed that had not written them down: not before now.
        """
        with self._lock:
            self._incarnations[number] = max(self._incarnations.get(number, 0) + 1, int(time.time()))
            return self._incarnations[number]

    def come_after(self, incarnations: list[int]) -> None:
        """Groups of a run that goes on from a checkpoint are newer than whoever has pushed under their numbers before."""
        with self._lock:
            self._incarnations = dict(enumerate(incarnations))

    def serves(self, number: int, place: dict[str, Any]) -> None:
        """A group is ready: its replicas may begin, or go on. Called in another thread."""
        with self._lock:
            node = next((node for node, known in self._numbers.items() if known == number), None)
            if node is None:  # its node has left
                return
            self._places[node] = place
            groups = len(self._places)
        self._crew.tell_all("group", node=node, place=place)
        self.tell("groups", groups=groups)

    def tell(self, kind: str, **fields: Any) -> None:
        """Send a message to all."""
        for handle in list(self.handles.values()):
            handle.tell.remote({"kind": kind, **fields})

    def settle(self) -> None:
        """While the replicas rest: exchange until the groups and the center are nearly one."""
        for _ in range(_ROUNDS):
            calls = [handle.settle.remote() for handle in list(self.handles.values())]
            _, waiting = ray.wait(calls, num_returns=len(calls), timeout=_CALL_S) if calls else ([], [])
            if waiting:  # for a shard that is away; whether it is back is told to the thread that waits here
                return

    def bury(self, replica: int) -> None:
        """Free the locks that a dead replica held."""
        for handle in list(self.handles.values()):
            with suppress(RayError, GetTimeoutError):
                ray.get(handle.release_dead.remote(replica), timeout=_CALL_S)

    def state(self) -> dict[str, Any]:
        """For the journal."""
        with self._lock:
            return {
                "numbers": dict(self._numbers),
                "incarnations": {str(number): count for number, count in self._incarnations.items()},
                "places": dict(self._places),
            }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Find the groups that an earlier coordinator has started."""
        self._numbers, self._places = dict(state["numbers"]), dict(state["places"])
        self._incarnations = {int(number): count for number, count in state["incarnations"].items()}
        for node, number in self._numbers.items():
            try:
                handle = self.handles[number] = ray.get_actor(f"group-{number}-{node[:16]}", namespace=self._facts.uid)
            except ValueError:
                if node in alive_nodes():  # it was not begun any more
                    self.begin(node)
                continue
            handle.release.remote()  # perhaps held for the checkpoint that was being made
            handle.introduce.remote()  # perhaps it began anew, and the one before had not written it down

    def end(self) -> None:
        """Have them give their memory back, and kill them."""
        for handle in list(self.handles.values()):
            with suppress(RayError, GetTimeoutError):
                ray.get(handle.shut_down.remote(), timeout=END_S)
            ray.kill(handle)
