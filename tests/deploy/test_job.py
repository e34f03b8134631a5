"""Jobs: what is read, what is refused and how, precedence, and the round trip through TOML."""

from __future__ import annotations

import os
import tomllib
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from deploy.job import Job, StopSection, WorkersSection, load_job
from deploy.resolve import parse_value
from ps.errors import JobError


def test_reads_every_section(job_file):
    job = load_job(job_file)
    assert (job.name, job.seed, job.backend, job.run) == ("try", 7, "processes", None)
    assert job.task.name == f"{job_file.parent / 'points.py'}:Points"
    assert job.task_options == {"width": 5, "train": str(job_file.parent / "points.csv")}
    assert job.data.batch_size == 64 and job.data.shuffle and job.data.validation == 0.0
    assert job.strategy.name == "easgd" and job.strategy.options["tau"] == 4
    assert job.rule is None and job.local_rule["lr"] == 0.1
    assert job.stop.epochs == 3 and job.on_nonfinite == "stop"
    assert job.path == str(job_file)
    assert job.build_strategy().tau == 4
    assert job.build_local_rule().lr == 0.1 and job.build_rule() is None
    assert job.build_task().width == 5


def test_a_job_is_frozen(job_file):
    with pytest.raises(FrozenInstanceError):
        load_job(job_file).seed = 8


def test_defaults_of_strategy_and_rule_are_filled_in(job_file):
    job = load_job(job_file)
    assert job.strategy.options["mode"] == "asynchronous"
    assert "lr" in load_job(job_file, ["local_rule=momentum"]).local_rule


def test_strategies_bring_their_defaults(job_file):
    assert load_job(job_file, ["local_rule=nag"]).local_rule["form"] == "lookahead"
    downpour = load_job(job_file, ["strategy=downpour"])
    assert downpour.rule is not None and downpour.local_rule["lr"] == 0.1
    with pytest.raises(JobError, match=r"\[rule\].*\[local_rule\]"):
        load_job(job_file, ["rule=sgd"])


def test_command_line_over_file_over_default(job_file):
    assert load_job(job_file).workers.count == 2
    job_file.write_text(job_file.read_text() + "\n[workers]\ncount = 3\n")
    assert load_job(job_file).workers.count == 3
    assert load_job(job_file, ["workers.count=4"]).workers.count == 4
    assert load_job(job_file, ["workers.count=4", "workers.count=5"]).workers.count == 5


def test_empty_override_removes_a_key(job_file):
    assert load_job(job_file, ["data.batch_size="]).data.batch_size == 32
    assert load_job(job_file, ["rule=sgd", "rule="]).rule is None


