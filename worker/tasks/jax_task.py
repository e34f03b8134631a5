"""A loss written in JAX, its initial parameters and a data set as a task, in one call."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ps.errors import TaskError, UsageError
from ps.extras import import_extra
from ps.rules.optax_rule import path_of, refuse_forking
from worker.data.dataset import Dataset, as_dataset
from worker.tasks import made
from worker.tasks.made_task import MadeTask


def jax_task(
    loss_fn: Callable[..., Any],
    init: Callable[..., Any],
    dataset: Any,
    *,
    test: Any = None,
    metrics: Callable[[Any, Any], Mapping[str, Any]] | None = None,
    predict: Callable[[Any, Any], Any] | None = None,
    load_inputs: Callable[[str], Any] | None = None,
    paths: Sequence[str] = (),
    name: str | None = None,
) -> type:
    """Make a task class of a loss in JAX.

    Assign it at the top level of a file, ``MyTask = jax_task(...)``, and name it ``file.py:MyTask`` in a job; or hand it to
    ``hogshead.train(task=...)``. The keyword options of ``init``, ``dataset`` and ``test`` become keys of the job's [task] and
    [data]; functions that name the same option get the same value. Call JAX only inside these functions, not while the file is
    imported: with the processes backend workers are forked.

    Args:
      loss_fn: ``loss_fn(parameters, batch)``, or ``loss_fn(parameters, batch, key)`` with a random key for dropout and the like:
        a scalar, the mean over the batch. Compiled; once more for the last, smaller batch of a range.
      init: ``init(key, **options)``: the initial parameters, a tree of floating-point arrays.
      dataset: the training examples: an array, a tuple or a dict of arrays, or a function of options that makes them.
      test: likewise, for evaluation.
      metrics: ``metrics(parameters, batch) -> {name: mean over the batch}``, compiled.
      predict: ``predict(parameters, inputs)``, for ``hogshead predict``.
      load_inputs: reads a file for it, default .npy, or .npz with an array x.
      paths: names of options that are file names, relative to the job file.
      name: of a class that has no file.

    Returns:
      A class that is a task (see ``worker.task.Task``). Parameters are named by their paths in the tree, such as ``layer1.bias``.

    Raises:
      UsageError: JAX is not installed, or the arguments do not go together.
    """
    import_extra("jax", "jax", "jax_task")
    for role, function in (("loss_fn", loss_fn), ("init", init)):
        if not callable(function):
            raise UsageError(f"jax_task: {role} must be a function, got {function!r}")
    functions = {"init": (init, 1), "dataset": (dataset, 0), "test": (test, 0)}
    signature = made.merge_options("jax_task", functions, {})
    made.check_paths("jax_task", paths, signature)
    label = name or made.title_of(loss_fn)
    doc = f"{made.first_line(loss_fn) or f'JAX loss {label}.'}\n\nOptions: {', '.join(signature.parameters) or 'none'}."
    given = {"loss_fn": loss_fn, "init": init, "dataset": dataset, "test": test, "metrics": metrics, "predict": predict}
    given["load_inputs"] = load_inputs
    return made.make_class(JaxTask, label, signature, sys._getframe(1), doc, given=given, paths=tuple(paths))


class JaxTask(MadeTask):
    """What ``jax_task`` makes subclasses of.

    Class attributes:
      isolated: JAX, once in use, does not survive forking.
    """

    isolated: ClassVar[bool] = True

    def __init__(self, **options: Any):
        self.options = made.bound_options(type(self), options)
        self.rng = np.random.default_rng(0)
        self._made_in = os.getpid()
        self._compiled: dict[str, Any] = {}
        self._data = as_dataset(_arrays(made.call_recipe(self.given["dataset"], self.options)))
        test = made.call_recipe(self.given["test"], self.options)
        self._test: Dataset | None = None if test is None else as_dataset(_arrays(test))
        self._keyed = len(inspect.signature(self.given["loss_fn"]).parameters) > 2

    def before_forking(self) -> None:
        """Raise UsageError if processes forked from this one could not compute."""
        refuse_forking("jax_task")

    # -- the tree -----------------------------------------------------------------------------------------------------

    def _init(self, key: Any) -> Any:
        return made.call_recipe(self.given["init"], self.options, key)

    def parameters(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The leaves of what ``init`` makes of a random key, by their paths."""
        import jax

        tree = self._init(jax.random.key(int(rng.integers(1 << 32))))
        found = {}
        for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            name = _name(keys)
            array = np.array(leaf)
            if array.dtype not in (np.float32, np.float64):
                raise TaskError(
                    f"jax_task: init must make arrays of float32 (or float64), got {array.dtype} for {name!r}; constants "
                    "belong into the loss"
                )
            found[name] = array
        if not found:
            raise TaskError("jax_task: init must make a tree with at least one array, got none")
        return found

    def _tree(self, parameters: Mapping[str, np.ndarray]) -> Any:
        """The arrays as the tree that ``init`` makes."""
        import jax

        if "tree" not in self._compiled:
            limit_threads(self._made_in)
            shapes = jax.eval_shape(self._init, jax.eval_shape(lambda: jax.random.key(0)))
            found, structure = jax.tree_util.tree_flatten_with_path(shapes)
            self._compiled["tree"] = ([_name(keys) for keys, _ in found], structure)
        names, structure = self._compiled["tree"]
        return structure.unflatten([parameters[name] for name in names])

    def _function(self, name: str, make: Callable[[], Any]) -> Any:
        """A compiled function, made when it is first asked for."""
        import jax

        if name not in self._compiled:
            self._compiled[name] = jax.jit(make())
        return self._compiled[name]

    # -- training -----------------------------------------------------------------------------------------------------

    def loss_and_gradient(
        self, parameters: Mapping[str, np.ndarray], batch: Any
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Mean loss of the batch, and its gradient by name."""
        import jax

        tree = self._tree(parameters)
        step = self._function("step", lambda: jax.value_and_grad(self.given["loss_fn"]))
        key = (jax.random.key(int(self.rng.integers(1 << 32))),) if self._keyed else ()
        loss, gradient = step(tree, batch, *key)
        leaves = jax.tree_util.tree_leaves(gradient)
        names = self._compiled["tree"][0]
        return float(loss), {name: np.asarray(leaf) for name, leaf in zip(names, leaves, strict=True)}

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def measure(self, parameters: Mapping[str, np.ndarray], batch: Any) -> dict[str, float]:
        """``loss`` and the metrics, means over the batch; a loss that takes a key gets a fixed one."""
        import jax

        tree = self._tree(parameters)
        key = (jax.random.key(0),) if self._keyed else ()
        found = {"loss": float(self._function("loss", lambda: self.given["loss_fn"])(tree, batch, *key))}
        if self.given["metrics"] is not None:
            metrics = self._function("metrics", lambda: self.given["metrics"])(tree, batch)
            found |= {str(name): float(value) for name, value in metrics.items()}
        return found

    def predict(self, parameters: Mapping[str, np.ndarray], inputs: Any) -> np.ndarray:
        """What the function ``predict`` makes of the inputs."""
        if self.given["predict"] is None:
            raise UsageError(f"task {type(self).__name__} cannot predict: give jax_task(..., predict=function)")
        return np.asarray(self._function("predict", lambda: self.given["predict"])(self._tree(parameters), inputs))


def limit_threads(made_in: int) -> None:
    """In a process forked from the one (its id) that made the task, a worker: compute in one thread, before JAX starts."""
    if os.getpid() != made_in:
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_cpu_multi_thread_eigen" not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


def _name(keys: Any) -> str:
    return path_of(keys) or "parameters"


def _arrays(value: Any) -> Any:
    """Arrays of JAX, and lists, as numpy's; JAX's default types have 32 bits."""
    if isinstance(value, Mapping):
        return {name: _arrays(entry) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_arrays(entry) for entry in value)
    return value if isinstance(value, Dataset) else np.asarray(value)
