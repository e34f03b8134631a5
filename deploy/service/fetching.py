"""A job's run directory, file by file."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from deploy.service.reading import SECRET, list_inside, open_inside
from deploy.service.refusals import Refused
from deploy.wire import jobs_pb2 as pb
from ps.errors import UsageError

PIECE_BYTES = 1 << 20
MOST_PATTERNS, MOST_PATTERN_TEXT = 100, 1000
MOST_FILES = 10_000


def replies(folder: Path, patterns: Sequence[str], known: Sequence[Any] = ()) -> Iterator[pb.FetchReply]:
    """The files of a job's folder below ``run/``, each followed by its data, and ``done``.

    Of a file of which a part is known, and which has not changed since, only the rest is sent, perhaps nothing.

    Hidden files, links and what is no regular file stay here, and so does the token of the run's shards. A file that grows is
    sent as it was at first; one that vanishes before its turn is left out.

    Args:
      folder: of the job. patterns, known: see ``FetchRequest``; "*" also stands for "/".

    Raises:
      UsageError: too many patterns or files that are known, or too long patterns.
      Refused: a file was cut short while it was sent.
    """
    if len(patterns) > MOST_PATTERNS or any(len(pattern) > MOST_PATTERN_TEXT for pattern in patterns):
        raise UsageError(f"there must be at most {MOST_PATTERNS} patterns of {MOST_PATTERN_TEXT} characters")
    if len(known) > MOST_FILES:
        raise UsageError(f"there must be at most {MOST_FILES} files that are known, got {len(known)}")
    begun = {(part.path, part.mark): part.size for part in known}
    found, more = list_inside(folder, ("run",), MOST_FILES)
    if more:
        raise Refused("FAILED_PRECONDITION", f"the run directory has more than {MOST_FILES} files; give patterns")
    files = total = 0
    for listed in found:
        if listed.path in SECRET or not _matches(listed.path, patterns):
            continue
        size = yield from _file(folder, listed.path, begun)
        if size is not None:
            files, total = files + 1, total + size
    yield pb.FetchReply(done=pb.FetchReply.Done(files=files, bytes=total))


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _file(folder: Path, path: str, begun: Mapping[tuple[str, str], int]) -> Iterator[pb.FetchReply]:
    """One file; returns its size, None if it is not there any more."""
    try:
        file = open_inside(folder, ("run", *path.split("/")))
    except FileNotFoundError:
        return None
    with file:
        size, mark = _facts(file)
        offset = min(begun.get((path, mark), 0), size)
        file.seek(offset)
        left = size - offset
        yield pb.FetchReply(file=pb.FetchReply.File(path=path, size=size, mark=mark, offset=offset))
        while left:
            piece = file.read(min(left, PIECE_BYTES))
            if not piece:
                raise Refused("ABORTED", f"{path} was cut short while it was sent; fetch again")
            left -= len(piece)
            yield pb.FetchReply(data=piece)
    return size


def _facts(file: BinaryIO) -> tuple[int, str]:
    """The size of a file, and a mark that is another one once it was written to or replaced."""
    status = os.fstat(file.fileno())
    times = f"{status.st_mtime_ns:x}.{status.st_ctime_ns:x}"
    return status.st_size, f"{status.st_dev:x}.{status.st_ino:x}.{status.st_size:x}.{times}"
