"""Showing a job as it goes on: the service's updates become what ``deploy.progress`` shows of a run on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from deploy.client.status import JobStatus, Update, one_line
from deploy.progress import JsonLines, Observer
from deploy.sections import StopSection
from deploy.service.states import State
from ps.errors import UsageError

_AT_WORK = (State.RUNNING, State.STOPPING)


class Following:
    """Tells an observer what the updates of a job say.

    Args:
      make: gives an observer, told the run's ``[stop]`` section as ``.stop``; called when the run begins, and each time
        it begins anew.
      facts: gives the tables of the run's resolved job, once there is one.
      job: as it is now.

    Attributes:
      job: as it was last heard of.
    """

    def __init__(self, make: Callable[[Any], Observer], facts: Callable[[], Mapping[str, Any]], job: JobStatus):
        self._make, self._facts = make, facts
        self.job = job
        self._observer = make(_bounds({}))
        self._told: tuple[State, str] | None = None
        self._begun = False
        # What was shown, so that records that come again are not shown again.
        self._shown: list[int] = []
        self._again: int | None = None

    def follow(self, updates: Iterable[Update]) -> JobStatus:
        """Show all of them; returns the job as it is at the end."""
        try:
            for news in updates:
                self._take(news)
            self._finish()
        finally:
            self._observer.close()
        return self.job

    def _take(self, news: Update) -> None:
        if news.job is not None:
            self.job = news.job
            self._tell_state()
        if news.anew:
            self._begin_anew()
        if news.records and not self._begun:
            self._begin()
        for record in news.records:
            self._show(record)

    def _begin(self) -> None:
        """The run's first record: now its bounds and its workers can be known."""
        self._begun = True
        tables = self._facts()
        self._observer.close()
        self._observer = self._make(_bounds(tables))
        info = {"strategy": self.job.strategy, "task": self.job.task}
        for name in ("workers", "shards"):
            count = (tables.get(name) or {}).get("count")
            info |= {name: count} if isinstance(count, int) else {}
        self._observer.started(info)

    def _begin_anew(self) -> None:
        if isinstance(self._observer, JsonLines):
            self._observer.event({"kind": "anew"})
            self._shown.clear()
        elif self._shown:
            self._again = 0
            self._observer.event({"event": "went_back", "message": "the run goes on from its checkpoint"})
            self._begin()

    def _show(self, record: Mapping[str, Any]) -> None:
        mark = hash(repr(record))
        if self._again is not None:
            if self._again < len(self._shown) and self._shown[self._again] == mark:
                self._again += 1
                return
            del self._shown[self._again :]
            self._again = None
        self._shown.append(mark)
        _tell(self._observer, record)

    def _tell_state(self) -> None:
        """The state, where it says something that the progress does not."""
        now = (self.job.state, self.job.reason)
        if now == self._told:
            return
        before, self._told = self._told, now
        if isinstance(self._observer, JsonLines):
            self._observer.event({"kind": "state", "state": str(now[0]), "reason": now[1]})
        elif not self.job.ended and (now[1] or now[0] not in _AT_WORK or before is not None):
            self._observer.event({"event": str(now[0]), "message": now[1] or _MEANING.get(now[0], "")})

    def _finish(self) -> None:
        job = self.job
        if isinstance(self._observer, JsonLines):
            self._observer.event({"kind": "job", **job.to_dict()})
            return
        summary = {**(job.summary or {}), "run": ""}
        if not job.ended:  # only a look at it was asked for
            return
        reason = job.reason.removeprefix(f"{job.state} ") or summary.get("error") or summary.get("stop_reason") or ""
        status = {"status": str(job.state), "stop_reason": reason, "error": reason}
        if job.state == State.FAILED:
            status["status"] = "failed"
        self._observer.finished({**summary, **status})


_MEANING = {
    State.QUEUED: "waits for the cluster",
    State.STARTING: "its workers are being started",
    State.RUNNING: "its workers train",
    State.STOPPING: "was asked to end",
}


def _tell(observer: Observer, record: Mapping[str, Any]) -> None:
    """Hand a record to the observer's method for its kind; one that is not as expected is left out, not fatal."""
    if not isinstance(observer, JsonLines) and isinstance(record.get("message"), str):
        record = {**record, "message": one_line(record["message"])}
    method = {"progress": observer.progress, "evaluation": observer.evaluation, "event": observer.event}
    try:
        method[record["kind"]](record)
    except (KeyError, TypeError, ValueError):
        return


def _bounds(tables: Mapping[str, Any]) -> Any:
    """What an observer wants of a job: its bounds, for the time that is left."""
    try:
        stop = StopSection.from_table(tables["stop"]) if "stop" in tables else None
    except (UsageError, TypeError):
        stop = None
    nothing = SimpleNamespace(epochs=None, steps=None, examples=None, seconds=None)
    return SimpleNamespace(stop=stop or nothing)
