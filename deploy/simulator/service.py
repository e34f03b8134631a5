"""Who is served when at a shard: one at a time, all at once, or by the locks that Hogwild! was compared with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from deploy.simulator.clock import Clock
from deploy.simulator.distributions import Stream
from deploy.simulator.operations import Part


class Service:
    """Lock-free: everything that arrives is served at once. Base of the others.

    Args:
      clock: virtual time.
      execute: carries a part out; called at the end of its service.
      writes, reads: service times of pushes and exchanges, and of pulls.

    Attributes:
      is_down: it has crashed.
    """

    def __init__(self, clock: Clock, execute: Callable[[Part], None], writes: Stream, reads: Stream):
        self.clock, self.execute = clock, execute
        self._busy_seconds, self._busy_until = 0.0, 0.0
        self._writes, self._reads = writes, reads
        self._life = 0  # counts crashes
        self.is_down = False
        self._held: list[Part] = []

    def arrive(self, part: Part) -> None:
        """A message has come in; what comes while the shard is down is tried again when it is back."""
        if self.is_down:
            self._held.append(part)
        else:
            self.admit(part)

    def admit(self, part: Part) -> None:
        """Serve a part, or have it wait for its turn."""
        self.finish_at(self.clock.now + self.draw(part), part)

    def draw(self, part: Part) -> float:
        """Service time of a part."""
        return (self._reads if part.is_read else self._writes).draw()

    def occupy(self, until: float) -> None:
        """Something is served from now until then without a break, by itself or behind others."""
        self._busy_seconds += max(0.0, until - max(self._busy_until, self.clock.now))
        self._busy_until = max(self._busy_until, until)

    @property
    def busy_seconds(self) -> float:
        """Time so far during which something was served; where several are served at once, it counts once."""
        return self._busy_seconds - max(0.0, self._busy_until - self.clock.now)

    def finish_at(self, time: float, part: Part) -> None:
        """Carry ``part`` out at ``time``."""
        self.occupy(time)
        if time <= self.clock.now:
            self.execute(part)
        else:
            self.clock.at(time, self._finish, part, self._life)

    def _finish(self, part: Part, life: int) -> None:
        if life == self._life:
            self.execute(part)
            self.served()
        else:
            self.try_again(part)  # the shard crashed meanwhile

    def served(self) -> None:
        """A part that had to wait has been carried out."""

    def crash(self) -> None:
        """Nobody is served until ``recover``."""
        self.is_down = True
        self._life += 1
        self._busy_seconds, self._busy_until = self.busy_seconds, self.clock.now

    def recover(self) -> None:
        """Serve those who have waited for the shard."""
        self.is_down = False
        held, self._held = self._held, []
        for part in held:
            self.try_again(part)

    def try_again(self, part: Part) -> None:
        """The shard has crashed since the message came in: its sender, if that is still there, sends it once more."""
        if part.call.sender.alive:
            self.arrive(part)

    def active(self, replica: int, works: bool) -> None:
        """A replica has got work and leave to do it, or lacks one of them; matters where replicas take turns."""


class Queue(Service):
    """Locked: updates are served one at a time, in the order of their arrival, and reads too if they take time or ``in_turn``.

    Args: as of ``Service``; ``in_turn``: reads must not see half an update.
    """

    def __init__(self, *args, in_turn: bool = False):
        super().__init__(*args)
        self._in_turn = in_turn or self._reads._constant != 0
        self._free_at = 0.0

    def admit(self, part: Part) -> None:
        if part.is_read and not self._in_turn:
            self.execute(part)
            return
        self._free_at = max(self._free_at, self.clock.now) + self.draw(part)
        self.finish_at(self._free_at, part)

    def crash(self) -> None:
        super().crash()
        self._free_at = 0.0


class PerVariable(Service):
    """A lock for each variable; all that an update touches are held while it is made (AIG)."""

    def __init__(self, *args):
        super().__init__(*args)
        self._free_at: dict[int, float] = {}

    def admit(self, part: Part) -> None:
        if part.is_read:
            super().admit(part)
            return
        variables = part.variables()
        free = max((self._free_at.get(variable, 0.0) for variable in variables), default=0.0)
        end = max(free, self.clock.now) + self.draw(part)
        self._free_at.update(dict.fromkeys(variables, end))
        self.finish_at(end, part)

    def crash(self) -> None:
        super().crash()
        self._free_at.clear()


class RoundRobin(Service):
    """Replicas update in turn (RR); one that has no work, or no leave to do it, is passed over.

    Args: as of ``Service``; ``replicas``: how many take turns; ``handoff_seconds``: to pass the turn on.
    """

    def __init__(self, *args, replicas: int, handoff_seconds: float):
        super().__init__(*args)
        self._works = [False] * replicas
        self._waiting: dict[int, deque[Part]] = {}
        self._handoff = handoff_seconds
        self._turn, self._busy = 0, False

    def active(self, replica: int, works: bool) -> None:
        self._works[replica] = works
        self._serve()

    def admit(self, part: Part) -> None:
        if part.is_read:
            super().admit(part)
            return
        self._waiting.setdefault(part.call.sender.replica.id, deque()).append(part)
        self._serve()

    def _serve(self) -> None:
        if self._busy or self.is_down:
            return
        for _ in self._works:
            if self._works[self._turn] or self._waiting.get(self._turn):
                break
            self._turn = (self._turn + 1) % len(self._works)
        waiting = self._waiting.get(self._turn)
        if waiting:
            self._busy = True
            part = waiting.popleft()
            # Also where it takes no time, through the clock: the next one may be served only after this has returned.
            seconds = self.draw(part)
            self.occupy(self.clock.now + seconds)
            self.clock.after(seconds, self._finish, part, self._life)

    def served(self) -> None:
        self.clock.after(self._handoff, self._pass_on, self._life)

    def _pass_on(self, life: int) -> None:
        if life == self._life:
            self._busy = False
            self._turn = (self._turn + 1) % len(self._works)
            self._serve()

    def crash(self) -> None:
        super().crash()
        self._busy = False

    def recover(self) -> None:
        super().recover()
        self._serve()
