"""How far a simulated run has got, so that its records lie evenly in it however fast it is simulated."""

from __future__ import annotations

from deploy.sections import StopSection

PARTS = 100  # of a run, each with a record


class Milestones:
    """Parts of a run, as far as its bounds say how long it is.

    Args:
      stop: the bounds.
      epoch_size: examples of an epoch, about.
    """

    def __init__(self, stop: StopSection, epoch_size: int):
        examples = [stop.examples, stop.epochs and stop.epochs * epoch_size]
        self._examples = min((bound for bound in examples if bound), default=0)
        self._steps, self._seconds = stop.steps or 0, stop.seconds or 0.0
        self._passed = 0

    def passed(self, examples: int, steps: int, seconds: float) -> bool:
        """One more has been passed, with so much done or handed out in so many virtual seconds."""
        done = ((examples, self._examples), (steps, self._steps), (seconds, self._seconds))
        reached = max((int(PARTS * part // whole) for part, whole in done if whole), default=0)
        if reached <= self._passed:
            return False
        self._passed = reached
        return True
