"""The end of a run's actors when nobody else ends them: its coordinator is gone for good, and with it whoever owned the job.

They outlive whoever has started them, so that they can outlive a coordinator that is killed and comes back.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import ray
from ray.exceptions import RayError
from ray.util import remove_placement_group

from deploy.cluster.facts import COORDINATOR, Gone, RunFacts, ask
from deploy.cluster.placement import find_group
from ps.segment import abandon

_LOOK_S = 2.0
_CALL_S, _END_S = 5.0, 20.0
_OTHERS_S = 10.0  # for the others to notice


def end_with_coordinator(facts: RunFacts, in_group: bool = False) -> None:
    """Have this process end once the coordinator is gone for good.

    Args:
      in_group: it runs in the run's placement group, and would be killed with that.

    Raises:
      Gone: it is gone already. Raised in an actor's constructor it keeps Ray from starting the actor again and again.
    """
    ask(facts, "ping")

    def watch() -> None:
        while True:
            time.sleep(_LOOK_S)
            try:
                ask(facts, "ping")
            except Gone:
                die(facts, in_group)

    threading.Thread(target=watch, name="watch", daemon=True).start()


def die(facts: RunFacts, in_group: bool = False) -> NoReturn:
    """End this process of a run that has lost its coordinator, and the shards with it; no memory stays.

    Whoever is outside of the placement group gives it back; shards do so only where nobody else is left. Nobody ends those who
    do so, for then the group might stay: actors of other kinds end themselves.
    """
    try:
        if in_group:
            time.sleep(_OTHERS_S)
        context = ray.get_runtime_context()
        own = context.get_actor_name()
        kill_actors(facts.uid, lambda name: name.startswith("shard-") and name != own)
        abandon()
        if in_group:  # Ray would try for ever to start it again in a group that is no more
            ray.kill(context.current_actor)
        remove_group(facts.uid)
        time.sleep(_CALL_S if in_group else 0.0)
    finally:
        os._exit(1)


def clear(uid: str) -> None:
    """Kill what a coordinator that was killed has left of a run that is not to be taken over."""
    kill_actors(uid, lambda name: name != COORDINATOR)
    remove_group(uid)


def kill_actors(uid: str, chosen: Callable[[str], bool]) -> None:
    """Have the actors of a run whose names are ``chosen`` give their memory back, and kill them."""
    handles = []
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == uid and chosen(actor["name"]):
            with suppress(ValueError):  # it has just ended
                handles.append(ray.get_actor(actor["name"], namespace=uid))
    calls = [handle.shut_down.remote() for handle in handles]
    if calls:
        ray.wait(calls, num_returns=len(calls), timeout=_END_S)
    for handle in handles:
        with suppress(RayError):
            ray.kill(handle)


def remove_group(uid: str) -> None:
    """Give the placement group of a run's shards back."""
    group = find_group(uid)
    if group is not None:
        remove_placement_group(group)
