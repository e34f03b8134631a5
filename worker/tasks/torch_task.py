"""A PyTorch module, loss and data set as a task, in one call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ps.errors import DataError, TaskError, UsageError
from ps.extras import import_extra
from worker.data.dataset import Dataset
from worker.tasks import made
from worker.tasks.made_task import EVALUATION_BATCH, MadeTask

_OWN_OPTIONS = ("state_dict", "device")
_BUILD_SEED = 0  # of what a module draws that is neither trained nor averaged, the same in every process


def torch_task(
    module: Any,
    loss_fn: Callable[..., Any],
    dataset: Any,
    *,
    test: Any = None,
    metrics: Any = None,
    predict: Callable[[Any], Any] | None = None,
    load_inputs: Callable[[str], Any] | None = None,
    forward: Callable[[Any, Any], Any] | None = None,
    collate: Callable[[list], Any] | None = None,
    preload: bool = False,
    paths: Sequence[str] = (),
    state_dict: str | None = None,
    device: str = "auto",
    name: str | None = None,
) -> type:
    """Make a task class of a module, a loss and a data set.

    Assign it at the top level of a file, ``MyTask = torch_task(...)``, and name it ``file.py:MyTask`` in a job; or hand it to
    ``hogshead.train(task=...)``. The keyword options of ``module``, ``dataset`` and ``test`` become keys of the job's [task] and
    [data]; functions that name the same option get the same value.

    Args:
      module: makes the nn.Module: a function, or a class of modules. Or a module, whose values are where training begins.
      loss_fn: ``loss_fn(output, target)``, the mean over the batch. Of a batch that is a tuple the last entry is the target, the
        others are the module's arguments; any other batch is both.
      dataset: the training examples, or a function that makes them: a map-style torch Dataset, or a tensor or array, a tuple or a
        dict of them. Tensors and TensorDatasets are shared by all processes; of other data sets each has a copy.
      test: likewise, for evaluation.
      metrics: "accuracy", or a function ``(output, target) -> {name: mean over these examples}``.
      predict: what ``hogshead predict`` makes of outputs, e.g. ``lambda output: output.argmax(1)``; default: the outputs.
      load_inputs: reads a file for it, default .npy, or .npz with an array x.
      forward: ``forward(module, batch) -> output`` in place of calling the module.
      collate: makes a batch of a list of items, default torch's default_collate.
      preload: read the data set once at the start into arrays that all processes share; not for items drawn at random.
      paths: names of options that are file names, relative to the job file.
      state_dict: file (.pt, .safetensors) with the values to begin with; also an option of [task].
      device: "auto", "cpu", "cuda" or "cuda:N"; also an option of [task].
      name: of a class that has no file.

    Returns:
      A class that is a task (see ``worker.task.Task``). Float buffers of the module are averaged, integer ones stay in each
      process, frozen parameters are constants. A replica's generator seeds dropout and the like at each step.

    Raises:
      UsageError: PyTorch is not installed, or the arguments do not go together.
    """
    import_extra("torch", "torch", "torch_task")
    if not callable(loss_fn):
        raise UsageError(f"torch_task: loss_fn must be a function (output, target) -> loss, got {loss_fn!r}")
    if metrics is not None and metrics != "accuracy" and not callable(metrics):
        raise UsageError(
            f"torch_task: metrics must be 'accuracy' or a function (output, target) -> dict, got {metrics!r}"
        )
    recipes = {"module": module, "dataset": dataset, "test": test}
    own = dict(zip(_OWN_OPTIONS, (state_dict, device), strict=True))
    signature = made.merge_options("torch_task", {role: (recipe, 0) for role, recipe in recipes.items()}, own)
    made.check_paths("torch_task", paths, signature)
    label = name or made.title_of(module)
    doc = f"{made.first_line(module) or f'PyTorch module {label}.'}\n\nOptions: {', '.join(signature.parameters)}."
    given = {"recipes": recipes, "loss_fn": loss_fn, "metrics": metrics, "predict": predict, "load_inputs": load_inputs}
    given |= {"forward": forward, "collate": collate, "preload": preload}
    frame = sys._getframe(1)
    return made.make_class(TorchTask, label, signature, frame, doc, given=given, paths=(*paths, "state_dict"))


class TorchTask(MadeTask):
    """What ``torch_task`` makes subclasses of."""

    def __init__(self, **options: Any):
        from worker.tasks.torch_model import Model

        self.options = made.bound_options(type(self), options)
        self.rng = np.random.default_rng(0)
        #: Of the replica that this process is; the framework may set it. Replicas take turns at the devices.
        self.replica = 0
        self._made_in = self._placed_in = os.getpid()
        self._model = Model(self._build(_BUILD_SEED))
        self._placement: Any = None
        self.averaged, self.sparse, self.averaging = self._model.averaged, self._model.sparse, self._model.averaging
        self._data = self._examples("dataset")
        self._test = None if self.given["recipes"]["test"] is None else self._examples("test")
        if not self.sparse:  # of two ways to give gradients, the one that writes them in place
            self.loss_and_gradient_into = self._loss_and_gradient_into

    @property
    def isolated(self) -> bool:
        """A process that forks others must not compute with it: there are CUDA devices."""
        from worker.tasks.torch_device import cuda_devices

        return cuda_devices() > 0

    def before_forking(self) -> None:
        """Raise UsageError if processes forked from this one could not compute."""
        from worker.tasks.torch_device import refuse_forking

        refuse_forking(self.options["device"])

    # -- the module ---------------------------------------------------------------------------------------------------

    @classmethod
    def make_module(cls, options: Mapping[str, Any], seed: int = _BUILD_SEED) -> Any:
        """The module with the values it begins with, ``state_dict`` loaded; the same for the same seed."""
        import copy

        import torch

        recipe = cls.given["recipes"]["module"]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = made.call_recipe(recipe, _without_own(options))
        if not isinstance(module, torch.nn.Module):
            raise TaskError(
                f"torch_task: {made.title_of(recipe)} must make a torch.nn.Module, got {type(module).__name__}"
            )
        module = copy.deepcopy(module) if module is recipe else module
        if options.get("state_dict"):
            load_state_dict(module, options["state_dict"])
        return module

    def _build(self, seed: int) -> Any:
        return self.make_module(self.options, seed)

    def parameters(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Initial values: the trained parameters and the averaged buffers of the module, by their names in it."""
        from worker.tasks.torch_model import Model

        return Model(self._build(int(rng.integers(1 << 62)))).initial()

    def _placed(self) -> Any:
        """The model where this process computes with it."""
        from worker.tasks.torch_device import choose_device, limit_threads, placement_for

        if self._placement is None or self._placed_in != os.getpid():
            limit_threads(self._made_in)
            self._placement = placement_for(self._model, choose_device(self.options["device"], self.replica))
            self._placed_in = os.getpid()
        return self._placement

    # -- the examples -------------------------------------------------------------------------------------------------

    def _examples(self, role: str) -> Dataset:
        from worker.tasks.torch_data import as_examples

        source = made.call_recipe(self.given["recipes"][role], _without_own(self.options))
        return as_examples(source, self.given["collate"], self.given["preload"], self._draw, role)

    def _draw(self) -> int:
        return int(self.rng.integers(1 << 62))

    # -- training -----------------------------------------------------------------------------------------------------

    def loss_and_gradient(self, parameters: Mapping[str, np.ndarray], batch: Any) -> tuple[float, dict[str, Any]]:
        """Mean loss and gradient in training mode; ``Rows`` for the tables of sparse embeddings."""
        if not self.sparse:
            gradient = {name: np.empty_like(value) for name, value in parameters.items()}
            return self._loss_and_gradient_into(parameters, batch, gradient), gradient
        averages = {name: np.empty_like(parameters[name]) for name in self.averaged}
        loss, found = self._step(parameters, batch, None, averages)
        return loss, {**found, **averages}

    def _loss_and_gradient_into(
        self, parameters: Mapping[str, np.ndarray], batch: Any, gradient: Mapping[str, np.ndarray]
    ) -> float:
        return self._step(parameters, batch, gradient, gradient)[0]

    def _step(self, parameters, batch, gradient, averages) -> tuple[float, dict[str, Any]]:
        import torch

        from worker.tasks.torch_model import scalar_loss

        placed, model = self._placed(), self._model
        placed.bind(parameters)
        placed.seed(self._draw())
        batch = placed.place(batch)
        model.set_mode(True, _length(batch))
        before = model.buffers()
        with torch.enable_grad():
            loss = scalar_loss(self.given["loss_fn"](*self._output(batch)))
            found = placed.backward(loss, gradient)
        model.observed(before, averages, self.averaging)
        return float(loss.detach()), found

    def _output(self, batch: Any) -> tuple[Any, Any]:
        """The module's output for a batch, and the target."""
        module, forward = self._model.module, self.given["forward"]
        pair = isinstance(batch, tuple) and len(batch) > 1
        target = batch[-1] if pair else batch
        if forward is not None:
            return forward(module, batch), target
        return module(*batch[:-1]) if pair else module(batch), target

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def measure(self, parameters: Mapping[str, np.ndarray], batch: Any) -> dict[str, float]:
        """``loss`` and the metrics, means over the batch in evaluation mode."""
        import torch

        placed = self._placed()
        placed.bind(parameters)
        self._model.set_mode(False)
        with torch.no_grad():
            output, target = self._output(placed.place(batch))
            found = {"loss": float(self.given["loss_fn"](output, target))}
            metrics = self.given["metrics"]
            if metrics == "accuracy":
                found["accuracy"] = float((output.argmax(1) == target).double().mean())
            elif metrics is not None:
                found |= {str(key): float(value) for key, value in metrics(output, target).items()}
        return found

    def predict(self, parameters: Mapping[str, np.ndarray], inputs: Any) -> np.ndarray:
        """Predictions for inputs: an array or tensor (n, ...), or a tuple of them for a module of several arguments."""
        import torch

        placed = self._placed()
        placed.bind(parameters)
        self._model.set_mode(False)
        columns = inputs if isinstance(inputs, tuple) else (inputs,)
        found = []
        with torch.no_grad():
            for start in range(0, len(columns[0]), EVALUATION_BATCH):
                part = placed.place(tuple(column[start : start + EVALUATION_BATCH] for column in columns))
                output = self._model.module(*part)
                output = output if self.given["predict"] is None else self.given["predict"](output)
                found.append(output.cpu().numpy() if isinstance(output, torch.Tensor) else np.asarray(output))
        return np.concatenate(found)

    # -- to PyTorch ---------------------------------------------------------------------------------------------------

    @classmethod
    def export(cls, options: Mapping[str, Any], parameters: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The state_dict of the module with trained ``parameters``, from the task's options alone; reads no data."""
        from worker.tasks.torch_model import Model

        signature = {key: entry.default for key, entry in cls.__signature__.parameters.items()}  # type: ignore[attr-defined]
        model = Model(cls.make_module({**signature, **options}))
        model.load(parameters)
        return model.state_dict()


def load_state_dict(module: Any, path: str | Path) -> None:
    """Load values into a module, all of them.

    Args:
      path: a .safetensors file, or one that torch.save wrote of a state_dict.

    Raises:
      DataError: no such file, not a state_dict, or of another module.
    """
    import torch

    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            values = load_file(path)
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(values)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; it was named as state_dict") from None
    except Exception as error:  # torch and safetensors raise what they please for what is no such file
        shown = str(error).splitlines()
        raise DataError(
            f"{path}: cannot be loaded as a state_dict of {type(module).__name__}: {' '.join(shown)[:600]}"
        ) from None


def _without_own(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _OWN_OPTIONS}


def _length(batch: Any) -> int:
    """Examples in a batch; 0 if it does not say."""
    while isinstance(batch, (tuple, dict)) and batch:
        batch = batch[0] if isinstance(batch, tuple) else next(iter(batch.values()))
    shape = getattr(batch, "shape", ())
    return int(shape[0]) if len(shape) else 0
