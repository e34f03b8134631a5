"""A cluster to train on in tests: jobs, their actors, and scripts of what goes wrong when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from deploy.cluster.patience import patient_start
from deploy.progress import Observer
from ps.segment import FOLDER, PREFIX

LEDGER = f"{Path(__file__).parent / 'tasks' / 'ledger.py'}:Ledger"
PATIENCE_S = 180.0
_HOGSHEAD = [sys.executable, "-m", "deploy.cli"]

Record = dict[str, Any]


class Script(Observer):
    """Does one thing after another while a job runs: each when a record comes that fits.

    Args:
      scenes: (whether a record fits, what is done then).
    """

    def __init__(self, *scenes: tuple[Callable[[Record], bool], Callable[[], object]]):
        self.scenes = list(scenes)
        self.summary: Record = {}

    def progress(self, record):
        if self.scenes and self.scenes[0][0](record):
            self.scenes.pop(0)[1]()

    evaluation = event = progress

    def finished(self, summary):
        self.summary = dict(summary)


def training(record: Record) -> bool:
    """The job is at work."""
    return record["kind"] == "progress" and record["examples"] > 0


def finished_training(record: Record) -> bool:
    """All examples of one epoch of a ledger are done."""
    return record["kind"] == "progress" and record["epoch"] >= 1


def nothing() -> None:
    """Go on to the next scene."""


def happened(event: str) -> Callable[[Record], bool]:
    """An event of that name is told."""
    return lambda record: record.get("event") == event


def wait_until(condition: Callable[[], object], state: Callable[[], object] = lambda: "") -> None:
    """Look again and again; a test that waits in vain fails here, and says in which ``state``."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {state()}"
        time.sleep(0.05)


