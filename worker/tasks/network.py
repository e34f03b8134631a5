"""The layers of a multi-layer perceptron, forward and backward, and its losses.

A layer is ``activation(normalise(inputs @ weight + bias)) * mask``. With batch normalisation the bias is left out, as
the shift does its work. All arrays are two-dimensional, examples first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

EPSILON = 1e-5  # added to the variance in batch normalisation, as in Ioffe and Szegedy 2015 and torch


@dataclass
class Trace:
    """What one layer's forward pass keeps for its backward pass.

    Attributes:
      inputs: (m, inputs). activated: (m, outputs), after the activation. outputs: the same after dropout.
      mask: (m, outputs), 0 or 1/(1 - p); None without dropout.
      normalised: (m, outputs), before scale and shift; None without batch normalisation.
      inverse_deviation: (outputs,).
      observed: the batch's ``mean`` and ``variance`` for the running statistics.
      fixed: the statistics were the running ones, hence constants.
    """

    inputs: np.ndarray
    activated: np.ndarray
    outputs: np.ndarray
    mask: np.ndarray | None = None
    normalised: np.ndarray | None = None
    inverse_deviation: np.ndarray | None = None
    observed: dict[str, np.ndarray] = field(default_factory=dict)
    fixed: bool = False


@dataclass(frozen=True)
class Layer:
    """One layer and the names of its parameters.

    Attributes:
      name: prefix of its parameters: ``weight`` (inputs, outputs), and ``bias`` or, normalised, ``scale``, ``shift``
        and the averaged ``mean`` and ``variance``, (outputs,) each.
      activation: "relu", "tanh" or "none".
      normalise: batch normalisation between the product and the activation.
      dropout: probability that an output is dropped in training; the others are scaled up.
    """

    name: str
    activation: str = "relu"
    normalise: bool = False
    dropout: float = 0.0

    def forward(self, p: Mapping[str, np.ndarray], inputs: np.ndarray, rng: np.random.Generator | None) -> Trace:
        """Outputs for ``inputs`` (m, inputs): in training mode where ``rng`` is given, in evaluation mode where it is
        None."""
        h = inputs @ p[f"{self.name}.weight"]
        trace = Trace(inputs, h, h)
        if self.normalise:
            h = self._normalise(p, h, trace, training=rng is not None)
        else:
            h += p[f"{self.name}.bias"]
        if self.activation == "relu":
            np.maximum(h, 0, out=h)
        elif self.activation == "tanh":
            np.tanh(h, out=h)
        trace.activated = trace.outputs = h
        if self.dropout and rng is not None:
            trace.mask = (rng.random(h.shape, np.float32) >= self.dropout) * h.dtype.type(1 / (1 - self.dropout))
            trace.outputs = h * trace.mask
        return trace

    def _normalise(self, p: Mapping[str, np.ndarray], h: np.ndarray, trace: Trace, training: bool) -> np.ndarray:
        mean, variance = p[f"{self.name}.mean"], p[f"{self.name}.variance"]
        # One example has no variance: it is normalised by the running statistics and leaves them as they are.
        trace.fixed = not training or len(h) == 1
        if trace.fixed:
            trace.observed = {"mean": mean, "variance": variance}
            h -= mean
        else:
            mean = h.mean(0)
            h -= mean
            variance = np.einsum("ij,ij->j", h, h) / h.dtype.type(len(h))
            trace.observed = {"mean": mean, "variance": variance * h.dtype.type(len(h) / (len(h) - 1))}
        trace.inverse_deviation = 1 / np.sqrt(variance + h.dtype.type(EPSILON))
        h *= trace.inverse_deviation
        trace.normalised = h
        scaled = h * p[f"{self.name}.scale"]
        scaled += p[f"{self.name}.shift"]
        return scaled

    def backward(
        self,
        p: Mapping[str, np.ndarray],
        trace: Trace,
        slope: np.ndarray,
        gradient: Mapping[str, np.ndarray],
        wanted: bool,
    ) -> np.ndarray | None:
        """Write this layer's gradients into the arrays of ``gradient``; ``slope`` (m, outputs), by the outputs, is used
        up.

        Returns:
          The derivative by the inputs (m, inputs) if ``wanted``.
        """
        if trace.mask is not None:
            slope *= trace.mask
        if self.activation == "relu":
            slope *= trace.activated > 0
        elif self.activation == "tanh":
            slope *= 1 - trace.activated * trace.activated
        if self.normalise:
            slope = self._normalise_backward(p, trace, slope, gradient)
        else:
            np.sum(slope, axis=0, out=gradient[f"{self.name}.bias"])
        np.matmul(trace.inputs.T, slope, out=gradient[f"{self.name}.weight"])
        return slope @ p[f"{self.name}.weight"].T if wanted else None

    def _normalise_backward(
        self, p: Mapping[str, np.ndarray], trace: Trace, slope: np.ndarray, gradient: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        shift, scale = gradient[f"{self.name}.shift"], gradient[f"{self.name}.scale"]
        np.sum(slope, axis=0, out=shift)
        np.einsum("ij,ij->j", slope, trace.normalised, out=scale)
        for statistic, value in trace.observed.items():
            gradient[f"{self.name}.{statistic}"][...] = value
        if not trace.fixed:
            share = slope.dtype.type(1 / len(slope))
            slope -= shift * share
            slope -= trace.normalised * (scale * share)
        slope *= p[f"{self.name}.scale"] * trace.inverse_deviation
        return slope


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (m, classes) for logits (m, classes)."""
    found = np.exp(logits - logits.max(1, keepdims=True))
    found /= found.sum(1, keepdims=True)
    return found


def softmax_loss(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood of each example (m,) and its derivative by ``logits`` (m, classes); labels (m,) are
    integers."""
    everybody = np.arange(len(labels))
    shifted = logits - logits.max(1, keepdims=True)
    chosen = shifted[everybody, labels]
    np.exp(shifted, out=shifted)
    total = shifted.sum(1, keepdims=True)
    losses = np.log(total[:, 0]) - chosen
    shifted /= total
    shifted[everybody, labels] -= 1
    return losses, shifted


def squared_loss(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|outputs - targets|^2 / 2 of each example (m,) and its derivative by ``outputs`` (m, k)."""
    gap = outputs - targets
    return 0.5 * np.einsum("ij,ij->i", gap, gap), gap
