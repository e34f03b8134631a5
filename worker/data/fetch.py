"""Data by URL: fetched once per host into a cache folder, and again only when it has changed at its source.

::

    ~/.cache/hogshead/data/        or $HOGSHEAD_CACHE, or below $XDG_CACHE_HOME
      9f86d081884c7d65/            of the URL
        lock                       held while somebody fetches: of several processes one does, the others wait
        source.json                size and date (or ETag) at the source when it was fetched, and the copy
        2c26b46b68ffc68f/train.csv a copy, named by its content; the one before it is kept for whoever still reads it
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from ps.errors import DataError
from worker.data import remote

MOST_FILES = 10_000  # in a folder
_KEPT = 2
_HERE = f"{__name__}:fetch_here"
# What file systems call the things by which a changed file is known.
_MARKS = ("ETag", "etag", "Content-MD5", "content_md5", "md5Hash", "checksum", "sha", "oid", "blob_id", "Last-Modified",
          "LastModified", "last_modified", "updated", "mtime", "modified", "modify", "created")  # fmt: skip

Facts = dict[str, list[Any]]  # name in the folder -> size and marks


def fetched(options: Mapping[str, Any], paths: Iterable[str], cache: str | Path | None = None) -> dict[str, Any]:
    """Options of a task in which the URLs have become names of local files.

    Args:
      options: by name; only a text, or a list of them, can be a URL.
      paths: names of the options that are file names.
      cache: folder of the copies; ``cache_folder()`` if None.

    Raises:
      DataError: as ``local``.
    """
    paths = set(paths)

    def translated(name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(translated(name, entry) for entry in value)
        return local(value, name, cache) if remote.is_url(value) else value

    return {name: translated(name, value) if name in paths else value for name, value in options.items()}


def local(url: str, what: str, cache: str | Path | None = None) -> str:
    """The name of a local file with the content of ``url``; a file name is returned as it is.

    Args:
      url: any URL that fsspec knows; one that ends in ``/`` is a folder, with all that is below it. ``file://`` is not copied.
      what: the option that it came from, for messages.
      cache: folder of the copies; ``cache_folder()`` if None.

    Raises:
      DataError: there is no such file, it cannot be reached, a package is missing, or the cache cannot be written.
    """
    if not remote.is_url(url):
        return url
    if url.startswith("file://"):
        return unquote(urlsplit(url).path)
    return remote.run(_HERE, url, what, str(cache or cache_folder()), url=url)


def cache_folder() -> Path:
    """Where copies are kept on this host."""
    own = os.environ.get("HOGSHEAD_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hogshead" / "data"


def fetch_here(url: str, what: str, cache: str) -> str:
    """``local``, in this process."""
    home = Path(cache) / _digest(url.encode())
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home / "lock"):
            source = _Source(url, what, home)
            return str(source.copy() or source.download())
    except OSError as error:
        raise DataError(f"{what}: cannot keep a copy of {remote.shown(url)} in {home}: {error}") from error


class _Source:
    """One URL, and its copies on this host.

    Args:
      home: the folder of the copies; locked.
    """

    def __init__(self, url: str, what: str, home: Path):
        self.what, self.home, self.shown, self.is_folder = what, home, remote.shown(url), url.endswith("/")
        self.name = _base_name(url)
        self.fs, self.path = remote.filesystem(url)
        self.paths: dict[str, str] = {}
        try:
            self.facts = self._facts()
        except DataError:
            raise
        except Exception as error:
            raise self._failed(error) from error

    def copy(self) -> Path | None:
        """The copy that is there already, if the source has not changed and nobody has damaged the copy."""
        try:
            kept = json.loads((self.home / "source.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        whole = kept["facts"] == self.facts and all(size is not None and marks for size, marks in self.facts.values())
        place = self.home / kept["copy"]
        if whole and self._sizes(place) == {name: size for name, (size, _) in self.facts.items()}:
            return place / self.name
        return None

    def download(self) -> Path:
        """Fetch everything beside the other copies, and rename it into place."""
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.home))
        try:
            content = hashlib.sha256()
            for name in sorted(self.facts):
                content.update(f"{name}\0{self._download_one(name, partial / name)}\n".encode())
            place = self.home / content.hexdigest()[:16]
            if place.exists() and self._sizes(place) != self._sizes(partial):
                shutil.rmtree(place)  # somebody has damaged it
            if place.exists():  # the same content as before, which others may be reading
                os.utime(place)
            else:
                partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        beside = self.home / ".source.json"
        beside.write_text(json.dumps({"url": self.shown, "copy": place.name, "facts": self.facts}, indent=1), "utf-8")
        beside.replace(self.home / "source.json")
        self._drop_old(place)
        return place / self.name

    def _download_one(self, name: str, target: Path) -> str:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.fs.get_file(self.paths[name], str(target))
        except Exception as error:
            raise self._failed(error) from error
        size, expected = _size(target), self.facts[name][0]
        if expected is not None and size != expected:
            raise DataError(f"{self.what}: {self.shown}: {name} has {expected} bytes, but {size} have come; try again")
        with open(target, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _facts(self) -> Facts:
        if not self.is_folder:
            self.paths = {self.name: self.path}
            return {self.name: _facts_of(self.fs.info(self.path))}
        below = self.fs.find(self.path.rstrip("/"), detail=True)
        if not below:
            raise DataError(f"{self.what}: {self.shown}: there is nothing in this folder")
        if len(below) > MOST_FILES:
            raise DataError(
                f"{self.what}: {self.shown}: a folder of {len(below)} files; {MOST_FILES} are fetched at most"
            )
        names = {f"{self.name}/{self._below(path)}": path for path in below}
        self.paths = names
        return {name: _facts_of(below[path]) for name, path in names.items()}

    def _below(self, path: str) -> str:
        name = PurePosixPath(path.removeprefix(self.path.rstrip("/")).lstrip("/"))
        if not name.parts or name.is_absolute() or ".." in name.parts:
            raise DataError(f"{self.what}: {self.shown}: holds a file with the name {path!r}, which is not fetched")
        return str(name)

    def _sizes(self, place: Path) -> dict[str, int | None]:
        return {name: _size(place / name) for name in self.facts}

    def _drop_old(self, newest: Path) -> None:
        copies = [entry for entry in self.home.iterdir() if entry.is_dir() and entry != newest]
        for entry in sorted(copies, key=lambda copy: copy.stat().st_mtime, reverse=True)[_KEPT - 1 :]:
            shutil.rmtree(entry, ignore_errors=True)

    def _failed(self, error: Exception) -> DataError:
        remedy = (
            "; if it is a folder, let the URL end in /"
            if isinstance(error, (IsADirectoryError, FileNotFoundError))
            else ""
        )
        return DataError(f"{self.what}: {self.shown} cannot be fetched: {remote.explain(error)}{remedy}")


def _facts_of(info: Mapping[str, Any]) -> list[Any]:
    marks = [f"{name} {info[name]}" for name in _MARKS if info.get(name) is not None]
    return [info.get("size"), marks]


def _base_name(url: str) -> str:
    """The last part of the path, as readers go by its suffixes."""
    first = url.split("::")[0]
    path = urlsplit(first).path or urlsplit(first).netloc
    name = PurePosixPath(unquote(path)).name
    return name if name and name not in (".", "..") else "data"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock; the kernel lets go of it when its holder dies."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
