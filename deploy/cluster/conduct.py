"""The launcher of a cluster, inside the coordinator's actor: carries out what the coordinator decides by calls to actors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from deploy.blueprint import Blueprint
from deploy.cluster.crew import ClusterCrew
from deploy.cluster.departure import Departures
from deploy.cluster.evaluations import ClusterEvaluations
from deploy.cluster.evaluator_actor import result_of
from deploy.cluster.facts import RunFacts, node_id
from deploy.cluster.groups import GROUP, Groups
from deploy.cluster.journal import Journal, is_whole
from deploy.cluster.overview import Overview
from deploy.cluster.placement import alive_nodes
from deploy.cluster.ready import beside, grouped
from deploy.cluster.recovery import journaled, recover
from deploy.cluster.relay import Relay
from deploy.cluster.room import complaint
from deploy.cluster.saving import SAVING, NotNow, Saving
from deploy.cluster.shards import ENDPOINTS, Shards
from deploy.cluster.tally import Tally
from deploy.crew import EVALUATOR
from deploy.launcher import Launcher
from deploy.monitor import Monitor
from deploy.result import Result
from deploy.run_directory import RunDirectory
from deploy.saving import check_same_rows, check_same_task
from deploy.summary import start_facts
from deploy.words import plural
from ps.checkpoint import Checkpoint
from ps.errors import CheckpointError, HogsheadError, MemoryShortage, NonFiniteError, TransportError
from ps.transport.following import Whereabouts
from worker.effects import Restart

SHARD = -2  # the key of messages from shards
PATIENCE_S = 60.0
_COMPLAIN_S = 10.0
_AGAIN_S = 0.5
_LOOK_S = 0.05
_STOP_S = 60.0  # for replicas that wait for a shard


class Cluster(Launcher):
    """Shards and replicas are actors on the nodes of a Ray cluster."""

    crew: ClusterCrew

    def __init__(self, setup: Blueprint, directory: RunDirectory, relay: Relay, facts: RunFacts):
        self.tally = Tally(setup.job.workers.count)
        self.shards = Shards(facts, setup, directory.path)
        crew = ClusterCrew(facts, setup.job.cluster, node_id(), self.shards.on_node)
        plan = setup.plan()
        evaluations = ClusterEvaluations(self.shards, crew, plan.exact)
        monitor = Monitor(self.tally.arrays, setup.job.workers.count)
        super().__init__(setup, plan, directory, relay, crew, evaluations, monitor)
        self.overview = Overview(self.tally, self.shards, crew)
        self.groups = Groups(facts, setup, crew)
        self.saving = Saving(setup, self.writer, self.shards, crew, self.groups)
        self.journal = Journal(directory.path, facts.uid)
        self.stop_asked: float | None = None  # when, on the monotonic clock
        self._homeless: list[int] = []  # workers whose node died with the shard that they step in place
        self._arrived: list[int] = []  # before there were enough to begin
        self.begun = not self.job.workers.elastic
        self.waited_for: set[int] = set()
        self.shards_replaced = 0
        self._complained = False
        self._result: np.ndarray | None = None
        self.departures = Departures()
        self._late: list[int] = []  # joined while a node is leaving
        self._saved_count = self._not_saved_count = self._writing = 0

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """From the first actor, or from where an earlier coordinator was killed, to the summary."""
        try:
            self._guarded(self._train)
            self._guarded(self._wind_up)
            result = self._conclude()
            self.journal.write({"over": result.summary})
        finally:
            self.crew.end()
            self.saving.settle()
            self.groups.end()
            self.shards.end()
        self.journal.remove()
        (self.directory.path / ENDPOINTS).unlink(missing_ok=True)
        return result

    def _start_processes(self) -> None:
        self._start_workers()
        self.crew.start_evaluator()  # last: it is not needed yet, and a node starts as many processes at once as it has cores

    def _start_workers(self) -> None:
        known = self.journal.read()
        if known is not None and is_whole(known):
            recover(self, known)
            return
        if self.job.resume:
            self._restore(Checkpoint.newest(self.directory.checkpoint))
        self.shards.start()
        if beside(self.setup):
            return  # workers go where the shard is; see _served
        self._ask_for_workers()

    def _ask_for_workers(self) -> None:
        for replica in range(self.job.workers.fewest, self.job.workers.count):
            self._effects.extend(self.coordinator.left(replica))  # nobody waits for those that may never come
        super()._start_workers()

    def _restore(self, checkpoint: Checkpoint) -> None:
        check_same_task(checkpoint, self.job)
        check_same_rows(checkpoint, self.setup.task)
        manifest = checkpoint.manifest
        self._effects.extend(self.coordinator.restore(manifest["coordinator"]))
        self.monitor.restore(manifest["counters"])
        self.tally.settle()
        self.directory.forget_after(self.monitor.counts()["examples"])
        self._come_after(checkpoint)
        self.groups.come_after(checkpoint.incarnations())
        self._earlier_seconds = manifest["seconds"]
        self._examples_before = sum(map(self.setup.order.size, range(self.coordinator.ended)))

    def _carry_out(self) -> None:
        if self._effects:
            self.overview.take_reports()  # what replicas had counted when they said what led to these
            self.journal.write(journaled(self))
        super()._carry_out()

    def _wind_up(self) -> None:
        if self.failure is None:
            self.journal.write(journaled(self))  # replicas that are told to stop never begin again
        for replica in self.crew.waiting():
            self.crew.dismiss(replica)
        super()._wind_up()

    def _save_what_there_is(self) -> None:
        if (
            self.shards.ready
            and not isinstance(self.failure, NonFiniteError)
            and np.isfinite(self._result_vector()).all()
        ):
            self._checkpoint(final=True)

    # -- what actors say ----------------------------------------------------------------------------------------------

    def report(
        self, replica: int, incarnation: int, node: str, first: int, items: list[dict[str, Any]], report: dict[str, Any]
    ) -> None:
        """Take a replica's report; called in another thread."""
        self.crew.heard(replica, incarnation, node, first, items, report)

    def serves(self, place: Whereabouts, version: int) -> None:
        """A shard is served; called in another thread, returns at once."""
        self.crew.events.put((SHARD, {"kind": "serves", "place": place, "version": version}))

    def too_large(self, message: str) -> None:
        """A shard takes more memory than it may; called in another thread."""
        self.crew.events.put((SHARD, {"kind": "too_large", "message": message}))

    def _turn(self, timeout_s: float) -> None:
        self.overview.take_reports()
        super()._turn(timeout_s)
        if self.departures.under_way:
            self._look_after_departures()
        if self.stop_asked is None:
            return
        if not self.interrupted:
            raise KeyboardInterrupt
        if time.monotonic() - self.stop_asked > _STOP_S:
            self.stop_asked = None
            raise TransportError(
                f"not all workers have stopped within {_STOP_S:g} s, as a shard is away; nothing was saved now"
            )

    def _handle(self, key: int, message: dict[str, Any]) -> None:
        if key == SHARD and message["kind"] == "too_large":
            raise MemoryShortage(message["message"])
        elif key == SHARD:
            self._served(message["place"], message["version"])
        elif key == GROUP:
            if self.groups.reserve(message["node"]):
                self.journal.write(journaled(self))  # before it has a name that another coordinator must know
                self.groups.begin(message["node"])
        elif key == SAVING:
            self._writing -= 1
            self._event(message["kind"], message["message"], **({"path": message["path"]} if "path" in message else {}))
            self._saved_count += message["kind"] == "checkpoint"
            self._not_saved_count += message["kind"] == "checkpoint_failed"
        elif message["kind"] == "joined" and self.departures.under_way:
            self._late.append(key)  # it must not begin before the nodes have left
        elif message["kind"] == "joined":
            self._arrive(key)
        elif key == EVALUATOR and message.get("type") == "NonFiniteError":
            raise NonFiniteError(message["message"])
        else:
            super()._handle(key, message)

    def _arrive(self, replica: int) -> None:
        """A replica is ready; elastic training begins with enough of them."""
        self._arrived.append(replica)
        if not self.begun and len(self._arrived) < self.job.workers.fewest:
            return
        self.begun = True
        for arrived in self._arrived:
            self._effects.extend(self.coordinator.joined(arrived))
        self._arrived = []
        self._tell_peers()

    def _tell_peers(self) -> None:
        """alpha = beta / p follows the number of replicas that there are."""
        if self.job.workers.elastic:
            at_work = len(self.crew.workers())
            self.crew.tell_all("peers", peers=at_work if self.job.workers.follow else self.job.workers.count)

    def _handle_death(self, replica: int, message: dict[str, Any]) -> None:
        self.overview.take_reports()
        if message.get("report"):  # its last one
            self.tally.report(replica, message["report"])
        self.tally.retire(replica)
        self._arrived = [arrived for arrived in self._arrived if arrived != replica]
        self._late = [late for late in self._late if late != replica]
        if message.get("node_lost"):  # none of its own fault: it comes back where there is room
            self.deaths += 1
            self._event("worker_left", f"worker {replica}: {message['message']}", worker=replica)
            self._effects.extend([*self.coordinator.left(replica), Restart(replica)])
        else:
            self.crew.dismiss(replica)
            super()._handle_death(replica, message)
        self._tell_peers()

    # -- shards -------------------------------------------------------------------------------------------------------

    def _served(self, place: Whereabouts, version: int) -> None:
        if self.shards.knows(place):
            return
        before = self.shards.places.get(place.index)
        if before is not None:
            self.overview.ask_what_was_seen(self.groups.handles)
        lost = self.shards.serves(place, version)
        self.shards_replaced += lost is not None
        self.journal.write(journaled(self))  # before anybody is told of this generation
        if beside(self.setup):
            self._move_workers(place.node, first=lost is None)
        if lost is not None:
            for replica in sorted(self.waited_for):
                self._tell_shard(place.index, "join", replica)
            assert before is not None
            why = self.shards.shortage(before)
            self._event(
                "shard_replaced",
                f"shard {place.index} was replaced on node {place.node[:8]}; it goes on from version {version}, "
                f"{plural(lost, 'update')} lost" + (f"; it had been {why}" if why else ""),
                shard=place.index,
                version=version,
                lost=lost,
            )
            self.shards.require_progress(
                place.index, self.job.workers.max_restarts, why or "see the nodes' logs of Ray"
            )
        self.publish()

    def _move_workers(self, node: str, first: bool) -> None:
        """Workers that step the center in place run where it is; those of a node that died come back there."""
        self.crew.node = node
        if first:
            self._ask_for_workers()
        for replica in self._homeless:
            self._start_worker(replica)
        self._homeless = []

    def _start_worker(self, replica: int) -> None:
        if self.coordinator.finished is not None:
            return  # nobody would tell it to stop
        if beside(self.setup) and self.crew.node not in alive_nodes():
            self._homeless.append(replica)
            return
        self.incarnations[replica] += 1
        self.journal.write(journaled(self))  # before it has a name that another coordinator must know
        self.crew.start_worker(replica, self.incarnations[replica])

    def _bury(self, replica: int) -> None:
        if grouped(self.setup):
            self.groups.bury(replica)
        elif beside(self.setup):
            self.shards.tell("release_dead", replica)

    def _evaluate(self, epoch: int) -> None:
        if grouped(self.setup):
            self.groups.settle()
        super()._evaluate(epoch)
        if self._effects:  # of messages that came while it waited
            self.journal.write(journaled(self))

    def _beats(self) -> dict[int, Any]:
        self.overview.take_reports()
        return super()._beats()

    def _kill(self, stuck: set[int], why: str) -> None:
        """Kill replicas only: an evaluation may begin with the evaluator's start on a node, which can take minutes."""
        super()._kill(stuck - {EVALUATOR}, why)

    def _has_to_move(self, replica: int) -> bool:
        """As on one machine; how long a replica takes to start depends on its node and its data."""
        joined = self.coordinator.members[replica].joined
        return (joined or self._stopping) and super()._has_to_move(replica)

    def _tell_shard(self, index: int, method: str, *args: Any) -> None:
        try:
            ray.get(getattr(self.shards.handles[index], method).remote(*args), timeout=PATIENCE_S)
        except RayError:  # it died again, and will be told when it is back
            return

    def publish(self) -> None:
        """Let everybody know where the shards are served."""
        self.crew.tell_all("endpoints", endpoints=self.shards.endpoints())
        self.groups.tell("endpoints", endpoints=self.shards.endpoints())
        if self.shards.ready:
            self.shards.write_endpoints()

    def _join(self, replica: int) -> None:
        self.waited_for.add(replica)
        self.shards.tell("join", replica)

    def _leave(self, replica: int) -> None:
        self.waited_for.discard(replica)
        self.shards.tell("leave", replica, self.coordinator.epoch)

    def _shard_counts(self) -> dict[str, int]:
        return self.overview.shard_counts()

    def _result_vector(self) -> np.ndarray:
        if self._result is None:
            try:
                parts = ray.get(self.shards.vectors(), timeout=PATIENCE_S)
            except RayError as error:
                raise TransportError(f"a shard did not give its result: {error}") from error
            self._result = result_of(parts, self.setup.layout)
        return self._result

    def _parameters(self) -> dict[str, np.ndarray]:
        return {}  # whoever started the run reads them from its checkpoint

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _checkpoint(self, final: bool = False) -> None:
        if final:
            self._save_at_the_end()
            return
        if self.saving.under_way or not self._worth_saving():
            self._not_saved_count += 1
            return
        self._save_is_due = False
        self._writing += 1  # before the cut: ``save_soon`` waits for one that is cut later
        self.saving.settle()
        try:
            self._save(False)
        except HogsheadError as error:
            self._writing -= 1
            self._event("checkpoint_failed", str(error))
            self._not_saved_count += 1

    def _save_at_the_end(self) -> None:
        self._save_is_due = False
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.saving.settle()
            try:
                self._save(True)
                return
            except HogsheadError as error:
                later = isinstance(error, (TransportError, NotNow))
                if not later or time.monotonic() > deadline:
                    raise CheckpointError(str(error)) from error
            time.sleep(_AGAIN_S)

    def _save(self, final: bool) -> None:
        held = self.saving.cut(still=self.departures.under_way)
        self.overview.take_reports()
        for replica, facts in held.items():
            if "counted" in facts and replica in self.crew.members:
                self.tally.report(replica, facts["counted"])
        self._note_done(held)
        positions = {replica: tuple(facts["at_hand"]) for replica, facts in held.items()}
        state = {
            "coordinator": self.coordinator.state(positions),
            "counters": self.monitor.counters(),
            "incarnations": self.incarnations,
            "seconds": self._seconds(),
            "seed": self.job.seed,
        }
        if final:
            path = self.saving.write(state)
            self._event("checkpoint", f"saved {path.name}", path=str(path))
        else:
            self.saving.write_behind(state)
            if self.departures.under_way:  # another coordinator may have to go on from here, with what has been counted
                self.journal.write(journaled(self))

    def save_soon(self, timeout_s: float, leaving: str | None = None) -> bool:
        """Have a checkpoint written as if its time had come, and wait for it; called in another thread.

        Where it cannot be now, as a shard does not answer just then or a replica does not hold still, it is tried again.

        Args:
          leaving: a node that leaves afterwards. From the checkpoint on until it has, all stays as it is.
        """
        if leaving is not None and not self.setup.rounds:  # synchronous steps are cut between epochs only
            self.departures.announce(leaving)
        deadline = time.monotonic() + timeout_s
        while self._writing and time.monotonic() < deadline:  # one that was cut before is not enough
            time.sleep(_LOOK_S)
        known, tried = self._saved_count, None
        while self._saved_count == known and time.monotonic() < deadline:
            if tried != self._not_saved_count:  # once, and again only after it could not be
                tried = self._not_saved_count
                self._timetable.hasten("save")
            time.sleep(_LOOK_S)
        return self._saved_count > known

    def _look_after_departures(self) -> None:
        """Go on once the nodes that were leaving have left."""
        with suppress(RayError):  # Ray's head leaves as well
            # At the end all is saved anyway, and workers that rest do not see that it is.
            self.departures.settle(alive_nodes() if self.coordinator.finished is None else ())
        if self.departures.under_way:
            return
        self.saving.release()
        late, self._late = self._late, []
        for replica in late:
            self._arrive(replica)

    def _worth_saving(self) -> bool:
        """There is something to save, and no shard is away: replicas that wait for one cannot hold still."""
        return self.monitor.updates > 0 and not self.overview.shard_away

    def _note_done(self, held: Mapping[int, dict[str, Any]]) -> None:
        """Ranges that were finished before a cut, though their replica has not told yet, are not to be done once more."""
        before = len(self._effects)
        for replica, facts in held.items():
            for finished in facts["lately"] if replica in self.crew.members else ():
                self._effects.extend(self.coordinator.done(replica, finished))
        if len(self._effects) > before:
            self.journal.write(journaled(self))

    # -- records ------------------------------------------------------------------------------------------------------

    def _start_facts(self) -> dict[str, Any]:
        return start_facts(self.setup, self.directory.path, self.coordinator)

    def _more_progress(self) -> dict[str, Any]:
        self.overview.look()
        self._complain()
        self.shards.check()
        return {"shards": self.overview.shard_facts(), "nodes": self.overview.node_facts()}

    def _more_summary(self) -> dict[str, Any]:
        return {
            "shards_replaced": self.shards_replaced,
            "lost_updates": self.shards.lost,
            "error_type": None if self.failure is None else type(self.failure).__name__,
            "shard_facts": self.overview.shard_facts(),
            "nodes": self.overview.node_facts(),
        }

    def _complain(self) -> None:
        """Say once that the cluster has no room for all."""
        if self._complained or self._seconds() < _COMPLAIN_S:
            return
        shards, node = self.shards.homeless, self.crew.node
        if complaint(self.job, len(self.crew.waiting()), shards, node) is None:
            return
        message = complaint(self.job, self.crew.homeless(), shards, node)
        if message is not None:
            self._complained = True
            self._event("waiting_for_room", message)
