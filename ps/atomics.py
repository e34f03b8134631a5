"""Atomic words (and prefetches) for compiled code: what Hogwild!'s locks and the shards' counters are built of.

Numba has no atomics on the CPU, so these are LLVM instructions, emitted by name and therefore usable in kernels that
are cached on disk and that run without the GIL. They work on elements of int32 and int64 arrays, which may lie in
memory shared by several processes: a word is then one and the same to all of them.

Orders of memory: ``atomic_add``, ``compare_and_swap`` and ``atomic_or`` are sequentially consistent; ``load_acquire``
sees everything that was written before the ``store_release`` whose value it reads.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from ps.jit import njit

_WORDS = (types.int32, types.int64)


def _check(array, index, *values) -> None:
    if not isinstance(array, types.Array) or array.ndim != 1 or array.dtype not in _WORDS or not array.mutable:
        raise TypingError(f"atomics need a writable one-dimensional int32 or int64 array, got {array}")
    for value in (index, *values):
        if not isinstance(value, types.Integer):
            raise TypingError(f"atomics need integer indices and values, got {value}")


def _pointer(context, builder, signature, args):
    """LLVM pointer to ``array[index]``; negative indices do not wrap round."""
    array_type = signature.args[0]
    array = context.make_array(array_type)(context, builder, args[0])
    index = context.cast(builder, args[1], signature.args[1], types.intp)
    return cgutils.get_item_pointer(context, builder, array_type, array, [index], wraparound=False)


def _word(context, builder, signature, args, position):
    """``args[position]`` as the array's own integer type."""
    return context.cast(builder, args[position], signature.args[position], signature.args[0].dtype)


@intrinsic
def atomic_add(typingctx, array, index, value):
    """``array[index] += value`` in one step; returns the value before it."""
    _check(array, index, value)

    def emit(context, builder, signature, args):
        pointer = _pointer(context, builder, signature, args)
        return builder.atomic_rmw("add", pointer, _word(context, builder, signature, args, 2), "seq_cst")

    return array.dtype(array, index, value), emit


@intrinsic
def compare_and_swap(typingctx, array, index, expected, new):
    """Set ``array[index] = new`` if it equals ``expected``; returns the value found (``expected`` means it was set)."""
    _check(array, index, expected, new)

    def emit(context, builder, signature, args):
        pointer = _pointer(context, builder, signature, args)
        words = [_word(context, builder, signature, args, position) for position in (2, 3)]
        pair = builder.cmpxchg(pointer, *words, "seq_cst", "seq_cst")
        return builder.extract_value(pair, 0)

    return array.dtype(array, index, expected, new), emit


@intrinsic
def load_acquire(typingctx, array, index):
    """``array[index]``, read anew from memory each time and before any later access."""
    _check(array, index)

    def emit(context, builder, signature, args):
        pointer = _pointer(context, builder, signature, args)
        return builder.load_atomic(pointer, "acquire", array.dtype.bitwidth // 8)

    return array.dtype(array, index), emit


@intrinsic
def store_release(typingctx, array, index, value):
    """``array[index] = value``, after every earlier access has been done."""
    _check(array, index, value)

    def emit(context, builder, signature, args):
        pointer = _pointer(context, builder, signature, args)
        word = _word(context, builder, signature, args, 2)
        builder.store_atomic(word, pointer, "release", array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, value), emit


@intrinsic
def prefetch(typingctx, array, index):
    """Ask for the cache line of ``array[index]`` (one-dimensional), without waiting; no harm where the index is out of
    bounds."""

    def emit(context, builder, signature, args):
        pointer = _pointer(context, builder, signature, args)
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        for_reading, keep, data = word(0), word(3), word(1)
        builder.call(function, [builder.bitcast(pointer, byte), for_reading, keep, data])
        return context.get_dummy_value()

    return types.void(array, index), emit


@intrinsic
def pause(typingctx):
    """Tell the processor that this is a spin loop (x86 ``pause``; nothing elsewhere)."""

    def emit(context, builder, signature, args):
        if "x86" in builder.module.triple:
            kind = ir.FunctionType(ir.VoidType(), ())
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), ())
        return context.get_dummy_value()

    return types.void(), emit


# Resolved by name in the process's C library when the (perhaps cached) code is loaded, hence no pointer goes stale.
sched_yield = types.ExternalFunction("sched_yield", types.int32())


@njit(nogil=True, cache=True)
def relax(spins):
    """Wait a little inside a spin loop: a pause at first, and from 200 ``spins`` on the processor is given to
    others."""
    if spins < 200:
        pause()
    else:
        sched_yield()


@njit(nogil=True, cache=True)
def fetch_add(array, index, value):
    """``atomic_add`` for callers that are not compiled themselves."""
    return atomic_add(array, index, value)
