"""Jobs that run well: every strategy, the run directory, the result, stopping, determinism."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

import hogshead
from deploy.run_directory import read_metrics
from tests.deploy.conftest import DRAWING, evaluated
from worker.strategies import STRATEGIES

SVM = "\n".join(f"{1 if k % 3 else -1} {k % 7 + 1}:1 {k % 5 + 8}:{0.5 + k % 2} {13 + k % 3}:1" for k in range(90))
GOOD = {"rmse": 0.3}  # noise is .1, a fit of nothing has 5.5


@pytest.fixture(scope="session")
def svm_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("svm") / "tiny.libsvm"
    path.write_text(SVM + "\n")
    return path


def count_for(strategy: str, workers: int) -> int:
    return 1 if STRATEGIES[strategy].single else workers


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["svm", "mlp"])
@pytest.mark.parametrize(
    ("strategy", "workers"),
    [(name, workers) for name in sorted(STRATEGIES) for workers in ([1] if STRATEGIES[name].single else [1, 2, 4])],
)
def test_every_strategy_on_sparse_and_dense_tasks(strategy, kind, workers, shards, svm_file, tmp_path):
    if kind == "svm":
        sections = {"task": {"name": "sparse_linear", "l2": 0.01}, "data": {"train": str(svm_file), "batch_size": 4}}
    else:
        sections = {
            "task": {"name": "mlp", "hidden": [8], "batch_norm": True, "scale": 0.0625},
            "data": {"train": "sklearn:iris", "test_fraction": 0.2, "batch_size": 8},
        }
    result = hogshead.train(
        **sections,
        strategy=strategy,
        workers={"count": workers},
        shards={"count": shards},
        stop={"epochs": 2},
        run=tmp_path / "run",
        quiet=True,
    )
    summary = result.summary
    examples = 90 if kind == "svm" else 120
    assert summary["status"] == "done" and summary["epochs"] == 2 and summary["examples"] == 2 * examples
    assert summary["updates"] > 0 and np.isfinite(summary["train_loss"])
    assert all(np.isfinite(values).all() for values in result.parameters.values())
    assert any(np.abs(values).max() > 0 for values in result.parameters.values())


@pytest.mark.parametrize("strategy", ["downpour", "mdownpour", "hogwild", "synchronous", "sequential"])
def test_server_strategies_learn(strategy, train):
    lr = 0.01 if strategy == "mdownpour" else 0.1
    result = train(
        strategy=strategy, rule={"name": "nag" if strategy == "mdownpour" else "sgd", "lr": lr}, stop={"epochs": 8},
        workers={"count": count_for(strategy, 2)},
    )  # fmt: skip
    assert min(evaluated(result, "rmse")) < GOOD["rmse"]


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "easgd", "tau": 2},
        {"name": "easgd", "mode": "synchronous", "tau": 1},
        {"name": "eamsgd", "tau": 2},
        {"name": "downpour", "push": "update", "n_push": 3, "n_fetch": 3},
        {"name": "downpour", "average": "running"},
    ],
)
def test_variants_learn(strategy, train):
    elastic = strategy["name"] != "downpour"
    sections = {"rule": None} if elastic or "push" in strategy else {}
    lr = 0.01 if strategy["name"] == "eamsgd" else 0.1
    nag = {"name": "nag", "lr": lr} if strategy["name"] == "eamsgd" else {"name": "sgd", "lr": lr}
    result = train(strategy=strategy, local_rule=nag, stop={"epochs": 25}, **sections)
    assert min(evaluated(result, "rmse")) < (1.5 if strategy.get("average") else GOOD["rmse"])


@pytest.mark.parametrize(
    "stop", [{"epochs": 4}, {"epochs": 9, "metric": "rmse", "target": 0.0989}], ids=["epochs", "target"]
)
def test_one_worker_repeats_exactly(stop, train):
    """Evaluations are of an epoch's end, and what is watched ends the training there."""
    runs = [train(f"run-{k}", strategy={"name": "downpour"}, workers={"count": 1}, stop=stop) for k in range(3)]
    records = [
        [
            (r["epoch"], r["examples"], r["train_loss"], r["evaluation"])
            for r in run.metrics
            if r["kind"] == "evaluation"
        ]
        for run in runs
    ]
    assert records[0] == records[1] == records[2]
    assert [examples for _, examples, *_ in records[0]] == [512 * epoch for epoch, *_ in records[0]]
    assert [epoch for epoch, *_ in records[0]] == list(range(1, runs[0].summary["epochs"] + 1))
    if "target" in stop:
        assert records[0][-1][3]["rmse"] <= 0.0989 < records[0][-2][3]["rmse"]


