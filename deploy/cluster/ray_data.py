"""A Ray Data set as data of a task: ``hogshead.train(task=…, data={"train": dataset}, backend="ray")``.

Each column becomes one array in Ray's object store, of which a node gets one copy, that all tasks on it map. In the job the
option says ``ray-data://KEY``; an actor of that name keeps the arrays as long as the program that gave the data set is running.
The task's constructor is given a dict: name of the column -> array, which cannot be written.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from ps.errors import DataError, JobError

SCHEME = "ray-data://"
_NAMESPACE = "hogshead-data"
_SECTIONS = ("task", "data")


def is_dataset(value: object) -> bool:
    """Whether it is a ``ray.data.Dataset``; imports nothing."""
    module = sys.modules.get("ray.data")
    return module is not None and isinstance(value, module.Dataset)


def with_placed(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a job in which data sets have become names of placed ones.

    Raises:
      DataError: as ``columns``.
    """
    placed = dict(tables)
    for section in _SECTIONS:
        table = placed.get(section)
        if isinstance(table, Mapping):
            placed[section] = {key: place(value) if is_dataset(value) else value for key, value in table.items()}
    return placed


def require_ray(job: Any) -> None:
    """Refuse a job with a placed data set that could not be had where it runs.

    Raises:
      JobError: another backend, or a job that outlives the program that gave the data set.
    """
    names = [name for name, value in job.task_options.items() if _is_placed(value)]
    if names and job.backend != "ray":
        raise JobError(f'[data] {names[0]}: a Ray Data set needs backend = "ray", got {job.backend!r}')
    if names and job.cluster.detach:
        raise JobError(
            f"[cluster] detach: {names[0]} is a Ray Data set, which goes when this program ends; write it to files"
        )


def place(dataset: Any) -> str:
    """Put a data set's columns into the object store.

    Returns:
      What stands for it in a job.

    Raises:
      DataError: as ``columns``.
    """
    import ray

    key = uuid.uuid4().hex[:12]
    keeper = ray.remote(_Keeper).options(name=key, namespace=_NAMESPACE, num_cpus=0).remote()
    problem = ray.get(keeper.load.remote(dataset))
    if problem:
        ray.kill(keeper)
        raise DataError(problem)
    _kept.append(keeper)  # without a handle Ray would end the actor
    return SCHEME + key


def with_arrays(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a task in which placed data sets have become dicts of arrays.

    Raises:
      DataError: the data set is gone, or this process is not connected to the cluster that has it.
    """
    return {name: _arrays(name, value) if _is_placed(value) else value for name, value in options.items()}


def columns(dataset: Any) -> dict[str, np.ndarray]:
    """The columns of a data set as arrays (n, ...), by name.

    Raises:
      DataError: it has no row, a column that is not numeric, or one whose entries differ in shape.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
        for name, array in batch.items():
            parts.setdefault(name, []).append(array)
    if not parts:
        raise DataError("the Ray Data set holds no row")
    return {name: _whole(name, arrays) for name, arrays in parts.items()}


class _Keeper:
    """The actor that keeps the columns of one data set."""

    def __init__(self):
        self._refs: dict[str, Any] = {}

    def load(self, dataset: Any) -> str:
        """Put the columns into the object store; returns what is wrong with them, or nothing."""
        import ray

        try:
            self._refs = {name: ray.put(array) for name, array in columns(dataset).items()}
        except DataError as error:
            return str(error)
        return ""

    def refs(self) -> dict[str, Any]:
        """Name of the column -> reference to its array."""
        return self._refs


_kept: list[Any] = []


def _is_placed(value: object) -> bool:
    return isinstance(value, str) and value.startswith(SCHEME)


def _arrays(option: str, value: str) -> dict[str, np.ndarray]:
    gone = f"{option}: the Ray Data set of this job is gone, as it lives only as long as the program that gave it; give it again"
    try:
        import ray

        if not ray.is_initialized():
            raise ValueError("not connected")
        refs = ray.get(ray.get_actor(value.removeprefix(SCHEME), namespace=_NAMESPACE).refs.remote())
    except (ImportError, ValueError) as error:
        raise DataError(gone) from error
    except ray.exceptions.RayError as error:
        raise DataError(f"{gone} ({type(error).__name__})") from error
    return dict(zip(refs, ray.get(list(refs.values()))))


def _whole(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    try:
        whole = np.concatenate(arrays)
    except ValueError as error:
        raise DataError(f"the Ray Data set's column {name!r} has entries of different shapes: {error}") from error
    if whole.dtype.kind not in "buif":
        raise DataError(
            f"the Ray Data set's column {name!r} must be numeric, and its entries of one shape, got dtype {whole.dtype}; map it "
            "to numbers (map_batches), or drop it (drop_columns)"
        )
    return whole
