"""The grid of a comparison: one cell for each combination of the varied values, and the jobs of each cell."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.compare.adapt import fits, gradient_part, renamed_rule, with_strategy
from deploy.job import Job
from deploy.resolve import parse_value, read_toml
from deploy.sections import NAMED_SECTIONS
from deploy.words import plural
from ps.errors import JobError, UsageError

SHORT = {
    "strategy": "strategy.name",
    "workers": "workers.count",
    "shards": "shards.count",
    "admission": "admission.policy",
    "task": "task.name",
}
ON_GRADIENT_RULE = ("rule", "lr")  # of whichever part steps with gradients, the server's or the replicas'


@dataclass(frozen=True, eq=False)
class Cell:
    """One combination; equal only to itself.

    Attributes:
      name: unique in the grid, fit for a folder's name.
      settings: value by varied key as the user wrote the key; None where the strategy has no use for it.
      strategy: its name. workers: how many.
      jobs: one per repeat, which differ in their seed; none for a combination that is refused.
      refused: why, or empty.
    """

    name: str
    settings: Mapping[str, Any]
    strategy: str
    workers: int
    jobs: tuple[Job, ...] = ()
    refused: str = ""

    @property
    def simulated(self) -> bool:
        """Its time is virtual."""
        return bool(self.jobs) and self.jobs[0].backend == "simulation"

    @property
    def title(self) -> str:
        """In words: ``easgd with 4 workers, strategy.tau 8``."""
        parts = [f"{self.strategy} with {plural(self.workers, 'worker')}"]
        rest = {key: value for key, value in self.settings.items() if SHORT.get(key, key) not in _IN_TITLE}
        return ", ".join(parts + [f"{key} {shown(value)}" for key, value in rest.items() if value is not None])


_IN_TITLE = ("strategy.name", "workers.count")


@dataclass(frozen=True)
class Assignment:
    """``key=value`` of one cell, as on the command line."""

    key: str
    text: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The path in the tables."""
        return tuple(part.strip() for part in SHORT.get(self.key, self.key).split("."))

    @property
    def override(self) -> str:
        """As ``--set`` takes it."""
        return f"{'.'.join(self.keys)}={self.text}"


def parse_vary(texts: Sequence[str]) -> dict[str, list[str]]:
    """``["workers=1,2", ...]`` as lists of value texts by key.

    Raises:
      UsageError: no ``=``, no value, or a key given twice.
    """
    varied: dict[str, list[str]] = {}
    for text in texts:
        key, separator, right = text.partition("=")
        key, values = key.strip(), [value.strip() for value in split_values(right)]
        if not separator or not key or not all(values):
            raise UsageError(f"--vary {text!r}: must be KEY=VALUE,VALUE,..., e.g. --vary workers=1,2,4")
        if key in varied or any(SHORT.get(key, key) == SHORT.get(other, other) for other in varied):
            raise UsageError(f"--vary {key} is given twice; put all values behind one, separated by commas")
        varied[key] = list(dict.fromkeys(values))
    if not varied:
        raise UsageError("compare needs something to vary, e.g. --vary strategy=sequential,downpour --vary workers=1,4")
    return varied


