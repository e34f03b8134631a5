"""Trying a task out in a process of its own, where the one that will fork must not: CUDA and JAX, once in use, do not survive."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from deploy.job import Job
from ps import errors
from ps.errors import HogsheadError, TaskError, UsageError, shortened
from ps.rules.base import UpdateRule

Arrays = Mapping[str, np.ndarray]
_FORK = multiprocessing.get_context("fork")


def is_isolated(job: Job, task: Any, local_rule: UpdateRule | None = None) -> bool:
    """The launcher of this job must not compute with the task or the rule, because it forks."""
    if job.backend != "processes":
        return False
    return bool(getattr(task, "isolated", False)) or (local_rule is not None and local_rule.isolated)


def refuse_unforkable(job: Job, task: Any, local_rule: UpdateRule | None) -> None:
    """Raise UsageError where workers forked from this process could not compute."""
    for part in (task, local_rule):
        if job.backend == "processes" and getattr(part, "isolated", False) and hasattr(part, "before_forking"):
            part.before_forking()


def examiner(job: Job, task: Any) -> Callable[[Callable[[], Arrays]], Arrays]:
    """How the launcher calls a task: here, or in a child."""
    return in_child if is_isolated(job, task) else lambda function: function()


def in_child(function: Callable[[], Arrays]) -> dict[str, np.ndarray]:
    """Call ``function`` in a forked process and return copies of the arrays that it returns.

    Raises:
      UsageError, HogsheadError: as ``function`` raised them. TaskError: it returned something else than arrays by name, raised
        something else, or the process died.
    """
    ours, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_answer, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        answer, arrays = json.loads(ours.recv_bytes()), ours.recv_bytes()
    except KeyboardInterrupt:
        process.kill()
        raise
    except EOFError:
        process.join()
        raise TaskError(f"the task, tried out in a process of its own, {_end(process.exitcode)}") from None
    finally:
        ours.close()
        process.join()
    if "type" in answer:
        raise getattr(errors, answer["type"])(answer["message"])
    found = load(arrays)
    return {name: found[name] for name in answer["names"]}


def _answer(function: Callable[[], Arrays], connection: Connection) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # end in silence: the launcher says what happened
        signal.signal(number, signal.SIG_DFL)
    arrays: Arrays = {}
    try:
        arrays = function()
        if not isinstance(arrays, Mapping) or not all(isinstance(value, np.ndarray) for value in arrays.values()):
            raise TaskError("the task's parameters must return a dict of numpy arrays by name")
    except (HogsheadError, UsageError) as found:
        known = type(found).__name__ if hasattr(errors, type(found).__name__) else "TaskError"
        answer, arrays = {"type": known, "message": str(found)}, {}
    except Exception as found:
        answer, arrays = {"type": "TaskError", "message": f"{type(found).__name__}: {shortened(str(found))}"}, {}
    else:
        answer = {"names": list(arrays)}  # safetensors does not keep their order, which is the layout's
    connection.send_bytes(json.dumps(answer).encode())
    connection.send_bytes(save({name: np.array(value, order="C") for name, value in arrays.items()}))
    connection.close()
    os._exit(0)  # the launcher's own exit handlers, inherited by the fork, are not this process's business


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by signal {-code}"
    return f"ended without an answer, with code {code}"
