"""What a task is: the page to read before writing one of your own.

A task is a class in a file of yours, named in the job as ``name = "path/to/file.py:MyTask"``; numpy is all it needs.
The whole of one, a linear regression::

    import numpy as np

    class MyTask:
        def __init__(self, noise: float = 0.1):        # keyword options: keys of [task] and [data] in the job
            rng = np.random.default_rng(0)
            self.x = rng.standard_normal((1000, 5))
            self.y = self.x @ np.arange(5.0) + noise * rng.standard_normal(1000)

        def parameters(self, rng):
            return {"w": np.zeros(5, np.float32)}

        def dataset(self):
            return self.x, self.y

        def loss_and_gradient(self, parameters, batch):
            x, y = batch
            gap = x @ parameters["w"] - y
            return 0.5 * np.mean(gap ** 2), {"w": x.T @ gap / len(y)}

        def evaluate(self, parameters):
            return {"rmse": float(np.sqrt(np.mean((self.x @ parameters["w"] - self.y) ** 2)))}

Four methods are needed, everything else of ``OptionalMembers`` is for those who want it. What may be relied on:

- ``parameters`` are views of one flat vector (float32, or float64 if all initial values are), which other workers may
  be changing at that moment. Read them; only ``sweep`` writes them.
- The task may be made anew in every process from the same options, so it must come out the same each time: draw with
  seeds of your own.
- Arrays of ``dataset()`` are moved to shared memory; batches are copies.
- An option whose name stands in ``paths`` is a file name: a relative one is made relative to the job file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ps.errors import TaskError
from ps.rows import Rows
from worker.data.dataset import Dataset, as_dataset
from worker.data.finite import not_finite_in_batch
from worker.data.sparsity import Sparsity
from worker.locking import Locking

CHECK_EXAMPLES = 8  # examples of the batch that check_task tries


@runtime_checkable
class Task(Protocol):
    """What every task has."""

    def parameters(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Initial values by name; their shapes define the layout. ``rng`` is seeded by the job."""

    def dataset(self) -> Any:
        """The training examples: a ``Dataset``, a dict of arrays, a tuple of arrays such as (x, y), or any object with
        ``__len__`` and ``__getitem__(int64 array)``; see ``as_dataset`` for what a batch then is."""

    def loss_and_gradient(
        self, parameters: Mapping[str, np.ndarray], batch: Any
    ) -> tuple[float, dict[str, np.ndarray | Rows]]:
        """Mean loss over the batch, and for every parameter its gradient, of the parameter's shape.

        For a name in ``sparse`` the gradient is a ``Rows``; for a name in ``averaged`` it is the value observed in this
        batch.
        """

    def evaluate(self, parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
        """How good the parameters are, by name, on the test set and the like; may be empty. In evaluation mode."""


class OptionalMembers(Protocol):
    """What a task may have besides; the framework looks with ``hasattr``.

    Attributes:
      averaged: names of running statistics. The shards average what ``loss_and_gradient`` observed and never step them.
      averaging: weight of a new observation in them, in (0, 1]; 0.1 if not given.
      sparse: names of tables whose gradients touch only some rows.
      lockables: number of variables that AIG can lock: the length of ``locking.owners``.
      paths: names of constructor options that are file names.
      rng: generator for what the task draws while training (dropout); the framework sets one per replica.
      replica: id of the replica that this process is; the framework sets it where the task has it.
      model_size: what decides how large the parameters are, for messages, such as "[task] hidden".
      isolated: the library that the task computes with does not survive forking. A launcher that forks calls ``parameters`` and
        ``loss_and_gradient`` in a child only, and ``before_forking`` first, which may raise a UsageError.
    """

    averaged: tuple[str, ...]
    averaging: float
    sparse: tuple[str, ...]
    lockables: int
    paths: tuple[str, ...]
    rng: np.random.Generator
    replica: int
    model_size: str
    isolated: bool

    def working_bytes(self, examples: int) -> int:
        """Memory that a gradient over so many examples takes besides the gradient itself."""

    def before_forking(self) -> None:
        """Refuse to run where processes forked from this one could not compute."""

    def loss_and_gradient_into(
        self, parameters: Mapping[str, np.ndarray], batch: Any, gradient: Mapping[str, np.ndarray]
    ) -> float:
        """As ``loss_and_gradient`` for dense tasks, the gradient written over the arrays of ``gradient``."""

    def measure(self, parameters: Mapping[str, np.ndarray], batch: Any) -> dict[str, float]:
        """Means over the batch in evaluation mode, ``loss`` among them; for the validation split. Default: the loss of
        ``loss_and_gradient``."""

    def sweep(
        self, parameters: Mapping[str, np.ndarray], examples: np.ndarray, step_size: float, locking: Locking
    ) -> float:
        """Hogwild!'s loop over ``examples`` (int64), writing into ``parameters``. Returns the sum of the examples'
        losses, each before its own update."""

    def sparsity(self) -> Sparsity:
        """Omega, Delta and rho of the training examples: whether Hogwild! fits them."""

    def difficulty(self) -> np.ndarray:
        """Difficulty of each example (n,), low is easy; for a curriculum."""

    def baseline(self) -> dict[str, float]:
        """Values of some of ``evaluate``'s metrics for a model that knows no feature, such as the accuracy of the most
        frequent class; a run warns at its end if its model is no better."""

    def notes(self) -> list[str]:
        """Lines to show at the start of a run: what the task found in its data."""

    def predict(self, parameters: Mapping[str, np.ndarray], inputs: Any, output: str | None = None) -> np.ndarray:
        """Predictions for what ``load_inputs`` returned. A classifier may take ``output``, "label", "score" or
        "probability"; a task without that argument predicts one thing only."""

    def load_inputs(self, path: str) -> Any:
        """Read what is to be predicted."""

    def input_notes(self) -> list[str]:
        """Lines to show with predictions: what the task found in the file that ``load_inputs`` read last."""

    def rows_digest(self) -> str:
        """Text that changes with what the rows of the parameters stand for, such as the users of the training data. A
        checkpoint holds it, and is refused where the data have become others."""


def check_task(task: Task, dataset: Dataset | None = None, seed: int = 0) -> float:
    """Try a task on its first few examples, before any worker is started.

    Args:
      task: the task.
      dataset: its data set, if it has been made already.
      seed: of the initial parameters.

    Returns:
      The loss of that batch.

    Raises:
      TaskError: parameters that are no float arrays, or not finite; an unknown name in ``averaged`` or ``sparse``; a
        loss that is no number; gradients with a name missing or unknown, of another shape, of the wrong kind, or not
        finite. What the task itself raises is passed on.
      UsageError: a data set that is none.
    """
    name = type(task).__name__
    parameters = task.parameters(np.random.default_rng(seed))
    _check_parameters(name, parameters)
    averaged, sparse = tuple(getattr(task, "averaged", ())), tuple(getattr(task, "sparse", ()))
    for member, names in (("averaged", averaged), ("sparse", sparse)):
        for unknown in set(names) - set(parameters):
            raise TaskError(
                f"{name}: {member} names {unknown!r}, which is no parameter; there are: {', '.join(parameters)}"
            )
    dataset = as_dataset(task.dataset()) if dataset is None else dataset
    batch = dataset.take(np.arange(min(CHECK_EXAMPLES, len(dataset)), dtype=np.int64))
    found = not_finite_in_batch(batch, np.arange(min(CHECK_EXAMPLES, len(dataset))))
    loss = check_result(task, parameters, task.loss_and_gradient(parameters, batch), found)
    if hasattr(task, "loss_and_gradient_into"):
        gradient = {key: np.empty_like(value) for key, value in parameters.items()}
        check_result(task, parameters, (task.loss_and_gradient_into(parameters, batch, gradient), gradient), found)
    return loss


def check_result(task: Task, parameters: Mapping[str, np.ndarray], result: Any, found: str | None = None) -> float:
    """Check what ``loss_and_gradient`` returned against the parameters; returns the loss.

    Args:
      found: what in the batch is not finite, in words.

    Raises:
      TaskError: see ``check_task``.
    """
    name = type(task).__name__
    because = f": {found}; mend the data" if found else ""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
        raise TaskError(f"{name}.loss_and_gradient must return (loss, dict of gradients), got {_kind(result)}")
    loss, gradient = result
    try:
        value = float(loss)
    except (TypeError, ValueError):
        raise TaskError(
            f"{name}.loss_and_gradient: the loss must be one number, the mean over the batch, got {_kind(loss)}"
        ) from None
    if not np.isfinite(value):
        raise TaskError(
            f"{name}.loss_and_gradient: the loss must be finite, got {value} at the initial parameters{because}"
        )
    missing, unknown = sorted(set(parameters) - set(gradient)), sorted(set(gradient) - set(parameters))
    if missing or unknown:
        raise TaskError(
            f"{name}.loss_and_gradient: the gradients must have the parameters' names; "
            f"missing: {', '.join(missing) or 'none'}, unknown: {', '.join(unknown) or 'none'}"
        )
    for key, entry in gradient.items():
        if key in getattr(task, "sparse", ()):
            _check_rows(name, key, entry, parameters[key])
        elif np.ma.is_masked(entry):
            raise TaskError(
                f"{name}.loss_and_gradient: the gradient of {key!r} must not be a masked array, as its mask would be lost; "
                "return gradient.filled(0)"
            )
        elif not isinstance(entry, np.ndarray) or entry.shape != parameters[key].shape:
            raise TaskError(
                f"{name}.loss_and_gradient: the gradient of {key!r} must be an array of shape {parameters[key].shape}, "
                f"got {_kind(entry)}"
            )
        values = entry.values if isinstance(entry, Rows) else entry
        if not np.isfinite(values).all():
            raise TaskError(
                f"{name}.loss_and_gradient: the gradient of {key!r} is not finite at the initial parameters{because}"
            )
    return value


def _check_parameters(name: str, parameters: Any) -> None:
    if not isinstance(parameters, Mapping) or not parameters:
        raise TaskError(
            f"{name}.parameters must return a dict of name to array with at least one entry, got {_kind(parameters)}"
        )
    for key, value in parameters.items():
        if np.ma.is_masked(value):
            raise TaskError(f"{name}.parameters: {key!r} must not be a masked array; return {key}.filled(value)")
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            raise TaskError(f"{name}.parameters: {key!r} must be an array of float32 or float64, got {_kind(value)}")
        if not np.isfinite(value).all():
            raise TaskError(f"{name}.parameters: {key!r} must be finite")


def _check_rows(name: str, key: str, entry: Any, table: np.ndarray) -> None:
    if not isinstance(entry, Rows):
        raise TaskError(
            f"{name}.loss_and_gradient: {key!r} stands in sparse, so its gradient must be "
            f"Rows(rows, values), got {_kind(entry)}"
        )
    if not np.issubdtype(entry.rows.dtype, np.integer):
        raise TaskError(f"{name}.loss_and_gradient: the rows of {key!r} must be integers, got dtype {entry.rows.dtype}")
    if entry.size and not (0 <= entry.rows.min() and entry.rows.max() < len(table)):
        raise TaskError(
            f"{name}.loss_and_gradient: the rows of {key!r} must be in [0, {len(table)}), "
            f"got {entry.rows.min()} to {entry.rows.max()}"
        )
    if entry.values.size != entry.size * (table[:1].size):
        raise TaskError(
            f"{name}.loss_and_gradient: the values of {key!r} must be "
            f"{(entry.size, table[:1].size)}, got {entry.values.shape}"
        )


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"{type(value).__name__} {value!r}"[:120]
