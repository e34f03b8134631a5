"""Shards to test, in private or shared memory, and processes forked beside them."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe  # only in tests: the product's ps and worker know no multiprocessing
from multiprocessing.connection import Connection
from types import MappingProxyType

import numpy as np

from ps.host import ShardPlan
from ps.layout import Layout
from ps.locks import LockFile
from ps.rules import SGD, Add
from ps.rules.base import UpdateRule
from ps.segment import SharedArrays, Specs
from ps.shard import Shard, ShardOptions, Stamp
from ps.state import State, build_state, initialise, private_arrays, state_specs

POISON = 666.0  # a gradient that starts with it kills the process that applies it, half-way


@dataclass(frozen=True)
class DiesInside(SGD):
    """Plain SGD whose process is killed inside the update, after half of the center, by a poisoned gradient."""

    def apply(self, center, slots, gradient, context):
        if gradient[0] == POISON:
            center[: center.size // 2] = POISON
            os.kill(os.getpid(), signal.SIGKILL)
        super().apply(center, slots, gradient, context)


def tensors(dtype: str = "float64", **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Named arrays of those shapes with values that all differ, from a fixed seed."""
    rng = np.random.default_rng(8)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def private_state(
    parameters: Mapping[str, np.ndarray],
    rule: UpdateRule | None = None,
    count: int = 1,
    *,
    averaged: tuple[str, ...] = (),
    sparse: tuple[str, ...] = (),
    **options,
) -> State:
    """Shards in this process's own memory, holding ``parameters``."""
    layout = Layout.of(parameters, averaged=averaged, sparse=sparse)
    chosen, settings = rule or Add(), ShardOptions(**options)
    state = build_state(layout, count, chosen, settings, private_arrays(state_specs(layout, count, chosen, settings)))
    initialise(state, parameters)
    return state


def shard_plans(
    parameters: Mapping[str, np.ndarray],
    rule: UpdateRule | None = None,
    count: int = 1,
    *,
    averaged: tuple[str, ...] = (),
    sparse: tuple[str, ...] = (),
    more: Specs = MappingProxyType({}),
    **options,
) -> list[ShardPlan]:
    """Of shards that lie apart."""
    layout, settings = Layout.of(parameters, averaged=averaged, sparse=sparse), ShardOptions(**options)
    return [ShardPlan(index, count, layout, rule or Add(), settings, more) for index in range(count)]


class SharedHost:
    """Shards in shared memory behind a lock file."""

    def __init__(self, parameters, rule=None, count=1, *, averaged=(), sparse=(), **options):
        self._build = (
            Layout.of(parameters, averaged=averaged, sparse=sparse),
            count,
            rule or Add(),
            ShardOptions(**options),
        )
        self.locks = LockFile("test")
        self.arrays = SharedArrays.create(state_specs(*self._build), "test")
        self._attached: list[SharedArrays] = []
        self.state = build_state(*self._build, self.arrays, self.locks.lock)
        initialise(self.state, parameters)

    def attach(self) -> State:
        """The same shards through another mapping of the segment."""
        self._attached.append(SharedArrays.attach(self.arrays.name))
        return build_state(*self._build, self._attached[-1], self.locks.lock)

    def close(self) -> None:
        for segment in (*self._attached, self.arrays):
            segment.close()
        self.locks.close()


@contextmanager
def shared_state(*args, **options) -> Iterator[State]:
    """As ``private_state``, in shared memory that is given back at the end."""
    host = SharedHost(*args, **options)
    try:
        yield host.state
    finally:
        host.close()


class Forked:
    """A process forked from this one that runs ``target(connection)`` and ends.

    Raises:
      AssertionError: (in ``join``) its target raised; the traceback is on its standard error.
    """

    def __init__(self, target: Callable[[Connection], object]):
        self.connection, theirs = Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside idle threads of numerical libraries
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                self.connection.close()
                target(theirs)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        theirs.close()
        self._status: int | None = None

    def wait(self) -> int:
        """Wait for its end: the exit code, or minus the signal that killed it."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.connection.close()
        return self._status

    def join(self) -> None:
        """Wait for its end, which must be a good one."""
        assert self.wait() == 0, "the forked process failed"

    def killed(self) -> bool:
        """Wait for its end: whether it was SIGKILL."""
        return self.wait() == -signal.SIGKILL

    def kill(self) -> None:
        """End it if it still lives."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


@contextmanager
def forked(*targets: Callable[[Connection], object]) -> Iterator[list[Forked]]:
    """One process per target; none outlives the block."""
    with ExitStack() as stack:
        children = []
        for target in targets:
            children.append(Forked(target))
            stack.callback(children[-1].kill)
        yield children


def stamp(sequence: int, replica: int = 0, incarnation: int = 1) -> Stamp:
    """A stamp, most often of replica 0."""
    return Stamp(replica, incarnation, sequence)


def push(shard: Shard, values, sequence: int, replica: int = 0, version: int = 0, **options):
    """Push a dense vector to a shard."""
    values = np.asarray(values, shard.center.dtype)
    return shard.push(values, stamp(sequence, replica), version=version, **options)


def until(condition: Callable[[], bool]) -> None:
    """Look again and again, letting others run; the test's own limit ends it where it never comes true."""
    while not condition():
        os.sched_yield()
