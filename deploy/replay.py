"""``hogshead replay``: a recorded run once more, in the recorded order, in one process; it must come to the same center."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from deploy.job import load_job
from deploy.run_directory import require_run
from deploy.setup import Setup, prepare
from deploy.simulator.recorded import Recorded
from deploy.simulator.recorded_order import Record
from deploy.words import plural
from ps.checkpoint import Checkpoint
from ps.errors import UsageError
from worker import trace
from worker.trace import Trace


@dataclass(frozen=True)
class Difference:
    """One array of the shards, replayed and recorded.

    Attributes:
      name: "center", or of a slot.
      elements: how many differ. largest: by at most so much, infinite where one of the two is not a number.
      parameter: where that is.
    """

    name: str
    elements: int
    largest: float = 0.0
    parameter: str = ""


@dataclass(frozen=True)
class ReplayOutcome:
    """A replayed run.

    Attributes:
      parameters: name -> array, of the center.
      operations: kind -> how many were carried out.
      differences: from the run's last checkpoint, for the center and each slot.
      setup: task, layout and shards as they are at the end.
    """

    parameters: dict[str, np.ndarray] = field(repr=False)
    operations: dict[str, int]
    differences: list[Difference]
    setup: Setup = field(repr=False)

    @property
    def equal(self) -> bool:
        """Bit for bit."""
        return all(difference.elements == 0 for difference in self.differences)


def replay(run: str | Path) -> ReplayOutcome:
    """Carry out a recorded run's operations in their recorded order, and compare the result with its last checkpoint.

    Args:
      run: the directory of a run with ``record = true``, in processes or simulated.

    Raises:
      RunDirectoryError, CheckpointError: there is no such run, trace or final checkpoint.
      UsageError: the trace is not whole. DepartureError: the same steps do not lead to the same operations.
    """
    path = require_run(run)
    whole = Trace.load(path / trace.TRACE_FILE)
    job = load_job(path / "job.toml")
    final = _final_checkpoint(path, whole)
    setup = prepare(job, shared=False)
    record = Record(whole, setup.policy.backups)
    with threadpool_limits(1):
        Recorded(setup, record, inline=whole.facts["backend"] != "simulation").play()
    kinds = Counter(whole.columns()["kind"].tolist())
    operations = {trace.KINDS[kind]: kinds[kind] for kind in (trace.PULL, trace.PUSH, trace.EXCHANGE, trace.CONTRIBUTE)}
    parameters = setup.layout.views(setup.state.center.copy())
    return ReplayOutcome(parameters, operations, _compare(setup, final), setup)


def replay_lines(outcome: ReplayOutcome) -> list[str]:
    """What the command says: what was done, and whether it came to the same."""
    setup, size = outcome.setup, outcome.setup.layout.size
    words = {"pull": "pulls", "push": "pushes", "exchange": "exchanges", "contribute": "contributions"}
    did = ", ".join(f"{count:,} {words[kind]}" for kind, count in outcome.operations.items() if count)
    job = setup.job
    lines = [
        f"replayed {did or 'nothing'} of {plural(job.workers.count, 'worker')} on {plural(job.shards.count, 'shard')}"
    ]
    for difference in outcome.differences:
        if difference.elements:
            share = f"{difference.elements:,} of {size:,} elements"
            lines.append(
                f"different: {difference.name}, {share}, by at most {difference.largest:.3g}, in {difference.parameter}"
            )
    if outcome.equal:
        names = [difference.name for difference in outcome.differences]
        slots = f", and {', '.join(names[1:])}" if len(names) > 1 else ""
        lines.append(f"equal: the center is the recorded one, bit for bit ({plural(size, 'parameter')}){slots}")
    return lines


def _final_checkpoint(path: Path, whole: Trace) -> Checkpoint:
    """The newest checkpoint, which is of the run's end if its versions are those of the trace."""
    checkpoint = Checkpoint.newest(path / "checkpoint")
    saved = [shard["version"] for shard in checkpoint.manifest["shards"]]
    if saved != whole.facts["versions"]:
        raise UsageError(
            f"{path}: its last checkpoint is of versions {saved}, but the run ended at {whole.facts['versions']}, so there is "
            "nothing to compare with; it has failed or was interrupted. Record another run"
        )
    return checkpoint


def _compare(setup: Setup, checkpoint: Checkpoint) -> list[Difference]:
    arrays = {"center": checkpoint.vector()}
    arrays |= {f"slot.{slot}": checkpoint.vector(slot) for slot in setup.rule.slots}
    return [_difference(setup, name, setup.state.arrays[name], recorded) for name, recorded in arrays.items()]


def _difference(setup: Setup, name: str, replayed: np.ndarray, recorded: np.ndarray) -> Difference:
    word = f"u{replayed.itemsize}"
    elements = np.flatnonzero(replayed.view(word) != recorded.view(word))  # bits: -0.0 is not 0.0, and NaN may be NaN
    name = name.removeprefix("slot.")
    if elements.size == 0:
        return Difference(name, 0)
    gaps = np.abs(replayed[elements].astype(np.float64) - recorded[elements].astype(np.float64))
    gaps[np.isnan(gaps)] = np.inf
    worst = int(elements[gaps.argmax()])
    owner = next(parameter for parameter in setup.layout.parameters if parameter.offset <= worst < parameter.stop)
    return Difference(name, int(elements.size), float(gaps.max()), f"{owner.name}[{worst - owner.offset}]")
