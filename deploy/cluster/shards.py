"""The shard actors of a run as the coordinator sees them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorDiedError, ActorUnschedulableError, GetTimeoutError, OutOfMemoryError, RayError

from deploy.blueprint import Blueprint
from deploy.cluster.crew import END_S
from deploy.cluster.endpoints import from_json, to_json
from deploy.cluster.facts import RunFacts
from deploy.cluster.links import shard_plans
from deploy.cluster.memory import reserved
from deploy.cluster.out_of_memory import Seen, killed_by_kernel, killed_by_ray, memory_of
from deploy.cluster.placement import alive_nodes, find_group, in_bundle, is_placed, place_shards, roomiest
from deploy.cluster.ready import beside, guests
from deploy.cluster.shard_actor import ShardActor
from deploy.saving import restore_result
from ps.checkpoint import Checkpoint, checkpoints, restore_state, shard_arrays
from ps.errors import TransportError
from ps.state import build_state, private_arrays, state_specs
from ps.transport.following import Whereabouts

ENDPOINTS = "endpoints.json"
_TELL_S = 10.0
_LOOK_S = 1.0


class Shards:
    """Starts the actors, knows where they serve, and gives those that start what they begin with.

    Args:
      facts: of the run. setup: the job made ready. run: its directory.
    """

    def __init__(self, facts: RunFacts, setup: Blueprint, run: Path):
        self._facts, self._setup, self._run = facts, setup, run
        self.count = setup.job.shards.count
        self.ranges = setup.layout.shards(self.count)
        self.handles: list[Any] = []
        self.placement: Any = None
        self.places: dict[int, Whereabouts] = {}
        self.seen = [0] * self.count  # the highest version that anybody has told of
        self.lost = 0
        self._restoring = threading.Lock()
        self._restored: tuple[Path | None, list[dict[str, np.ndarray]]] = (None, [])
        self._watched: dict[int, Any] = {}  # calls that a living actor answers
        self._dead: set[int] = set()  # actors of which the last call has said so
        self._memory: dict[int, Seen] = {}  # of each actor, as it told last
        self._killed: dict[int, str] = {}  # what Ray said of one that it killed for lack of memory
        self._reached: dict[
            int, int
        ] = {}  # version of the owner before this one at its end, where it was seen from here
        self._furthest = [0] * self.count  # version that a shard had reached at one of its deaths
        self._fruitless = [0] * self.count  # its deaths in a row since then

    # -- starting -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Ask Ray for all actors; each tells ``serves`` when it is ready."""
        cluster = self._setup.job.cluster
        near = roomiest(cluster) if beside(self._setup) else None
        self.placement = place_shards(self.count, cluster, self._facts.uid, near)
        for index, plan in enumerate(shard_plans(self._setup)):
            self.handles.append(
                ShardActor.options(
                    name=_name(index),
                    namespace=self._facts.uid,
                    lifetime="detached",
                    max_restarts=-1,
                    num_cpus=cluster.shard_cpus,
                    **reserved(cluster.shard_memory_mb),
                    scheduling_strategy=in_bundle(self.placement, index),
                ).remote(self._facts, plan)
            )

    def adopt(self, places: Mapping[str, Mapping[str, Any]]) -> None:
        """Find the actors that an earlier coordinator has started; each tells where it is served now, if it can.

        Args:
          places: index -> where the earlier one knew it to be served.
        """
        self.placement = find_group(self._facts.uid)
        self.handles = [ray.get_actor(_name(index), namespace=self._facts.uid) for index in range(self.count)]
        self.places = {int(index): from_json(place) for index, place in places.items()}
        for handle in self.handles:
            handle.introduce.remote()  # one that is starting again just now tells at its start

    def state_of(self, index: int) -> dict[str, np.ndarray]:
        """What a shard begins with: its part of the newest checkpoint, else of the initial parameters."""
        found = checkpoints(self._run / "checkpoint")
        if not found:
            return {"center": self.ranges[index].of(self._setup.layout.flatten(self._setup.initial))}
        with self._restoring:  # all ask at one time, and it may be large
            source, parts = self._restored
            if source != found[-1]:
                source, parts = self._restored = found[-1], self._cut(Checkpoint(found[-1]))
        return parts[index]

    def knows(self, place: Whereabouts) -> bool:
        """It is known that a shard is served there."""
        known = self.places.get(place.index)
        return known is not None and known == _with_generation(place, known.generation)

    def serves(self, place: Whereabouts, version: int) -> int | None:
        """A shard's owner is ready, with this version; returns the updates lost with the one before, None if it is the first.

        Before, ``saw_all`` should have been told of what every replica has seen of the one before.
        """
        index, before = place.index, self.places.get(place.index)
        generation = 1 if before is None else before.generation + 1
        self.places[index] = _with_generation(place, generation)
        reached, self.seen[index] = self.seen[index], version
        self._restored = (None, []) if self.ready else self._restored
        if before is None:
            return None
        lost = max(reached - version, 0)
        self.lost += lost
        self._reached[index] = max(reached, version)
        self._fruitless[index] = 0 if reached > self._furthest[index] else self._fruitless[index] + 1
        self._furthest[index] = max(reached, self._furthest[index])
        return lost

    def shortage(self, before: Whereabouts) -> str | None:
        """A sentence about the owner that was served there if it was killed for lack of memory, else None."""
        by_ray = self._killed.pop(before.index, None)
        nodes = alive_nodes()
        if by_ray is not None or before.node not in nodes:
            return by_ray
        now = memory_of(before.node, self.on_node(before.node))
        address = nodes[before.node]["NodeManagerAddress"]
        return killed_by_kernel(before.node, address, self._memory.get(before.index), now)

    def require_progress(self, index: int, deaths: int, reason: str) -> None:
        """Refuse to go on with a shard that dies again and again before it has got further than the last time.

        Args:
          deaths: how many are put up with. reason: of the last one, in words.

        Raises:
          TransportError: there were more.
        """
        if self._fruitless[index] > deaths:
            raise TransportError(
                f"shard {index} died {self._fruitless[index]} times in a row without getting further: {reason}",
                shard=index,
            )

    def _remember(self, index: int, memory: Seen | None) -> None:
        """Keep what a shard said of its memory, unless it comes from an owner that has not been told of as served yet."""
        place = self.places.get(index)
        if memory is not None and place is not None and place.place.pid == memory.pid:
            self._memory[index] = memory

    def on_node(self, node: str) -> Any:
        """The handle of a shard on a node, or None."""
        return next((self.handles[place.index] for place in list(self.places.values()) if place.node == node), None)

    @property
    def homeless(self) -> int:
        """How many wait for a node with room. One that is placed and not served yet is only slow to begin."""
        away = self.count - len(self.places)
        return away if away and not is_placed(self.placement) else 0

    @property
    def ready(self) -> bool:
        """All are served."""
        return len(self.places) == self.count

    def endpoints(self) -> list[dict[str, Any]]:
        """Where they are served, as plain values."""
        return [to_json(place) for place in self.places.values()]

    def write_endpoints(self) -> None:
        """For clients in other languages: RUN/endpoints.json, which only its owner may read because the token is in it."""
        first = self._setup.job.workers.count
        facts = {
            "token": self._facts.token,
            "layout": self._setup.layout.to_json(),
            "shards": [
                {
                    "index": index,
                    "address": place.address,
                    "start": self.ranges[index].start,
                    "stop": self.ranges[index].stop,
                }
                for index, place in sorted(self.places.items())
            ],
            "replicas": list(range(first, first + guests(self._setup))),
        }
        beside = self._run / f".{ENDPOINTS}.new"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(facts, file, indent=1)
        os.replace(beside, self._run / ENDPOINTS)

    # -- calls --------------------------------------------------------------------------------------------------------

    def tell(self, method: str, *args: Any) -> None:
        """Have every shard that is there do something, and wait until it has; one that is being restarted is told anew later."""
        calls = [getattr(self.handles[index], method).remote(*args) for index in self.places]
        for call in calls:
            try:
                ray.get(call, timeout=_TELL_S)
            except (RayError, GetTimeoutError):
                continue

    def ask(self, method: str, *args: Any, timeout_s: float = 60.0) -> list[Any]:
        """The answers of all shards.

        Raises:
          TransportError: one does not answer.
        """
        try:
            return ray.get([getattr(handle, method).remote(*args) for handle in self.handles], timeout=timeout_s)
        except (RayError, GetTimeoutError) as error:
            raise TransportError(f"a shard did not answer `{method}`: {str(error).splitlines()[-1]}") from error

    def vectors(self) -> list[Any]:
        """References to what is evaluated, one per shard."""
        return [handle.vector.remote(self._setup.strategy.evaluated_slot) for handle in self.handles]

    def look(self, timeout_s: float = _LOOK_S) -> list[dict[str, Any] | None]:
        """The facts of each shard, None of one that does not answer in time."""
        answers: list[dict[str, Any] | None] = []
        calls = [handle.look.remote() for handle in self.handles]
        # Together: many that are away take no longer than one.
        answered = ray.wait(calls, num_returns=len(calls), timeout=timeout_s)[0] if calls else []
        for index, call in enumerate(calls):
            answers.append(None)
            if call in answered:
                with suppress(RayError):
                    answers[index] = ray.get(call)
                    self.saw(index, answers[index]["version"])
                    self._remember(index, answers[index].pop("seen", None))
        return answers

    def check(self) -> None:
        """Look, without waiting, whether all actors live or will live again.

        Raises:
          TransportError: one is dead for good: its constructor failed, for example because shared memory has no room for it.
        """
        for index, handle in enumerate(self.handles):
            if index not in self._watched:
                self._watched[index] = handle.look.remote()
            call = self._watched[index]
            done, _ = ray.wait([call], timeout=0)
            if not done:
                continue
            del self._watched[index]
            try:
                ray.get(call)
                self._dead.discard(index)
            except (ActorDiedError, ActorUnschedulableError) as error:
                if index not in self._dead:  # a call may fail so in the moment of a death that it is restarted after
                    self._dead.add(index)
                    continue
                reason = str(error).strip().splitlines()[-1]
                raise TransportError(f"shard {index} cannot be started: {reason}", shard=index) from error
            except RayError as error:  # it is being restarted
                self._dead.discard(index)
                by_ray = killed_by_ray(error, handle._actor_id.hex()) if isinstance(error, OutOfMemoryError) else None
                if by_ray is not None:
                    self._killed[index] = by_ray

    def saw(self, index: int, version: int) -> None:
        """Take the version of a shard, as its present owner tells it."""
        self.seen[index] = max(self.seen[index], version)

    def saw_all(self, seen: Iterable[tuple[int, int]]) -> None:
        """Take the generation and the version of each shard that a replica has seen."""
        for index, (generation, version) in enumerate(seen):
            known = self.places.get(index)
            if known is None or generation == known.generation:
                self.saw(index, version)
            elif generation == known.generation - 1 and version > self._reached.get(
                index, version
            ):  # lost, and told late
                self.lost += version - self._reached[index]
                self._reached[index] = version

    def end(self) -> None:
        """Have them give their memory back, kill them, and give the placement group back."""
        from ray.util import remove_placement_group

        calls = [handle.shut_down.remote() for handle in self.handles]
        if calls:  # together: many that are away take no longer than one
            ray.wait(calls, num_returns=len(calls), timeout=END_S, fetch_local=False)
        for handle in self.handles:
            ray.kill(handle)
        if self.placement is not None:
            remove_placement_group(self.placement)

    def _cut(self, checkpoint: Checkpoint) -> list[dict[str, np.ndarray]]:
        """A checkpoint, of any number of shards, as this run's shards take it."""
        setup = self._setup
        specs = state_specs(setup.layout, self.count, setup.rule, setup.shard_options)
        state = build_state(setup.layout, self.count, setup.rule, setup.shard_options, private_arrays(specs))
        restore_state(checkpoint, state)
        restore_result(checkpoint, state)
        return [shard_arrays(shard) for shard in state.shards]


def _name(index: int) -> str:
    return f"shard-{index}"


def _with_generation(place: Whereabouts, generation: int) -> Whereabouts:
    return Whereabouts(place.index, place.node, place.address, generation, place.place)
