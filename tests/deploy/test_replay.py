"""A recorded run comes to the same center once more: in another place, by the simulator's replicas, bit for bit."""

from __future__ import annotations

import json

import numpy as np
import pytest

import hogshead
from deploy.cli import main
from deploy.recordable import with_recording
from deploy.recording import FOLDER
from deploy.replay import replay
from deploy.setup import prepare
from deploy.simulation import simulate
from ps.errors import JobError, RunDirectoryError, UsageError
from ps.transport.direct import DirectLink
from worker import trace
from worker.driver import Driver, Work
from worker.replica import Replica
from worker.statistics import Statistics
from worker.trace import TRACE_FILE, Trace

from .conftest import LEAST_SQUARES

SGD = {"name": "sgd", "lr": 0.02}
STRATEGIES = {
    "sequential": {"strategy": "sequential"},
    "hogwild": {"strategy": "hogwild"},
    "hogwild, locked": {"strategy": {"name": "hogwild", "locking": "global"}},
    "downpour": {"strategy": "downpour"},
    "downpour, sums": {"strategy": {"name": "downpour", "n_push": 3, "n_fetch": 2}},
    "downpour, averaged": {"strategy": {"name": "downpour", "average": "running"}},
    "downpour, delay-aware": {"strategy": "downpour", "rule": {"name": "adaptive_revision", "lr": 0.1}},
    "downpour, clipped": {"strategy": "downpour", "rule": {**SGD, "clip_norm": 0.5}},
    "downpour, bounded": {"strategy": "downpour", "admission": {"policy": "bounded", "max_clock_lag": 2}},
    "downpour, updates": {
        "strategy": {"name": "downpour", "push": "update", "n_push": 3, "n_fetch": 3},
        "rule": None,
        "local_rule": SGD,
    },
    "mdownpour": {"strategy": "mdownpour", "rule": {"name": "nag", "lr": 0.01}},
    "easgd": {"strategy": {"name": "easgd", "tau": 2}, "rule": None, "local_rule": SGD},
    "easgd, synchronous": {
        "strategy": {"name": "easgd", "tau": 2, "mode": "synchronous"},
        "rule": None,
        "local_rule": SGD,
    },
    "eamsgd": {"strategy": {"name": "eamsgd", "tau": 2}, "rule": None},
    "synchronous": {"strategy": "synchronous"},
    "backup": {"strategy": "synchronous", "admission": {"policy": "backup", "backups": 1}},
}
TIMES = {
    "step_seconds": {"distribution": "lognormal", "median": 1.0, "sigma": 0.5},
    "latency_seconds": {"distribution": "exponential", "mean": 0.8},
    "service_seconds": 0.1,
    "pull_seconds": 0.05,
}
SEVERAL = sorted(set(STRATEGIES) - {"sequential"})


def sections_of(name: str, **more) -> dict:
    return {"rule": SGD, "stop": {"epochs": 2}} | STRATEGIES[name] | more


def the_trace(run) -> Trace:
    return Trace.load(run / TRACE_FILE)


def assert_equal(run) -> None:
    outcome = replay(run)
    assert outcome.equal, outcome.differences
    recorded = hogshead.load_parameters(run)
    if outcome.setup.strategy.evaluated_slot is None:
        assert all(np.array_equal(outcome.parameters[name], recorded[name]) for name in recorded)


# -- the same order, the same center ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", SEVERAL)
def test_two_processes_then_the_simulator(name, shards, train, tmp_path):
    result = train(record=True, workers={"count": 2}, shards={"count": shards}, **sections_of(name))
    assert_equal(result.run)
    assert not (result.run / FOLDER).exists()
    kinds = set(the_trace(result.run).columns()["kind"].tolist())
    writes = trace.CONTRIBUTE if result.summary["admission"] in ("synchronous", "backup") else trace.PUSH
    assert {trace.BEGIN, trace.WORK, trace.COMPUTE, trace.FINISH, trace.END} <= kinds
    assert (trace.EXCHANGE if "eamsgd" == name or name == "easgd" else writes) in kinds


