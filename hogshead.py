"""Hogshead: asynchronous SGD around sharded parameter servers. The public names, in one place.

Example:
  >>> import hogshead
  >>> result = hogshead.train(
  ...     task={"name": "mlp", "hidden": [32]},
  ...     data={"train": "sklearn:digits", "test_fraction": 0.2},
  ...     strategy="easgd",
  ...     stop={"epochs": 2},
  ... )  # doctest: +SKIP
  >>> result.evaluation["test_accuracy"], result.parameters  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

_PACKAGES = ("ps", "worker", "deploy")


def _refuse_shadows() -> None:
    """Say so, in words, when a user's own ``worker.py`` or ``ps.py`` hides one of our packages."""
    import importlib.util

    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        folders = list(spec.submodule_search_locations or []) if spec else []
        if any((Path(folder) / "__init__.py").is_file() and _is_ours(Path(folder), name) for folder in folders):
            continue
        found = spec.origin if spec and spec.origin else ", ".join(folders) or "nothing"
        raise ImportError(
            f"hogshead needs its own package {name!r}, but Python finds {found}, which comes first on sys.path; "
            f"rename that file or folder, or start Python from another folder"
        )


def _is_ours(folder: Path, name: str) -> bool:
    marker = {"ps": "shard.py", "worker": "coordinator.py", "deploy": "processes.py"}[name]
    return (folder / marker).is_file()


_refuse_shadows()

from ps.errors import (  # noqa: E402
    CheckpointError,
    DataError,
    HogsheadError,
    JobError,
    MemoryShortage,
    NonFiniteError,
    RunDirectoryError,
    TaskError,
    TransportError,
    UsageError,
    WorkerError,
)

if TYPE_CHECKING:
    import numpy as np

    from deploy.client.client import connect
    from deploy.progress import Observer
    from deploy.result import Result
    from ps.rows import Rows
    from worker.tasks.jax_task import jax_task
    from worker.tasks.torch_task import torch_task

__version__ = "0.1.0"


def train(
    job: str | Path | dict[str, Any] | None = None,
    *,
    set: dict[str, Any] | None = None,
    run: str | Path | None = None,
    resume: bool | str | Path = False,
    observer: Observer | None = None,
    quiet: bool = False,
    **sections: Any,
) -> Result:
    """Train a job and wait for it.

    Args:
      job: a job file, or its tables as a dict; or leave it out and give the sections as keywords.
      set: overrides, ``{"strategy.tau": 16}``.
      run: the run directory; by default ``runs/<name>-<number>`` in the working directory.
      resume: a run directory, to go on there from its newest checkpoint, with its own job unless another is given; True for that
        in ``run``; or a URL, to go on from the newest checkpoint at it in a new directory, with ``job`` a file or left out.
      observer: sees the records as they come; by default progress is shown on standard output.
      quiet: show nothing.
      sections: ``task=``, ``data=``, ``strategy=``, ``rule=``, …, as in a job file; a string is short for ``{"name": …}``.
        ``task`` may also be a class of yours; for a Ray cluster, one at the top level of a file.

    Returns:
      The result: ``parameters`` (name -> array), ``evaluation``, ``summary``, ``metrics``, ``run``, ``predict``.

    Raises:
      UsageError: something is wrong with the job or its data.
      HogsheadError: the run failed; what it had reached is in its run directory.
    """
    from deploy.launchers import run as run_job
    from deploy.output import lenient_output
    from deploy.progress import Observer as Silent
    from deploy.progress import observer_for

    resolved = _resolved(job, set, run, resume, sections)
    with lenient_output(), observer or (Silent() if quiet else observer_for(resolved)) as seen_by:
        result = run_job(resolved, seen_by)
    if result.error is not None:
        raise result.error
    return result


def _resolved(
    job: Any, set: dict[str, Any] | None, run: str | Path | None, resume: bool | str | Path, sections: Any
) -> Any:
    """The job to run, in its directory."""
    from worker.data.remote import is_url

    if is_url(resume):
        from deploy.resolve import overrides_of
        from deploy.resuming import job_of_mirror

        if sections or isinstance(job, dict):
            raise UsageError(
                "train: resume from a URL takes the job that lies there, or a job file; change it with set="
            )
        return job_of_mirror(resume, job, overrides_of(set), run)
    if isinstance(resume, (str, Path)):
        if run is not None and Path(run).expanduser().resolve() != Path(resume).expanduser().resolve():
            raise UsageError(
                f"train: a resumed run stays in its directory; leave run={str(run)!r} out, or copy {str(resume)!r} there first"
            )
        run, resume = resume, True
    if resume and run is None:
        raise UsageError('train: resume = True needs the run directory in run=; or say resume="runs/NAME"')
    if resume and job is None and not sections:
        from deploy.run_directory import require_run

        job = require_run(run) / "job.toml"
    resolved = load(job, set=set, **sections)
    return resolved if run is None else resolved.with_run(run, resume=bool(resume))


def load(job: str | Path | dict[str, Any] | None = None, *, set: dict[str, Any] | None = None, **sections: Any) -> Any:
    """Check and resolve a job without running it; arguments as in ``train``.

    Returns:
      The ``deploy.job.Job``; ``.to_toml()`` shows it whole.
    """
    from deploy.job import Job, load_job
    from deploy.resolve import overrides_of

    overrides = overrides_of(set)
    if isinstance(job, (str, Path)):
        if sections:
            raise UsageError(
                f"train: give either a job file or sections, got both ({', '.join(sections)}); use set= to override"
            )
        return load_job(job, overrides)
    return Job.from_dict({**(job or {}), **sections}, overrides=overrides)


def load_parameters(run: str | Path) -> dict[str, np.ndarray]:
    """The trained parameters of a run directory: name -> array."""
    from deploy.saving import load_parameters as load_run

    return load_run(Path(run))


# Imported when asked for, as they need numpy, or PyTorch, or JAX, or gRPC.
_LATER = {
    "connect": "deploy.client.client",
    "Rows": "ps.rows",  # for sparse gradients of one's own tasks
    "torch_task": "worker.tasks.torch_task",
    "jax_task": "worker.tasks.jax_task",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'hogshead' has no attribute {name!r}")


__all__ = [
    "CheckpointError",
    "DataError",
    "HogsheadError",
    "JobError",
    "MemoryShortage",
    "NonFiniteError",
    "Rows",
    "RunDirectoryError",
    "TaskError",
    "TransportError",
    "UsageError",
    "WorkerError",
    "connect",
    "jax_task",
    "load",
    "load_parameters",
    "torch_task",
    "train",
]