@pytest.mark.parametrize("backend", ["processes", "simulation"])
def test_what_a_task_draws_from_the_shared_generators_repeats(backend, train):
    """Its data, its parameters, its gradients and its metrics; and what the caller draws stays its own."""
    outside = np.random.get_state()[1].tolist(), random.getstate()
    job = {"task": {"name": DRAWING}, "backend": backend, "workers": {"count": 1}}
    first, again, other = (train(f"run-{k}", **job, seed=seed) for k, seed in enumerate([3, 3, 4]))
    assert np.array_equal(first.parameters["w"], again.parameters["w"])
    assert first.evaluation == again.evaluation
    assert not np.array_equal(first.parameters["w"], other.parameters["w"])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == outside


def test_each_worker_draws_numbers_of_its_own(train, tmp_path):
    seen = []
    for run in ("a", "b"):
        (tmp_path / f"drawn-{run}").mkdir()
        task = {"name": DRAWING, "drawn": str(tmp_path / f"drawn-{run}")}
        train(run, task=task, strategy="synchronous", workers={"count": 2}, data={"batch_size": 8})
        seen.append({path.name: path.read_text() for path in (tmp_path / f"drawn-{run}").iterdir()})
    assert seen[0] == seen[1] and seen[0]["0"] != seen[0]["1"]


@pytest.mark.parametrize("transfers", ["inline", "background"])
def test_transfers(transfers, train):
    result = train(strategy={"name": "downpour", "n_fetch": 2}, workers={"transfers": transfers}, stop={"epochs": 8})
    assert min(evaluated(result, "rmse")) < GOOD["rmse"]


@pytest.mark.parametrize("locking", ["none", "per_variable", "round_robin", "global"])
def test_hogwild_lockings_share_one_optimum(locking, svm_file, tmp_path):
    result = hogshead.train(
        task={"name": "sparse_linear", "l2": 0.1}, data={"train": str(svm_file)}, rule={"name": "sgd", "lr": 0.1},
        strategy={"name": "hogwild", "locking": locking}, stop={"epochs": 40}, run=tmp_path / "run", quiet=True,
    )  # fmt: skip
    serial = hogshead.train(
        task={"name": "sparse_linear", "l2": 0.1}, data={"train": str(svm_file), "batch_size": 1},
        rule={"name": "sgd", "lr": 0.1, "schedule": {"name": "decay", "beta": 0.9}}, strategy="sequential",
        stop={"epochs": 40}, run=tmp_path / "serial", quiet=True,
    )  # fmt: skip
    assert result.evaluation["objective"] == pytest.approx(serial.evaluation["objective"], rel=0.02)


def test_one_worker_is_deterministic(train):
    job = {"workers": {"count": 1}, "stop": {"epochs": 3}, "strategy": {"name": "downpour", "n_fetch": 3, "n_push": 2}}
    first, again = train("a", **job), train("b", **job)
    other = train("c", **job, options={"set": {"seed": 1}})
    assert np.array_equal(first.parameters["w"], again.parameters["w"])
    assert not np.array_equal(first.parameters["w"], other.parameters["w"])


def test_synchronous_workers_are_deterministic(train):
    job = {"strategy": "synchronous", "workers": {"count": 3}, "stop": {"epochs": 3}}
    first, again = train("a", **job), train("b", **job)
    assert np.array_equal(first.parameters["w"], again.parameters["w"])


def test_run_directory(train):
    result = train()
    run = result.run
    assert {path.name for path in run.iterdir()} >= {
        "job.toml",
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "checkpoint",
    }
    summary = json.loads((run / "summary.json").read_text())
    wanted = {
        "status", "strategy", "rule", "workers", "shards", "epochs", "steps", "examples", "wall_seconds",
        "updates_per_second", "train_loss", "evaluation", "staleness", "seed",
    }  # fmt: skip
    assert wanted <= set(summary) and {"mean", "p50", "p95", "max"} <= set(summary["staleness"])
    kinds = {record["kind"] for record in read_metrics(run)}
    assert kinds == {"progress", "evaluation", "event"}
    assert hogshead.load(run / "job.toml").seed == 0
    assert np.array_equal(hogshead.load_parameters(run)["w"], result.parameters["w"])
    assert "<svg" in (run / "report.html").read_text()


