"""Going on from checkpoints behind a URL: a new run directory with the newest whole one and its job."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deploy.job import Job, load_job
from deploy.mirror import download_job, download_newest
from deploy.run_directory import numbered, write_atomically
from ps.errors import RunDirectoryError, UsageError
from worker.data.remote import shown


def job_of_mirror(
    url: str, job_file: str | Path | None = None, overrides: Sequence[str] = (), run: str | Path | None = None
) -> Job:
    """Download a run and make it ready to be resumed.

    Args:
      url: of the checkpoints, see ``deploy.mirror``.
      job_file: the job; the one that lies beside the checkpoints if None.
      overrides: as in ``load_job``.
      run: the new run directory; ``runs/<name>-<number>`` if None.

    Returns:
      The job, to be resumed in that directory. It goes on saving to ``url``, unless it names another URL itself.

    Raises:
      UsageError: no job, or a wrong one. CheckpointError: no whole checkpoint. RunDirectoryError: ``run`` holds something.
    """
    job = load_job(job_file, overrides) if job_file else _job_there(url, overrides)
    if job.checkpoint.url is None and not url.startswith(("http://", "https://")):  # which can only be read
        job = replace(job, checkpoint=replace(job.checkpoint, url=url))
    folder = _new_folder(run, job.name)
    try:
        newest, problems = download_newest(url, folder / "checkpoint")
        write_atomically(folder / "job.toml", job.to_toml())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for problem in problems:
        print(f"hogshead: not used: {problem}; going on from {newest.name}", file=sys.stderr)
    return job.with_run(folder, resume=True)


def _job_there(url: str, overrides: Sequence[str]) -> Job:
    text = download_job(url)
    if text is None:
        raise UsageError(
            f"{shown(url)}: there is no job.toml; give the job file too: hogshead train JOB.toml --resume URL"
        )
    with tempfile.TemporaryDirectory(prefix="hogshead-") as folder:
        path = Path(folder) / "job.toml"
        path.write_text(text, encoding="utf-8")
        return replace(load_job(path, overrides), path=None)


def _new_folder(run: str | Path | None, name: str) -> Path:
    if run is None:
        return numbered(name)
    folder = Path(run).expanduser().resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunDirectoryError(
            f"{folder} holds something already; give another --run, or --resume {folder} to go on there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