@pytest.mark.parametrize("name", SEVERAL)
def test_a_simulated_run_then_its_replay(name, train):
    events = [{"at": 5.0, "crash": [0]}, {"at": 7.0, "leave": [1]}, {"at": 11.0, "join": [1]}]
    result = train(
        record=True, backend="simulation", workers={"count": 3}, shards={"count": 2},
        simulation={**TIMES, "events": events}, **sections_of(name),
    )  # fmt: skip
    assert result.summary["worker_deaths"] == 1 and result.summary["virtual_seconds"] > 11
    assert_equal(result.run)


@pytest.mark.parametrize("pattern", ["constant", "minibatch", "random"])
def test_a_study_of_delay_then_its_replay(pattern, train):
    result = train(
        record=True, backend="simulation", simulation={"delay": {"pattern": pattern, "updates": 3}},
        **sections_of("downpour"),
    )  # fmt: skip
    assert_equal(result.run)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_one_worker_in_process_in_shared_memory_and_simulated(name, train):
    """Where there is but one, the order is the same by itself."""
    if name == "backup":
        pytest.skip("it has no backup to leave out")
    sections = sections_of(name, workers={"count": 1, "transfers": "inline"}, shards={"count": 2})
    shared = train(**sections)
    job = hogshead.load(task=LEAST_SQUARES, **sections)
    simulated = simulate(job)
    in_process = driven_alone(job)
    for parameter, values in shared.parameters.items():
        assert np.array_equal(values, simulated.parameters[parameter])
        assert np.array_equal(values, in_process[parameter])
    assert np.abs(shared.parameters["w"]).max() > 0.1


def driven_alone(job) -> dict[str, np.ndarray]:
    """A driver on a direct link, over shards in this process's own memory."""
    setup = prepare(job, shared=False)
    replica = Replica(setup.layout, peers=1, local_rule=setup.local_rule, averaging=setup.averaging, seed=job.seed)
    setup.task.rng = replica.rng
    driver = Driver(
        replica, setup.strategy, setup.task, setup.dataset, DirectLink(setup.state), setup.rule, Statistics.private(),
        setup.driver_options(),
    )  # fmt: skip
    driver.begin()
    for epoch in range(job.stop.epochs):
        driver.run(Work(epoch, epoch, setup.order.of(epoch)))
    driver.finish()
    return setup.layout.views(setup.result_vector())


# -- deaths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["kill", "raise"])
@pytest.mark.parametrize("name", ["downpour", "easgd", "synchronous"])
def test_a_worker_that_died_between_its_operations_leaves_no_gap(name, fault, train, tmp_path):
    task = {"fault": fault, "once": str(tmp_path / "done"), "after": 5}
    result = train(task=task, record=True, workers={"count": 2}, **sections_of(name))
    assert result.summary["worker_deaths"] == 1
    assert set(the_trace(result.run).columns()["incarnation"].tolist()) == {1, 2}
    assert_equal(result.run)


def test_gradients_thrown_away_are_thrown_away_again(train, tmp_path):
    """Only simulated: a fault in a process of its own does not come back in the replay."""
    task = {"fault": "nan", "after": 7, "worker_only": False}
    result = train(
        task=task, record=True, backend="simulation", workers={"count": 2},
        **sections_of("downpour", stop={"epochs": 1, "on_nonfinite": "skip"}),
    )  # fmt: skip
    assert result.summary["skipped_nonfinite"] > 0
    assert_equal(result.run)


# -- what is refused, in words ----------------------------------------------------------------------------------------


def changed(run, change) -> None:
    """The run with another trace."""
    before = the_trace(run)
    columns = {name: column.copy() for name, column in before.columns().items()}
    after = Trace()
    after.extend(change(columns) or columns)
    after.facts = before.facts
    after.save(run / TRACE_FILE)


