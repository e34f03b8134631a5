"""An order instead of times: whose update comes next is given by a pattern of delays, for studies of what staleness does.

``constant``: D + 1 replicas take turns, so every gradient is applied when exactly D others have been applied since its read.
``minibatch``: 2D + 1 replicas all read, then all update, and so on; the mean delay is D. ``random``: D + 1 replicas, each turn is
a random one's; delays are geometric with mean D. McMahan, Streeter 2014, section 5; Zhang, Choromanska, LeCun 2015, section 4.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from deploy.setup import Setup
from deploy.simulator import network as streams
from deploy.simulator.conductor import Conductor
from deploy.simulator.network import StepTimes, generator
from deploy.simulator.operations import Call, Part
from deploy.simulator.replica import SimulatedReplica
from worker import trace


class Ordered(Conductor):
    """Replicas whose operations happen one at a time, each at once, in turn; as many turns as replicas take a step's time."""

    def __init__(self, setup: Setup, *args: Any):
        super().__init__(setup, *args)
        self._turn_seconds = StepTimes(setup.job.simulation, setup.job.seed).mean / setup.job.workers.count
        self._last_turn = 0.0  # when it was over
        self._pending: dict[int, Call] = {}
        self._ready: deque[SimulatedReplica] = deque()
        self._lined_up: set[int] = set()
        self._active: SimulatedReplica | None = None
        self._has_computed, self._may_read = False, True

    # -- a turn -------------------------------------------------------------------------------------------------------

    def turn(self) -> bool:
        if not self._ready:
            return self.clock.turn()
        end = max(self._last_turn + self._turn_seconds, self.clock.now)
        if self.clock.due(end):
            return self.clock.turn(alarms=True)
        self.clock.now = self._last_turn = end
        self._take_turns()
        return True

    def _take_turns(self) -> None:
        """By default the next in line: it applies what it has to, and goes on until it has something to apply again."""
        self.let(self._ready.popleft())

    def let(self, replica: SimulatedReplica, reads: bool = True) -> None:
        """Give a replica its turn.

        Args:
          reads: it may also go on to its next gradient, which ends the turn; otherwise it ends before the next read.
        """
        self._lined_up.discard(replica.replica.id)
        if not replica.alive:
            return
        self._active, self._has_computed, self._may_read = replica, False, reads
        call = self._pending.pop(replica.replica.id, None)
        if call is None or self._perform(replica, call):
            self.drive(replica)
        self._active = None

    def _perform(self, replica: SimulatedReplica, call: Call) -> bool:
        """Carry a call out now, unless this turn is not for it."""
        is_read = call.kind == trace.PULL
        if self._active is not replica or (self._has_computed and not is_read) or (is_read and not self._may_read):
            self._pending[replica.replica.id] = call
            self.line_up(replica)
            return False
        for part in call.parts:
            self.execute(part)
        if not call.wait:
            replica.landed(call)
        return call.left == 0

    # -- the conductor's questions ------------------------------------------------------------------------------------

    def call(self, replica: SimulatedReplica, call: Call) -> bool:
        return self._perform(replica, call)

    def compute(self, replica: SimulatedReplica) -> bool:
        state = replica.replica
        self.log.add(self.clock.now, trace.COMPUTE, state.id, state.incarnation, clock=state.clock, loss=replica.loss)
        self._has_computed = True
        return True

    def may_go_on(self, replica: SimulatedReplica) -> bool:
        """A turn ends with the step in which a gradient was computed."""
        goes_on = self._active is replica and not self._has_computed and self._may_read
        if not goes_on:
            self.line_up(replica)
        return goes_on

    def answer(self, part: Part) -> None:
        part.call.note_answer()

    def line_up(self, replica: SimulatedReplica) -> None:
        """It waits for its turn."""
        if replica.replica.id not in self._lined_up:
            self._lined_up.add(replica.replica.id)
            self._ready.append(replica)

    def wake(self, replica: SimulatedReplica) -> None:
        """It has got work, or is to stop: it lines up, like everybody."""
        if self._can_be_woken(replica):
            self.parked.pop(replica.replica.id, None)
            self.line_up(replica)

    def kill(self, replica: SimulatedReplica) -> None:
        super().kill(replica)
        self._pending.pop(replica.replica.id, None)


class Minibatch(Ordered):
    """All updates of those who are there, then all reads, in the time of one step."""

    def __init__(self, setup: Setup, *args: Any):
        super().__init__(setup, *args)
        self._turn_seconds *= setup.job.workers.count

    def _take_turns(self) -> None:
        everybody, self._ready = self._ready, deque()
        for replica in everybody:
            self.let(replica, reads=False)
        everybody, self._ready = self._ready, deque()
        for replica in everybody:
            self.let(replica)


class Random(Ordered):
    """A random replica's turn."""

    def __init__(self, setup: Setup, *args: Any):
        super().__init__(setup, *args)
        self._rng = generator(setup.job.seed, streams.STEP, 0)()
        self._draws: list[float] = []

    def _take_turns(self) -> None:
        if not self._draws:
            self._draws = self._rng.random(256).tolist()
        chosen = int(self._draws.pop() * len(self._ready))
        self._ready[chosen], self._ready[-1] = self._ready[-1], self._ready[chosen]
        self.let(self._ready.pop())


PATTERNS = {"constant": Ordered, "minibatch": Minibatch, "random": Random}
