"""Tasks in JAX. Once in use it does not survive forking, so whatever computes with it runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hogshead
from ps.errors import UsageError
from tests.deploy.cluster.stage import LONG
from worker.tasks import options, task_class

pytest.importorskip("jax", reason="tasks in JAX; pip install 'hogshead[jax]'")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "digits_jax.py"
TASK = """
import jax
import numpy as np
from jax import numpy as jnp

import hogshead


def init(key, width: int = 4):
    a, b = jax.random.split(key)
    return {"in": {"w": jax.random.normal(a, (3, width)), "b": jnp.zeros(width)}, "out": [jax.random.normal(b, (width,))]}


def blobs(seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, 3)).astype(np.float32)
    return x, np.sin(x[:, 0]) + x[:, 1] * x[:, 2]


def predict(p, x):
    return jnp.tanh(x @ p["in"]["w"] + p["in"]["b"]) @ p["out"][0]


def loss(p, batch, key):
    x, y = batch
    kept = jax.random.bernoulli(key, 0.9, x.shape)
    return 0.5 * jnp.mean((predict(p, x * kept) - y) ** 2)


def metrics(p, batch):
    return {"error": jnp.mean((predict(p, batch[0]) - batch[1]) ** 2)}


Task = hogshead.jax_task(loss, init, blobs, test=lambda: blobs(1), metrics=metrics, predict=predict)
"""
CHECKS = """
import sys
import numpy as np
import hogshead
from worker.task import Task, check_task
from worker.tasks import task_class

run = sys.argv[1]
cls = task_class("task.py:Task", run)
task = cls(width=5)
assert isinstance(task, Task) and np.isfinite(check_task(task))
p = task.parameters(np.random.default_rng(1))
assert {name: value.shape for name, value in p.items()} == {"in.b": (5,), "in.w": (3, 5), "out.0": (5,)}
assert all(value.dtype == np.float32 for value in p.values())
again, other = (task.parameters(np.random.default_rng(seed)) for seed in (1, 2))
assert (again["in.w"] == p["in.w"]).all() and (other["in.w"] != p["in.w"]).all()

batch = task.dataset().take(np.arange(40))
task.rng = np.random.default_rng(3)
value, gradient = task.loss_and_gradient(p, batch)
assert task.loss_and_gradient(p, batch)[0] != value, "other dropout"
def loss_at(name, place, step):
    moved = {key: array.copy() for key, array in p.items()}
    moved[name][place] += step
    task.rng = np.random.default_rng(3)
    return task.loss_and_gradient(moved, batch)[0]
for name, place in [("in.w", (1, 2)), ("in.b", (0,)), ("out.0", (4,))]:
    slope = (loss_at(name, place, 1e-2) - loss_at(name, place, -1e-2)) / 2e-2
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(gradient[name][place], slope, rtol=2e-2, err_msg=name)

for value in p.values():
    value.flags.writeable = False
x, y = task._test.arrays().values()
expected = np.mean((task.predict(p, x) - y) ** 2)
np.testing.assert_allclose(task.evaluate(p)["test_error"], expected, rtol=1e-5)
import worker.tasks.made_task as module
module.EVALUATION_BATCH = 7
np.testing.assert_allclose(task.evaluate(p)["test_error"], expected, rtol=1e-5)

# In virtual time in this process, twice the same; in forked processes it is refused, because JAX is in use here now.
job = dict(task=cls, strategy={"name": "easgd", "tau": 4}, local_rule={"name": "optax.adam", "lr": 0.02},
           data={"batch_size": 20}, stop={"epochs": 30},
           workers={"count": 3}, evaluation={"every_epochs": 30})
runs = [hogshead.train(**job, backend="simulation", run=f"{run}/{name}", quiet=True) for name in "ab"]
assert runs[0].evaluation == runs[1].evaluation and runs[0].evaluation["test_error"] < 0.6 * expected
scheduled = {"name": "optax.adam", "lr": 0.02, "schedule": {"name": "decay"}}
for changes in ({}, {"task": "mlp", "data": {"train": "sklearn:iris"}, "local_rule": scheduled}):
    try:
        hogshead.train(**{**job, **changes}, run=f"{run}/c{len(changes)}", quiet=True)
    except hogshead.UsageError as error:
        assert "JAX has been used in this process already" in str(error), error
    else:
        raise AssertionError("forked")
print("checked")
"""
RESUMED = """
import sys
import numpy as np
import hogshead

run = sys.argv[1]
job = dict(task={"name": f"{run}/task.py:Task"}, strategy="easgd", local_rule={"name": "optax.adam", "lr": 0.02},
           data={"batch_size": 20}, workers={"count": 1}, evaluation={"every_epochs": 4})
whole = hogshead.train(**job, stop={"epochs": 4}, run=f"{run}/whole", quiet=True)
hogshead.train(**job, stop={"epochs": 2}, run=f"{run}/cut", quiet=True)
resumed = hogshead.train(**job, stop={"epochs": 4}, run=f"{run}/cut", resume=True, quiet=True)
for name, value in whole.parameters.items():
    np.testing.assert_array_equal(resumed.parameters[name], value, err_msg=name)
print("checked")
"""


@pytest.mark.timeout(300)  # mostly compilation, of which every process has its own
@pytest.mark.parametrize(
    "program", [pytest.param(CHECKS, id="in-one-process", marks=LONG), pytest.param(RESUMED, id="in-forked-processes")]
)
def test_in_a_process_of_its_own(program, tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", program, str(tmp_path)]
    quick = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false"}
    done = subprocess.run(command, cwd=ROOT, env=quick, capture_output=True, text=True, timeout=280)
    assert done.stdout == "checked\n", done.stderr[-3000:]


def test_options_and_names():
    cls = task_class(f"{EXAMPLE}:Digits")
    assert list(options(cls)) == ["hidden"] and cls.__doc__.startswith("Perceptron with one hidden layer")
    assert cls(hidden=3).options == {"hidden": 3} and cls(hidden=3).isolated
    with pytest.raises(UsageError, match="hiden"):
        cls(hiden=3)


REFUSED = [
    (lambda: hogshead.jax_task(3, lambda key: {}, ([0],)), "loss_fn must be a function, got 3"),
    (lambda: hogshead.jax_task(len, {}, ([0],)), "init must be a function"),
    (lambda: hogshead.jax_task(len, lambda key: {}, ([0],), paths=["train"]), "paths names 'train'"),
    (lambda: hogshead.jax_task(len, lambda key, n=1: {}, lambda n=2: 0), "'n' must have one default, got 1 and, in dataset, 2"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_without_jax_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(UsageError, match=r"jax_task needs JAX, .* pip install 'hogshead\[jax\]'"):
        hogshead.jax_task(len, len, np.zeros(3))
