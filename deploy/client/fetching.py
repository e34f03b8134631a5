"""Files of a run directory, from the service's stream into a folder: each written beside its place and renamed.

After a lost connection the next stream goes on where the one before ended. The service gives each file a mark that is another
one once the file has changed; what came under another mark is fetched again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from deploy.wire import jobs_pb2 as pb
from ps.errors import HogsheadError, UsageError

_PARTIAL = ".partial"
_MOST_KNOWN_BYTES = 3 << 20  # of what is told to be known: it must go into one message


@dataclass(frozen=True)
class Fetched:
    """What was fetched: names relative to ``folder``, and bytes in all."""

    folder: Path
    files: tuple[str, ...]
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {"folder": str(self.folder), "files": list(self.files), "bytes": self.size_bytes}


def prepare(folder: Path, overwrite: bool) -> bool:
    """Make a folder to fetch into; returns whether there was none.

    Raises:
      UsageError: it is no folder, or holds something and may not be overwritten.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not overwrite and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty; give another folder, or --overwrite")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be fetched into: {error.strerror}") from error
    return made


def write_files(replies: Iterable[Any], folder: Path) -> Fetched:
    """Write the files of one ``Fetch`` stream below ``folder``; see ``Download.take``."""
    download = Download(folder)
    try:
        return download.take(replies)
    finally:
        download.close()


@dataclass
class _Piece:
    """What has come of a file: so many bytes of ``size``, under a mark."""

    name: str
    mark: str
    size: int
    came: int = 0


class Download:
    """Writes ``Fetch`` streams, one after another until one is whole. To be closed.

    Args:
      folder: to write into. say: told what must be fetched again, in words.

    Attributes:
      received: bytes that came so far.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda message: None):
        self._folder, self._say = folder, say
        self._whole: dict[str, _Piece] = {}  # in their places
        self._parts: dict[str, _Piece] = {}  # of earlier streams, beside their places
        self._listed: list[_Piece] = []  # all files of the stream that is being read
        self._now: _Piece | None = None  # the last of them, unless it is whole
        self._stream: BinaryIO | None = None  # where that goes
        self.received = 0

    def known(self) -> list[pb.FetchRequest.Known]:
        """What the next stream need not bring again."""
        self._lay_aside()
        known, room = [], _MOST_KNOWN_BYTES
        for piece in (*self._whole.values(), *self._parts.values()):
            entry = pb.FetchRequest.Known(path=piece.name, mark=piece.mark, size=piece.came)
            room -= entry.ByteSize() + 8
            if piece.mark and room > 0:
                known.append(entry)
        return known

    def take(self, replies: Iterable[Any]) -> Fetched:
        """Write the files of a stream. What the stream itself raises leaves all that came for the next one.

        Raises:
          HogsheadError: the stream ends before ``done``; it says what cannot be: a name that leaves the folder, data of no file,
            a file larger or smaller than said; or the disk is full.
        """
        self._lay_aside()
        self._listed = []
        try:
            for reply in replies:
                part = reply.WhichOneof("part")
                if part == "file":
                    self._begin(reply.file)
                elif part == "data":
                    self._write(reply.data)
                elif part == "done":
                    return self._finish(reply.done.files, reply.done.bytes)
            raise HogsheadError("the service ended before it had sent everything; fetch again")
        except OSError as error:
            raise HogsheadError(f"{error.filename or self._folder}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Remove what came of files that are not whole."""
        self._lay_aside()
        for name in self._parts:
            _partial(self._folder / name).unlink(missing_ok=True)
        self._parts = {}

    def _lay_aside(self) -> None:
        """What came of the last file is kept for the next stream."""
        now, stream, self._now, self._stream = self._now, self._stream, None, None
        if now is not None and stream is not None:
            self._parts[now.name] = now
            stream.close()

    def _begin(self, file: Any) -> None:
        self._end_file()
        target = self._place(file.path)
        piece = _Piece(file.path, file.mark, file.size, file.offset)
        self._listed.append(piece)
        before = self._whole.get(file.path) or self._parts.get(file.path)
        if file.offset and (before is None or (before.mark, before.came) != (file.mark, file.offset)):
            raise HogsheadError(f"the service leaves out what never came of {file.path}; fetch again")
        if file.offset and file.path in self._whole:
            return
        if before is not None and before.came and not file.offset:
            self._say(f"{file.path} has changed; it is fetched again")
        self._whole.pop(file.path, None)
        self._now, self._stream = piece, _opened(_partial(target), file.offset)
        self._parts.pop(file.path, None)

    def _write(self, data: bytes) -> None:
        now = self._now
        if now is None or self._stream is None or len(data) > now.size - now.came:
            raise HogsheadError("the service sent more of a file than it had said; fetch again")
        self._stream.write(data)
        now.came += len(data)
        self.received += len(data)

    def _end_file(self) -> None:
        now, stream = self._now, self._stream
        if now is None or stream is None:
            return
        if now.came < now.size:
            raise HogsheadError(f"{now.name}: {now.size - now.came} bytes are missing; fetch again")
        stream.close()
        os.replace(_partial(self._folder / now.name), self._folder / now.name)
        self._now, self._stream, self._whole[now.name] = None, None, now

    def _finish(self, files: int, size: int) -> Fetched:
        self._end_file()
        names, total = tuple(piece.name for piece in self._listed), sum(piece.size for piece in self._listed)
        if (files, size) != (len(names), total):
            raise HogsheadError(
                f"{len(names)} files of {total} bytes came, the service says {files} of {size}; fetch again"
            )
        for gone in set(self._whole) - set(names):  # it came before the connection was lost, and is no more
            (self._folder / gone).unlink(missing_ok=True)
        return Fetched(self._folder, names, total)

    def _place(self, name: str) -> Path:
        """Where a file goes, its folders made; a service of somebody else's must not write where it likes."""
        path = PurePosixPath(name)
        safe = path.parts and not path.is_absolute() and ".." not in path.parts and str(path) == name
        twice = any(piece.name == name for piece in self._listed)
        if not safe or not name.isprintable() or "\\" in name or twice:
            raise HogsheadError(f"the service sent a file called {name[:80]!r}, which cannot be")
        place = self._folder
        for part in path.parts[:-1]:
            place = place / part
            if place.is_symlink():
                raise HogsheadError(f"{place} is a link; fetch into another folder")
            place.mkdir(exist_ok=True)
        target = place / path.name
        if target.is_dir() and not target.is_symlink():
            raise HogsheadError(f"{target} is a folder, where a file is to be; fetch into another folder")
        return target


def _partial(target: Path) -> Path:
    """Where a file lies until it is whole."""
    return target.with_name(f".{target.name}{_PARTIAL}")


def _opened(path: Path, offset: int) -> BinaryIO:
    """A file to write into, from its beginning, or behind what came of it before."""
    # Never through a link: O_NOFOLLOW, as the folder may hold anything.
    how = os.O_APPEND if offset else os.O_CREAT | os.O_TRUNC
    stream = os.fdopen(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | how, 0o666), "ab" if offset else "wb")
    if os.fstat(stream.fileno()).st_size != offset:
        stream.close()
        raise HogsheadError(f"{path} was changed by somebody else; fetch again")
    return stream
