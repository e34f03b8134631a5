"""What a claim is: what a paper says, what is run, and the threshold that decides whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from deploy.reproduce.pool import parallel

Figures = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What the figures say of the claim.

    Attributes:
      holds: whether every threshold is met; None where this machine cannot tell, which counts neither way.
      figure: the figures that decided, in one sentence.
    """

    holds: bool | None
    figure: str


class Claim:
    """Base of all claims; one class in a file of its own, one line in ``deploy.reproduce.registry``.

    Class attributes:
      name: what the command line calls it.
      title: in a few words.
      paper: what the paper says, with its numbers.
      source: which paper and where in it.
      setting: what is run here.
      threshold: what must come out for the claim to hold.
      seconds: about how long one seed takes on two cores; shown by ``--list``.
      seeded: whether a seed changes anything; a claim that it does not is run once, however many seeds are asked for.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    source: ClassVar[str]
    setting: ClassVar[str]
    threshold: ClassVar[str]
    seconds: ClassVar[int]
    seeded: ClassVar[bool] = True

    def run(self, seed: int) -> Figures:
        """Everything that one seed gives: plain values, lists and numpy arrays by name, with what ``draw`` needs."""
        raise NotImplementedError

    def run_all(self, seeds: Sequence[int]) -> list[Figures]:
        """The figures of every seed, in order."""
        return [self.run(seed) for seed in seeds]

    def judge(self, runs: Sequence[Figures]) -> Verdict:
        """Compare the figures of all seeds with the threshold."""
        raise NotImplementedError

    def draw(self, runs: Sequence[Figures], path: Path) -> list[Path]:
        """Write the picture to ``path`` (PNG), and whatever else belongs beside it; returns all that was written."""
        raise NotImplementedError


class SplitClaim(Claim):
    """A claim of many independent runs, which are shared out over the cores, those of all seeds at once.

    Class attributes:
      measure: what one part gives: a function at the top level of a module, wrapped in ``staticmethod``; it takes one
        of ``parts`` and returns something that can be pickled. Longest parts first keeps the cores busy to the end.
    """

    measure: ClassVar[Callable[[Any], Any]]

    def parts(self, seed: int) -> list[Any]:
        """The runs of one seed, each a value that can be pickled."""
        raise NotImplementedError

    def combine(self, seed: int, parts: list[Any], results: list[Any]) -> Figures:
        """The figures of one seed from the results of its parts."""
        raise NotImplementedError

    def run(self, seed: int) -> Figures:
        return self.run_all([seed])[0]

    def run_all(self, seeds: Sequence[int]) -> list[Figures]:
        parts = [self.parts(seed) for seed in seeds]
        results = iter(parallel(type(self).measure, [part for group in parts for part in group]))
        return [
            self.combine(seed, group, [next(results) for _ in group]) for seed, group in zip(seeds, parts, strict=True)
        ]
