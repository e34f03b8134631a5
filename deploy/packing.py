"""What of a user's files travels with a job, and the archive that they travel in.

``deploy.cluster.bundle`` takes them to the nodes of a cluster, ``deploy.client`` to a job service.
"""

from __future__ import annotations

import ast
import io
import itertools
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ps.errors import JobError

MOST_BYTES = 100_000_000
MOST_FILES = 10_000
_LEFT_OUT = {"__pycache__", "node_modules", "site-packages", "venv"}
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the same files make the same bytes
Contents = dict[str, tuple[bytes, bool]]  # name in the archive -> content, and whether it is executable


def task_files(task: str) -> Iterator[Path]:
    """The file of a task ``path/to/file.py:MyTask``, and what it imports from beside it; of a built-in one none."""
    file, colon, _ = task.rpartition(":")
    if not colon or not file.endswith(".py"):
        return
    waiting, seen = [Path(file)], set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        yield path
        if path.suffix == ".py":
            waiting.extend(_siblings(path, Path(file).parent))


def _siblings(path: Path, folder: Path) -> Iterator[Path]:
    """Files of the modules and packages in ``folder`` that ``path`` imports."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (OSError, SyntaxError, ValueError):  # whoever imports it will say so
        return
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    for name in sorted({name.partition(".")[0] for name in names}):
        if (folder / f"{name}.py").is_file():
            yield folder / f"{name}.py"
        elif any((folder / name).glob("*.py")):
            yield from below(folder / name, [folder.resolve()])


def matches(folder: Path, pattern: str) -> Iterator[Path]:
    """The files that a pattern of ``[cluster] files`` means, folders with all that is in them.

    A link travels as what it points to, which must lie in ``folder`` or below what the pattern itself names beyond it.

    Raises:
      JobError: it is no pattern, matches nothing, or a link leads elsewhere, nowhere, or back to a folder that it lies in.
    """
    asked = Path(pattern).expanduser()
    roots = [folder.resolve()]
    if asked.is_absolute() or ".." in asked.parts:
        roots.append((folder / _literal(asked)).resolve())
    if asked.is_absolute():
        folder, asked = Path(asked.anchor), asked.relative_to(asked.anchor)
    for match in _found(folder, asked, pattern):
        _check_inside(match, roots)
        for path in below(match, roots) if match.is_dir() else [match]:
            # By both names, as the job's own paths have their links followed.
            yield Path(os.path.abspath(path))
            yield path.resolve()


def _found(folder: Path, asked: Path, pattern: str) -> list[Path]:
    """What a pattern matches in a folder."""
    if not pattern:
        raise JobError("[cluster] files: '' is no pattern: it is empty")
    if not asked.parts:
        return [folder]
    try:
        found = [path for path in folder.glob(str(asked)) if _is_meant(path.relative_to(folder), asked, path)]
    except (ValueError, IndexError, NotImplementedError) as error:
        raise JobError(f"[cluster] files: {pattern!r} is no pattern: {error}") from error
    if not found and (folder / asked).is_symlink():  # to nothing: it does not count as being there
        return [folder / asked]
    if not found:
        raise JobError(f"[cluster] files: {pattern!r} matches nothing in {folder}")
    return found


def _literal(pattern: Path) -> Path:
    """The beginning of a pattern in which each part stands for itself."""
    return Path(*itertools.takewhile(lambda part: not set("*?[") & set(part), pattern.parts))


def _is_meant(name: Path, pattern: Path, path: Path) -> bool:
    """A hidden file, cache or the like is not, unless the pattern names it; ``name`` is ``path`` relative to its folder."""
    places = [path, *path.parents][: len(name.parts)]
    wanted = all(_is_wanted(part) or part in pattern.parts for part in name.parts)
    return wanted and not any(map(_is_environment, places))


def below(folder: Path, roots: Sequence[Path] = ()) -> Iterator[Path]:
    """All files in a folder but hidden ones, caches, bytecode and virtual environments; links as what they point to.

    Args:
      roots: resolved folders; each link must lead into one of them. None: into ``folder``.

    Raises:
      JobError: a link does not, or leads back to a folder that it lies in; or a folder cannot be read.
    """
    return _below(folder, roots or [folder.resolve()], frozenset([folder.resolve()]))


def _below(folder: Path, roots: Sequence[Path], above: frozenset[Path]) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _stays(folder, f"it cannot be read: {error.strerror}") from error
    for entry in entries:
        path = folder / entry.name
        if not _is_wanted(entry.name) or _is_environment(path):
            continue
        if entry.is_symlink():
            _check_inside(path, roots)
        if not entry.is_dir():
            yield path
            continue
        real = path.resolve()
        if real in above:
            raise _stays(path, f"it is a link to {real}, a folder that it lies in; remove the link")
        yield from _below(path, roots, above | {real})


def _check_inside(path: Path, roots: Sequence[Path]) -> None:
    """Refuse a path that leads, through a link, out of all of these folders, or nowhere."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise _stays(path, f"it is a link to {os.path.realpath(path)}, which is not there") from error
    if not any(real.is_relative_to(root) for root in roots):
        raise _stays(
            path,
            f"it is a link to {real}, outside of {roots[0]}; put a copy there, or name {real} itself in [cluster] files",
        )


def _stays(path: Path, reason: str) -> JobError:
    return JobError(f"{path} cannot travel with the job: {reason}")


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and name not in _LEFT_OUT and not name.endswith(".pyc")


def _is_environment(path: Path) -> bool:
    return (path / "pyvenv.cfg").exists()


def read(files: Iterable[Path], base: Path, most_bytes: int = MOST_BYTES) -> Contents:
    """What the archive is to hold: the files, named relative to ``base``.

    Raises:
      JobError: a file cannot be read, or they are too many or, together, larger than ``most_bytes``.
    """
    files = set(files)
    _check_sizes(files, most_bytes)
    contents = {}
    for path in sorted(files):
        try:
            contents[path.relative_to(base).as_posix()] = (path.read_bytes(), os.access(path, os.X_OK))
        except OSError as error:
            raise JobError(f"{path} cannot travel with the job: {error.strerror}") from error
    return contents


def _check_sizes(files: Iterable[Path], most_bytes: int) -> None:
    sizes = {path: path.stat().st_size if path.is_file() else 0 for path in files}
    for path in sizes:
        if not path.is_file():
            raise JobError(f"{path} cannot travel with the job: it is no file")
    if sum(sizes.values()) > most_bytes or len(sizes) > MOST_FILES:
        largest = sorted(sizes, key=lambda path: sizes[path], reverse=True)[:3]
        named = ", ".join(f"{path} ({sizes[path] / 1e6:.1f} MB)" for path in largest)
        raise JobError(
            f"{len(sizes)} files of {sum(sizes.values()) / 1e6:.1f} MB would travel with the job, the bounds "
            f"are {MOST_FILES} files and {most_bytes / 1e6:g} MB; the largest: {named}; give large data by a URL, or by a path "
            "that every node has"
        )


def common_folder(files: Iterable[Path]) -> Path:
    """The innermost folder that all files are in."""
    folders = {str(path.parent) for path in files}
    return Path(os.path.commonpath(folders)) if folders else Path("/")


def archive(contents: Mapping[str, tuple[bytes, bool]]) -> bytes:
    """A zip archive of regular files; the same contents make the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for name, (content, executable) in contents.items():
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.create_system, entry.compress_type = 3, zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | (0o700 if executable else 0o600)) << 16
            made.writestr(entry, content)
    return stream.getvalue()
