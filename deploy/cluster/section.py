"""``[cluster]``: how a job runs on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from deploy.schema import Section, key
from ps.errors import JobError


@dataclass(frozen=True)
class ClusterSection(Section):
    """``[cluster]``: where the job's actors run, and how they are reached; only with backend = "ray"."""

    section: ClassVar[str] = "cluster"
    address: str | None = key(
        None, help="of a Ray cluster; left out: RAY_ADDRESS, or a private Ray on this machine", example="10.0.0.4:6379"
    )
    shard_cpus: float = key(0.1, help="CPUs that Ray reserves per shard", above=0)
    replica_cpus: float = key(1.0, help="CPUs that Ray reserves per worker", at_least=0)
    shard_memory_mb: float | None = key(
        None, help="memory that Ray reserves per shard; a shard that takes more ends the job", above=0, example=500.0
    )
    replica_memory_mb: float | None = key(
        None, help="memory that Ray reserves per worker; a worker that takes more ends the job", above=0, example=500.0
    )
    replica_gpus: float = key(0.0, help="GPUs that Ray reserves per worker", at_least=0)
    shard_nodes: str = key(
        "spread", help="shards on different nodes where possible, or all on one", one_of=("spread", "pack")
    )
    guests: int = key(2, help="numbers at the shards for clients in other languages", at_least=0)
    files: list = key([], help="files that travel with the job, e.g. data of a task of yours", example=["words.txt"])
    detach: bool = key(False, help="the job goes on when the command that started it ends")
    deadline_seconds: float = key(5.0, help="after which a call to a shard is tried again", above=0)
    patience_seconds: float = key(
        300.0, help="how long a worker waits for a shard that does not answer, before it gives up", above=0
    )
    tls_cert: str | None = key(None, help="certificate of the node (PEM), on every node; turns TLS on", example="c.pem")
    tls_key: str | None = key(None, help="its key", example="key.pem")
    tls_ca: str | None = key(None, help="certificate of the authority that signed it", example="ca.pem")
    tls_mutual: bool = key(False, help="shards want to see the certificate of whoever calls")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("tls_cert", "tls_key", "tls_ca") if getattr(self, name)]
        if given and len(given) < 3:
            raise JobError(f"[cluster] TLS needs tls_cert, tls_key and tls_ca, got only {', '.join(given)}")
        if self.tls_mutual and not given:
            raise JobError("[cluster] tls_mutual needs tls_cert, tls_key and tls_ca")
