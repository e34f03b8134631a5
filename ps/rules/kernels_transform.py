"""Compiled loops of the wrappers: what happens to a gradient before its rule, or to the center beside it.

``given`` and ``out`` are (k, w), ``center`` is the table (R, w) and ``rows`` int64 (k,) as in ``ps.rules.kernels``;
scalars come in as arrays of the table's dtype, (1,) or (k, 1), for the reason given there.
"""

from __future__ import annotations

import math

import numpy as np

from ps.rules.kernels import kernel

TWO_PI = 2.0 * math.pi


@kernel
def sum_of_squares(gradient):
    """Σ g² of a vector in float64, in eight interleaved sums so that the additions overlap."""
    sums = np.zeros(8)
    whole = gradient.size - gradient.size % 8
    for i in range(0, whole, 8):
        for lane in range(8):
            value = np.float64(gradient[i + lane])
            sums[lane] += value * value
    for i in range(whole, gradient.size):
        value = np.float64(gradient[i])
        sums[0] += value * value
    return sums.sum()


@kernel
def scale(given, factor, out):
    """out = factor·g."""
    for j in range(given.shape[0]):
        g, o, a = given[j], out[j], factor[0]
        for i in range(g.size):
            o[i] = a * g[i]


@kernel
def clip(given, bound, out):
    """out = g limited to [−bound, bound]; a NaN stays one."""
    for j in range(given.shape[0]):
        g, o, top = given[j], out[j], bound[0]
        bottom = -top
        for i in range(g.size):
            low = bottom if g[i] < bottom else g[i]
            o[i] = top if low > top else low


@kernel
def add_center(given, center, rows, factor, out):
    """out = g + factor·x: the gradient of (factor/2)·‖x‖² added."""
    for j in range(given.shape[0]):
        g, o, x, a = given[j], out[j], center[rows[j]], factor[0]
        for i in range(g.size):
            o[i] = g[i] + a * x[i]


@kernel
def shrink(center, rows, factor):
    """x −= factor·x."""
    for j in range(rows.size):
        x, a = center[rows[j]], factor[0]
        for i in range(x.size):
            x[i] -= a * x[i]


@kernel
def average(center, mean, rows, weights):
    """z += a·(x − z), with a weight per row."""
    for j in range(rows.size):
        x, z, a = center[rows[j]], mean[rows[j]], weights[j, 0]
        for i in range(x.size):
            z[i] += a * (x[i] - z[i])


@kernel
def mixed(word):
    """Stafford's mix 13 (splitmix64's finaliser): a bijection of 64-bit words that makes counters look random."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's increment
MASK = 0xFFFFFFFFFFFFFFFF


def key(seed: int, step: int) -> np.uint64:
    """One 64-bit word for (seed, step), folded in through ``mixed`` so that neighbours have unrelated keys."""
    word = mixed(np.uint64(seed & MASK)) ^ (step * GOLDEN & MASK)
    return np.uint64(mixed(np.uint64(word)))


@kernel
def add_noise(given, rows, offset, key, deviation, out):
    """out = g + deviation·N(0, 1), each number a function of ``key`` and of the element's index in the whole vector.

    Index = offset + row·width + column. 64 hashed bits give two uniform numbers, Box and Muller's formula one normal
    number.
    """
    width = given.shape[1]
    for j in range(given.shape[0]):
        g, o, spread = given[j], out[j], deviation[0]
        first = offset + rows[j] * width
        for i in range(width):
            bits = mixed(key ^ mixed(np.uint64(first + i) + np.uint64(GOLDEN)))
            radius = (np.float64(bits >> np.uint64(32)) + 0.5) * 2.0**-32
            angle = np.float64(bits & np.uint64(0xFFFFFFFF)) * 2.0**-32
            normal = math.sqrt(-2.0 * math.log(radius)) * math.cos(TWO_PI * angle)
            o[i] = g[i] + spread * g.dtype.type(normal)
