"""Whether numbers are finite: no NaN, no infinity."""

from __future__ import annotations

import numpy as np

from ps.jit import njit
from ps.rows import Rows
from ps.stepper import Payload

# All bits of the exponent: set in a NaN and in an infinity, and in no finite number.
_EXPONENT = {
    np.dtype(np.float32): (np.uint32, np.uint32(0x7F80_0000)),
    np.dtype(np.float64): (np.uint64, np.uint64(0x7FF0_0000_0000_0000)),
}


def first_nonfinite(values: np.ndarray) -> int | None:
    """The index of the first NaN or infinity among ``values``, contiguous, float32 or float64; None if there is none."""
    flat = values.reshape(-1)
    bits, exponent = _EXPONENT[flat.dtype]
    if not _any_full(flat.view(bits), exponent):
        return None
    return int(np.argmin(np.isfinite(flat)))


def wrong_value(payload: Payload) -> str:
    """The first NaN or infinity in a payload, in words; empty if all values are finite."""
    parts = {"": payload} if isinstance(payload, np.ndarray) else payload
    for name, part in parts.items():
        values = (part.values if isinstance(part, Rows) else part).reshape(-1)
        index = first_nonfinite(values)
        if index is not None:
            return f"element {index}{f' of {name!r}' if name else ''} is {values[index]}"
    return ""


@njit(nogil=True, cache=True)
def _any_full(bits, exponent):
    """Any of ``bits`` (n,) has all bits of ``exponent``. Reads to the end: without a way out the loop is vectorised."""
    found = False
    for i in range(bits.size):
        found |= (bits[i] & exponent) == exponent
    return found
