"""Ray's job API and what the service must know of the cluster, over HTTP: the service is no driver, and outlives the cluster."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deploy.cluster.reach import token_source
from deploy.service.room import Room
from ps.errors import HogsheadError

_TIMEOUT_S = 10.0
RUNS = frozenset({"PENDING", "RUNNING"})
LOST = "LOST"
SHARD, WORKER, OTHER = "shard", "worker", "other"
_MOST_LISTED = 10_000
_UID = re.compile(r"hogshead-(.+)-[0-9]+-[0-9a-f]{8}")  # see deploy.service.folder
_GROUP = "-shards"  # see deploy.cluster.placement.place_shards
_REPLICA = "replica-"  # see deploy.cluster.crew


class ClusterAway(HogsheadError):
    """Ray's head does not answer, or refuses."""


@dataclass(frozen=True)
class NodeFacts:
    """A living node.

    Attributes:
      id: Ray's, hexadecimal. address: its IP address. head: whether Ray's head runs there.
      cpus, gpus, memory_bytes: what it has, taken or not.
    """

    id: str
    address: str
    head: bool
    cpus: float
    gpus: float
    memory_bytes: int


@dataclass(frozen=True)
class Held:
    """Something that lies on a node now.

    Attributes:
      node: Ray's id. room: what it takes there.
      kind: "shard", "worker" or "other". job: whose it is; empty: of nobody that the service knows.
    """

    node: str
    room: Room
    kind: str = OTHER
    job: str = ""


class Cluster(Protocol):
    """What the supervisor needs of a cluster. Every method raises ClusterAway while it cannot be reached."""

    def nodes(self) -> list[NodeFacts]:
        """The living nodes."""
        ...

    def held(self) -> list[Held]:
        """What lies on them, whoever has put it there."""
        ...

    def submit(self, submission: str, command: Sequence[str]) -> None:
        """Run a command on the head, unless that was asked for under this name before."""
        ...

    def status(self, submission: str) -> str | None:
        """What Ray says, e.g. "PENDING" or "SUCCEEDED"; "LOST": with its node; None: unknown there."""
        ...

    def forget(self, submission: str) -> None:
        """End a command if it still runs; its status is of no use any more."""
        ...


class Glimpse:
    """A cluster that is asked no more once it was away: every question may take as long as one has patience for.

    Args:
      cluster: that is asked.
    """

    def __init__(self, cluster: Cluster):
        self._cluster, self._away = cluster, ""

    def nodes(self) -> list[NodeFacts]:
        """See ``Cluster``."""
        return self._ask(lambda: self._cluster.nodes())

    def held(self) -> list[Held]:
        """See ``Cluster``."""
        return self._ask(lambda: self._cluster.held())

    def submit(self, submission: str, command: Sequence[str]) -> None:
        """See ``Cluster``."""
        self._ask(lambda: self._cluster.submit(submission, command))

    def status(self, submission: str) -> str | None:
        """See ``Cluster``."""
        return self._ask(lambda: self._cluster.status(submission))

    def forget(self, submission: str) -> None:
        """See ``Cluster``."""
        self._ask(lambda: self._cluster.forget(submission))

    def again(self) -> None:
        """Ask again."""
        self._away = ""

    def _ask(self, question: Callable[[], Any]) -> Any:
        if self._away:
            raise ClusterAway(self._away)
        try:
            return question()
        except ClusterAway as error:
            self._away = str(error)
            raise