def test_overrides_leave_the_document_alone():
    document = {"task": {"name": "x"}, "strategy": "easgd", "stop": {"epochs": 3}}
    with pytest.raises(JobError):
        Job.from_dict(document, overrides=["stop.epochs=5", "data.batch_size=1"])
    assert document == {"task": {"name": "x"}, "strategy": "easgd", "stop": {"epochs": 3}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16", 16),
        ("1e-3", 1e-3),
        (".05", 0.05),
        ("5.", 5.0),
        ("true", True),
        ("adam", "adam"),
        ('"16"', "16"),
        ("[64, 32]", [64, 32]),
        ("{name = 'step'}", {"name": "step"}),
        ("runs/a-1", "runs/a-1"),
        ("1.2.3", "1.2.3"),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_override_values_are_toml_or_bare_words(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


def test_relative_paths(job_file, tmp_path, monkeypatch):
    """In the file relative to it, on the command line relative to the working directory; bundled names stay."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_job(job_file).data.options["train"] == str(job_file.parent / "points.csv")
    assert load_job(job_file, ["data.train=other.csv"]).data.options["train"] == str(elsewhere / "other.csv")
    assert load_job(job_file, ["data.train=hogshead:a9a"]).data.options["train"] == "hogshead:a9a"
    assert load_job(job_file, ["data.train=['a', '/b']"]).data.options["train"] == [str(elsewhere / "a"), "/b"]
    relative = load_job(os.path.relpath(job_file))
    assert relative.data.options["train"] == str(job_file.parent / "points.csv")


def test_round_trip_through_toml(job_file):
    job = load_job(job_file, ["data.curriculum={strategy='mixed'}", "stop.patience=2", "local_rule.clip_norm=5"])
    again = Job.from_dict(tomllib.loads(job.to_toml()), folder="/nowhere")
    assert again == job
    assert again.to_toml() == job.to_toml()


@pytest.mark.parametrize(
    "strategy", ["hogwild", "downpour", "mdownpour", "easgd", "eamsgd", "synchronous", "sequential"]
)
def test_every_strategy_round_trips(job_file, strategy):
    job = load_job(job_file, [f"strategy={strategy}", "local_rule="])
    assert job.strategy.name == strategy
    assert Job.from_dict(tomllib.loads(job.to_toml())) == job


def test_run_and_resume_are_not_part_of_a_saved_job(job_file):
    job = load_job(job_file).with_run("runs/x", resume=True)
    assert (job.run, job.resume) == ("runs/x", True)
    assert job == load_job(job_file) and "run" not in tomllib.loads(job.to_toml())


def test_epochs_bound_only_where_nothing_else_does(job_file):
    assert load_job(job_file, ["stop.epochs="]).stop.epochs == 10
    for other in ("steps=5", "examples=5", "seconds=5"):
        assert load_job(job_file, ["stop.epochs=", f"stop.{other}"]).stop.epochs is None
    assert StopSection(patience=2).epochs == 10


def test_strings_are_short_for_names(job_file):
    tables = tomllib.loads(job_file.read_text()) | {
        "strategy": "downpour",
        "rule": "adagrad",
        "task": "points.py:Points",
    }
    job = Job.from_dict(tables, folder=job_file.parent)
    assert (job.strategy.name, job.rule["name"], job.task.options) == ("downpour", "adagrad", {})


def test_a_class_defined_in_a_file_is_a_task(job_file):
    from worker.tasks import task_class

    points = task_class(f"{job_file.parent / 'points.py'}:Points")
    job = Job.from_dict({"task": {"name": points}, "data": {"train": "x.csv"}, "strategy": "easgd"}, folder="/data")
    assert job.task.name == f"{job_file.parent / 'points.py'}:Points"
    assert job.data.options == {"train": "/data/x.csv"}


def test_a_class_that_lacks_a_method_is_refused():
    class Inner:
        pass

    with pytest.raises(JobError, match="Inner lacks the methods parameters, dataset, loss_and_gradient, evaluate"):
        Job.from_dict({"task": Inner, "strategy": "easgd"})


WRONG = [
    ("strategi=easgd", "strategi: unknown key; did you mean 'strategy'"),
    ("epochs=3", r"epochs: unknown key; it belongs to \[stop\]"),
    ("on_nonfinite=skip", r"it belongs to \[stop\]"),
    ("strategy.tua=4", r"\[strategy\] tua: unknown key; did you mean 'tau'"),
    ("strategy.tau=four", r"\[strategy\] tau must be an integer, got 'four' \(a string\), e\.g\. tau = "),
    ("strategy.tau=0", r"\[strategy\] EASGD: tau must be >= 1.*got 0"),
    ("strategy.mode=asynchron", r"\[strategy\] mode must be .*'asynchronous'"),
    ("strategy=easgdd", r"\[strategy\] name: unknown strategy 'easgdd'; did you mean 'easgd'"),
    ("strategy.name=3", r"\[strategy\] name must be a string, got 3 \(an integer\)"),
    ("strategy=", r"\[strategy\] name is missing; there are: .*downpour"),
    ("task=", r"\[task\] name is missing; there are: .*mlp"),
    ("task=mpl", r"\[task\].*'mpl'; did you mean 'mlp'"),
    ("task.name=points.py", r"\[task\].*ClassName"),
    ("task.name=nowhere.py:Points", r"\[task\].*there is no file .*nowhere\.py"),
    ("task.widht=4", r"\[task\] widht: unknown key; did you mean 'width'"),
    ("data.bathc_size=4", r"\[data\] bathc_size: unknown key; did you mean 'batch_size'"),
    ("data.trian=x", r"\[data\] trian: unknown key; did you mean 'train'"),
    ("data.train=", r"\[data\] train is missing: task '.*points\.py:Points' needs it"),
    ("data.width=4", r"width stands both in \[task\] and in \[data\]"),
    ("data.batch_size=0", r"\[data\] batch_size must be >= 1 or 'all', got 0"),
    ("data.batch_size=some", r"\[data\] batch_size must be >= 1 or 'all', got 'some'"),
    ("data.batch_size=1.5", r"\[data\] batch_size must be an integer or a string, got 1\.5 \(a number\)"),
    ("data.validation=1", r"\[data\] validation must be >= 0 and < 1, got 1\.0"),
    ("data.shuffle=1", r"\[data\] shuffle must be true or false, got 1 \(an integer\), e\.g\. shuffle = true"),
    ("data.curriculum.strategy=mixd", r"\[data\.curriculum\] strategy must be .*; did you mean 'mixed'"),
    ("data.curriculum.epochs=3", r"\[data\.curriculum\] strategy is missing, e\.g\. strategy = \"mixed\""),
    ("data.curriculum={strategy='sorted', start=2}", r"\[data\.curriculum\] start must be <= 1, got 2\.0"),
    ("local_rule=sdg", r"\[local_rule\].*'sdg'"),
    ("local_rule.lr=-1", r"\[local_rule\].*lr must be .*> 0, got -1"),
    ("local_rule.lrr=1", r"\[local_rule\].*'lrr'; did you mean 'lr'"),
    ("local_rule=3", r"\[local_rule\] must be a table, got 3 \(an integer\)"),
    ("workers=4", r"\[workers\] must be a table, got 4"),
    ("workers.count=0", r"\[workers\] count must be >= 1 and <= 1000000, got 0"),
    ("workers.count=true", r"\[workers\] count must be an integer, got true"),
    ("workers.transfers=back", r"\[workers\] transfers must be one of 'auto', 'inline', 'background', got 'back'"),
    ("shards.apply=lockfree", r"\[shards\] apply must be .*; did you mean 'lock_free'"),
    ("stop.seconds=nan", r"\[stop\] seconds must be a number, got nan"),
    ("stop.seconds=0", r"\[stop\] seconds must be > 0, got 0"),
    ("stop.mode=up", r"\[stop\] mode must be one of 'auto', 'min', 'max', got 'up'"),
    ("checkpoint.keep=0", r"\[checkpoint\] keep must be >= 1, got 0"),
    ("evaluation.every=2", r"\[evaluation\] every: unknown key; there are: every_epochs, every_seconds"),
    ("seed=-1", "seed must be >= 0, got -1"),
    ("seed=x", "seed must be an integer, got 'x'"),
    ("backend=mpi", "backend must be .*'processes', 'ray'.*got 'mpi'"),
    ("name=a/b", "name must be usable as a folder's name, got 'a/b'"),
    ("seed", "--set 'seed': must be section.key=value"),
    ("=3", "--set '=3': must be section.key=value"),
    ("seed.x=3", "--set 'seed.x=3': 'seed' is not a table"),
    ("task.width=[1", r"--set: '\[1' is not a TOML value"),
]


@pytest.mark.parametrize(("override", "message"), WRONG, ids=[override for override, _ in WRONG])
def test_wrong_jobs_are_refused(job_file, override, message):
    with pytest.raises(JobError, match=message) as refused:
        load_job(job_file, [override])
    assert str(job_file) in str(refused.value)


def test_sections_check_themselves_in_python():
    with pytest.raises(JobError, match=r"\[workers\] count must be >= 1 and <= 1000000, got 0"):
        WorkersSection(count=0)
    with pytest.raises(JobError, match=r"\[stop\] epochs must be an integer, got 2\.5"):
        replace(StopSection(), epochs=2.5)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[stop\nepochs = 3\n", "line 1, column 6"),
        ("[stop]\nepochs = \n", "line 2, column 10"),
        ("seed = 1\n[stop]\nepochs = 3\nepochs = 4\n", "line 4, column"),
        ('name = "a', "line 1, column 10"),
    ],
)
def test_syntax_errors_name_line_and_column(tmp_path, text, where):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(JobError) as refused:
        load_job(path)
    assert str(path) in str(refused.value) and where in str(refused.value)
    line = int(where.split()[1].rstrip(","))
    assert text.splitlines()[line - 1] in str(refused.value)


def test_unreadable_files(tmp_path, job_file):
    with pytest.raises(JobError, match="no such job file; did you mean 'try.toml'"):
        load_job(job_file.with_name("tyr.toml"))
    with pytest.raises(JobError, match="is a folder"):
        load_job(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(JobError, match="UTF-8"):
        load_job(tmp_path / "latin.toml")
    with pytest.raises(JobError, match="no such job file"):
        load_job(Path("/no/such/folder/a.toml"))
