"""Optimizers of optax as rules. JAX starts threads that forked processes miss, so what computes runs in a process of its own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ps.errors import JobError
from ps.rules import build_rule, describe

pytest.importorskip("optax", reason="optax is what is tested; pip install 'hogshead[jax]'")

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import jax, numpy as np, optax
from jax import numpy as jnp
from ps.rules import Context, build_rule

SIZE, STEPS = 23, 30
ROWS = [("adam", {"lr": 0.02}), ("adamw", {"lr": 0.02, "weight_decay": 0.1}), ("sgd", {"lr": 0.1}),
        ("sgd", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}), ("adagrad", {"lr": 0.1}),
        ("rmsprop", {"lr": 0.1, "centered": True}), ("lamb", {"lr": 0.1}), ("lion", {"lr": 0.01}),
        ("amsgrad", {"lr": 0.1}), ("nadamw", {"lr": 0.1}), ("adabelief", {"lr": 0.1}), ("yogi", {"lr": 0.1})]
rng = np.random.default_rng(5)
gradients, start = rng.standard_normal((STEPS, SIZE)).astype(np.float32), rng.standard_normal(SIZE).astype(np.float32)
for name, options in ROWS:
    config = {"name": f"optax.{name}", **options}
    rule, vector = build_rule(config), start.copy()
    slots = rule.allocate(SIZE)
    own = getattr(optax, name)(**rule.options)
    parameters = jnp.array(start)
    state = own.init(parameters)
    step = jax.jit(own.update)
    for k, gradient in enumerate(gradients):
        if k == STEPS // 2:  # as after a checkpoint: all that it remembers is in the slots
            rule, slots = build_rule(config), {key: slot.copy() for key, slot in slots.items()}
        gradient.flags.writeable = False
        rule.apply(vector, slots, gradient, Context(step=k + 1))
        updates, state = step(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    moved = np.abs(vector - start).max()
    assert moved > 0.05, name
    np.testing.assert_allclose(vector, np.asarray(parameters), atol=1e-4 * moved, err_msg=name)
rule = build_rule({"name": "optax.sgd", "lr": 0.1, "schedule": {"name": "decay", "beta": 0.5}})
vector = np.zeros(3, np.float32)
rule.apply(vector, rule.allocate(3), np.ones(3, np.float32), Context(step=1, epoch=2))
np.testing.assert_allclose(vector, -0.1 * 0.25, rtol=1e-6)
print("equal")
"""


@pytest.mark.timeout(300)  # mostly compilation
def test_steps_as_the_optimizer_itself():
    quick = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=quick, capture_output=True, text=True, timeout=280)
    assert done.stdout == "equal\n", done.stderr


def test_building_does_not_start_jax():
    from jax._src import xla_bridge

    rule = build_rule({"name": "optax.adam", "lr": 0.01})
    assert rule.slots == ("0.mu", "0.nu") and rule.local_only and rule.dense_only and rule.isolated
    assert not xla_bridge.backends_are_initialized()
    assert build_rule(rule.config()) == rule and pickle.loads(pickle.dumps(rule)) == rule
    assert "b1 = 0.9" in describe("optax.adam")


REFUSED = [
    ({"name": "optax.adma", "lr": 0.1}, "optax has no optimizer 'adma'; did you mean 'optax.ada"),
    ({"name": "optax.adam"}, "optax.adam: learning_rate is missing"),
    ({"name": "optax.adam", "lr": 0.1, "beta": 0.9}, "optax.adam: there is no parameter 'beta'"),
    ({"name": "optax.adam", "lr": "x"}, "optax.adam: "),
    ({"name": "optax.lbfgs", "lr": 0.1}, "optax.lbfgs: "),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[str(given) for given, _ in REFUSED])
def test_refused(given, message):
    with pytest.raises(JobError, match=message):
        build_rule(given)


def test_without_optax_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(JobError, match=r"optax.adam needs optax.* pip install 'hogshead\[jax\]'"):
        build_rule({"name": "optax.adam", "lr": 0.1})
