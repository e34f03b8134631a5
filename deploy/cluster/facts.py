"""What every actor of a run is told at its start, and how actors find each other."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from deploy.cluster.section import ClusterSection
from deploy.job import Job
from ps.errors import TransportError

COORDINATOR = "coordinator"
_LOOKS, _LOOK_S = 3, 0.5  # before a coordinator is believed to be gone
PATIENCE_S = 600.0  # for a coordinator that is being restarted


@dataclass(frozen=True)
class RunFacts:
    """Attributes:
    uid: of the run, also the Ray namespace of its actors.
    job: as ``Job.to_dict``.
    token: sent with every call to a shard.
    """

    uid: str
    job: dict[str, Any]
    token: str = field(repr=False)  # not into tracebacks and logs

    def build_job(self) -> Job:
        """The job."""
        return Job.from_dict(self.job)

    def cluster(self) -> ClusterSection:
        """The job's section of that name; unlike the whole job it needs none of the user's files."""
        return ClusterSection.from_table(self.job.get("cluster", {}))

    def coordinator(self, patience_s: float = PATIENCE_S) -> Any:
        """The handle of the coordinator.

        Raises:
          Gone: there is none (any more), or Ray's head is away for longer than the patience.
        """
        found = find_coordinator(self.uid, patience_s)
        if found is None:
            raise Gone("the coordinator of this run is gone")
        return found


class Gone(TransportError):
    """The coordinator is gone for good: the run is over."""


class Away(Gone):
    """Ray's head did not answer for so long that the run counts as over."""


def find_coordinator(uid: str, patience_s: float = PATIENCE_S) -> Any:
    """The handle of a run's coordinator, or None if it is gone for good.

    While Ray's head is being restarted, a lookup fails as if there had never been such an actor; nobody must end for that.

    Raises:
      Away: nothing could be learned within the patience.
    """
    missing, deadline = 0, time.monotonic() + patience_s
    while missing < _LOOKS:
        with suppress(ValueError):
            return ray.get_actor(COORDINATOR, namespace=uid)
        missing = 0 if _is_listed(uid) else missing + 1
        if missing == 0 and time.monotonic() > deadline:
            raise Away("Ray's head does not answer")
        time.sleep(_LOOK_S)
    return None


def _is_listed(uid: str) -> bool:
    """Whether Ray has the coordinator among the actors that live or are being restarted, or cannot say."""
    try:
        actors = ray.util.list_named_actors(all_namespaces=True)
    except Exception:  # of Ray's inside: its head does not answer
        return True
    return {"name": COORDINATOR, "namespace": uid} in actors


def ask(facts: RunFacts, method: str, *args: Any, patience_s: float = PATIENCE_S, answer_s: float = 60.0) -> Any:
    """Call a method of the coordinator, again while it is being restarted.

    Args:
      answer_s: how long an answer may take; one of gigabytes over a slow network must not be begun again and again.

    Raises:
      Gone: it is dead, or away for longer than the patience.
    """
    deadline, pause = time.monotonic() + patience_s, 0.05
    while True:
        try:
            handle = facts.coordinator(max(deadline - time.monotonic(), 0.0))
            return ray.get(getattr(handle, method).remote(*args), timeout=answer_s)
        except (RayError, GetTimeoutError) as error:  # being restarted, or out of reach for a moment
            if time.monotonic() > deadline:
                raise Gone(f"the coordinator of this run does not answer: {error}") from error
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def node_id() -> str:
    """Ray's id of the node that this process runs on."""
    return ray.get_runtime_context().get_node_id()


def node_address() -> str:
    """The address of the node that this process runs on."""
    return ray.util.get_node_ip_address()


def tls_of(cluster: ClusterSection) -> Any:
    """The certificates of a job, or None."""
    if cluster.tls_cert is None:
        return None
    from ps.transport.tls import Tls

    assert cluster.tls_key is not None and cluster.tls_ca is not None
    return Tls(Path(cluster.tls_ca), Path(cluster.tls_cert), Path(cluster.tls_key), cluster.tls_mutual)
