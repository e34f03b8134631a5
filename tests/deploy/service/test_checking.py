"""Checking a stranger's job: all that can be found without running anything of his, in little time and memory."""

from __future__ import annotations

import pytest

from deploy.service import bounded_toml
from deploy.service.checking import check
from deploy.service.demand import Demand, Limits, check_limits
from ps.errors import JobError, UsageError

from .serving import JOB, TASK


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for place in (folder, tmp_path):  # what lies beside it is another job's
        (place / "points.py").write_text(TASK)  # raises if anybody imports it
    return folder


BUILT_IN = 'task = "mlp"\nstrategy = "easgd"\n[data]\n'


def test_a_job_is_understood_without_running_its_task(files):
    found = check(
        JOB + "[service]\npriority = 4\non_loss = 'fail'\n", ["workers.count=5", "cluster.replica_gpus=0.5"], files
    )
    assert (found.name, found.strategy, found.task) == ("tiny", "easgd", "points.py:Points")
    assert found.demand == Demand(cpus=6.0, gpus=2.5, memory_bytes=0)
    assert (found.priority, found.on_loss, found.most_attempts) == (4, "fail", 5)


def test_an_elastic_job_waits_for_the_fewest_workers_and_is_bounded_by_the_most(files):
    memory = ["cluster.replica_memory_mb=100", "cluster.shard_memory_mb=50", "workers.count=", "workers.max=7"]
    found = check(JOB, memory, files)
    assert found.most == Demand(cpus=8.0, gpus=0.0, memory_bytes=800_000_000)
    assert (found.demand.cpus, found.demand.gpus) == (2.0, 0.0) and 0 < found.demand.memory_bytes < 800_000_000
    single = JOB.replace('"easgd"', '"sequential"').replace("local_rule", "rule").replace("[workers]\ncount = 3\n", "")
    assert check(single, [], files).demand.cpus == 2.0


def test_where_it_runs_is_the_services_business(files):
    said = [
        f"{key}" for key in ("backend=simulation", "cluster.address=10.0.0.9:6379", "cluster.detach=true", "run=/etc")
    ]
    assert check(JOB, said, files) == check(JOB, [], files)
    with pytest.raises(JobError, match="record = true needs backend"):
        check(JOB, ["record=true"], files)


@pytest.mark.parametrize("name", ["a", "A-1._x", "9", "x" * 64])
def test_a_good_name(files, name):
    assert check(JOB, [], files, name).name == name


@pytest.mark.parametrize("name", ["-a", ".a", "a/b", "a b", "ä", "x" * 65, "a\n", "..", "a\0"])
def test_a_bad_name(files, name):
    with pytest.raises(JobError, match="a job's name must have 1 to 64"):
        check(JOB, [], files, name)


WRONG = [
    ("", "strategy"),
    ("strategy", "not valid TOML"),
    (JOB.replace("points.py:", "absent.py:"), r"\[task\] name names 'absent.py', which did not come with the job"),
    (JOB.replace("points.py:", "../points.py:"), "did not come with the job"),
    (JOB.replace("points.py:", "~/points.py:"), "relative to the job's files"),
    (JOB.replace("points.py:", "a\\u0000b.py:"), "relative to the job's files"),
    (JOB.replace(":Points", ""), "must be 'path/to/file.py:ClassName'"),
    (JOB.replace(":Points", ":__import__('os')"), "must be 'path/to/file.py:ClassName'"),
    (JOB.replace("count = 3", "count = 0"), r"\[workers\] count must be >= 1"),
    (JOB.replace("count = 3", "cuont = 3"), "did you mean 'count'"),
    (JOB.replace("0.1 }", "0.1, lx = 2 }"), r"\[local_rule\].*lx"),
    (JOB.replace("replica_cpus = 1.0", "replica_cpus = inf"), "asks for inf CPUs"),
    (JOB.replace("replica_cpus = 1.0", "replica_cpus = nan"), "replica_cpus must be a number"),
    (JOB.replace("replica_cpus = 1.0", "replica_cpus = 2e9"), "ask for less"),
    (JOB + "[service]\npriority = 99999999999\n", "priority and most_attempts must be at most"),
    (JOB + "[service]\non_loss = 'ignore'\n", "on_loss must be"),
    (JOB + "[nonsense]\na = 1\n", "nonsense: unknown key"),
    ("task = 'no_such_task'\nstrategy = 'easgd'\n", "there is no task 'no_such_task'"),
    ("task = 1979-05-27\nstrategy = 'easgd'\n", r"\[task\] must be a table"),
    ("task = { name = 3 }\nstrategy = 'easgd'\n", r"\[task\] name must be a string"),
    (BUILT_IN + "train = 'd.csv'\n", r"\[data\] train names 'd.csv', which did not come"),
    (BUILT_IN + "train = ['/a', 'd.csv']\n", r"\[data\] train names 'd.csv', which did not come"),
    (BUILT_IN + "train = '~nobody/d.csv'\n", "relative to the job's files"),
    (BUILT_IN + "train = '/d.csv'\nhiden = [3]\n", "hiden"),
]


