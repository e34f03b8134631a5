"""A replica's side of admission: how many steps it may make now, and which of those it has made are applied."""

from __future__ import annotations

from dataclasses import dataclass

from ps.admission import Asynchronous, Clocks, Policy


@dataclass
class Pace:
    """Which steps of one replica have been applied: its clock may say only so much.

    Attributes:
      ahead: steps made since the last that is known to be applied, with all before it, at the shards.
    """

    ahead: int = 0

    def stepped(self, steps: int, accrued: int, skipped: bool = False) -> int:
        """Count steps just finished, with nothing under way.

        Args:
          steps: how many; more than one only where each was applied at once.
          accrued: gradients or updates that wait for the replica's next push.
          skipped: the step's gradient was thrown away.

        Returns:
          By how many steps the replica's clock rises.
        """
        before = self.ahead + steps
        if accrued == 0:
            self.ahead = 0
        elif accrued == 1 and not skipped:
            self.ahead = 1  # it holds this step's alone: those before it were pushed
        else:
            self.ahead = before
        return before - self.ahead


class Gate:
    """What a driver asks before each step and tells after it.

    Args:
      policy: of the job.
      clocks: of all replicas; may be left out for a policy that does not go by clocks.
      replica: whose gate this is.
    """

    def __init__(self, policy: Policy | None = None, clocks: Clocks | None = None, replica: int = 0):
        self.policy = policy or Asynchronous()
        assert clocks is not None or not self.policy.clocked, f"{self.policy.name} needs clocks"
        self._clocks, self._replica = clocks, replica
        self.pace = Pace()

    @property
    def clocked(self) -> bool:
        """Steps may have to wait here."""
        return self.policy.clocked

    def allowance(self) -> int:
        """Steps that may be made now; 0: wait. Only if ``clocked``."""
        assert self._clocks is not None
        allowed = self.policy.allowance(self._clocks, self._replica, self.pace.ahead)
        self._clocks.note_waiting(allowed == 0)
        return allowed

    def smallest(self) -> int:
        """Clock of the slowest, which decides about all others. Only if ``clocked``."""
        assert self._clocks is not None
        return self._clocks.minimum()

    def stepped(self, steps: int, accrued: int, skipped: bool) -> None:
        """Steps are finished, with nothing under way. Arguments as of ``Pace.stepped``; only if ``clocked``."""
        assert self._clocks is not None
        rise = self.pace.stepped(steps, accrued, skipped)
        if rise:
            self._clocks.advance(self._replica, self._clocks.clock(self._replica) + rise)
