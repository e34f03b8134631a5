"""The job as a node of the cluster sees it: with the files that travelled, where they lie there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from deploy.cluster.bundle import Bundle, pack, unpack
from deploy.cluster.facts import PATIENCE_S, RunFacts, ask
from deploy.job import Job


def stowed_at(run: Path, uid: str) -> Path:
    """Where ``stow`` puts it."""
    return run / f".{uid}.files"


def stow(job: Job, run: Path, uid: str) -> None:
    """Put what has to travel with a job into its run directory, where the coordinator finds it."""
    bundle = pack(job)
    stowed_at(run, uid).write_bytes(b"\n".join([bundle.digest.encode(), bundle.base.encode(), bundle.data]))


def stowed(run: Path, uid: str) -> dict[str, Any] | None:
    """What ``stow`` put there, as plain values; None if nothing has to travel."""
    path = stowed_at(run, uid)
    if not path.is_file():
        return None
    digest, base, data = path.read_bytes().split(b"\n", 2)
    return {"data": data, "digest": digest.decode(), "base": base.decode()}


def job_here(facts: RunFacts) -> Job:
    """The job, with its files unpacked on this node."""
    found = ask(facts, "files", answer_s=PATIENCE_S)
    if found is None:
        return facts.build_job()
    folder = Path(tempfile.gettempdir()) / f"hogshead-files-{os.getuid()}"
    return unpack(Bundle(**found), folder, facts.job)
