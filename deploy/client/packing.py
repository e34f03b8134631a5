"""A job file as a submission: checked as ``train --dry-run`` checks it, with the files that it names by relative paths."""

from __future__ import annotations

import ast
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.cluster.ray_data import is_dataset
from deploy.job import Job
from deploy.packing import MOST_BYTES, Contents, archive, below, common_folder, matches, read, task_files
from deploy.resolve import SCHEME, apply_overrides, copied, read_toml, with_names
from deploy.sections import DataSection
from deploy.service.folder import NAME
from ps.errors import JobError, UsageError

# What a cluster decides by itself.
_DROPPED = ("run", "compare")
_DROPPED_OF_CLUSTER = ("address", "detach")


@dataclass(frozen=True)
class Packed:
    """A submission.

    Attributes:
      job: the job file, TOML, as it was written, but with overrides applied and paths relative to the archive's top.
      name: of the job.
      archive: zip archive of the user's files; empty without any.
      files: their names in it.
      notes: what the user may want to know, a line each.
    """

    job: str
    name: str
    archive: bytes = field(repr=False)
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


def pack_job(
    job: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    name: str | None = None,
    *,
    checked: bool = True,
    most_bytes: int = MOST_BYTES,
) -> Packed:
    """Check a job and pack it, with its files.

    What travels: the file of a task of the user's with what it imports from beside it, data that the job names by relative paths
    (or in the user's home, ``~``), and ``[cluster] files``. Other absolute paths and URLs stay as they are: they are the
    cluster's.

    Args:
      job: a job file, or its tables. overrides: as ``--set`` takes them.
      name: of the job, instead of its own.
      checked: resolve the job here, which imports the user's task; False leaves that to the cluster.
      most_bytes: bound on the sum of the files' sizes.

    Raises:
      JobError: anything wrong with the job, a file that is not there, or too many.
    """
    if isinstance(job, Mapping):
        return _pack(dict(job), Path.cwd(), "job", overrides, name, checked, most_bytes)
    path = Path(job)
    document = read_toml(path)
    try:
        return _pack(document, path.resolve().parent, path.stem, overrides, name, checked, most_bytes)
    except UsageError as error:
        raise JobError(f"{path}: {error}") from error


def _pack(
    document: dict[str, Any],
    folder: Path,
    stem: str,
    overrides: Sequence[str],
    name: str | None,
    checked: bool,
    most_bytes: int,
) -> Packed:
    tables = with_names(copied(document))
    changed = apply_overrides(tables, overrides)
    tables = with_names(tables)
    dropped = _drop(tables)
    if checked:
        _check(tables, document, folder, overrides)
    luggage = _Luggage(tables, folder, changed)
    contents = luggage.pack(most_bytes)
    return Packed(
        _toml(tables),
        _name(name, tables.get("name"), stem),
        archive(contents) if contents else b"",
        tuple(contents),
        tuple(dropped + luggage.notes),
    )


def _drop(tables: dict[str, Any]) -> list[str]:
    """Take out what the service decides; returns what to say about it."""
    cluster = tables.get("cluster")
    cluster = cluster if isinstance(cluster, dict) else {}
    found = [key for key in _DROPPED if tables.pop(key, None) is not None and key != "compare"]
    found += [f"[cluster] {key}" for key in _DROPPED_OF_CLUSTER if cluster.pop(key, None) is not None]
    if tables.get("backend") == "simulation":
        found.append('backend = "simulation"')
    tables["backend"] = "ray"
    return [f"{what} does not count: the service runs the job on its cluster" for what in found]


def _check(tables: Mapping[str, Any], document: Mapping[str, Any], folder: Path, overrides: Sequence[str]) -> None:
    """Resolve the job as ``train`` does."""
    for section in ("task", "data"):
        table = tables.get(section)
        for key, value in table.items() if isinstance(table, dict) else ():
            if is_dataset(value):
                raise JobError(
                    f"[{section}] {key}: a Ray Data set stays with the program that made it; write it to files"
                )
    unset = [*(f"{key}=" for key in _DROPPED), *(f"cluster.{key}=" for key in _DROPPED_OF_CLUSTER)]
    try:
        job = Job.from_dict(document, overrides=[*overrides, *unset, "backend=ray"], folder=folder)
    except UsageError as error:
        if _lacks_package(error):
            raise JobError(f"{error}; or submit it with --unchecked, so that only the cluster imports it") from error
        raise
    if job.record:
        raise JobError("record = true is for a run on one machine: on a cluster nobody sees the order of all updates")


def _lacks_package(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ImportError):
            return True
        error = error.__cause__
    return False


def _name(given: str | None, own: object, stem: str) -> str:
    """The job's name: asked for, or its own; a file's name is made to fit."""
    for what, name in (("--name", given), ("name", own)):
        if name is None:
            continue
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise JobError(
                f"{what} must be up to 64 letters, digits, '.', '_' and '-' and begin with a letter or digit, got {name!r}"
            )
        return name
    fitting = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip("._-")[:64]
    return fitting or "job"


