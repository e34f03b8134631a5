"""Jobs that the machine has no memory for: refused before anything is allocated, with the figures and the key."""

from __future__ import annotations

import json
import tracemalloc

import pytest

import hogshead
from deploy import memory
from deploy.blueprint import draw
from deploy.job import Job, load_job
from deploy.memory import PROCESS_BYTES, needs_of
from deploy.rehearsal import rehearse
from ps.errors import JobError, MemoryShortage, UsageError
from ps.memory import Room
from ps.shard import ShardOptions
from ps.state import state_specs

DIGITS = {"task": {"name": "mlp", "hidden": [300]}, "data": {"train": "sklearn:digits", "batch_size": 8}}
GB = 10**9


def job(**tables) -> Job:
    return Job.from_dict({"strategy": "downpour", **DIGITS, **tables})


@pytest.fixture
def machine(monkeypatch):
    """Makes this machine one with so many free bytes."""

    def make(free: int, shared: int = 1 << 60) -> None:
        monkeypatch.setattr(memory, "room", lambda: Room(free, "on this machine", shared, None))

    return make


# -- absurd values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"workers": {"count": 10**20}},
            r"\[workers\] count must fit 64 bits \(at most 9223372036854775807\), got 1000",
        ),
        ({"workers": {"count": 10**12}}, r"\[workers\] count must be >= 1 and <= 1000000, got 1000000000000"),
        ({"shards": {"count": 10**12}}, r"\[shards\] count must be >= 1 and <= 1000000, got"),
        ({"rule": {"name": "sgd", "lr": 10**400}}, r"\[rule\] lr must fit 64 bits"),
        ({"strategy": {"name": "downpour", "n_push": 1 << 63}}, r"\[strategy\] n_push must fit 64 bits"),
        ({"task": {"name": "mlp", "hidden": [8, 10**30]}}, r"\[task\] hidden must fit 64 bits"),
        ({"stop": {"epochs": 10**20}}, r"\[stop\] epochs must fit 64 bits"),
    ],
)
def test_numbers_that_no_array_could_hold_are_refused_by_the_job(tables, message):
    with pytest.raises(JobError, match=message):
        job(**tables)