class RayCluster:
    """Args:
    url: of Ray's dashboard on the head, http://HOST:8265. The token is taken from Ray's own environment variables.
    """

    def __init__(self, url: str):
        self.url = url
        if "RAY_AUTH_MODE" not in os.environ and token_source():
            os.environ["RAY_AUTH_MODE"] = "token"  # as ray.init decides it; read when Ray is imported
        self._client: Any = None

    def nodes(self) -> list[NodeFacts]:
        """See ``Cluster``."""
        from ray.util.state import list_nodes

        living, patience_s = [("state", "=", "ALIVE")], int(_TIMEOUT_S)
        found = self._ask(
            # Ray counts the nodes of a restarted head's earlier lives, and complains that they are left out.
            lambda: list_nodes(
                self.url, living, limit=_MOST_LISTED, timeout=patience_s, detail=True, raise_on_missing_output=False
            )
        )
        return [_node(entry) for entry in found]

    def held(self) -> list[Held]:
        """See ``Cluster``: actors, and placement groups for those that lie in them; tasks come and go, and are left out."""
        from ray.util.state import list_actors, list_placement_groups

        bounds = {"limit": _MOST_LISTED, "timeout": int(_TIMEOUT_S), "detail": True, "raise_on_missing_output": False}
        actors = self._ask(lambda: list_actors(self.url, [("state", "=", "ALIVE")], **bounds))
        groups = self._ask(lambda: list_placement_groups(self.url, [("state", "=", "CREATED")], **bounds))
        return [
            *(_held_by_actor(entry) for entry in actors if not entry.placement_group_id),
            *(held for entry in groups for held in _held_by_group(entry)),
        ]

    def submit(self, submission: str, command: Sequence[str]) -> None:
        """See ``Cluster``."""
        if self.status(submission) is None:
            self._ask(lambda: self._connect().submit_job(entrypoint=shlex.join(command), submission_id=submission))

    def status(self, submission: str) -> str | None:
        """See ``Cluster``."""
        client = self._connect()
        answer = self._ask(lambda: client._do_request("GET", f"/api/jobs/{submission}"))
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise ClusterAway(f"Ray at {self.url} answers {answer.status_code}: {answer.text.strip()[:200]}")
        facts = answer.json()
        status, node = str(facts["status"]), facts.get("driver_node_id")
        if status in RUNS and node and node not in {here.id for here in self.nodes()}:
            return LOST  # Ray itself notices at the next submission only
        return status

    def forget(self, submission: str) -> None:
        """See ``Cluster``."""
        if self.status(submission) in RUNS:
            self._ask(lambda: self._connect().stop_job(submission))

    def _connect(self) -> Any:
        if self._client is None:
            self._client = self._ask(lambda: _patient_client()(self.url))
        return self._client

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except HogsheadError:
            raise
        except Exception as error:  # Ray's, requests' and the state API's; all mean that there is no answer
            self._client = None
            raise ClusterAway(f"Ray at {self.url} {_trouble(error)}") from error


def _trouble(error: Exception) -> str:
    """What is wrong, in few words: Ray's own end in advice to install it."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "authentication" in line.lower():
        return "refuses this service's token; RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH must have the cluster's"
    away = any(word in line.lower() for word in ("connect", "timed out", "timeout", "unavailable"))
    return "does not answer" if away else f"does not answer as it should: {line[:200]}"


def _patient_client() -> type[Any]:
    """Ray's client, which by itself waits for ever."""
    from ray.job_submission import JobSubmissionClient

    class PatientClient(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=_TIMEOUT_S, **options)

    return PatientClient


def _node(entry: Any) -> NodeFacts:
    room = _room(entry.resources_total)
    return NodeFacts(entry.node_id, entry.node_ip, bool(entry.is_head_node), room.cpus, room.gpus, room.memory_bytes)


def _held_by_actor(entry: Any) -> Held:
    job = _job(entry.ray_namespace)
    kind = WORKER if job and str(entry.name).startswith(_REPLICA) else OTHER
    return Held(str(entry.node_id), _room(entry.required_resources), kind, job)


def _held_by_group(entry: Any) -> list[Held]:
    name = str(entry.name)
    job = _job(name.removesuffix(_GROUP)) if name.endswith(_GROUP) else ""
    kind = SHARD if job else OTHER
    return [
        Held(str(bundle.get("node_id")), _room(bundle.get("unit_resources")), kind, job)
        for bundle in entry.bundles or ()
    ]


def _room(resources: Mapping[str, float] | None) -> Room:
    found = resources or {}
    return Room(float(found.get("CPU", 0.0)), float(found.get("GPU", 0.0)), int(found.get("memory", 0)))


def _job(uid: str | None) -> str:
    found = _UID.fullmatch(uid or "")
    return found[1] if found else ""
