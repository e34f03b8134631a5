"""Whether a job's workers will step the center in place, found out without running its task: then they must be beside it.

A task of the user's own is only read: whether its class has a ``sweep``, itself or from a class that it is made of. A task that
gets one in another way is taken for one that has none; its workers then wait for Ray, should there be no node for all of them.
"""

from __future__ import annotations

import re
from pathlib import Path

from deploy.admission_checks import admission_of
from deploy.job import Job
from ps.errors import UsageError
from ps.rules.foreign import is_foreign

_MOST_BYTES = 256 << 10  # of a task's file that are read
# A class at the beginning of a line: its name, what it is made of, and the indented lines below it.
_CLASS = re.compile(r"^class[ \t]+(\w+)[ \t]*(?:\(([^()]*)\))?[ \t]*:(.*(?:\n(?:[ \t#].*)?)*)", re.MULTILINE)
_SWEEP = re.compile(r"^[ \t]+(?:def[ \t]+sweep[ \t]*\(|sweep[ \t]*=)", re.MULTILINE)


def may_step_in_place(job: Job, files: Path) -> bool:
    """See ``deploy.blueprint.steps_in_place``, and ``deploy.cluster.ready.beside``.

    Args:
      files: what the path of a task's file is relative to.
    """
    strategy = job.build_strategy()
    apart = getattr(strategy, "between_nodes", "none") != "none"
    if apart or not strategy.may_sweep(job.data.batch_size) or is_foreign((job.rule or {}).get("name")):
        return False
    from deploy.blueprint import steps_in_place

    try:
        rounds = strategy.rounds or admission_of(job, strategy).rounds
        rule = strategy.shard_rule(job.build_rule())
        return steps_in_place(job, strategy, _has_sweep(job.task.name, files), rule, rounds)
    except UsageError:  # it is refused where it runs, which says why
        return False


def _has_sweep(task: str, files: Path) -> bool:
    from worker.tasks import TASKS, task_class

    if task in TASKS:
        return callable(getattr(task_class(task), "sweep", None))
    file, _, name = task.rpartition(":")
    found = {entry[1]: entry for entry in _CLASS.finditer(_text(files / file))}
    ours = {place.rpartition(":")[2]: known for known, place in TASKS.items()}
    wanted, seen = [name], set()
    while wanted:
        name = wanted.pop()
        if name in found and name not in seen:
            seen.add(name)
            if _SWEEP.search(found[name][3]):
                return True
            wanted += [base.strip().rpartition(".")[2] for base in (found[name][2] or "").split(",")]
        elif name in ours and _has_sweep(ours[name], files):
            return True
    return False


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except (OSError, ValueError):
        return ""
