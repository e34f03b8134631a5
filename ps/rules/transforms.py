"""Wrappers that change the gradient before the rule sees it: clipping, L2 weight decay, noise.

They copy the gradient block by block into a small scratch array of the call's own, so that any number of threads can
share a wrapper and no temporary has the size of the vector.

``build_rule`` nests all wrappers in this order, the outermost first: schedule, decoupled weight decay, clip by norm,
clip by value, noise, L2 weight decay, rule. So clipping sees what was pushed, and noise and regulariser are not
clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ps.rules import bounds, kernels_transform
from ps.rules.base import ROW_ZERO, Context, Slots, check_arrays, check_rows, part_of, require
from ps.rules.wrappers import Wrapper, chain, scalar

# Elements handled at a time: scratch and the arrays' blocks fit the second-level cache, and a call of Python per block
# is cheap.
BLOCK_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class GradientTransform(Wrapper):
    """Base of the wrappers that change the gradient before the rule sees it.

    Of a push that holds a row twice, both occurrences see the row as it was before the push (within one block).
    """

    def prepare(self, gradient: np.ndarray, context: Context) -> float:
        """A number for the whole gradient, computed before its first block."""
        return 0.0

    def transform(
        self, given: np.ndarray, center: np.ndarray, rows: np.ndarray, context: Context, number: float, out: np.ndarray
    ) -> None:
        """Write the changed ``given`` (k, w) into ``out`` (k, w).

        Args:
          given: gradients of ``rows``; not to be changed.
          center: (R, w), the table that ``rows`` (k,) index; a vector's block is a table of one row.
          context: with the offset of ``center[0]``.
          number: what ``prepare`` returned.
        """
        raise NotImplementedError

    def apply(self, center: np.ndarray, slots: Slots, gradient: np.ndarray, context: Context) -> None:
        check_arrays(self, center, gradient)
        number = self.prepare(gradient, context)
        scratch = np.empty(min(BLOCK_ELEMENTS, center.size), center.dtype)
        for start in range(0, center.size, BLOCK_ELEMENTS):
            stop = min(start + BLOCK_ELEMENTS, center.size)
            block, out, within = center[start:stop], scratch[: stop - start], part_of(context, start, stop)
            given = gradient[start:stop].reshape(1, -1)
            self.transform(given, block.reshape(1, -1), ROW_ZERO, within, number, out.reshape(1, -1))
            self.rule.apply(block, {name: slots[name][start:stop] for name in self.slots}, out, within)

    def apply_rows(
        self, center: np.ndarray, slots: Slots, rows: np.ndarray, gradients: np.ndarray, context: Context
    ) -> None:
        check_rows(self, center, rows, gradients)
        number = self.prepare(gradients, context)
        at_once = max(1, BLOCK_ELEMENTS // max(1, center.shape[1]))
        scratch = np.empty((min(at_once, rows.size), center.shape[1]), center.dtype)
        for start in range(0, rows.size, at_once):
            chosen = rows[start : start + at_once]
            out = scratch[: chosen.size]
            self.transform(gradients[start : start + at_once], center, chosen, context, number, out)
            self.rule.apply_rows(center, slots, chosen, out, context)


@dataclass(frozen=True)
class ClipByNorm(GradientTransform):
    """The gradient is scaled down to norm ``bound`` if it is longer: g·min(1, bound/‖g‖).

    The norm is ``context.gradient_norm``, that of the whole gradient over all shards, if the pusher said it; else
    that of what this call was given: one shard's part, or the rows of one table (a row that stands twice counts
    twice). torch adds 1e-6 to the norm; this does not. A gradient with a NaN becomes all NaN, so that it is noticed.

    Args:
      rule: the rule inside.
      bound: largest norm, > 0.

    Raises:
      UsageError: (at construction) it stands inside another wrapper of gradients, which hands it blocks and not the
      whole.

    References: Pascanu, Mikolov, Bengio 2013, Algorithm 1.
    """

    bound: float

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds.positive(self, "bound")

    def own_config(self) -> dict[str, Any]:
        return {"clip_norm": self.bound}

    def prepare(self, gradient: np.ndarray, context: Context) -> float:
        norm = context.gradient_norm
        if norm is None:
            norm = math.sqrt(kernels_transform.sum_of_squares(gradient.reshape(-1)))
        return 1.0 if norm <= self.bound else self.bound / norm

    def transform(self, given, center, rows, context, number, out) -> None:
        kernels_transform.scale(given, scalar(number, given), out)


@dataclass(frozen=True)
class _InsideClipByNorm(GradientTransform):
    """A transform that must not contain ``ClipByNorm``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        outside = not any(isinstance(inner, ClipByNorm) for inner in chain(self.rule))
        remedy = "wrap the other way round, ClipByNorm outside: this wrapper hands on blocks, not the whole gradient"
        require(outside, self, "rule", "free of ClipByNorm", remedy)


@dataclass(frozen=True)
class ClipByValue(_InsideClipByNorm):
    """Each element of the gradient is limited to [−bound, bound]; a NaN stays one.

    Equals ``torch.nn.utils.clip_grad_value_``.

    Args:
      rule: the rule inside.
      bound: largest size of an element, > 0.
    """

    bound: float

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds.positive(self, "bound")

    def own_config(self) -> dict[str, Any]:
        return {"clip_value": self.bound}

    def transform(self, given, center, rows, context, number, out) -> None:
        kernels_transform.clip(given, scalar(self.bound, given), out)


@dataclass(frozen=True)
class WeightDecay(_InsideClipByNorm):
    """L2 regularisation: decay·x is added to the gradient, as torch.optim's ``weight_decay`` does.

    Of a table only the rows that a push holds are regularised. Not for rules that add pushed updates: there it would
    make the center grow.

    Args:
      rule: the rule inside.
      decay: >= 0.
    """

    decay: float

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds.nonnegative(self, "decay")
        takes = self.rule.pushes == "gradient"
        remedy = "use decoupled_weight_decay, or decay in the local rule"
        require(takes, self, "rule", "a rule that takes gradients", remedy)

    def own_config(self) -> dict[str, Any]:
        return {"weight_decay": self.decay}

    def transform(self, given, center, rows, context, number, out) -> None:
        kernels_transform.add_center(given, center, rows, scalar(self.decay, given), out)


@dataclass(frozen=True)
class GradientNoise(_InsideClipByNorm):
    """Normal noise of variance eta/(1 + t)^gamma is added to each element of the gradient, t = ``context.step`` − 1.

    Each number is a function of (``context.seed``, ``context.step``, index in the whole vector): a vector split over
    shards gets the noise of the whole one, whatever the order, and a run that is resumed goes on with the same noise.
    A row that stands twice in a push gets the same noise twice.

    Args:
      rule: the rule inside.
      eta: variance at the first step, >= 0; the paper tries 0.01, 0.3 and 1.
      gamma: how fast the variance falls, >= 0.

    References: Neelakantan et al. 2015, section 3.
    """

    eta: float = 0.01
    gamma: float = 0.55

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds.nonnegative(self, "eta", "gamma")

    def own_config(self) -> dict[str, Any]:
        return {"noise": {"eta": self.eta, "gamma": self.gamma}}

    def transform(self, given, center, rows, context, number, out) -> None:
        deviation = math.sqrt(self.eta / float(context.step) ** self.gamma)
        key = kernels_transform.key(context.seed, context.step)
        kernels_transform.add_noise(given, rows, context.offset, key, scalar(deviation, given), out)
