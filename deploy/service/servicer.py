"""The calls of ``hogshead.jobs.v1.Jobs``: bytes in, bytes out. ``deploy.service.server`` makes a server of it.

It only changes the store; the supervisor acts on what it finds there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from deploy.run_directory import versions
from deploy.service import fetching
from deploy.service.folder import JobFolder
from deploy.service.ray_jobs import Cluster, ClusterAway, NodeFacts
from deploy.service.refusals import Refused
from deploy.service.room import Room
from deploy.service.states import AT_WORK, ENDED, KILL, STOP, State
from deploy.service.store import JobRecord, Store, WrongState
from deploy.service.streams import Call, Streams, stopping
from deploy.service.submission import Intake, Submission, checked_again
from deploy.service.telling import Teller, demand_of, queue_of, state_of
from deploy.service.watching import Log, Records
from deploy.wire import jobs_pb2 as pb
from ps.errors import UsageError
from ps.wire.framing import MalformedMessage, parse

FOLLOWERS, UPLOADS, FETCHES = 64, 8, 8  # at one time
STALLED_S = 60.0
_LOOK_S = 0.3  # between two looks at a file that grows
_LIST, _MOST_LIST, _LIST_BYTES = 100, 1000, 3 << 20
_NODES_S = 1.0  # for so long an answer of the cluster is good for others who ask
_STATES = {state_of(state): state for state in State}


class JobsServicer:
    """Carries out the calls.

    Args:
      store: of the jobs. jobs: folder of their folders. cluster: for its nodes.
      intake: takes submissions in.
    """

    def __init__(self, store: Store, jobs: Path, cluster: Cluster, intake: Intake):
        self.store, self.jobs, self.intake = store, Path(jobs), intake
        self._nodes = _Nodes(cluster)
        self._teller = Teller(jobs)
        self._following = Streams("streams that follow jobs", FOLLOWERS)
        self._uploading = Streams("submissions", UPLOADS, STALLED_S)
        self._fetching = Streams("fetches", FETCHES, STALLED_S)

    def close(self) -> None:
        """Streams end: their clients are told to try again."""
        for streams in (self._following, self._uploading, self._fetching):
            streams.close()
        self.store.wake()

    # -- one answer ---------------------------------------------------------------------------------------------------

    def submit(self, messages: Iterator[bytes], call: Call) -> bytes:
        """``Submit``."""
        with self._uploading.one(call) as stream:
            first = next(messages, None)
            if first is None:
                raise UsageError("a submission must come first, got nothing")
            asked = _read(first, pb.SubmitRequest)
            if asked.WhichOneof("part") != "submission":
                raise UsageError("a submission must come first, got a piece of its archive")

            def pieces() -> Iterator[bytes]:
                for raw in messages:
                    stream.moved()
                    message = _read(raw, pb.SubmitRequest)
                    if message.WhichOneof("part") != "archive":
                        raise UsageError("after the submission only its archive must come")
                    yield message.archive
                if not call.is_active():
                    raise stopping()

            record = self.intake.take(_submission(asked.submission), pieces())
        return self._told(record)

    def get(self, raw: bytes, _call: Call) -> bytes:
        """``Get``."""
        return self._told(self.store.get(_read(raw, pb.GetRequest).id))

    def list(self, raw: bytes, _call: Call) -> bytes:
        """``List``: a page ends early if it grows too large for a message."""
        asked = _read(raw, pb.ListRequest)
        limit = asked.limit or _LIST
        if limit > _MOST_LIST:
            raise UsageError(f"limit must be at most {_MOST_LIST}, got {limit}; ask for the next page")
        unknown = set(asked.states) - set(_STATES)
        if unknown:
            raise UsageError(f"there is no state {min(unknown)}")
        states = {_STATES[state] for state in asked.states}
        reply, before, size = pb.ListReply(), asked.before, 0
        queue = queue_of(self.store.active())
        while len(reply.jobs) < limit:
            page, following = self.store.list(states, 1, before)
            for record in page:
                told = self._teller.job(record, queue)
                size += told.ByteSize()
                if size > _LIST_BYTES and reply.jobs:
                    return reply.SerializeToString()
                reply.jobs.append(told)
            reply.next = before = following
            if not following:
                break
        return reply.SerializeToString()

    def stop(self, raw: bytes, _call: Call) -> bytes:
        """``Stop``."""
        asked = _read(raw, pb.StopRequest)
        return self._told(self._end(asked.id, KILL if asked.kill else STOP))

    def resume(self, raw: bytes, _call: Call) -> bytes:
        """``Resume``."""
        asked = _read(raw, pb.ResumeRequest)
        record = self.store.get(asked.id)
        if record.state not in ENDED:
            raise WrongState(record.id, record.state, ENDED)
        fields = checked_again(record, self.jobs, asked.overrides, self.intake.limits)
        if asked.HasField("priority"):
            fields["priority"] = asked.priority
        return self._told(self.store.reopen(record.id, **fields))

    def delete(self, raw: bytes, _call: Call) -> bytes:
        """``Delete``."""
        self.intake.delete(_read(raw, pb.DeleteRequest).id)
        return pb.DeleteReply().SerializeToString()

    def cluster(self, raw: bytes, _call: Call) -> bytes:
        """``Cluster``."""
        _read(raw, pb.ClusterRequest)
        taken = sum((Room.of(job) for job in self.store.active() if job.state in AT_WORK), Room())
        reply = pb.ClusterReply(reachable=True, version=versions()["hogshead"], taken=demand_of(taken))
        try:
            nodes = self._nodes.now()
        except ClusterAway as error:
            reply.reachable, reply.reason = False, str(error)
            return reply.SerializeToString()
        for node in nodes:
            reply.nodes.add(id=node.id, address=node.address, head=node.head, total=demand_of(node))
        reply.total.CopyFrom(demand_of(sum(map(Room.of, nodes), Room())))
        return reply.SerializeToString()

    # -- streams ------------------------------------------------------------------------------------------------------

    def watch(self, raw: bytes, call: Call) -> Iterator[bytes]:
        """``Watch``."""
        asked = _read(raw, pb.WatchRequest)
        self.store.get(asked.id)
        records = Records(lambda: self._teller.open(asked.id, "run", "metrics.jsonl"), asked.position)
        told = None
        with self._following.one(call):
            while True:
                seen, record = self.store.changes, self.store.get(asked.id)
                news = records.read()
                changed = record != told
                if changed or news.lines or news.anew:
                    reply = pb.WatchReply(records=news.lines, anew=news.anew, position=records.position)
                    if changed:
                        reply.job.CopyFrom(self._teller.job(record, queue_of(self.store.active())))
                        told = record
                    yield reply.SerializeToString()
                if news.more:
                    self._check_going(call)
                elif not asked.follow or record.state in ENDED:
                    return
                else:
                    self._pause(seen, call)

    def logs(self, raw: bytes, call: Call) -> Iterator[bytes]:
        """``Logs``."""
        asked = _read(raw, pb.LogsRequest)
        self.store.get(asked.id)
        log = Log(lambda: self._teller.open(asked.id, "log.txt"), asked.offset, asked.tail_lines)
        with self._following.one(call):
            while True:
                seen, record = self.store.changes, self.store.get(asked.id)
                data = log.read()
                if data:
                    yield pb.LogsReply(data=data, offset=log.offset).SerializeToString()
                    self._check_going(call)
                elif not asked.follow or record.state in ENDED:
                    return
                else:
                    self._pause(seen, call)

    def fetch(self, raw: bytes, call: Call) -> Iterator[bytes]:
        """``Fetch``."""
        asked = _read(raw, pb.FetchRequest)
        folder = JobFolder(self.jobs, self.store.get(asked.id).id)
        with self._fetching.one(call) as stream:
            for reply in fetching.replies(folder.path, asked.patterns, asked.known):
                if self._fetching.over:
                    raise stopping()
                yield reply.SerializeToString()
                stream.moved()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _end(self, job: str, wish: str) -> JobRecord:
        """End a job: at once if it waits, else through its driver; what has ended stays as it is.

        One that waits to go on is again what it was before it was resumed: nothing of it has changed.
        """
        while True:
            record = self.store.get(job)
            if record.state in ENDED or (record.state == State.STOPPING and record.wish in (wish, KILL)):
                return record
            try:
                if record.state == State.QUEUED and record.earlier:
                    return self.store.put_back(job, {State.QUEUED})
                if record.state == State.QUEUED:
                    return self.store.change(
                        job,
                        {State.QUEUED},
                        state=State.STOPPED,
                        reason="stopped while it waited",
                        ended_at=time.time(),
                        resume=False,
                    )
                return self.store.change(job, {record.state}, state=State.STOPPING, wish=wish)
            except WrongState:  # somebody was faster; look again
                continue

    def _told(self, record: JobRecord) -> bytes:
        queue = queue_of(self.store.active()) if record.state == State.QUEUED else {}
        return self._teller.job(record, queue).SerializeToString()

    def _pause(self, seen: int, call: Call) -> None:
        """Until something may have come."""
        self._check_going(call)
        self.store.wait(seen, _LOOK_S)
        self._check_going(call)

    def _check_going(self, call: Call) -> None:
        if self._following.over:
            raise stopping()
        if not call.is_active():
            raise Refused("CANCELLED", "the caller has gone")


class _Nodes:
    """The cluster's nodes; many who ask at one time make it answer once."""

    def __init__(self, cluster: Cluster):
        self._cluster, self._lock = cluster, Lock()
        self._until, self._answer = 0.0, None

    def now(self) -> list[NodeFacts]:
        """The living nodes, as of at most ``_NODES_S`` ago.

        Raises:
          ClusterAway: it does not answer.
        """
        with self._lock:
            if time.monotonic() >= self._until:
                try:
                    self._answer = self._cluster.nodes()
                except ClusterAway as error:
                    self._answer = error
                self._until = time.monotonic() + _NODES_S
            answer = self._answer
        if isinstance(answer, ClusterAway):
            raise ClusterAway(str(answer)) from answer
        return answer


def _submission(asked: Any) -> Submission:
    return Submission(
        job=asked.job,
        name=asked.name,
        overrides=tuple(asked.overrides),
        priority=asked.priority if asked.HasField("priority") else None,
        client_token=asked.client_token,
        archive_bytes=asked.archive_bytes,
        archive_sha256=asked.archive_sha256,
    )


def _read(raw: bytes, kind: Any) -> Any:
    try:
        return parse(raw, kind)
    except MalformedMessage as error:
        raise UsageError(str(error)) from error
