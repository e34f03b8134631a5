"""Checks a submitted job as ``hogshead train --dry-run`` would, but runs nothing of its user's: it is a stranger's here.

What only a task's own code knows, such as its options, is found out where the job runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import resolve
from deploy.job import Job
from deploy.schema import check_type
from deploy.sections import DataSection, TaskSection
from deploy.service import bounded_toml
from deploy.service.demand import Demand, demand_of, pieces_of
from deploy.service.folder import NAME
from deploy.service.room import Pieces
from ps.errors import JobError, UsageError

MOST_OVERRIDES = 1000
MOST_PRIORITY = 1_000_000
_OURS = (
    "backend=ray",
    "cluster.detach=",
    "cluster.address=",
    "cluster.files=",
    "run=",
)  # of the service, whatever a job says


@dataclass(frozen=True)
class Checked:
    """What the service must know of a job: see ``deploy.service.store.JobRecord``.

    Attributes:
      demand: of as many workers as it cannot do without. most: of all that it may have.
      pieces: what the demand consists of.
    """

    name: str
    strategy: str
    task: str
    demand: Demand
    most: Demand
    pieces: Pieces
    priority: int
    on_loss: str
    most_attempts: int


def check(text: str, overrides: Sequence[str], files: Path, name: str = "") -> Checked:
    """Check a job.

    Args:
      text: TOML; relative paths are relative to ``files``, also those in overrides.
      overrides: as ``--set`` takes them.
      files: the folder of what travelled with it.
      name: instead of the job's own.

    Raises:
      UsageError: anything wrong with it.
    """
    if len(overrides) > MOST_OVERRIDES or sum(map(len, overrides)) > bounded_toml.MOST_TEXT:
        raise JobError(
            f"there must be at most {MOST_OVERRIDES} overrides with {bounded_toml.MOST_TEXT} characters in all"
        )
    try:
        return _checked(text, overrides, files, name)
    except UsageError:
        raise
    except RecursionError:
        raise JobError("the job has tables or lists in each other too deep") from None
    except (ValueError, TypeError, ArithmeticError, AttributeError, LookupError) as error:
        # Our checks take for granted what a person would write; nonsense that they stumble over is still the job's mistake.
        raise JobError(f"the job is wrong: {type(error).__name__}: {error}") from error


def _checked(text: str, overrides: Sequence[str], files: Path, name: str) -> Checked:
    tables = bounded_toml.read(text)
    for override in overrides:
        bounded_toml.check(override)
    parts = resolve.resolve(tables, [*overrides, *_OURS], files, "job", read_rule=_rule, read_task=_task)
    job = Job(**parts)
    if job.record:
        raise JobError(
            'record = true needs backend = "processes" or "simulation": on a cluster nobody sees the order of all updates'
        )
    if not -MOST_PRIORITY <= job.service.priority <= MOST_PRIORITY or job.service.most_attempts > MOST_PRIORITY:
        raise JobError(f"[service] priority and most_attempts must be at most {MOST_PRIORITY}")
    return Checked(
        name=_name(name or job.name),
        strategy=job.strategy.name,
        task=job.task.name[:200],
        demand=demand_of(job, job.workers.fewest),
        most=demand_of(job, job.workers.count),
        pieces=pieces_of(job, files),
        priority=job.service.priority,
        on_loss=job.service.on_loss,
        most_attempts=job.service.most_attempts,
    )


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise JobError(
            f"a job's name must have 1 to 64 letters, digits, '.', '_' and '-', the first a letter or a digit, got "
            f"{name[:80]!r}; give another with --name"
        )
    return name


def _rule(part: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """As ``resolve_rule``, but rules of PyTorch and optax are left to who runs them: this process does without these."""
    from ps.rules.foreign import is_foreign

    if is_foreign(table.get("name")):
        return dict(table)
    return resolve.resolve_rule(part, table)


def _task(tables: Mapping[str, Any], _overridden: object, files: Path) -> tuple[TaskSection, DataSection]:
    """As ``resolve_task``, but a task of the user's own is only looked for among the files."""
    table, data = dict(tables.get("task") or {}), dict(tables.get("data") or {})
    if "name" not in table:
        raise JobError("[task] name is missing; see `hogshead tasks`")
    name = check_type("task", "name", table["name"], str, "mlp")
    if ".py" not in name and "/" not in name:
        return _built_in(tables, name, files)
    file, colon, attribute = name.rpartition(":")
    if not colon or not file.endswith(".py") or not attribute.isidentifier():
        raise JobError(f"[task] name must be 'path/to/file.py:ClassName', got {name[:200]!r}")
    _check_travelled("task", "name", file, files)
    known = DataSection.framework_keys()
    own = {key: value for key, value in data.items() if key not in known}
    framework = {key: value for key, value in data.items() if key in known}
    if framework.get("curriculum") == {}:
        del framework["curriculum"]
    del table["name"]
    return TaskSection(name, table), DataSection(**framework, options=own)


def _built_in(tables: Mapping[str, Any], name: str, files: Path) -> tuple[TaskSection, DataSection]:
    from worker.tasks import TASKS, task_class

    if name in TASKS:
        for part in ("task", "data"):
            table = tables.get(part) or {}
            for key in set(getattr(task_class(name), "paths", ())) & set(table):
                for value in table[key] if isinstance(table[key], list) else [table[key]]:
                    _check_travelled(part, key, value, files)
    return resolve.resolve_task(tables, set(), files)


def _check_travelled(section: str, key: str, value: Any, files: Path) -> None:
    """A file named by a relative path must be among the job's own; an absolute one is the cluster's."""
    if not isinstance(value, str) or resolve.SCHEME.match(value) or value.startswith("/"):
        return
    if value.startswith("~") or not value.isprintable():
        raise JobError(
            f"[{section}] {key} must be a path relative to the job's files, or an absolute one, got {value[:200]!r}"
        )
    if ".." in Path(value).parts or not (files / value).exists():
        raise JobError(
            f"[{section}] {key} names {value[:200]!r}, which did not come with the job; `hogshead submit` sends the files that a "
            "job names, and those of [cluster] files"
        )
