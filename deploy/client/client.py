"""The job service from Python: ``hogshead.connect()``."""

from __future__ import annotations

import hashlib
import secrets
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from deploy.client.failures import ServiceAway, ServiceBusy, ServiceError, UnknownJob
from deploy.client.fetching import Download, Fetched, prepare
from deploy.client.packing import Packed, pack_job
from deploy.client.settings import find_settings
from deploy.client.status import (
    ClusterStatus,
    JobStatus,
    Update,
    cluster_status,
    job_status,
    state_number,
    update,
)
from deploy.client.wire import Patience, Search, Wire
from deploy.packing import MOST_BYTES
from deploy.resolve import overrides_of
from deploy.service.folder import ID
from deploy.service.states import State
from deploy.wire import jobs_pb2 as pb
from ps.errors import UsageError, nearest

_PIECE_BYTES = 1 << 20
_UPLOAD_S = 600.0
_PAGE = 100
_NEWEST = 1000  # jobs among which an abbreviation is looked up
_FETCHES = 3  # tries that bring nothing
_MOST_PRIORITY = 1_000_000


def connect(
    address: str | None = None,
    token: str | None = None,
    *,
    token_file: str | Path | None = None,
    tls: bool | None = None,
    tls_ca: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    tls_server_name: str | None = None,
    patience: Patience | None = None,
    on_lost: Callable[[str], None] | None = None,
) -> Client:
    """A client of a cluster's job service. Nothing is sent before something is asked.

    Args:
      address: ``host:port``. What is not given comes from the environment (``HOGSHEAD_ADDRESS``, ``HOGSHEAD_TOKEN``,
        ``HOGSHEAD_TOKEN_FILE``, ``HOGSHEAD_TLS``, ``HOGSHEAD_TLS_CA``, ``…_CERT``, ``…_KEY``, ``…_SERVER_NAME``), else from the
        nearest ``.hogshead.toml``, else from ``~/.config/hogshead/config.toml``; else it is ``127.0.0.1:50700``.
      token, token_file: what every call carries.
      tls: encrypt; ``tls_ca`` does so too, and says whom to trust instead of the system's authorities.
      tls_cert, tls_key: of this client, for a service that asks for one.
      tls_server_name: the name in the service's certificate, where that is not the address.
      patience: bounds in time.
      on_lost: told when a connection is lost and looked for, when the service is busy, and what must be fetched again.

    Raises:
      UsageError: settings that cannot be.

    Example:
      >>> import hogshead
      >>> with hogshead.connect("127.0.0.1:50700", token="…") as client:  # doctest: +SKIP
      ...     job = client.submit("job.toml", set={"workers.count": 4})
      ...     for update in client.watch(job.id):
      ...         print(update.records)
      ...     client.fetch(job.id, "out/")
    """
    given = dict(
        address=address,
        token_file=_text(token_file),
        tls=tls,
        tls_ca=_text(tls_ca),
        tls_cert=_text(tls_cert),
        tls_key=_text(tls_key),
        tls_server_name=tls_server_name,
    )
    return Client(Wire(find_settings(given, token), patience, on_lost))


