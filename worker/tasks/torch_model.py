"""A module whose parameters lie in somebody else's vector: bound without copies on the CPU, staged to an accelerator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ps.errors import TaskError, UsageError
from ps.rows import Rows
from ps.rules.torch_rule import tensor_of

DEFAULT_AVERAGING = 0.1


class Model:
    """A module, and which of its tensors are trained, averaged or its own.

    Trained are the parameters that require gradients. Averaged are persistent floating-point buffers, such as the running
    statistics of batch normalisation. All else stays in the module as it was made: frozen parameters, integer buffers such as
    counts of batches, buffers that are not persistent.

    Args:
      module: changed in place from now on.

    Attributes:
      trained: name -> Parameter.
      averaged: names of buffers.
      sparse: names of tables of embeddings with sparse gradients.
      averaging: weight of a new observation: the momentum of the module's batch normalisation, if it has one.

    Raises:
      UsageError: nothing to train, or parameters of other dtypes than float32 or than float64.
    """

    def __init__(self, module: Any):
        import torch

        self.module = module
        _refuse_lazy(module)
        self.trained = {
            name: parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad and parameter.numel()
        }
        if not self.trained:
            raise UsageError(
                f"torch_task: {type(module).__name__} has no parameter that requires a gradient, so there is nothing to train"
            )
        dtypes = {parameter.dtype for parameter in self.trained.values()}
        if dtypes not in ({torch.float32}, {torch.float64}):
            raise UsageError(
                "torch_task: the parameters must all be float32 or all float64, got "
                f"{', '.join(sorted(map(str, dtypes)))}; call .float() on the module, and use torch.autocast in its forward "
                "for lower precision"
            )
        (self.dtype,) = dtypes
        self._owners = dict(_float_buffers(module))
        self.averaged = tuple(self._owners)
        _refuse_renormalised(module)
        tables = [
            f"{name}.weight".lstrip(".")
            for name, part in module.named_modules()
            if isinstance(part, (torch.nn.Embedding, torch.nn.EmbeddingBag)) and part.sparse
        ]
        self.sparse = tuple(name for name in tables if name in self.trained)
        self._norms = [part for part in module.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
        self._rested = False
        momenta = {part.momentum for part in self._norms if part.track_running_stats and part.momentum}
        self.averaging = float(min(momenta)) if momenta else DEFAULT_AVERAGING

    def initial(self) -> dict[str, np.ndarray]:
        """Copies of the trained and the averaged tensors as they are now, by name."""
        tensors = {**self.trained, **{name: getattr(*owner) for name, owner in self._owners.items()}}
        kind = str(self.dtype).removeprefix("torch.")
        return {name: tensor.detach().cpu().numpy().astype(kind) for name, tensor in tensors.items()}

    def load(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Copy values into the module's own tensors."""
        import torch

        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensor_of(parameters[name]))
        self.load_buffers(parameters)

    def load_buffers(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Copy the averaged values into the module's own buffers, which a forward pass may change."""
        import torch

        with torch.no_grad():
            for name, owner in self._owners.items():
                getattr(*owner).copy_(tensor_of(parameters[name]))

    def observed(self, before: Mapping[str, Any], gradient: Mapping[str, np.ndarray], averaging: float) -> None:
        """Write into ``gradient`` what would move each average as far as the module moved its buffer.

        With batch normalisation's own momentum as ``averaging`` that is the batch's statistic.

        Args:
          before: name -> the buffer before the forward pass, as ``buffers`` gave it.
        """
        for name, owner in self._owners.items():
            old = before[name]
            change = (getattr(*owner).detach() - old) / averaging
            np.copyto(gradient[name], (old + change).cpu().numpy(), casting="same_kind")

    def buffers(self) -> dict[str, Any]:
        """Copies of the averaged buffers."""
        return {name: getattr(*owner).detach().clone() for name, owner in self._owners.items()}

    def set_mode(self, training: bool, examples: int = 0) -> None:
        """Training or evaluation. One example has no variance: batch normalisation then uses its running statistics."""
        if self.module.training != training or self._rested:
            self.module.train(training)
            self._rested = False
        if training and examples == 1 and self._norms:
            self._rested = True
            for part in self._norms:
                part.eval()

    def state_dict(self) -> dict[str, Any]:
        """The module's state_dict, on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}


def _refuse_lazy(module: Any) -> None:
    from torch.nn.parameter import is_lazy

    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise UsageError(
                f"torch_task: {name!r} has no shape yet, because its module is lazy; give its sizes, or run one batch through "
                "it in the function that makes the module"
            )


def _refuse_renormalised(module: Any) -> None:
    import torch

    for name, part in module.named_modules():
        if isinstance(part, (torch.nn.Embedding, torch.nn.EmbeddingBag)) and part.max_norm is not None:
            raise UsageError(
                f"torch_task: {name!r} has max_norm, which writes into the parameters during the forward pass, but these are "
                "shared and only read; set it to None, and decay or clip instead"
            )


def _float_buffers(module: Any) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Name -> (owner, attribute) of the buffers to be averaged; looked up each time, as a module may replace them."""
    saved = set(module.state_dict())
    for name, buffer in module.named_buffers():
        if name in saved and buffer.is_floating_point() and buffer.numel():
            owner, _, attribute = name.rpartition(".")
            yield name, (module.get_submodule(owner), attribute)


class OnHost:
    """The model on the CPU: its parameters are the lent arrays themselves.

    Args:
      model: whose parameters are rebound.
    """

    def __init__(self, model: Model):
        self.model = model
        self._bound: Mapping[str, np.ndarray] | None = None
        self._arrays: list[np.ndarray] = []

    def bind(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Let the module compute with ``parameters``, which it does not write."""
        arrays = [parameters[name] for name in self.model.trained]
        if len(arrays) != len(self._arrays) or any(new is not old for new, old in zip(arrays, self._arrays)):
            for parameter, array in zip(self.model.trained.values(), arrays):
                parameter.data = tensor_of(array)
            self._arrays = arrays
        self.model.load_buffers(parameters)

    def seed(self, seed: int) -> None:
        """Seed what the module draws."""
        import torch

        torch.default_generator.manual_seed(seed)

    def place(self, batch: Any) -> Any:
        """The batch as tensors where the model is, floating-point ones in its dtype."""
        return place(batch, None, self.model.dtype)

    def backward(self, loss: Any, gradient: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
        """The gradient of ``loss``.

        Args:
          gradient: name -> array to be written, for a dense model.

        Returns:
          Without ``gradient``: name -> array, or ``Rows`` for sparse tables.
        """
        import torch

        trained = self.model.trained
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        if gradient is None:
            return {
                name: gradient_entry(value, parameter, name in self.model.sparse)
                for (name, parameter), value in zip(trained.items(), found)
            }
        for name, value in zip(trained, found):
            if value is None:
                gradient[name][...] = 0
            else:
                np.copyto(gradient[name], value.detach().numpy(), casting="same_kind")
        return {}


def gradient_entry(value: Any, parameter: Any, sparse: bool) -> np.ndarray | Rows:
    """A gradient as a task gives it: an array, or the rows that a batch touched, each once."""
    if sparse and value is not None and value.is_sparse:
        value = value.coalesce()
        return Rows(value.indices()[0].cpu().numpy(), value.values().cpu().numpy())
    if sparse and value is None:
        return Rows(
            np.zeros(0, np.int64), np.zeros((0, parameter.shape[1]), str(parameter.dtype).removeprefix("torch."))
        )
    if value is None:
        return np.zeros(tuple(parameter.shape), str(parameter.dtype).removeprefix("torch."))
    array = value.detach().cpu().numpy()
    return Rows(np.arange(len(array), dtype=np.int64), array) if sparse else array


def place(batch: Any, device: Any, dtype: Any, pin: bool = False) -> Any:
    """A batch of arrays or tensors, in tuples, lists or dicts, as tensors on ``device`` (None: the CPU)."""
    import torch

    if isinstance(batch, Mapping):
        return {name: place(entry, device, dtype, pin) for name, entry in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(place(entry, device, dtype, pin) for entry in batch)
    if isinstance(batch, np.ndarray):
        batch = tensor_of(batch)
    if not isinstance(batch, torch.Tensor):
        return batch
    if batch.is_floating_point() and batch.dtype != dtype:
        batch = batch.to(dtype)
    if device is None:
        return batch
    return (batch.pin_memory() if pin else batch).to(device, non_blocking=True)


def scalar_loss(loss: Any) -> Any:
    """The loss, if it is one number that depends on the parameters.

    Raises:
      TaskError: otherwise, with the remedy.
    """
    import torch

    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        got = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise TaskError(f"torch_task: loss_fn must return one number, the mean over the batch, as a tensor, got {got}")
    if not loss.requires_grad:
        raise TaskError("torch_task: the loss does not depend on any trained parameter; loss_fn must not detach it")
    return loss
