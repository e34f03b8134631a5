"""What travels with a job to nodes that share no file system: the user's task file, its siblings, and ``[cluster] files``.

``pack`` makes one archive of them where the job was started; ``unpack`` puts it into a private folder on a node, once for all
processes of that node, and gives back the job with its paths led there. Files keep their places relative to each other, so
that a task finds what it looks for beside itself.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deploy.cluster.unpacked import keep, sweep
from deploy.packing import MOST_BYTES, MOST_FILES, archive, common_folder, matches, read, task_files
from ps.errors import HogsheadError

if TYPE_CHECKING:
    from deploy.job import Job


@dataclass(frozen=True)
class Bundle:
    """An archive of files.

    Attributes:
      data: a zip archive of regular files.
      digest: sha256 (hexadecimal) of names and contents.
      base: folder, where the job was started, that the names are relative to.
    """

    data: bytes = field(repr=False)
    digest: str
    base: str


def pack(job: Job, most_bytes: int = MOST_BYTES) -> Bundle:
    """Everything of the user's that a node needs to run the job.

    That is the file of a task of theirs; the modules and packages beside it that it imports, and what these import; and what
    the globs of ``[cluster] files`` match, folders with all that is in them. Hidden files, caches, virtual environments and
    bytecode stay at home. Data that a job names by an absolute path or a URL do not travel unless they are among these.

    Args:
      most_bytes: bound on the sum of the files' sizes.

    Raises:
      JobError: a glob matches nothing, a file cannot be read, or they are too many or too large.
    """
    files = set(task_files(job.task.name))
    folder = Path(job.path).parent if job.path else Path.cwd()
    for pattern in job.cluster.files:
        files.update(matches(folder, pattern))
    base = common_folder(files)
    contents = read(files, base, most_bytes)
    return Bundle(archive(contents), _digest(contents), str(base))


def unpack(bundle: Bundle, folder: str | Path, job: Job | Mapping[str, Any]) -> Job:
    """Unpack a bundle on this node, unless that has been done already, and lead the job's paths there.

    The task's folder is put at the end of this process's ``sys.path``, so that its siblings can be imported, and hide nothing.

    Args:
      folder: for all bundles on this node; made if need be, for this user alone.
      job: as it was packed, or its tables (``Job.to_dict``).

    Returns:
      The job; the name of its task and those options that point to files of the bundle are paths in ``folder``.

    Raises:
      HogsheadError: the archive is damaged, or holds what no archive of ours does; the folder is not ours, or full.
    """
    from deploy.job import Job

    try:
        place = _unpacked(bundle, Path(folder))
    except OSError as error:
        raise HogsheadError(f"{folder}: the job's files cannot be unpacked there: {error}") from error
    given = job.to_dict() if isinstance(job, Job) else dict(job)
    tables = {
        **given,
        "task": _moved(given["task"], bundle, place),
        "data": _moved(given.get("data", {}), bundle, place),
    }
    file, colon, name = tables["task"]["name"].rpartition(":")
    if colon and file.endswith(".py"):
        _let_import(Path(file).parent)
    if not isinstance(job, Job):
        return Job.from_dict(tables)
    task = replace(job.task, name=tables["task"].pop("name"), options=tables["task"])
    own = {key: value for key, value in tables["data"].items() if key in job.data.options}
    return replace(job, task=task, data=replace(job.data, options=own))


# -- the archive ------------------------------------------------------------------------------------------------------


def _digest(contents: Mapping[str, tuple[bytes, bool]]) -> str:
    whole = hashlib.sha256()
    for name in sorted(contents):
        content, executable = contents[name]
        whole.update(f"{name}\0{executable}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return whole.hexdigest()


def _unpacked(bundle: Bundle, folder: Path) -> Path:
    """The folder of the bundle's files; whoever comes first makes it."""
    if len(bundle.digest) != 64 or not set(bundle.digest) <= set("0123456789abcdef"):
        raise HogsheadError(f"a bundle's digest must be 64 hexadecimal digits, got {bundle.digest[:80]!r}")
    _make_private(folder)
    place = folder / bundle.digest
    while not keep(place):
        _make(bundle, folder, place)
    sweep(folder)
    return place


def _make(bundle: Bundle, folder: Path, place: Path) -> None:
    """Unpack it, unless another process of this node is faster."""
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        contents = _contents(bundle.data)
        if _digest(contents) != bundle.digest:
            raise HogsheadError(
                f"bundle {bundle.digest[:16]}: its digest differs from its contents, it was damaged on the way"
            )
        for name, (content, executable) in contents.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(0o700 if executable else 0o600)
        try:
            partial.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make_private(folder: Path) -> None:
    """Others on the node must not be able to put code there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise HogsheadError(f"{folder} must be a folder of this user's own; remove it, or give another")
    if stat.S_IMODE(facts.st_mode) & 0o077:
        folder.chmod(0o700)


def _contents(data: bytes) -> dict[str, tuple[bytes, bool]]:
    """Name -> content and whether it is executable.

    Raises:
      HogsheadError: damaged, too large, or with names that leave the folder, twice the same name, links or devices.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            entries = bundle.infolist()
            if len(entries) > MOST_FILES or sum(entry.file_size for entry in entries) > 10 * MOST_BYTES:
                raise HogsheadError("a bundle is larger than any that is packed")
            for entry in entries:
                _check_entry(entry)
            if len({entry.filename for entry in entries}) < len(entries):
                raise HogsheadError("a bundle holds two files of one name")
            return {entry.filename: (bundle.read(entry), bool(entry.external_attr >> 16 & 0o100)) for entry in entries}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise HogsheadError(f"a bundle is damaged: {error}") from error


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = PurePosixPath(entry.filename)
    safe = name.parts and not name.is_absolute() and ".." not in name.parts and not set("\\\0") & set(entry.filename)
    if not safe or str(name) != entry.filename or not stat.S_ISREG(entry.external_attr >> 16):
        raise HogsheadError(f"a bundle holds {entry.filename!r}, which is no file below its folder")


# -- the job there ----------------------------------------------------------------------------------------------------


def _moved(options: Mapping[str, Any], bundle: Bundle, place: Path) -> dict[str, Any]:
    return {key: _moved_value(value, bundle.base.rstrip("/") + "/", place) for key, value in options.items()}


def _moved_value(value: Any, base: str, place: Path) -> Any:
    """A path below ``base`` to what travelled, led to where that is now; anything else as it is."""
    if isinstance(value, list):
        return [_moved_value(entry, base, place) for entry in value]
    if not isinstance(value, str) or not value.startswith(base):
        return value
    file, colon, attribute = value.rpartition(":")
    path, rest = (file, colon + attribute) if file.endswith(".py") else (value, "")
    moved = place / path.removeprefix(base)
    return f"{moved}{rest}" if moved.exists() else value


def _let_import(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