def _toml(tables: Mapping[str, Any]) -> str:
    import tomli_w

    try:
        text = tomli_w.dumps(tables)
        text.encode()
        return text
    except UnicodeEncodeError as error:
        raise JobError("the job holds bytes that are no UTF-8 text; is a file's name or a --set so?") from error
    except TypeError as error:
        raise JobError(
            f"the job cannot be written as a file: {error}; give data as files or URLs, a task as a class in a file"
        ) from error


class _Luggage:
    """The files that travel; rewrites the paths in ``tables`` to where they are in the archive.

    Args:
      tables: of the job, overrides applied.
      folder: what relative paths in it are relative to; those in ``changed``, from overrides, to the working directory.
    """

    def __init__(self, tables: dict[str, Any], folder: Path, changed: set[tuple[str, ...]]):
        self.tables, self._folder, self._changed = tables, folder, changed
        self.notes: list[str] = []
        self._files: set[Path] = set()
        self._moves: list[tuple[dict[str, Any], str, Any]] = []  # (table, key, its paths, local), rewritten at the end

    def pack(self, most_bytes: int) -> Contents:
        """The archive's contents."""
        self._take_task()
        self._take_files()
        self._take_data()
        base = common_folder(self._files)
        contents = read(self._files, base, most_bytes)
        for table, key, value in self._moves:
            table[key] = _renamed(value, base)
        if contents:
            # So that the files travel on from the service to the nodes, which do not see its folders.
            self.tables.setdefault("cluster", {})["files"] = _patterns(contents)
        elif isinstance(self.tables.get("cluster"), dict):
            self.tables["cluster"].pop("files", None)
        return contents

    def _take_task(self) -> None:
        table = self._table("task")
        name = table.get("name")
        if isinstance(name, type):
            from deploy.resolve import absolute_task

            name = table["name"] = absolute_task(name, self._folder)
        if not isinstance(name, str):
            return
        file, colon, attribute = name.rpartition(":")
        if not (colon and file.endswith(".py")):
            return
        path = (self._base("task", "name") / Path(file).expanduser()).resolve()
        self._files.update(task_files(f"{path}:{attribute}"))
        self._moves.append((table, "name", (path, colon + attribute)))

    def _take_data(self) -> None:
        keys = _path_options(self._table("task").get("name"), self._folder)
        framework = set(DataSection.framework_keys())
        for section in ("task", "data"):
            table = self._table(section)
            for key in sorted(keys & set(table) - framework):
                self._moves.append((table, key, self._local(section, key, table[key])))

    def _local(self, section: str, key: str, value: Any) -> Any:
        """A value with its relative paths as ``Path``s, which travel."""
        if isinstance(value, list):
            return [self._local(section, key, entry) for entry in value]
        if not isinstance(value, str) or SCHEME.match(value):
            return value
        if Path(value).is_absolute():
            named = Path(os.path.abspath(value))
            if any(file == named or file.is_relative_to(named) for file in self._files):  # among [cluster] files
                return named
            self.notes.append(f"[{section}] {key}: {value} does not travel; the cluster's nodes read it there")
            return value
        path = (self._base(section, key) / Path(value).expanduser()).resolve()
        if not path.exists():
            raise JobError(
                f"[{section}] {key}: there is no {path}; relative paths travel with the job, the cluster's own are absolute"
            )
        self._files.update(below(path, [path, self._folder.resolve()]) if path.is_dir() else [path])
        return path

    def _take_files(self) -> None:
        patterns = self._table("cluster").get("files", [])
        for pattern in patterns if isinstance(patterns, list) else []:
            self._files.update(matches(self._folder, str(pattern)))

    def _table(self, section: str) -> dict[str, Any]:
        table = self.tables.get(section)
        return table if isinstance(table, dict) else {}

    def _base(self, section: str, key: str) -> Path:
        return Path.cwd() if (section, key) in self._changed else self._folder


def _renamed(value: Any, base: Path) -> Any:
    if isinstance(value, list):
        return [_renamed(entry, base) for entry in value]
    path, rest = value if isinstance(value, tuple) else (value, "")
    return path.relative_to(base).as_posix() + rest if isinstance(path, Path) else value


def _patterns(contents: Contents) -> list[str]:
    """``[cluster] files`` that mean all of them: hidden ones, which ``*`` leaves out, are named."""
    named = [name for name in contents if any(part.startswith(".") for part in name.split("/"))]
    return (["*"] if len(named) < len(contents) else []) + [glob.escape(name) for name in named]


def _path_options(task: object, folder: Path) -> set[str]:
    """The options of a task that name files: its class's ``paths``, read from its source where it cannot be imported."""
    from worker.tasks import task_class

    if not isinstance(task, str):
        return set()
    try:
        return set(getattr(task_class(task, folder), "paths", ()))
    except UsageError:
        return set(_paths_in_source(task, folder))


def _paths_in_source(task: str, folder: Path) -> Iterator[str]:
    file, _, attribute = task.rpartition(":")
    try:
        body = ast.parse((folder / Path(file).expanduser()).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    for node in (node for node in body if isinstance(node, ast.ClassDef) and node.name == attribute):
        for part in node.body:
            if isinstance(part, ast.Assign) and any(getattr(target, "id", "") == "paths" for target in part.targets):
                try:
                    yield from ast.literal_eval(part.value)
                except ValueError:
                    return
