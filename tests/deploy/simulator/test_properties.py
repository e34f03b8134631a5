"""What holds for every simulated job, whatever it says."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import hogshead
from deploy.progress import Observer
from deploy.setup import prepare
from deploy.simulation import Simulation
from deploy.simulator.clock import Clock
from deploy.simulator.ordered import Ordered
from deploy.simulator.replica import SimulatedReplica
from deploy.simulator.timed import Timed
from ps.admission import Clocks
from tests.deploy.simulator.random_jobs import EXAMPLES, Counting, delayed_jobs, jobs
from worker import trace

MOST_EVENTS = 60_000  # of a job with at most some hundred steps
WRITES = (trace.PUSH, trace.EXCHANGE, trace.CONTRIBUTE)
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def watched(monkeypatch):
    """What only shows while it runs: that it ends, that no clock is ahead of its bound, how much is under way."""
    turn, step = Clock.turn, SimulatedReplica._one_step

    def counted(clock, **options):
        counted.events += 1
        assert counted.events < MOST_EVENTS, "endless"
        return turn(clock, **options)

    def bounded(replica):
        if replica.gate.clocked:
            clocks, number = replica.gate._clocks, replica.replica.id
            smallest = Clocks.minimum(clocks)  # looked for, not counted
            assert smallest == clocks.minimum()
            lag = clocks.clock(number) - smallest
            assert clocks.members[number] and (
                lag == 0 or lag + replica.gate.pace.ahead <= replica.gate.policy.max_clock_lag
            )
        yield from step(replica)

    def narrow(conductor):
        call = conductor.call

        def called(self, replica, sent):
            assert replica.outstanding <= SimulatedReplica.WINDOW
            return call(self, replica, sent)

        monkeypatch.setattr(conductor, "call", called)

    monkeypatch.setattr(Clock, "turn", counted)
    monkeypatch.setattr(SimulatedReplica, "_one_step", bounded)
    narrow(Timed)
    narrow(Ordered)

    def restart():
        counted.events = 0

    return restart


class Seen(Observer):
    """A simulated job and its trace, made ready to be asked."""

    def __init__(self, sections):
        self.job = hogshead.load(**sections)
        self.task = Counting()
        setup = prepare(self.job, shared=False, task=self.task)
        self.task.seen[:] = 0  # the task was tried
        self.shard_events = []
        self.outcome = Simulation(setup, self).run()
        if self.outcome.error is not None:
            raise self.outcome.error
        self.summary, self.columns = self.outcome.summary, self.outcome.trace.columns()
        names = ("time", "seconds", "kind", "replica", "incarnation", "shard", "version", "staleness", "clock")
        self.rows = list(zip(*(self.columns[name].tolist() for name in names)))
        simulation = self.job.simulation
        events = {kind for event in simulation.events or () for kind in event}
        self.shards_crash = "crash_shards" in events or simulation.shard_crash_every_seconds is not None
        self.failures = bool(events) or self.shards_crash or simulation.crash_every_seconds is not None
        self.backups = self.outcome.setup.policy.backups
        self.rounds = self.outcome.setup.rounds
        self.cut_off = self.job.stop.seconds is not None or self.job.stop.target is not None

    def event(self, record):
        if "shard" in record:
            self.shard_events.append((record["shard"], record["event"], record["virtual_seconds"]))

    def of(self, *kinds, shard=None):
        """Rows of these kinds."""
        return [row for row in self.rows if row[2] in kinds and (shard is None or row[5] == shard)]

    def is_late(self, row):
        """A contribution that was dropped."""
        return row[2] == trace.CONTRIBUTE and self.backups > 0 and row[7] > 0


@settings(many, max_examples=250)
@given(sections=jobs())
def test_any_job(watched, sections):
    watched()
    seen = Seen(sections)
    assert seen.summary["status"] == "done"
    times_go_on(seen)
    the_dead_do_nothing(seen)
    crashed_shards_do_nothing(seen)
    one_gradient_at_a_time(seen)
    every_example_is_used(seen)
    if not seen.shards_crash:
        versions_rise_by_one(seen)
        staleness_is_what_was_missed(seen)
    if not seen.failures:
        statistics_agree(seen)
        all_time_is_accounted_for(seen)
    if seen.rounds:
        synchronous_steps_are_whole(seen)


@settings(many, max_examples=100)
@given(sections=delayed_jobs())
def test_any_order(watched, sections):
    watched()
    seen = Seen(sections)
    assert seen.summary["status"] == "done"
    times_go_on(seen)
    every_example_is_used(seen)
    versions_rise_by_one(seen)
    staleness_is_what_was_missed(seen)
    statistics_agree(seen)


@settings(many, max_examples=30)
@given(sections=jobs())
def test_the_same_seed_gives_the_same_run(watched, sections):
    watched()
    first, again = Seen(sections), Seen(sections)
    assert first.outcome.trace == again.outcome.trace
    assert first.outcome.virtual_seconds == again.outcome.virtual_seconds
    assert np.array_equal(first.outcome.parameters["w"], again.outcome.parameters["w"])


# -- invariants -------------------------------------------------------------------------------------------------------


def times_go_on(seen):
    """And the run is not over before."""
    times = [row[0] for row in seen.rows]
    assert times == sorted(times) and times[-1] <= seen.outcome.virtual_seconds


def the_dead_do_nothing(seen):
    """Of an incarnation that has ended there is only what was on its way to a shard."""
    ended = set()
    for _, _, kind, replica, incarnation, *_ in seen.rows:
        life = replica, incarnation
        if kind == trace.END:
            assert life not in ended
            ended.add(life)
        elif kind not in (trace.PUSH, trace.EXCHANGE, trace.LEAVE):
            assert life not in ended, trace.KINDS[kind]
    assert ended == {(row[3], row[4]) for row in seen.of(trace.BEGIN)}


def crashed_shards_do_nothing(seen):
    """What was being served is served again when the shard is back."""
    for shard in range(seen.job.shards.count):
        mine = [event[1:] for event in seen.shard_events if event[0] == shard]
        assert [event for event, _ in mine] == (["shard_crashed", "shard_recovered"] * len(mine))[: len(mine)]
        times = np.array([row[0] for row in seen.of(trace.PULL, *WRITES, shard=shard)])
        ends = [time for _, time in mine] + [np.inf]
        for crashed, recovered in zip(ends[::2], ends[1::2]):
            assert not ((times > crashed) & (times < recovered)).any()


def one_gradient_at_a_time(seen):
    """No replica computes two, nor does its successor while it lives."""
    free = defaultdict(float)
    for time, seconds, kind, replica, *_ in seen.of(trace.COMPUTE, trace.BEGIN, trace.END):
        if kind == trace.END:
            free[replica] = time  # the gradient at hand is lost
            continue
        assert time >= free[replica]
        free[replica] = time + seconds


def every_example_is_used(seen):
    job, size, batch = seen.job, EXAMPLES, seen.outcome.setup.batch_size
    handed = Counter()
    for row in seen.of(trace.WORK):
        handed.update((row[6], position) for position in range(row[7], row[8]))
    for epoch in range(seen.summary["epochs"]):
        assert all(handed[epoch, position] >= 1 for position in range(size))
    if not seen.failures:
        assert max(handed.values(), default=0) <= 1
    if seen.cut_off:
        return
    if job.stop.epochs:
        assert seen.summary["epochs"] == job.stop.epochs
        assert (seen.task.seen >= job.stop.epochs).all()
    bound = {"examples": job.stop.examples, "steps": job.stop.steps, "epochs": job.stop.epochs}
    exact = {
        "examples": job.stop.examples,
        "steps": job.stop.steps,
        "epochs": job.stop.epochs and job.stop.epochs * size,
    }
    for name, wanted in exact.items():
        if bound[name] is None:
            continue
        counted = seen.summary["examples" if name == "epochs" else name]
        assert counted >= wanted
        if not seen.failures:
            assert counted == wanted
            assert len(seen.of(trace.COMPUTE)) == seen.summary["steps"] >= -(-seen.summary["examples"] // batch)


def versions_rise_by_one(seen):
    for shard, state in enumerate(seen.outcome.setup.state.shards):
        versions = [row[6] for row in seen.of(*WRITES, shard=shard) if not seen.is_late(row)]
        if seen.rounds:  # all contributions to a step have its version; the last may never have been made
            assert versions == sorted(versions)
            versions = sorted(set(versions) - {state.version + 1})
        assert versions == list(range(1, state.version + 1))


def staleness_is_what_was_missed(seen):
    """Updates of others between the read and the update."""
    background = seen.job.strategy.name == "downpour" and seen.outcome.setup.strategy.push == "gradient"
    reads = defaultdict(list)
    for _, _, kind, replica, incarnation, shard, version, staleness, _ in seen.rows:
        life = replica, incarnation, shard
        if kind == trace.PULL:
            reads[life].append(version)
        elif kind == trace.EXCHANGE:
            assert staleness == version - 1 - reads[life][-1]
            reads[life].append(version)
        elif kind == trace.PUSH:
            missed = [version - 1 - read for read in (reads[life] if background else reads[life][-1:])]
            assert staleness in missed
        elif kind == trace.CONTRIBUTE:
            before = version if seen.backups and staleness > 0 else version - 1
            assert staleness == before - reads[life][-1]


def statistics_agree(seen):
    summary, shards = seen.summary, len(seen.outcome.setup.state.shards)
    if seen.rounds and seen.cut_off:  # some have waited for the others of a step when the run was over
        return
    assert summary["steps"] == len(seen.of(trace.COMPUTE))
    assert summary["examples"] == seen.task.seen.sum()
    late = [row for row in seen.of(*WRITES) if seen.is_late(row)]
    for worker in summary["per_worker"]:
        mine = [row for row in seen.of(trace.COMPUTE) if row[3] == worker["worker"]]
        assert worker["steps"] == len(mine)
        assert worker["busy_seconds"] == pytest.approx(sum(row[1] for row in mine))
    if shards > 1:
        return
    counted = [row for row in seen.of(*WRITES) if not seen.is_late(row)]
    assert summary["updates"] == len(counted) and summary["dropped"] == len(late)
    assert dict(summary["staleness"]["histogram"]) == Counter(row[7] for row in counted)


def all_time_is_accounted_for(seen):
    """A replica's life is its gradients and its waiting."""
    began = {row[3]: row[0] for row in seen.of(trace.BEGIN)}
    ended = {row[3]: row[0] for row in seen.of(trace.END)}
    for worker in seen.summary["per_worker"]:
        number = worker["worker"]
        assert worker["busy_seconds"] + worker["wait_seconds"] == pytest.approx(ended[number] - began[number])


def synchronous_steps_are_whole(seen):
    """No staleness, and each step takes one contribution of a replica, as long as that lives."""
    for shard in range(len(seen.outcome.setup.state.shards)):
        counted = [row for row in seen.of(trace.CONTRIBUTE, shard=shard) if not seen.is_late(row)]
        begun = set()
        for _, _, _, replica, incarnation, _, _, staleness, _ in counted:
            # The step that a successor begins may be made with what its predecessor had laid down for it.
            assert staleness == 0 or (incarnation > 1 and (replica, incarnation) not in begun)
            begun.add((replica, incarnation))
        if not seen.backups:  # with them one may be let go by another shard, and come again
            assert max(Counter((row[3], row[4], row[6]) for row in counted).values(), default=1) == 1