def test_another_order_is_noticed(train, capsys):
    """Two updates of momentum do not commute; the record with both exchanged is carried out, and the result differs."""
    sections = sections_of("downpour", rule={"name": "momentum", "lr": 0.02})
    run = train(record=True, backend="simulation", workers={"count": 2}, **sections).run

    def exchange(columns):
        pushes = np.flatnonzero(columns["kind"] == trace.PUSH)
        first = next(k for k in range(4, 30) if np.diff(columns["replica"][pushes[k : k + 2]])[0])
        pair = pushes[first : first + 2]
        between = (columns["kind"] == trace.PULL) & (columns["version"] == columns["version"][pair[0]])
        columns["version"][between] += 1  # what was read in between is read after both
        for name in ("replica", "incarnation", "clock", "staleness"):
            columns[name][pair] = columns[name][pair[::-1]]

    changed(run, exchange)
    code = main(["replay", str(run)])
    said = capsys.readouterr()
    assert code == 1
    assert "different: center" in said.out or "departed from the record" in said.err


def test_gaps_are_refused(train):
    run = train(record=True, workers={"count": 2}, **sections_of("downpour")).run

    def lose(columns):
        kept = np.ones(columns["kind"].size, bool)
        kept[np.flatnonzero(columns["kind"] == trace.PUSH)[5]] = False
        return {name: column[kept] for name, column in columns.items()}

    changed(run, lose)
    with pytest.raises(UsageError, match=r"gaps: 1 of \d+ updates of shard 0"):
        replay(run)


def test_a_trace_cut_short_is_refused(train, monkeypatch):
    monkeypatch.setattr("deploy.simulation.TRACE_ROWS", 50)
    run = train(backend="simulation", workers={"count": 2}, **sections_of("downpour")).run
    with pytest.raises(UsageError, match="first 50 operations.*record = true"):
        replay(run)


def test_a_run_without_a_trace_is_refused(train):
    run = train(workers={"count": 1}, **sections_of("downpour")).run
    with pytest.raises(RunDirectoryError, match="record = true"):
        replay(run)


def test_a_resumed_run_is_refused(train):
    run = train(record=True, workers={"count": 1}, **sections_of("downpour")).run
    resumed = train(
        record=True, workers={"count": 1}, options={"resume": True}, **sections_of("downpour", stop={"epochs": 3})
    )
    assert resumed.run == run and resumed.summary["epochs"] == 3
    with pytest.raises(UsageError, match="was resumed"):
        replay(run)


def test_crashes_of_shards_are_refused(train):
    simulation = {"events": [{"at": 6.0, "crash_shards": [0]}], "snapshot_seconds": 4.0, "restart_seconds": 0.5}
    sections = sections_of("downpour")
    run = train(record=True, backend="simulation", workers={"count": 2}, simulation=simulation, **sections).run
    with pytest.raises(UsageError, match="shard 0 crashed"):
        replay(run)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"shards": {"apply": "lock_free"}}, r"\[shards\] apply is 'lock_free', but record = true needs 'locked'"),
        ({"shards": {"reads": "torn"}}, r"\[shards\] reads is 'torn', but record = true needs 'consistent'"),
        ({"workers": {"transfers": "background"}}, r"\[workers\] transfers is 'background'.*leave transfers out"),
    ],
)
def test_jobs_that_cannot_be_recorded(tables, said):
    with pytest.raises(JobError, match=said):
        hogshead.load(task=LEAST_SQUARES, strategy="hogwild", record=True, **tables)


def test_what_a_job_leaves_open_is_filled_in():
    job = hogshead.load(task=LEAST_SQUARES, strategy="hogwild", record=True, workers={"transfers": "auto"})
    assert (job.shards.apply, job.shards.reads, job.workers.transfers) == ("locked", "consistent", "inline")
    assert hogshead.load(task=LEAST_SQUARES, strategy="hogwild").shards.apply == "lock_free"
    for tables in ({"record": False}, {"record": True, "backend": "simulation"}, {}):
        assert with_recording(tables) == tables


def test_the_command(train, capsys):
    run = train(record=True, workers={"count": 2}, **sections_of("downpour", rule={"name": "adagrad"})).run
    assert main(["replay", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    pushes = json.loads((run / "summary.json").read_text())["updates"]
    assert f"{pushes} pushes of 2 workers on 1 shard" in lines[0]
    assert lines[1] == "equal: the center is the recorded one, bit for bit (5 parameters), and sum_squares"
    assert main(["replay", str(run / "nothing")]) == 1
