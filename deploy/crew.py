"""The processes of a run: workers and the evaluator, started by forking, watched, replaced and ended.

Forking gives a worker the task, the data and the compiled code without copying or importing anything. It happens from a process
that has no other thread of ours.
"""

from __future__ import annotations

import errno
import multiprocessing
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from deploy.evaluator import evaluator_main
from deploy.interruption import Interruption
from deploy.setup import Setup
from deploy.worker_process import receive, send, worker_main
from ps.errors import WorkerError

_FORK = multiprocessing.get_context("fork")
EVALUATOR = -1


@dataclass
class Member:
    """One process.

    Attributes:
      process, connection: the launcher's ends of it.
      error: the last error it has reported, as its message.
      finished: it has ended by itself, as it should.
    """

    process: BaseProcess
    connection: Connection
    error: dict[str, Any] | None = None
    finished: bool = False
    eof: bool = field(default=False)


class Crew:
    """Worker processes by replica id, and the evaluator as ``EVALUATOR``.

    Args:
      setup: what the processes inherit. interruption: what may end a wait for messages.
    """

    def __init__(self, setup: Setup, interruption: Interruption):
        self.setup = setup
        self._interruption = interruption
        self.members: dict[int, Member] = {}
        self._mail = setup.arrays["mail"]

    def start_worker(self, replica: int, incarnation: int, restored: Any = None) -> None:
        """Fork the process that is ``replica`` from now on."""
        self._mail[replica] = 0
        self._start(replica, worker_main, (self.setup, replica, incarnation), restored)

    def start_evaluator(self) -> None:
        """Fork the evaluator."""
        self._start(EVALUATOR, evaluator_main, (self.setup,))

    def _start(self, key: int, target: Any, arguments: tuple, *more: Any) -> None:
        try:
            ours, theirs = _FORK.Pipe()
            process = _FORK.Process(target=target, args=(*arguments, theirs, *more), daemon=True)
            with warnings.catch_warnings():
                # Python >= 3.12 warns of forking beside other threads; the only ones here are idle pools of numerical libraries.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
        except OSError as error:
            raise WorkerError(f"{_name(key)} cannot be started: {error.strerror}; {_remedy(error)}") from error
        theirs.close()
        self.members[key] = Member(process, ours)

    def tell(self, key: int, kind: str, **fields: Any) -> None:
        """Send a message; one to a process that has just died is lost, and ``poll`` tells of its death."""
        member = self.members.get(key)
        if member is None:
            return
        try:
            send(member.connection, kind, **fields)
        except OSError:
            return
        if key != EVALUATOR:
            self._mail[key] += 1

    def poll(self, timeout_s: float) -> Iterator[tuple[int, dict[str, Any]]]:
        """Messages within ``timeout_s`` as (key, message); ``died`` is the last of a process that ended as it should not."""
        waiting: dict[Any, int] = {}
        for key, member in self.members.items():
            waiting[member.process.sentinel] = key
            if not member.eof:
                waiting[member.connection] = key
        with self._interruption.admitted():
            ready = wait(list(waiting), timeout_s)
        for key in {waiting[item] for item in ready}:
            member = self.members[key]
            yield from ((key, message) for message in self._drain(member))
            if not member.process.is_alive() and key in self.members and self.members[key] is member:
                yield from ((key, message) for message in self._drain(member))  # what it said before it died
                del self.members[key]
                member.process.join()
                member.connection.close()
                if not member.finished:
                    yield key, _death(member)

    def _drain(self, member: Member) -> Iterator[dict[str, Any]]:
        while not member.eof and member.connection.poll():
            try:
                message = receive(member.connection)
            except (EOFError, OSError):
                member.eof = True
                return
            if message["kind"] == "error":
                member.error = message
            member.finished |= message["kind"] == "finished"
            yield message

    def kill(self, key: int) -> None:
        """Kill a process, whatever it is doing; ``poll`` tells of its death."""
        member = self.members.get(key)
        if member is not None:
            member.process.kill()

    def replica_of(self, process: int | None) -> int | None:
        """The replica that a process id belongs to, or None."""
        return next((key for key, member in self.members.items() if member.process.pid == process), None)

    def workers(self) -> list[int]:
        """Replicas whose process lives."""
        return [key for key in self.members if key != EVALUATOR]

    def end(self) -> None:
        """Kill whatever still lives, by its process id, and wait for it."""
        for member in self.members.values():
            member.process.kill()
        for member in self.members.values():
            member.process.join()
            member.connection.close()
        self.members.clear()


def _name(key: int) -> str:
    return "the evaluator" if key == EVALUATOR else f"worker {key}"


def _remedy(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "use fewer workers, or allow more open files (ulimit -n)"
    if error.errno == errno.EAGAIN:
        return "use fewer workers, or allow more processes (ulimit -u, or the pids limit of the container)"
    return "use fewer workers"


def _death(member: Member) -> dict[str, Any]:
    """A message about a process that died: its own last words, or how it was killed."""
    if member.error is not None:
        return {**member.error, "kind": "died"}
    code = member.process.exitcode
    message = f"exited with code {code}"
    if code is not None and code < 0:
        known = -code in iter(signal.Signals)
        message = f"killed by {signal.Signals(-code).name if known else f'signal {-code}'}"
        if -code == signal.SIGKILL:
            message += " (by somebody, or by the kernel because memory ran out)"
    return {"kind": "died", "type": "Killed", "message": message, "fatal": False}
