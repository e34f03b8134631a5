"""What every actor of a run is told at its start, and how actors find each other."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from deploy.cluster.section import ClusterSection
from deploy.job import Job
from ps.errors import TransportError

COORDINATOR = "coordinator"
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

    def coordinator(self) -> Any:
        """The handle of the coordinator.

        Raises:
          ValueError: there is none (any more).
        """
        return ray.get_actor(COORDINATOR, namespace=self.uid)


class Gone(TransportError):
    """The coordinator is gone for good: the run is over."""


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
            return ray.get(getattr(facts.coordinator(), method).remote(*args), timeout=answer_s)
        except (ActorDiedError, ValueError) as error:
            raise Gone("the coordinator of this run is gone") from error
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
