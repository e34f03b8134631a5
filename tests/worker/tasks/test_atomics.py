"""Atomic words: nothing is lost between threads, and nonsense is refused when compiled."""

import threading

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from ps.atomics import atomic_add, compare_and_swap, load_acquire, store_release


@njit(nogil=True)
def add_many(words, count):
    for _ in range(count):
        atomic_add(words, 1, 3)


@njit(nogil=True)
def add_by_swapping(words, count):
    for _ in range(count):
        while True:
            found = load_acquire(words, 1)
            if compare_and_swap(words, 1, found, found + 3) == found:
                break


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("kernel", [add_many, add_by_swapping])
def test_no_addition_is_lost(kernel, dtype):
    words = np.array([7, 0, 7], dtype)
    threads = [threading.Thread(target=kernel, args=(words, 50_000)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert words.tolist() == [7, 450_000, 7]


@njit
def each(words):
    return (
        atomic_add(words, 0, 5),
        compare_and_swap(words, 0, 7, 9),
        compare_and_swap(words, 0, 7, 11),
        load_acquire(words, 0),
        store_release(words, 0, -1),
    )


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_what_each_returns(dtype):
    words = np.array([2], dtype)
    assert each(words)[:4] == (2, 7, 9, 9)
    assert words[0] == -1


@pytest.mark.parametrize(
    "bad", [np.zeros(2), np.zeros((2, 2), np.int64), np.zeros(2, np.int16), np.frombuffer(b"12345678", np.int64)]
)
def test_other_arrays_are_refused_when_compiled(bad):
    with pytest.raises(TypingError, match="one-dimensional int32 or int64"):
        add_many(bad, 1)
