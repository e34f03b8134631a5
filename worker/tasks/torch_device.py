"""Where a torch task computes: the CPU, or an accelerator that parameters and gradients travel to and from.

Transfers go through pinned host buffers on a stream of their own. On the way in, pieces of the parameters are on the bus while
the next are copied into the pinned buffer; on the way out, the gradient of a layer leaves as soon as it is there, while the
gradients of the layers before it are still being computed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from ps.errors import UsageError
from ps.rules.torch_rule import tensor_of
from worker.tasks.torch_model import Model, OnHost, gradient_entry, place

PIECE_BYTES = 4 << 20  # of a transfer to the device; large enough for the bus, small enough to overlap


def choose_device(name: str, replica: int = 0) -> Any:
    """The torch.device that ``name`` asks for.

    Args:
      name: "auto" (CUDA where there is a device, else the CPU), "cpu", "cuda" (replicas take turns), or "cuda:1".
      replica: that computes on it.

    Raises:
      UsageError: no such device here.
    """
    import torch

    count = cuda_devices()
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name == "cuda" and count:
        name = f"cuda:{replica % count}"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UsageError(f"torch_task: device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(
            f"torch_task: device is {name!r}, but PyTorch finds {count} CUDA device{'s' * (count != 1)} here; "
            "set [task] device = 'cpu' or 'auto'"
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"torch_task: device must be on the CPU or on CUDA, got {name!r}")
    return device


def cuda_devices() -> int:
    """CUDA devices that this process may use, counted without starting CUDA, which would not survive forking."""
    import torch

    return torch.cuda.device_count() if torch.backends.cuda.is_built() else 0


def placement_for(model: Model, device: Any) -> OnHost | OnAccelerator:
    """How ``model`` computes on ``device``."""
    return OnHost(model) if device.type == "cpu" else OnAccelerator(model, device)


class OnAccelerator:
    """The model on a device with memory of its own.

    All trained parameters lie in one flat vector there, so that they come in a few large transfers.

    Args:
      model: moved to the device.
      device: where. "cpu" does the same without pinned memory and streams, for tests.
    """

    def __init__(self, model: Model, device: Any):
        import torch

        self.model, self.device = model, device
        self._cuda = device.type == "cuda"
        model.module.to(device)
        self._size = sum(parameter.numel() for parameter in model.trained.values())
        self._lent = torch.empty(self._size, dtype=model.dtype, device=device)
        self._up = torch.empty(self._size, dtype=model.dtype, pin_memory=self._cuda)
        self._down = torch.empty(self._size, dtype=model.dtype, pin_memory=self._cuda)
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._slices: dict[str, slice] = {}
        self._arrived: dict[str, Any] = {}  # gradients of sparse tables, as they are
        self._dense: set[str] = set()  # parameters whose gradient is in, or on its way to, the buffer
        offset = 0
        for name, parameter in model.trained.items():
            part = self._slices[name] = slice(offset, offset + parameter.numel())
            parameter.data = self._lent[part].view(parameter.shape)
            parameter.register_post_accumulate_grad_hook(self._sender(name))
            offset = part.stop

    def bind(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Bring ``parameters`` to the device; returns once the module may be called."""
        begun = offset = 0
        piece = PIECE_BYTES // self._up.element_size()
        for name, part in self._slices.items():
            self._up[part].copy_(tensor_of(parameters[name]).reshape(-1))
            offset = part.stop
            if offset - begun >= piece:
                self._send(begun, offset)
                begun = offset
        self._send(begun, offset)
        self.model.load_buffers(parameters)
        if self._cuda:
            import torch

            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def _send(self, start: int, stop: int) -> None:
        with self._on_stream():
            self._lent[start:stop].copy_(self._up[start:stop], non_blocking=True)

    def _on_stream(self) -> Any:
        import torch

        return torch.cuda.stream(self._stream) if self._cuda else nullcontext()

    def seed(self, seed: int) -> None:
        """Seed what the module draws, here and on the device."""
        import torch

        torch.default_generator.manual_seed(seed)
        if self._cuda:
            torch.cuda.manual_seed(seed)

    def place(self, batch: Any) -> Any:
        """The batch as tensors on the device, floating-point ones in the model's dtype."""
        return place(batch, self.device, self.model.dtype, pin=self._cuda)

    def _sender(self, name: str) -> Any:
        """Called by the backward pass as soon as the gradient of ``name`` is there."""

        def send(parameter: Any) -> None:
            import torch

            value, parameter.grad = parameter.grad, None
            if value.is_sparse:
                self._arrived[name] = value
                return
            self._dense.add(name)
            if self._cuda:
                self._stream.wait_stream(torch.cuda.current_stream(self.device))
            with self._on_stream():
                self._down[self._slices[name]].copy_(value.reshape(-1), non_blocking=True)
            if self._cuda:
                value.record_stream(self._stream)  # its memory is not given to others before the copy has been made

        return send

    def backward(self, loss: Any, gradient: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
        """As ``OnHost.backward``."""
        self._arrived.clear()
        self._dense.clear()
        loss.backward()
        if self._cuda:
            self._stream.synchronize()
        found = {}
        for name, parameter in self.model.trained.items():
            value = self._arrived.get(name)
            if name in self._dense:
                value = self._down[self._slices[name]].view(parameter.shape)
            if gradient is None:
                entry = gradient_entry(value, parameter, name in self.model.sparse)
                found[name] = entry.copy() if isinstance(entry, np.ndarray) else entry
            elif value is None:
                gradient[name][...] = 0
            else:
                np.copyto(gradient[name], value.numpy(), casting="same_kind")
        return found


def refuse_forking(device: str) -> None:
    """Raise UsageError where processes forked from this one could not compute.

    CUDA, once started, does not survive forking; with a CUDA device in the machine, neither do the threads of a backward pass.
    """
    import torch

    if torch.cuda.is_initialized():
        raise UsageError(
            "torch_task: CUDA has been used in this process already, and workers forked from it could not use it; run `hogshead "
            "train JOB.toml`, or use CUDA inside the task's functions only"
        )
    choose_device(device)


def limit_threads(made_in: int) -> None:
    """In a process forked from the one (its id) that made the task, a worker: compute in one thread."""
    import torch

    if os.getpid() != made_in:
        torch.set_num_threads(1)