def test_a_number_of_more_digits_than_python_reads_is_named(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(f"seed = {'9' * 5000}\n")
    with pytest.raises(JobError, match=r"job.toml: a value cannot be read: Exceeds the limit .* for integer"):
        load_job(path)
    with pytest.raises(JobError, match=r"\[workers\] count must be an integer, got '999"):
        Job.from_dict({"strategy": "downpour", **DIGITS}, overrides=[f"workers.count={'9' * 5000}"])


def test_more_shards_than_elements_are_refused_without_a_list_of_them():
    with pytest.raises(UsageError, match=r"count must be small enough .* got 1000000 for 22510 elements"):
        setup = draw(job(shards={"count": 1_000_000}))
        state_specs(setup.layout, 1_000_000, setup.rule, setup.shard_options)


@pytest.mark.parametrize("backend", ["processes", "simulation"])
def test_a_million_workers_are_refused_before_the_data_are_read(backend, machine):
    machine(3 * GB)
    with pytest.raises(
        MemoryShortage, match=r"\[workers\] count = 1000000 needs at least [45] [GT]B .* 3 GB are free on this"
    ):
        draw(job(workers={"count": 1_000_000}, backend=backend, data={"train": "there is no such file"}))


def test_a_network_of_absurd_width_is_refused_with_its_option(tmp_path):
    with pytest.raises(
        UsageError, match=r"mlp: \[task\] hidden = \[1000000000000\] makes a model of 75,000,000,000,010 param"
    ):
        draw(job(task={"name": "mlp", "hidden": [10**12]}))


@pytest.mark.parametrize("backend", ["processes", "simulation"])
def test_an_absurd_index_is_refused_with_its_file_and_line(backend, tmp_path, monkeypatch):
    from worker.tasks import checks

    monkeypatch.setattr(checks, "room", lambda: Room(20 * GB, "on this machine", None, None))
    path = tmp_path / "a.svm"
    path.write_text("1 1:1 3:.5\n\n-1 7:2 2147483647:1 # here\n1 2:1\n")
    tables = {"task": "sparse_linear", "data": {"train": str(path)}, "strategy": "hogwild", "backend": backend}
    with pytest.raises(UsageError) as refused:
        draw(Job.from_dict(tables))
    assert str(refused.value) == (
        f"sparse_linear: {path}, line 3 (feature index 2147483647) makes a model of 2,147,483,647 parameters, which needs at "
        "least 25.8 GB of memory, and 20 GB are free on this machine; make it smaller"
    )


# -- a job that does not fit ---------------------------------------------------------------------------------------------


def test_the_refusal_says_what_is_needed_what_is_free_and_how_many_workers_fit(machine):
    machine(100_000_000)
    with pytest.raises(MemoryShortage) as refused:
        draw(job(workers={"count": 19}))
    assert "this job needs at least 1" in str(refused.value) and "100 MB are free on this machine" in str(refused.value)
    assert "kB of memory for each of 19 workers (2." in str(refused.value)
    assert str(refused.value).endswith(" or less")
    assert ": lower [workers] count to " in str(refused.value)


def test_a_model_too_large_for_one_worker_is_named_with_what_decides_its_size(machine):
    machine(10_500_000)
    with pytest.raises(
        MemoryShortage, match=r"smaller model \(the largest parameter is layer1.weight \(64, 300\), by \[task\] hi"
    ):
        draw(job(workers={"count": 1}))


def test_too_little_shared_memory_is_told_apart(machine):
    machine(GB, shared=100_000)
    with pytest.raises(MemoryShortage, match=r"this job needs .* kB in /dev/shm .*, 100 kB are free there; enlarge it"):
        draw(job())
    draw(job(backend="simulation"))  # which has no need of it


@pytest.mark.parametrize(
    "tables",
    [
        {"strategy": {"name": "downpour"}},
        {"strategy": {"name": "downpour", "n_push": 3}},
        {"strategy": {"name": "downpour", "push": "update", "n_push": 2, "n_fetch": 2}},
        {"strategy": "easgd"},
        {"strategy": "eamsgd"},
        {"strategy": {"name": "easgd", "mode": "synchronous"}},
        {"strategy": "mdownpour"},
        {"strategy": "synchronous"},
    ],
)
def test_what_a_worker_is_said_to_take_is_what_it_takes(tables):
    """At most: a job that fits must not be refused; and nearly all."""
    setup = draw(job(**tables))
    said = needs_of(setup).worker - PROCESS_BYTES
    state = state_specs(setup.layout, 1, setup.rule, ShardOptions(rounds=setup.rounds))
    rehearse(setup)  # what is compiled or made once is not counted
    tracemalloc.start()
    try:
        rehearse(setup)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = setup.layout.nbytes * sum(shape == (setup.layout.size,) for shape, _ in state.values())
    if setup.rounds:
        held += setup.layout.nbytes  # the one contribution
    taken = (peak - held) / setup.layout.nbytes
    expected = said / setup.layout.nbytes
    assert expected <= taken < expected + 3  # two may be allocated without ever being written


# -- a worker that lacks memory --------------------------------------------------------------------------------------------


def test_a_worker_without_memory_says_what_it_takes_and_is_not_tried_again(tmp_path):
    task = tmp_path / "hungry.py"
    task.write_text(
        "import numpy\n\nclass Hungry:\n    replica = -1\n"
        "    def parameters(self, rng): return {'w': numpy.zeros(1000, numpy.float32)}\n"
        "    def dataset(self): return numpy.zeros((64, 2), numpy.float32)\n"
        "    def evaluate(self, parameters): return {}\n"
        "    def loss_and_gradient(self, parameters, batch):\n"
        "        if self.replica >= 0: numpy.ones(1 << 50)\n"
        "        return 0.0, {'w': numpy.zeros(1000, numpy.float32)}\n"
    )
    with pytest.raises(MemoryShortage) as failed:
        hogshead.train(
            task=f"{task}:Hungry", strategy="downpour", workers={"count": 1}, run=tmp_path / "run", quiet=True
        )
    message = str(failed.value)
    assert message.startswith("a worker lacks memory: Unable to allocate 8.00 PiB")
    assert "this job takes at least 8 kB of memory for each of 1 worker" in message and "Traceback" not in message
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["worker_deaths"] == 1