class Stage:
    """Args:
    cluster: of ``ray.cluster_utils``; this process is a driver of it.
    folder: for runs.
    """

    def __init__(self, cluster: Any, folder: Path):
        self.cluster, self.folder = cluster, folder
        self.book = folder / "book"
        self.book.mkdir()
        self._known = set(_actors())  # of earlier tests
        self._nodes: list[Any] = []
        self._threads: list[threading.Thread] = []

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def train(self, script: Observer | None = None, **sections: Any) -> Any:
        """``hogshead.train`` here; a script must have come to its end."""
        import hogshead

        script = script or Script()
        sections = {"backend": "ray", "run": self.folder / "run", **sections}
        result = hogshead.train(observer=script, **sections)
        assert not script.scenes, f"{len(script.scenes)} scenes were not played"
        return result

    def ledger(self, script: Observer | None = None, task: Any = (), **sections: Any) -> Any:
        """A job that counts: downpour on two replicas, one on each node, and two shards, one on each node."""
        table = {"name": LEDGER, "folder": str(self.book), **dict(task)}
        return self.train(script, **{**self.counting(), "task": table, **sections})

    @staticmethod
    def counting() -> dict[str, Any]:
        """Sections of a job in which every push is applied at once and whole."""
        return {
            "strategy": "downpour",
            "rule": {"name": "sgd", "lr": 1.0},
            "data": {"batch_size": 4},
            "workers": {"count": 2},
            "shards": {"count": 2},
            "cluster": {"replica_cpus": 3},
            "stop": {"epochs": 2},
        }

    def go(self) -> None:
        """Replicas of a ledger that wait may go on."""
        (self.book / "go").touch()

    def look(self) -> None:
        """The evaluation of a ledger may go on."""
        (self.book / "look").touch()

    def computed(self, n: int = 512) -> np.ndarray:
        """How often each example's gradient was computed, int64 (n,)."""
        noted = [np.frombuffer(path.read_bytes(), np.int32) for path in self.book.glob("computed-*")]
        return np.bincount(np.concatenate([np.zeros(0, np.int32), *noted]), minlength=n)

    def await_file(self, pattern: str) -> None:
        """Wait for a file of the run, without a pause in which it might be gone."""
        deadline = time.monotonic() + PATIENCE_S
        while not list((self.folder / "run").glob(pattern)):
            assert time.monotonic() < deadline, "waited in vain"

    def await_summary(self) -> Record:
        """What a job that goes on by itself says at its end."""
        path = self.folder / "run" / "summary.json"
        wait_until(path.exists)
        return json.loads(path.read_text())

    @contextmanager
    def command(self, task: Record, *options: str) -> Iterator[subprocess.Popen]:
        """``hogshead train`` of a ledger on the cluster, in a process of its own, which is gone afterwards."""
        process = self._start_command(task, "--address", self.cluster.address, *options)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def train_in_processes(self, task: Record) -> Path:
        """An epoch of a ledger without Ray; returns the run directory."""
        assert self._start_command(task, "--set", "stop.epochs=1").wait() == 0
        return self.folder / "run"

    def resume_in_processes(self, run: Path) -> Record:
        """Go on with a run without Ray; returns its summary."""
        options = ["--resume", run, "--backend", "processes", "--set", "shards.count=1", "--quiet"]
        subprocess.run([*_HOGSHEAD, "train", *options], check=True)
        return json.loads((run / "summary.json").read_text())

    def _start_command(self, task: Record, *options: str) -> subprocess.Popen:
        job = {**self.counting(), "task": {"name": LEDGER, "folder": str(self.book), **task}}
        path = self.folder / "job.toml"
        path.write_text(tomli_w.dumps(job))
        command = [*_HOGSHEAD, "train", path, "--run", self.folder / "run", *options]
        return subprocess.Popen(command)

    # -- actors -------------------------------------------------------------------------------------------------------

    def actors(self) -> dict[str, Record]:
        """The living actors of this test's runs, by their names."""
        return {
            actor["name"]: actor
            for key, actor in _actors().items()
            if key not in self._known and actor["state"] == "ALIVE"
        }

    def actor(self, name: str) -> Record:
        """A living actor, once there is one of that name."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.actors().get(name)) is None:
            assert time.monotonic() < deadline, f"waited in vain for {name}; there are {sorted(self.actors())}"
            time.sleep(0.05)
        return found

    def kill(self, name: str) -> Callable[[], None]:
        """SIGKILL to the process of an actor: "coordinator", "shard-0", "replica-1-1"; for a script."""

        def act() -> None:
            os.kill(self.actor(name)["pid"], signal.SIGKILL)

        return act

    def when_there(self, name: str, action: Callable[[], None]) -> None:
        """Do something as soon as an actor lives, from another thread."""

        def watch() -> None:
            self.actor(name)
            action()

        self._threads.append(threading.Thread(target=watch, daemon=True))
        self._threads[-1].start()

    def ask(self, name: str, question: Callable[[Any], Any]) -> Any:
        """What ``question`` finds in an actor, in its process."""
        import ray

        handle = ray.get_actor(name, namespace=self.actor(name)["namespace"])
        return ray.get(handle.__ray_call__.remote(question))

    def node_of(self, name: str) -> str:
        """Id of the node that an actor runs on."""
        return self.actor(name)["node"]

    # -- nodes --------------------------------------------------------------------------------------------------------

    def add_node(self, cpus: int) -> Any:
        """Add a node to the cluster, until the end of the test at most."""
        with patient_start():
            self._nodes.append(self.cluster.add_node(num_cpus=cpus, object_store_memory=100 << 20))
        return self._nodes[-1]

    def remove_node(self, node: Any) -> None:
        """Kill a node with everything on it."""
        self._nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    # -- the end ------------------------------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """What this test's runs have left on the cluster and in shared memory."""
        import ray

        mine = [actor for key, actor in _actors().items() if key not in self._known]
        pids = {str(actor["pid"]) for actor in mine}
        actors = [f"{actor['name']} is {actor['state']}" for actor in mine if actor["state"] != "DEAD"]
        groups = [
            f"placement group {group['name']}"
            for group in ray.util.placement_group_table().values()
            if group["state"] != "REMOVED"
        ]
        files = [path.name for path in FOLDER.glob(f"{PREFIX}-*") if path.name.split("-")[1] in pids]
        return [*actors, *groups, *files]

    def clear(self) -> None:
        """Everything that a run has made is gone by itself; what is not is removed, and told."""
        import ray

        try:
            deadline = time.monotonic() + PATIENCE_S
            while self.left() and time.monotonic() < deadline:
                time.sleep(0.1)
            left = self.left()
        finally:
            for key, actor in _actors().items():
                if key not in self._known and actor["state"] != "DEAD" and actor["name"]:
                    with suppress(ValueError):  # it ends just now
                        ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]))
            for node in list(self._nodes):
                self.remove_node(node)
            for thread in self._threads:
                thread.join()
        assert not left, f"left behind: {left}"


def applied(result: Any) -> np.ndarray:
    """How often each example's gradient of a ledger is in the center, float32 (n,)."""
    return -result.parameters["counts"][1:-1]


def pushes(result: Any) -> list[int]:
    """Pushes that the first and the last shard of a ledger have applied."""
    return [int(-result.parameters["counts"][at]) for at in (0, -1)]


def events(result: Any) -> Counter:
    """How often each event was recorded."""
    return Counter(record["event"] for record in result.metrics if record["kind"] == "event")


def _actors() -> dict[str, Record]:
    """All actors that Ray knows of, the dead too."""
    from ray._private import state
    from ray.core.generated.gcs_pb2 import ActorTableData

    found = {}
    for raw in state.state._connect_and_get_accessor().get_actor_table(None, None):
        actor = ActorTableData.FromString(raw)
        found[actor.actor_id.hex()] = {
            "name": actor.name,
            "namespace": actor.ray_namespace,
            "state": ActorTableData.ActorState.Name(actor.state),
            "pid": actor.pid,
            "node": actor.address.node_id.hex(),
        }
    return found


# A run of the suite is to take minutes: these show what others show already, in one more variation.
LONG = pytest.mark.skipif(
    not os.environ.get("HOGSHEAD_LONG_TESTS"), reason="one more variation; HOGSHEAD_LONG_TESTS=1 runs it, too"
)