class Client:
    """Calls to one job service; made by ``connect``, closed by ``close`` or ``with``.

    ``job`` is an id, ``digits_easgd-3``, or where nothing is ended or removed the beginning of exactly one.

    Every method raises ``UsageError`` for what the service refuses as wrong, and a ``ServiceError`` (a ``HogsheadError``; see
    ``deploy.client.failures``) for what fails otherwise.
    """

    def __init__(self, wire: Wire):
        self._wire = wire

    @property
    def address(self) -> str:
        """Of the service."""
        return self._wire.settings.address

    def submit(
        self,
        job: str | Path | Mapping[str, Any],
        *,
        set: Mapping[str, Any] | None = None,
        name: str | None = None,
        priority: int | None = None,
        checked: bool = True,
        most_bytes: int = MOST_BYTES,
    ) -> JobStatus:
        """Hand in a job; once this returns, the service keeps it, whatever dies next.

        Args:
          job: a job file, or its tables.
          set: overrides, ``{"strategy.tau": 16}``.
          name: instead of the job's own.
          priority: instead of ``[service] priority``.
          checked: resolve the job here first, as ``train`` does, which imports a task of the user's; False where that cannot be
            imported here.
          most_bytes: bound on the sum of the sizes of the files that go along; the service has one of its own.

        Raises:
          JobError: the job is wrong; nothing was sent.
        """
        return self.submit_packed(
            pack_job(job, overrides_of(set), name, checked=checked, most_bytes=most_bytes), priority
        )

    def submit_packed(self, packed: Packed, priority: int | None = None) -> JobStatus:
        """Hand in what ``pack_job`` has made; over a lost connection again, with the same token, so that the job runs once."""
        submission = _submission(packed, priority)
        self._wire.greet()
        return job_status(self._wire.insist("Submit", lambda: _upload(submission, packed.archive), _UPLOAD_S))

    def get(self, job: str) -> JobStatus:
        """One job."""
        return self._found(job)

    def jobs(self, states: Iterable[State | str] = (), limit: int | None = None) -> list[JobStatus]:
        """Jobs, the newest first; only those in ``states``, if given, and at most ``limit``.

        Raises:
          UsageError: an unknown state.
        """
        numbers = [state_number(_state(state)) for state in states]
        found: list[JobStatus] = []
        before = ""
        while limit is None or len(found) < limit:
            page = _PAGE if limit is None else min(_PAGE, limit - len(found))
            reply = self._wire.call("List", pb.ListRequest(states=numbers, limit=page, before=before))
            found += map(job_status, reply.jobs)
            before = reply.next
            if not before:
                break
        return found

    def watch(self, job: str, *, position: str = "", follow: bool = True) -> Iterator[Update]:
        """A job's states and records as they come, until it ends; over lost connections.

        Args:
          position: of the last update that was seen; empty: from the beginning.
          follow: stay until the job ends; False: give what there is.
        """
        job = self._found(job).id
        at = position

        def request() -> pb.WatchRequest:
            return pb.WatchRequest(id=job, position=at, follow=follow)

        for reply in self._wire.stream("Watch", request):
            at = reply.position or at
            yield update(reply)

    def wait(self, job: str) -> JobStatus:
        """Wait until a job ends."""
        last = self._found(job)
        for news in self.watch(last.id):
            last = news.job or last
        return last if last.ended else self._found(last.id)

    def logs(self, job: str, *, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
        """What a job printed, in pieces of UTF-8 text; with ``tail`` only the last so many lines, with ``follow`` what comes."""
        job = self._found(job).id
        seen: int | None = None

        def request() -> pb.LogsRequest:
            begin = {"tail_lines": tail or 0} if seen is None else {"offset": seen}
            return pb.LogsRequest(id=job, follow=follow, **begin)

        if tail == 0:  # on the wire that is all lines
            if not follow:
                return
            seen = 0
            for reply in self._wire.stream("Logs", lambda: pb.LogsRequest(id=job, tail_lines=1)):
                seen = reply.offset
        for reply in self._wire.stream("Logs", request):
            seen = reply.offset
            if reply.data:
                yield reply.data

    def stop(self, job: str, *, kill: bool = False) -> JobStatus:
        """Ask a job to end, with a checkpoint, or at once; it ends soon after this returns."""
        return job_status(self._wire.call("Stop", pb.StopRequest(id=_whole(job), kill=kill)))

    def resume(self, job: str, *, set: Mapping[str, Any] | None = None, priority: int | None = None) -> JobStatus:
        """Go on with a job that has ended, from its newest checkpoint; ``set`` overrides keys in addition to earlier ones."""
        return self.resume_with(job, overrides_of(set), priority)

    def resume_with(self, job: str, overrides: Sequence[str], priority: int | None = None) -> JobStatus:
        """``resume`` with overrides as ``--set`` takes them."""
        request = pb.ResumeRequest(id=self._found(job).id, overrides=overrides, priority=_checked(priority))
        return job_status(self._wire.call("Resume", request))

    def fetch(
        self,
        job: str,
        folder: str | Path | None = None,
        patterns: Sequence[str] = (),
        *,
        overwrite: bool = False,
    ) -> Fetched:
        """A job's run directory. After a lost connection it goes on where it was; what has changed meanwhile is fetched again.

        Args:
          folder: to write into; ``./<job>`` if None. It must be empty or missing, unless ``overwrite``.
          patterns: only files that match one, e.g. ``summary.json`` or ``checkpoint/*``.

        Raises:
          UsageError: the folder holds something, or nothing matches.
        """
        job = self._found(job).id
        place = Path(folder if folder is not None else job).expanduser()
        made = prepare(place, overwrite)
        fetched = self._download(job, patterns, place)
        if not fetched.files:
            if made:
                place.rmdir()
            what = f"that matches {' or '.join(map(repr, patterns))}" if patterns else "yet"
            raise UsageError(f"the run directory of {job} holds nothing {what}")
        return fetched

    def _download(self, job: str, patterns: Sequence[str], place: Path) -> Fetched:
        download, search = Download(place, self._wire.say), Search(self._wire)
        in_vain = 0
        with closing(download):
            while True:
                before = download.received
                request = pb.FetchRequest(id=job, patterns=patterns, known=download.known())
                try:
                    return download.take(self._wire.stream("Fetch", lambda request=request: request, resumable=False))
                except ServiceBusy as error:
                    search.pause(error)
                except ServiceError as error:
                    in_vain = 0 if download.received > before else in_vain + 1
                    if in_vain >= _FETCHES or not (isinstance(error, ServiceAway) or error.code == "ABORTED"):
                        raise
                    self._wire.await_service()

    def read(self, job: str, name: str) -> bytes | None:
        """One file of a job's run directory; None if there is none of that name."""
        stream = self._wire.stream("Fetch", lambda: pb.FetchRequest(id=job, patterns=[name]), resumable=False)
        content, found = b"", False
        for reply in stream:
            found = found or reply.WhichOneof("part") == "file"
            content += reply.data
        return content if found else None

    def delete(self, job: str) -> None:
        """Forget a job that has ended, and remove its files at the service."""
        self._wire.call("Delete", pb.DeleteRequest(id=_whole(job)))

    def cluster(self) -> ClusterStatus:
        """What the cluster has, and what is taken."""
        return cluster_status(self._wire.call("Cluster", pb.ClusterRequest()))

    def close(self) -> None:
        """End the connection."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _found(self, job: str) -> JobStatus:
        """The job of that id, or the only one that it is the beginning of."""
        unknown: UnknownJob | None = None
        if ID.fullmatch(job):
            try:
                return job_status(self._wire.call("Get", pb.GetRequest(id=job)))
            except UnknownJob as error:
                unknown = error
        if not job:
            raise UsageError("which job? `hogshead jobs` lists them")
        known = self.jobs(limit=_NEWEST)
        matching = [entry for entry in known if entry.id.startswith(job)]
        matching = [entry for entry in matching if entry.name == job] or matching
        if len(matching) == 1:
            return matching[0]
        if matching:
            ids = ", ".join(entry.id for entry in matching[:5]) + (", …" if len(matching) > 5 else "")
            raise UsageError(f"{len(matching)} jobs begin with {job!r}: {ids}; say which")
        raise unknown or UnknownJob(
            f"there is no job {job[:80]!r}{nearest(job[:80], [entry.id for entry in known[:20]])}"
        )


def run_facts(client: Client, job: str) -> dict[str, Any]:
    """The tables of a run's resolved job, or none before there are any."""
    try:
        return tomllib.loads((client.read(job, "job.toml") or b"").decode())
    except (ValueError, RecursionError, ServiceError):  # what is shown without them is worth more than an error
        return {}


def _submission(packed: Packed, priority: int | None) -> pb.Submission:
    return pb.Submission(
        job=packed.job,
        name=packed.name,
        client_token=secrets.token_hex(16),
        priority=_checked(priority),
        archive_bytes=len(packed.archive),
        archive_sha256=hashlib.sha256(packed.archive).digest() if packed.archive else b"",
    )


def _upload(submission: pb.Submission, archive: bytes) -> Iterator[pb.SubmitRequest]:
    yield pb.SubmitRequest(submission=submission)
    for start in range(0, len(archive), _PIECE_BYTES):
        yield pb.SubmitRequest(archive=archive[start : start + _PIECE_BYTES])


def _checked(priority: int | None) -> int | None:
    if priority is not None and abs(priority) > _MOST_PRIORITY:
        raise UsageError(f"a priority must be from -{_MOST_PRIORITY} to {_MOST_PRIORITY}, got {priority}")
    return priority


def _whole(job: str) -> str:
    """An id in full: what ends or removes a job is not guessed."""
    if not ID.fullmatch(job):
        raise UsageError(
            f"{job[:80]!r} is no job's id; here it must be whole, as `hogshead jobs` shows it, e.g. digits-3"
        )
    return job


def _state(state: State | str) -> State:
    try:
        return State(str(state).lower())
    except ValueError:
        raise UsageError(f"there is no state {str(state)!r}{nearest(str(state).lower(), map(str, State))}") from None


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
