"""The driver's side of a run on a Ray cluster: starts the coordinator, follows it, and ends with it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.cluster.connection import ClusterError, connected
from deploy.cluster.head import HeadWatch, failed_summary
from deploy.interruption import termination_as_interrupt
from deploy.job import Job
from deploy.progress import Observer
from deploy.result import Result
from deploy.run_directory import numbered
from deploy.saving import load_parameters
from ps import errors
from ps.errors import CheckpointError, HogsheadError, JobError, UsageError

_PAUSE_S, _TURN_S = 0.5, 2.0
_AWAY_S = 120.0  # for a coordinator that is being restarted


class _Later:
    """The task of a job, built when something is asked of it: it was trained elsewhere."""

    def __init__(self, job: Job):
        self._job, self._task = job, None

    def __getattr__(self, name: str) -> Any:
        self._task = self._task or self._job.build_task()
        return getattr(self._task, name)


def run(job: Job, observer: Observer | None = None) -> Result:
    """Train a job on a Ray cluster: the one at ``[cluster] address``, or a private one on this machine.

    Args:
      job: resolved.
      observer: sees the run's records as they come (see ``deploy.progress``).

    Returns:
      The result; its summary's status is "done", "failed" or "interrupted".

    Raises:
      UsageError, HogsheadError: nothing could be started; once workers run, an error ends in a summary instead.
    """
    observer = observer or Observer()
    if job.record:
        raise JobError(
            'record = true needs backend = "processes" or "simulation": on a cluster nobody sees the order of all updates'
        )
    path = Path(job.run).expanduser().resolve() if job.run else numbered(job.name)
    try:
        with connected(job):
            follower = Follower(job, path, observer, head=_head())
            try:
                with termination_as_interrupt():  # Ray has just put its own handlers into place
                    follower.start()
                    follower.follow()
            finally:
                follower.end()
            return follower.result()
    except BaseException:
        if not job.run:
            with suppress(OSError):  # it is empty if the cluster was not reached
                path.rmdir()
        raise


def _head() -> HeadWatch:
    import ray

    return HeadWatch(ray.get_runtime_context().gcs_address)


class Follower:
    """Shows what the coordinator's actor tells.

    Args:
      job: resolved. path: the run directory. observer: sees the records.
      uid: of the run, its actors' Ray namespace; one of its own if None.
      away_s: how long the coordinator may leave a request without an answer.
      clock: seconds that only rise.
      head: watches Ray's head; None: another driver follows the run if this one ends with it.

    Attributes:
      summary: of the run, once it has ended. error: type and message, if it ended without one.
    """

    def __init__(
        self,
        job: Job,
        path: Path,
        observer: Observer,
        uid: str | None = None,
        *,
        away_s: float = _AWAY_S,
        clock: Callable[[], float] = time.monotonic,
        head: HeadWatch | None = None,
    ):
        self.job, self.path, self.observer = job, path, observer
        self._away_s, self._clock, self._head = away_s, clock, head
        self._lost: ClusterError | None = None
        self.uid = uid or f"hogshead-{secrets.token_hex(6)}"
        self.summary: Mapping[str, Any] | None = None
        self.error: Mapping[str, str] | None = None
        self._begun = self._over = False
        self._life, self._position = "", 0
        self._left = self._skips = False
        self._interrupts = 0
        self._actor: Any = None

    def start(self) -> None:
        """Start the coordinator on this node, so that the run directory is this machine's."""
        from deploy.cluster.coordinator_actor import CoordinatorActor
        from deploy.cluster.facts import COORDINATOR, RunFacts
        from deploy.cluster.placement import at_home
        from deploy.cluster.travel import stow

        made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            stow(self.job, self.path, self.uid)
        except BaseException:
            if made:
                self.path.rmdir()
            raise
        facts = RunFacts(self.uid, self.job.to_dict(), secrets.token_hex(16))
        detach = self.job.cluster.detach
        self._actor = CoordinatorActor.options(
            name=COORDINATOR,
            namespace=self.uid,
            lifetime="detached" if detach else None,
            max_restarts=-1,
            num_cpus=0,
            **at_home(soft=detach),
        ).remote(facts, str(self.path), self.job.resume)

    def attach(self) -> bool:
        """Follow a run that goes on already, from now on; False if it has no coordinator, nor will have one."""
        self._actor = _coordinator(self.uid, self._away_s)
        self._skips = self._actor is not None
        return self._skips

    def tend(self) -> None:
        """Called again and again while the run goes on, also while the coordinator does not answer."""

    def heard(self) -> None:
        """Called each time the coordinator has answered."""

    def follow(self, first_s: float | None = None) -> None:
        """Show records until the run has ended. ^C asks it to stop, a second one kills it; a detached one goes on without us.

        Args:
          first_s: how long the first answer may take, of a coordinator that has just been started; ``away_s`` if None.

        Raises:
          ClusterError: the coordinator is gone for good, or has not answered for ``away_s``.
        """
        import ray

        patience_s = self._away_s if first_s is None else first_s
        answered, request = self._clock(), None
        while not self._over and not self._left:
            trouble = "it leaves a request unanswered"
            try:
                self.tend()
                self._look_for_head()
                if self._over:
                    return
                if request is None:
                    request = self._actor.follow.remote(self._life, self._position)
                ready, _ = ray.wait([request], timeout=_TURN_S)
                if ready:
                    done, request = request, None
                    news = ray.get(done)
                    answered, patience_s = self._clock(), self._away_s
                    self.heard()
                    self._show(news)
                    continue
            except KeyboardInterrupt:
                self._interrupt()
                continue
            except ray.exceptions.ActorDiedError as error:
                request, trouble = None, _last_line(error)
                if self._is_gone():
                    raise ClusterError(f"the coordinator died and did not come back: {trouble}") from error
                time.sleep(_PAUSE_S)
            except ray.exceptions.RayError as error:  # it is being restarted
                request, trouble = None, _last_line(error)
                time.sleep(_PAUSE_S)
            if self._clock() - answered > patience_s:
                raise ClusterError(f"the coordinator has not answered for {patience_s:g} s: {trouble}")

    def _is_gone(self) -> bool:
        """Whether the coordinator is gone for good; False too while Ray's head cannot say, as a question may then hang."""
        if self._head is not None and not self._head.answers:
            return False
        try:
            return _coordinator(self.uid, patience_s=0.0) is None
        except ClusterError:
            return False

    def _look_for_head(self) -> None:
        """Stop the run while its processes live, if Ray's head is lost; what it saves then is there to go on from."""
        if self._head is None:
            return
        if self._lost is None and self._head.is_lost:
            self._lost = ClusterError(self._head.message(self.path))
            self.stop()
        elif self._lost is not None and self._head.is_over:
            self._over = True

    def stop(self) -> None:
        """Ask the run to end as ^C does."""
        self._actor.stop.remote()

    def kill(self) -> None:
        """Kill the coordinator; the other actors then end themselves."""
        import ray

        ray.kill(self._actor)
        self._over = True

    def end(self) -> None:
        """Kill the coordinator, at the end or because an observer raised; one that was restarted outlives its last handle."""
        import ray

        if self._lost is None and self._actor is not None and (self._over or not self.job.cluster.detach):
            ray.kill(self._actor)

    def result(self) -> Result:
        """What has become of it."""
        if self._left:
            return Result(
                _Later(self.job), {}, {"status": "running", "run": str(self.path), "evaluation": {}}, self.path
            )
        if self._lost is not None and (self.summary is None or self.summary.get("status") != "done"):
            self.summary = failed_summary(self.job, self.path, self.summary, self._lost)
        self.clean()
        if self.summary is None:
            assert self.error is not None
            raise _error_of(self.error)
        self.observer.finished(self.summary)
        try:
            parameters = load_parameters(self.path)
        except CheckpointError:  # it failed before the first
            parameters = {}
        failure = self.summary["error"]
        error = _error_of({"type": self.summary.get("error_type") or "", "message": failure}) if failure else None
        return Result(_Later(self.job), parameters, dict(self.summary), self.path, error)

    def clean(self) -> None:
        """After the end: remove what travelled, and the run directory if nothing was written there."""
        from deploy.cluster.travel import stowed_at

        stowed_at(self.path, self.uid).unlink(missing_ok=True)
        if self.summary is None:
            with suppress(OSError):
                self.path.rmdir()

    def _show(self, news: Mapping[str, Any]) -> None:
        if news["info"] is not None and not self._begun:
            self._begun = True
            self.observer.started(news["info"])
        skipped, self._skips = self._skips, False  # another has shown them
        for record in () if skipped else news["records"]:
            getattr(self.observer, record["kind"])(record)
        self._life, self._position = news["life"], news["position"]
        self.summary, self.error, self._over = news["summary"], news["error"], news["over"]

    def _interrupt(self) -> None:
        import ray

        if self.job.cluster.detach:
            self._left = True
            self.observer.event({"kind": "event", "event": "detached", "message": f"the job goes on; see {self.path}"})
            return
        self._interrupts += 1
        if self._interrupts > 1:
            ray.kill(self._actor)
            raise KeyboardInterrupt
        self.stop()


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _coordinator(uid: str, patience_s: float) -> Any:
    """The handle of a run's coordinator, or None if it is gone for good.

    Raises:
      ClusterError: Ray's head does not answer for that long.
    """
    from deploy.cluster.facts import Away, find_coordinator

    try:
        return find_coordinator(uid, patience_s)
    except Away as error:
        raise ClusterError(f"it cannot be found out whether the run goes on: {error}") from error


def _error_of(facts: Mapping[str, str]) -> Exception:
    """The coordinator's error as this process would have raised it."""
    kind = ClusterError if facts["type"] == ClusterError.__name__ else getattr(errors, facts["type"], None)
    if isinstance(kind, type) and issubclass(kind, (HogsheadError, UsageError)):
        return kind(facts["message"])
    return ClusterError(f"the coordinator failed: {facts['type']}: {facts['message']}")
