"""Keeps programs running side by side, and ends them in order: what an entry point has to do."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

_LOOK_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0
_LONG_S = 60.0  # a program that ran this long did not fail to start


@dataclass
class Program:
    """A program that is started again, after a growing pause, when it ends.

    Attributes:
      name: for messages.
      command: words.
      environment: its own, whole; None: ours.
      after: host:port that must listen before it is started; None: nothing.
      clean: command to run before it is started again; empty: none.
      grace_s: between SIGTERM and SIGKILL at the end.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] | None = None
    after: str | None = None
    clean: Sequence[str] = ()
    grace_s: float = 10.0
    process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    begun: float = field(default=0.0, init=False, repr=False)
    due: float = field(default=0.0, init=False, repr=False)
    pause_s: float = field(default=_FIRST_PAUSE_S, init=False, repr=False)


class Keeper:
    """Args:
    programs: started in this order, ended in the opposite one.
    farewell: called at the end, before anything is ended; it bounds its own time.
    say: prints a line.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        farewell: Callable[[], None] = lambda: None,
        say: Callable[[str], None] | None = None,
    ):
        self.programs, self._farewell, self._say = programs, farewell, say or _say
        self._over = threading.Event()

    def run(self) -> int:
        """Keep them running until SIGTERM or ^C; the exit code is 0."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._over.set())
        try:
            while not self._over.is_set():
                for program in self.programs:
                    self._look_after(program)
                self._over.wait(_LOOK_S)
            self._say("ending")
            self._farewell()
        finally:
            for program in reversed(self.programs):
                self._end(program)
        return 0

    def _look_after(self, program: Program) -> None:
        now = time.monotonic()
        if program.process is None:
            if now >= program.due:
                self._start(program, now)
            return
        code = program.process.poll()
        if code is None:
            return
        if now - program.begun >= _LONG_S:
            program.pause_s = _FIRST_PAUSE_S
        self._say(f"{program.name} ended with {code}; again in {program.pause_s:g} s")
        program.process, program.due = None, now + program.pause_s
        program.pause_s = min(2 * program.pause_s, _LONGEST_PAUSE_S)
        if program.clean:
            subprocess.run(program.clean, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _start(self, program: Program, now: float) -> None:
        if program.after and not listens(program.after):
            if not program.due:
                self._say(f"{program.name} waits for {program.after}")
            program.due = now + _FIRST_PAUSE_S
            return
        program.process = subprocess.Popen(program.command, env=program.environment)
        program.begun = time.monotonic()

    def _end(self, program: Program) -> None:
        if program.process is None:
            return
        program.process.terminate()
        try:
            program.process.wait(program.grace_s)
        except subprocess.TimeoutExpired:
            program.process.kill()
            program.process.wait()


def _say(line: str) -> None:
    print(f"hogshead: {line}\n", end="", flush=True)  # in one piece: the programs write to the same place


def listens(address: str) -> bool:
    """Whether something takes connections at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except OSError:
        return False
    return True
