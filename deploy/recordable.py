"""Which jobs can be recorded in processes, and what recording needs that a job leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ps.errors import JobError

_NEEDED = {
    ("shards", "apply"): ("locked", "one update at a time, so that there is an order to keep"),
    ("shards", "reads"): ("consistent", "a pull must be of one version"),
    ("workers", "transfers"): ("inline", "transfers in the background arrive at moments that nobody knows"),
}


def with_recording(tables: Mapping[str, Any]) -> dict[str, Any]:
    """A job's tables with what recording in processes needs.

    Raises:
      JobError: the job says otherwise.
    """
    tables = dict(tables)
    if tables.get("record") is not True or tables.get("backend", "processes") != "processes":
        return tables
    for (section, key), (needed, why) in _NEEDED.items():
        given = tables.get(section) or {}
        got = given.get(key, needed)
        if got not in (needed, "auto"):
            raise JobError(f"[{section}] {key} is {got!r}, but record = true needs {needed!r}: {why}; leave {key} out")
        tables[section] = {**given, key: needed}
    return tables