def test_result_predicts(train):
    result = train(stop={"epochs": 20}, workers={"count": 1})
    assert result.predict(np.eye(5, dtype=np.float32)) == pytest.approx(np.arange(5), abs=0.3)
    assert result.metrics[-1]["kind"] == "event"


@pytest.mark.parametrize(
    ("stop", "steps", "examples"),
    [({"steps": 7}, 7, 7 * 32), ({"examples": 100}, 4, 100), ({"epochs": 1}, 16, 512)],
)
def test_bounds_are_exact(stop, steps, examples, train):
    summary = train(stop=stop, workers={"count": 1}).summary
    assert (summary["steps"], summary["examples"]) == (steps, examples)


def test_target_and_patience_end_a_run(train):
    result = train("a", stop={"epochs": 500, "metric": "rmse", "target": 0.5})
    reached = result.summary
    said = [record["message"] for record in result.metrics if record.get("event") == "metric"]
    assert said == ['smaller rmse is better, by its name; if not so, set [stop] mode = "max"']
    assert reached["best"]["mode"] == "min"
    assert reached["epochs"] < 500 and "rmse reached" in reached["stop_reason"]
    waited = train("b", stop={"epochs": 500, "patience": 2}, data={"validation": 0.25}).summary
    assert waited["epochs"] < 500 and "validation_loss" in waited["stop_reason"]
    assert waited["best"]["metric"] == "validation_loss" and waited["examples"] % 384 in range(384)


def test_seconds_end_a_run(train):
    summary = train(stop={"seconds": 0.3}).summary
    assert summary["status"] == "done" and summary["stop_reason"] == "0.3 seconds"


@pytest.mark.parametrize("strategy", ["sorted", "mixed"])
def test_curriculum(strategy, train):
    curriculum = {"strategy": strategy, "epochs": 3, "start": 0.25}
    summary = train(data={"curriculum": curriculum}, stop={"epochs": 4}).summary
    assert summary["examples"] == (128 + 256 + 384 + 512 if strategy == "sorted" else 4 * 512)


def test_replacement_and_fixed_order(train):
    assert train("a", data={"replacement": True}).summary["examples"] == 1024
    assert train("b", data={"shuffle": False}).summary["examples"] == 1024


def test_warmstart(train):
    result = train(strategy={"name": "downpour", "warmstart": 8}, stop={"epochs": 1})
    first, second = result.summary["per_worker"]
    assert first["steps"] >= 8 and first["steps"] + second["steps"] == 16


def test_averaged_parameters_are_right_at_evaluation(tmp_path):
    """Batch normalisation with two replicas: the center's running statistics are those of the data, not stepped ones."""
    job = {"task": {"name": "mlp", "hidden": [8], "batch_norm": True, "standardize": True}, "workers": {"count": 2}}
    result = hogshead.train(
        **job, data={"train": "sklearn:breast_cancer", "test_fraction": 0.3}, strategy="downpour", stop={"epochs": 15},
        run=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert max(evaluated(result, "test_accuracy")) > 0.9
    variances = [values for name, values in result.parameters.items() if "var" in name]
    assert variances and all((values > 0).all() for values in variances)


def test_a_rule_that_takes_something_else_is_refused(train):
    with pytest.raises(hogshead.UsageError, match="takes a pushed update"):
        train(rule={"name": "add"})
    with pytest.raises(hogshead.UsageError, match="easgd has no server rule"):
        train(strategy="easgd")
    with pytest.raises(hogshead.UsageError, match="sequential runs in one process"):
        train(strategy="sequential", workers={"count": 2})


def test_clipping_the_mean_gradient_needs_it_whole(train):
    rule = {"name": "sgd", "lr": 0.1, "clip_norm": 1.0}
    assert train("a", strategy="synchronous", rule=rule).summary["status"] == "done"
    with pytest.raises(hogshead.UsageError, match=r"set \[shards\] count to 1"):
        train("b", strategy="synchronous", rule=rule, shards={"count": 2})


def test_more_shards_than_elements(train):
    with pytest.raises(hogshead.UsageError, match=r"\[shards\] count"):
        train(shards={"count": 6})
