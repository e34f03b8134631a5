"""The driver's side of a run on a Ray cluster: starts the coordinator, follows it, and ends with it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.cluster.connection import ClusterError, connected
from deploy.interruption import termination_as_interrupt
from deploy.job import Job
from deploy.progress import Observer
from deploy.result import Result
from deploy.run_directory import numbered
from deploy.saving import load_parameters
from ps import errors
from ps.errors import CheckpointError, HogsheadError, JobError, UsageError

_PAUSE_S = 0.5
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
            follower = Follower(job, path, observer)
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


class Follower:
    """Shows what the coordinator's actor tells.

    Args:
      job: resolved. path: the run directory. observer: sees the records.
      uid: of the run, its actors' Ray namespace; one of its own if None.

    Attributes:
      summary: of the run, once it has ended. error: type and message, if it ended without one.
    """

    def __init__(self, job: Job, path: Path, observer: Observer, uid: str | None = None):
        self.job, self.path, self.observer = job, path, observer
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
        self._actor = _coordinator(self.uid)
        self._skips = self._actor is not None
        return self._skips

    def tend(self) -> None:
        """Called again and again while the run goes on."""

    def follow(self) -> None:
        """Show records until the run has ended. ^C asks it to stop, a second one kills it; a detached one goes on without us."""
        import ray

        away = 0.0
        while not self._over and not self._left:
            try:
                self.tend()
                if self._over:
                    return
                news = ray.get(self._actor.follow.remote(self._life, self._position))
                away = 0.0
                self._show(news)
            except KeyboardInterrupt:
                self._interrupt()
            except ray.exceptions.ActorDiedError as error:
                if _coordinator(self.uid) is None:
                    raise ClusterError(
                        f"the coordinator died and did not come back: {str(error).splitlines()[-1]}"
                    ) from error
                time.sleep(_PAUSE_S)
            except ray.exceptions.RayError as error:  # it is being restarted
                away += _PAUSE_S
                if away > _AWAY_S:
                    raise ClusterError(f"the coordinator does not answer: {str(error).splitlines()[-1]}") from error
                time.sleep(_PAUSE_S)

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

        if self._actor is not None and (self._over or not self.job.cluster.detach):
            ray.kill(self._actor)

    def result(self) -> Result:
        """What has become of it."""
        if self._left:
            return Result(
                _Later(self.job), {}, {"status": "running", "run": str(self.path), "evaluation": {}}, self.path
            )
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


def _coordinator(uid: str) -> Any:
    """The handle of a run's coordinator, or None if it is gone for good.

    Raises:
      ClusterError: Ray's head does not answer.
    """
    from deploy.cluster.facts import Away, find_coordinator

    try:
        return find_coordinator(uid)
    except Away as error:
        raise ClusterError(f"it cannot be found out whether the run goes on: {error}") from error


def _error_of(facts: Mapping[str, str]) -> Exception:
    """The coordinator's error as this process would have raised it."""
    kind = getattr(errors, facts["type"], None)
    if isinstance(kind, type) and issubclass(kind, (HogsheadError, UsageError)):
        return kind(facts["message"])
    return ClusterError(f"the coordinator failed: {facts['type']}: {facts['message']}")
