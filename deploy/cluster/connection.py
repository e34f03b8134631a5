"""Joining a Ray cluster, or starting a private Ray on this machine."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from deploy.cluster.patience import patient_start
from deploy.job import Job
from ps.errors import HogsheadError, UsageError

_OBJECT_STORE_BYTES = 256 << 20  # checkpoints and evaluations pass through it; pulls and pushes do not


class ClusterError(HogsheadError):
    """There is no Ray cluster to be reached, or it is of another kind."""


@contextmanager
def connected(job: Job, echo: bool = False) -> Iterator[None]:
    """Be a driver of the job's cluster. A connection that the caller has already is used and left as it is.

    Args:
      echo: print here what actors print.

    Raises:
      ClusterError: the cluster cannot be joined; the message says how to find out why.
      UsageError: the address is a Ray client's.
    """
    # Told before Ray is imported: without a GPU that a worker asked for, its processes see the devices as they are.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
        return
    address = job.cluster.address or os.environ.get("RAY_ADDRESS")
    if address and address.startswith("ray://"):
        raise UsageError(
            f"[cluster] address must be the one of Ray's head, host:port, got {address!r}; run the command on a node of "
            "the cluster"
        )
    if job.cluster.detach and address is None:
        raise UsageError(
            "[cluster] detach: a private Ray ends with this command; give the address of a cluster (--address HOST:PORT)"
        )
    _import_while_asking(address)
    import ray

    _initialise(job, address, echo)
    try:
        yield
    finally:
        ray.shutdown()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _hush() -> None:
    """Ray prints what it thinks of dead workers, perhaps between JSON lines; the run says it in fewer words."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_arguments, **_options: None


def _echo_workers_only() -> None:
    """Leave out what Ray's own processes print, such as stack traces: Ray's own logs have it, for those who run the cluster."""
    from ray._private import worker

    if not hasattr(worker, "print_to_stdstream"):
        return
    show = worker.print_to_stdstream

    def echo(data: Mapping[str, Any], *arguments: Any, **options: Any) -> None:
        if str(data.get("pid", "")).isdigit():  # "raylet", "gcs_server", "autoscaler", …
            show(data, *arguments, **options)

    worker.print_to_stdstream = echo


def _import_while_asking(address: str | None) -> None:
    """Import Ray, which takes as long as another process takes to find out whether the cluster can be reached.

    Raises:
      UsageError, HogsheadError: see ``require_reachable``.
    """
    from deploy.cluster.reach import require_reachable

    asking = None
    if address is not None:
        pool = ThreadPoolExecutor(1, "ask")
        asking = pool.submit(require_reachable, address)
        pool.shutdown(wait=False)
    import deploy.cluster.coordinator_actor  # noqa: F401  what a driver needs next

    if asking is not None and asking.result():
        _present_token()


def _present_token() -> None:
    """Have Ray, which is imported already, present the token of this machine."""
    from ray._raylet import Config

    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")


def _initialise(job: Job, address: str | None, echo: bool) -> None:
    import ray

    if echo:
        _echo_workers_only()
    else:
        _hush()
    quiet = {"log_to_driver": echo, "logging_level": "ERROR", "configure_logging": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's, about what it will do differently some day
        if address is None:
            cluster = job.cluster
            wanted = job.workers.count * cluster.replica_cpus + job.shards.count * cluster.shard_cpus + 1
            try:
                with patient_start():
                    ray.init(
                        address="local",
                        num_cpus=max(int(wanted + 0.999), os.cpu_count() or 1),
                        include_dashboard=False,
                        object_store_memory=_OBJECT_STORE_BYTES,
                        **quiet,
                    )
            except Exception as error:
                raise ClusterError(
                    f"a private Ray could not be started on this machine: {_first_line(error)}; try again when it has less "
                    "to do, or start one with `ray start --head` and give its --address"
                ) from error
            return
        try:
            ray.init(address=address, **quiet)
        except Exception as error:
            raise ClusterError(
                f"the Ray cluster at {address} cannot be joined: {_first_line(error)}; `hogshead doctor --address "
                f"{address}` says what is missing"
            ) from error
