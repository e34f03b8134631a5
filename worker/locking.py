"""How the sweeps of several replicas keep, or do not keep, out of each other's way.

``NONE`` is Hogwild! (Niu, Recht, Ré, Wright 2011, Algorithm 1); ``PER_VARIABLE`` is that paper's AIG: all variables of
an example are locked around line 3; ``ROUND_ROBIN`` is its RR: replicas compute gradients at will and update in turn;
``GLOBAL`` is one lock.

All words lie in shared memory and a replica may be killed at any instruction. So a lock names its owner, a waiting
kernel only spins, yields and reads again, and whoever supervises calls ``release_dead``: then everybody goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ps.atomics import compare_and_swap, load_acquire, relax, store_release
from ps.jit import njit

NONE, PER_VARIABLE, ROUND_ROBIN, GLOBAL = range(4)
MODES = {"none": NONE, "per_variable": PER_VARIABLE, "round_robin": ROUND_ROBIN, "global": GLOBAL}


@dataclass
class Locking:
    """The locks that a sweep uses.

    Attributes:
      mode: ``NONE``, ``PER_VARIABLE``, ``ROUND_ROBIN`` or ``GLOBAL``.
      owners: int32 (task.lockables,), for ``GLOBAL`` (1,): 0 where free, else the owner's ``worker + 1``.
      turn: int64 (1,), for ``ROUND_ROBIN``: twice the number of turns given so far, odd while an update is being done.
        Turn t belongs to worker ``t % len(order)``; as the word never repeats, nobody can mistake an old turn for a new
        one.
      order: int64 (workers,), 1 where the worker is inside a sweep and takes its turns, 0 where it is passed over.
        Kernels set and clear their own flag; a supervisor clears those of the dead.
      worker: index of this worker, 0 <= worker < len(order).
    """

    mode: int = NONE
    owners: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int32))
    turn: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    order: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    worker: int = 0

    @property
    def words(self) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, int]:
        """(mode, owners, turn, order, worker): the last arguments of every sweep kernel."""
        return self.mode, self.owners, self.turn, self.order, self.worker

    @staticmethod
    def sizes(mode: int, lockables: int, workers: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each array that ``mode`` needs, for placing them in shared memory."""
        owners = {PER_VARIABLE: lockables, GLOBAL: 1}.get(mode, 1)
        return {"owners": ((owners,), "int32"), "turn": ((1,), "int64"), "order": ((workers,), "int64")}

    def holders(self) -> set[int]:
        """Workers that others wait for, or may come to wait for: owners of locks, and the one whose turn it is."""
        held = {int(owner) - 1 for owner in self.owners[self.owners > 0]}
        if self.mode == ROUND_ROBIN:
            bearer = int(self.turn[0] >> 1) % self.order.size
            held |= {bearer} if self.order[bearer] else set()
        return held

    def release_dead(self, worker: int) -> int:
        """Free what a dead ``worker`` held, and take it out of the round. Returns the number of locks freed.

        To be called only when that worker's process is known to be gone, and before another takes its number.
        """
        self.order[worker] = 0
        held = np.flatnonzero(self.owners == worker + 1)
        self.owners[held] = 0
        return int(held.size)


@njit(nogil=True, cache=True)
def acquire(owners, index, worker):
    """Wait for the lock ``index`` and take it. Take several in ascending order only, or two workers wait for ever."""
    spins = 0
    while True:
        if load_acquire(owners, index) == 0 and compare_and_swap(owners, index, 0, worker + 1) == 0:
            return
        relax(spins)
        spins += 1


@njit(nogil=True, cache=True)
def release(owners, index):
    """Give the lock ``index`` back."""
    store_release(owners, index, 0)


@njit(nogil=True, cache=True)
def enter_round(turn, order, worker):
    """Take part in the round from now on."""
    word = load_acquire(turn, 0)
    if word & 1 == 1 and (word >> 1) % order.size == worker:
        # A former bearer of this number was killed inside its update: that turn is over.
        compare_and_swap(turn, 0, word, word + 1)
    store_release(order, worker, 1)


@njit(nogil=True, cache=True)
def leave_round(order, worker):
    """Be passed over from now on; others step over this worker's turns themselves."""
    store_release(order, worker, 0)


@njit(nogil=True, cache=True)
def await_turn(turn, order, worker):
    """Wait for this worker's turn and claim it, stepping over those who take no part (have left, or died in their
    turn)."""
    spins = 0
    while True:
        word = load_acquire(turn, 0)
        holder = (word >> 1) % order.size
        if holder == worker and word & 1 == 0:
            if compare_and_swap(turn, 0, word, word + 1) == word:
                return
        elif holder != worker and load_acquire(order, holder) == 0:
            # Either it waits for one who is away (even), or that one was killed inside its update (odd).
            compare_and_swap(turn, 0, word, (word | 1) + 1)
        relax(spins)
        spins += 1


@njit(nogil=True, cache=True)
def pass_turn(turn):
    """End this worker's turn; call it only between ``await_turn`` and the next."""
    store_release(turn, 0, turn[0] + 1)