@pytest.mark.parametrize("job, match", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said(files, job, match):
    with pytest.raises(UsageError, match=match):
        check(job, [], files)


def test_paths_that_are_the_clusters_need_not_be_here(files):
    assert check(JOB.replace("points.py:", "/opt/points.py:"), [], files).task == "/opt/points.py:Points"
    assert check(BUILT_IN + "train = '/data/d.csv'\n", [], files).task == "mlp"
    assert check(BUILT_IN + "train = 's3://bucket/d.csv'\n", [], files).task == "mlp"
    (files / "d.csv").write_text("1,2\n")
    assert check(BUILT_IN + "train = 'd.csv'\n", ["data.test=d.csv"], files).task == "mlp"


def test_rules_of_other_libraries_are_left_to_who_runs_them(files):
    assert check(JOB.replace('"sgd"', '"torch.NoSuchRule"'), [], files).name == "tiny"


@pytest.mark.parametrize(
    "override", ["nonsense", "=1", "workers.count=x", "name.a=1", "task.name=[", "seed=" + "9" * 5000]
)
def test_a_wrong_override_is_refused(files, override):
    with pytest.raises(UsageError):
        check(JOB, [override], files)


LONG = bounded_toml.MOST_TEXT - 100
COSTLY = {
    "a key of many parts": "a" + ".a" * (LONG // 2) + " = 1",
    "a table of many parts": "[a" + " . a" * (LONG // 4) + "]",
    "quoted parts": ".".join(['"a="'] * (LONG // 5)) + " = 1",
    "parts quoted otherwise": ".".join(["'a=\"'"] * (LONG // 6)) + " = 1",
    "behind a string": 'x = """\\""" # " """\n' + "a" + ".a" * (LONG // 2 - 20) + " = 1",
    "behind a literal string": "x = '''\\'''\n" + "a" + ".a" * (LONG // 2 - 20) + " = 1",
    "behind a comment": "# '''\n" + "a" + ".a" * (LONG // 2 - 20) + " = 1",
    "lists in lists": "a = " + "[" * LONG,
    "tables in tables": "a = " + "{a=" * 1900,
    "many keys": "[data]\n" + "\n".join(f"k{number} = 1" for number in range(LONG // 12)),
    "a long number": "seed = " + "9" * LONG,
    "a long key": "s" * LONG + " = 1",
    "too long": "#" * (LONG + 200),
}


@pytest.mark.parametrize("job", COSTLY.values(), ids=COSTLY)
def test_what_would_take_long_to_read_is_refused_soon(files, job):
    with bounded_memory(), pytest.raises(JobError):
        check(job, [], files)
    with bounded_memory(), pytest.raises(JobError):
        check(JOB, ["x=1\n" + job], files)


class bounded_memory:
    """Python's own objects must not grow by more than this."""

    def __enter__(self) -> None:
        import tracemalloc

        tracemalloc.start()

    def __exit__(self, *_: object) -> None:
        import tracemalloc

        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150e6


def test_many_numbers_and_dots_in_strings_are_no_key(files):
    numbers = ", ".join(["0.5"] * 20_000)
    text = '"""\n' + "a." * 1000 + '\n"""'
    job = JOB + f"[data]\nvalues = [{numbers}]\nother = {text}\nthird = '{'.' * 500}' # {'.' * 500}\n"
    assert check(job, [], files).name == "tiny"


def test_too_many_overrides_are_refused(files):
    for overrides in (["seed=1"] * 1001, ["data.x=" + "y" * 1000] * 300):
        with pytest.raises(JobError, match="at most 1000 overrides"):
            check(JOB, overrides, files)


@pytest.mark.parametrize(
    "demand, limits, match",
    [
        (Demand(9.0, 0.0, 0), Limits(cpus=8.0), "asks for 9 CPUs, this service gives one job at most 8"),
        (Demand(1.0, 0.0, 3 * 10**9), Limits(memory_bytes=2 * 10**9), "asks for 3 GB of memory, .* at most 2 GB"),
        (Demand(1.0, 0.0, 0), Limits(memory_bytes=2 * 10**9), "a job must say what it needs"),
    ],
)
def test_a_job_that_asks_for_too_much_is_told_both_numbers(demand, limits, match):
    with pytest.raises(JobError, match=match):
        check_limits(demand, limits)
    check_limits(demand, Limits())
    check_limits(Demand(8.0, 0.0, 2 * 10**9), Limits(cpus=8.0, memory_bytes=2 * 10**9))
