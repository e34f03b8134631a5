"""Running one claim: its figures, the verdict, its files. A claim that raises does not hold, and stops nothing else."""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy.reproduce.claim import Claim, Figures, Verdict
from deploy.run_directory import versions
from ps.errors import UsageError


@dataclass(frozen=True)
class Outcome:
    """A claim that was run.

    Attributes:
      claim, seeds: what was run.
      runs: figures of each seed; empty if it raised.
      verdict: what came out.
      seconds: that it took.
      files: pictures first, then the JSON.
      traceback: of what it raised, or None.
    """

    claim: Claim
    seeds: list[int]
    runs: list[Figures]
    verdict: Verdict
    seconds: float
    files: list[Path] = field(default_factory=list)
    traceback: str | None = None


def make_folder(out: str | Path) -> Path:
    """The directory that files go to.

    Raises:
      UsageError: it cannot be made or written.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: cannot be written")
    return folder


def reproduce(claim: Claim, seeds: Sequence[int], folder: Path) -> Outcome:
    """Run ``claim`` for each of ``seeds`` and write ``<name>.json`` and ``<name>.png`` into ``folder``."""
    seeds = list(seeds if claim.seeded else seeds[:1])
    begun = time.perf_counter()
    runs: list[Figures] = []
    files: list[Path] = []
    failure = None
    try:
        runs = claim.run_all(seeds)
        verdict = claim.judge(runs)
        files += claim.draw(runs, folder / f"{claim.name}.png")
    except Exception as error:
        verdict, failure = Verdict(False, f"{type(error).__name__}: {error}"), traceback.format_exc()
    files.append(folder / f"{claim.name}.json")
    outcome = Outcome(claim, seeds, runs, verdict, time.perf_counter() - begun, files, failure)
    files[-1].write_text(json.dumps(_document(outcome), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return outcome


def _document(outcome: Outcome) -> dict[str, Any]:
    claim, verdict = outcome.claim, outcome.verdict
    texts = {key: getattr(claim, key) for key in ("name", "title", "paper", "source", "setting", "threshold")}
    return {
        **texts,
        "holds": verdict.holds,
        "figure": verdict.figure,
        "error": outcome.traceback,
        "seconds": outcome.seconds,
        "seeds": outcome.seeds,
        "runs": plain(outcome.runs),
        "versions": versions(),
    }


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: arrays as lists, numbers that are not finite as None."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