def split_values(text: str) -> list[str]:
    """``text`` cut at its commas outside brackets, braces and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += 0 if quote else (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def build_grid(
    path: str | Path, varied: Mapping[str, Sequence[str]], overrides: Sequence[str] = (), repeats: int = 1
) -> list[Cell]:
    """The cells, the first varied key being the outermost.

    A setting that the cell's strategy has no use for (tau for downpour, several workers for sequential) is left out there,
    as long as another strategy of the grid uses it; cells that are the same job then stand in the grid once.

    Args:
      path: the job file. varied: value texts by key, see ``parse_vary``.
      overrides: ``"section.key=value"`` for all cells.
      repeats: jobs per cell, with the seeds seed, seed + 1, ...

    Raises:
      UsageError: the job cannot be read, or no cell is a valid job (the first one's refusal).
    """
    path = Path(path)
    tables = _named(read_toml(path))
    common = [Assignment(*_cut(text)) for text in overrides]
    combinations = [
        [Assignment(key, value) for key, value in zip(varied, values, strict=True)]
        for values in itertools.product(*varied.values())
    ]
    strategies = {_strategy_of(tables, [*common, *combination]) for combination in combinations}
    cells: list[Cell] = []
    refusals: list[UsageError] = []
    for combination in combinations:
        strategy = _strategy_of(tables, [*common, *combination])
        chosen = [one for one in [*common, *combination] if _is_used(one, strategy, strategies)]
        settings = {one.key: parse_value(one.text) if one in chosen else None for one in combination}
        try:
            job = _job(tables, strategy, chosen, path)
        except UsageError as error:
            refusals.append(error)
            workers = settings.get("workers", settings.get("workers.count"))
            count = workers if isinstance(workers, int) else (tables.get("workers") or {}).get("count", 2)
            cells.append(Cell(_name(settings, cells), settings, strategy, count, refused=str(error)))
            continue
        if any(cell.jobs and cell.jobs[0] == job for cell in cells):
            continue
        for key in {"workers", "workers.count"} & set(settings):
            settings[key] = job.workers.count
        jobs = tuple(replace(job, seed=job.seed + repeat) for repeat in range(repeats))
        cells.append(Cell(_name(settings, cells), settings, strategy, job.workers.count, jobs))
    if len(refusals) == len(cells):
        raise JobError(f"{path}: {refusals[0]}")
    return cells


def shown(value: Any) -> str:
    """A setting as a person reads it."""
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _job(tables: Mapping[str, Any], strategy: str, chosen: Sequence[Assignment], path: Path) -> Job:
    """The job of one combination: the job's own rule is set first, so that every strategy takes what it makes of it."""
    tables = {key: dict(value) if isinstance(value, dict) else value for key, value in tables.items()}
    source = {"name": strategy, **(tables.get("strategy") or {})}
    of_rule = [one for one in chosen if one.key in ON_GRADIENT_RULE]
    for one in sorted(of_rule, key=lambda one: ON_GRADIENT_RULE.index(one.key)):
        _set_on_gradient_rule(tables, source, one)
    tables = with_strategy(tables, strategy)
    texts = [one.override for one in chosen if one not in of_rule and one.keys != ("strategy", "name")]
    job = Job.from_dict(tables, overrides=texts, folder=path.resolve().parent, name=path.stem)
    return replace(job, path=str(path.resolve()))


def _set_on_gradient_rule(tables: dict[str, Any], strategy: Mapping[str, Any], one: Assignment) -> None:
    """``rule`` and ``lr`` without a section: of the rule that steps with gradients, wherever the job has it."""
    from worker.strategies import strategy_class

    cls = strategy_class(strategy["name"])
    part = gradient_part(cls, strategy)
    given, default = tables.get(part) or {}, (cls.server_rule if part == "rule" else cls.own_rule) or {}
    table = dict(given) if "name" in given else {**default, **given}
    value = parse_value(one.text)
    tables[part] = renamed_rule(table, str(value)) if one.key == "rule" else {**table, "lr": value}


def _is_used(one: Assignment, strategy: str, strategies: set[str]) -> bool:
    """False where only other strategies of the grid have a use for this setting."""
    from worker.strategies import strategy_class

    if one.key in ON_GRADIENT_RULE or fits(one.keys, strategy_class(strategy)):
        return True
    return not any(fits(one.keys, strategy_class(other)) for other in strategies)


def _strategy_of(tables: Mapping[str, Any], assignments: Sequence[Assignment]) -> str:
    from worker.strategies import strategy_class

    named = [one.text.strip("\"'") for one in assignments if one.keys == ("strategy", "name")]
    name = named[-1] if named else (tables.get("strategy") or {}).get("name")
    if not isinstance(name, str):
        raise JobError("[strategy] name is missing; give the job one, or --vary strategy=...")
    return strategy_class(name).name


def _named(tables: Mapping[str, Any]) -> dict[str, Any]:
    """``strategy = "easgd"`` is short for a table with a name."""
    return {
        key: {"name": value} if key in NAMED_SECTIONS and isinstance(value, str) else value
        for key, value in tables.items()
    }


def _cut(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise JobError(f"--set {text!r}: must be section.key=value, e.g. --set strategy.tau=16")
    return key.strip(), value.strip()


def _name(settings: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    """A folder's name for a cell: the values of its settings, numbers with their key's last word."""
    parts = []
    for key, value in settings.items():
        word = key.rpartition(".")[2]
        if value is not None:
            parts.append(str(value) if isinstance(value, str) else f"{word}{value}")
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "-".join(parts)).strip("._-")[:80] or "cell"
    taken = {cell.name for cell in cells}
    numbers = itertools.count(2)
    unique = name
    while unique in taken:
        unique = f"{name}-{next(numbers)}"
    return unique
