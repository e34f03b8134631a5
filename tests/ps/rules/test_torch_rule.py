"""Optimizers of torch.optim as rules: the same steps as the optimizer's own, with all that they remember in the slots."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from ps.errors import JobError, UsageError
from ps.rules import Context, build_rule, describe, one_line
from ps.rules.torch_rule import tensor_of

torch = pytest.importorskip("torch", reason="torch.optim is what is tested; pip install 'hogshead[torch]'")

torch.set_num_threads(1)  # small operations on a busy machine would wait for each other's threads
SIZE, STEPS = 23, 40
OPTIMIZERS = {
    "SGD": {"lr": 0.05},
    "SGD-momentum": {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    "SGD-nesterov": {"lr": 0.05, "momentum": 0.8, "nesterov": True},
    "Adam": {"lr": 0.02, "betas": [0.8, 0.99]},
    "Adam-amsgrad": {"amsgrad": True, "maximize": True},
    "Adam-fused": {"fused": True},
    "AdamW": {"weight_decay": 0.3},
    "NAdam": {},
    "RAdam": {"lr": 0.1},
    "Adamax": {},
    "Adagrad": {"initial_accumulator_value": 0.2, "lr_decay": 0.1},
    "Adadelta": {},
    "RMSprop": {"centered": True, "momentum": 0.5},
    "Rprop": {},
    "ASGD": {"lambd": 0.1, "alpha": 0.5},
    "Adafactor": {},
}


def config(row: str) -> dict:
    return {"name": f"torch.{row.partition('-')[0]}", **OPTIMIZERS[row]}


def gradients(dtype) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((STEPS, SIZE)).astype(dtype)


def start(dtype) -> np.ndarray:
    return np.random.default_rng(6).standard_normal(SIZE).astype(dtype)


def by_torch(row: str, dtype) -> np.ndarray:
    parameter = torch.nn.Parameter(torch.tensor(start(dtype)))
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in OPTIMIZERS[row].items()}
    optimizer = getattr(torch.optim, row.partition("-")[0])([parameter], **options)
    for gradient in gradients(dtype):
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return parameter.detach().numpy()


def by_rule(row: str, dtype, fresh_at: int | None = None) -> np.ndarray:
    """With ``fresh_at`` a step at which a new rule goes on from the slots, as after a checkpoint."""
    rule, vector = build_rule(config(row)), start(dtype)
    slots = rule.allocate(SIZE, dtype)
    for step, gradient in enumerate(gradients(dtype)):
        if step == fresh_at:
            rule, slots = build_rule(config(row)), {name: slot.copy() for name, slot in slots.items()}
        gradient.flags.writeable = False
        rule.apply(vector, slots, gradient, Context(step=step + 1))
    return vector


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", OPTIMIZERS)
def test_steps_as_the_optimizer_itself(row, dtype):
    expected, found = by_torch(row, dtype), by_rule(row, dtype)
    assert np.abs(found - start(dtype)).min() > 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("row", OPTIMIZERS)
def test_the_slots_hold_all_that_it_remembers(row):
    np.testing.assert_array_equal(by_rule(row, np.float32, fresh_at=STEPS // 2), by_rule(row, np.float32))


@pytest.mark.parametrize("row", OPTIMIZERS)
def test_configured_and_back(row):
    rule = build_rule(config(row))
    assert build_rule(rule.config()) == rule and pickle.loads(pickle.dumps(rule)) == rule
    assert hash(rule) == hash(build_rule(config(row)))


def test_parts_of_a_vector_have_states_of_their_own():
    """As where averaged parameters or wrappers cut the vector: an elementwise optimizer steps the parts as it does the whole."""
    rule, vector = build_rule({"name": "torch.NAdam"}), start(np.float32)
    slots = rule.allocate(SIZE)
    for step, gradient in enumerate(gradients(np.float32)):
        for part in (slice(0, 9), slice(9, SIZE)):
            rule.apply(
                vector[part], {name: slot[part] for name, slot in slots.items()}, gradient[part], Context(step=step + 1)
            )
    np.testing.assert_allclose(vector, by_torch("NAdam", np.float32), rtol=1e-6)


def test_wrappers_go_around_it_and_its_own_options_come_first():
    scheduled = build_rule(
        {"name": "torch.SGD", "lr": 0.1, "schedule": {"name": "decay", "beta": 0.5}, "clip_norm": 1.0}
    )
    vector, gradient = np.zeros(4), np.full(4, 2.0)
    scheduled.apply(vector, scheduled.allocate(4, np.float64), gradient, Context(step=1, epoch=2))
    np.testing.assert_allclose(vector, -0.1 * 0.25 * 0.5)
    assert scheduled.local_only and scheduled.dense_only and not scheduled.isolated
    decayed = build_rule({"name": "torch.SGD", "lr": 0.1, "weight_decay": 0.5})
    assert decayed.options["weight_decay"] == 0.5


REFUSED = [
    ({"name": "torch.Adma"}, "torch.optim has no optimizer 'Adma'; did you mean 'torch.Adam"),
    ({"name": "torch.Optimizer"}, "has no optimizer 'Optimizer'"),
    ({"name": "torch.Adam", "learning_rate": 0.1}, "torch.Adam: there is no parameter 'learning_rate'"),
    ({"name": "torch.Adam", "capturable": True}, "no parameter 'capturable'"),
    ({"name": "torch.Adam", "lr": -1.0}, "torch.Adam: Invalid learning rate: -1.0"),
    ({"name": "torch.Adam", "betas": 3}, "torch.Adam: "),
    ({"name": "torch.LBFGS"}, "torch.LBFGS: cannot step a flat vector"),
    ({"name": "torch.SparseAdam"}, "torch.SparseAdam: cannot step a flat vector"),
    ({"name": "torch.Muon"}, "torch.Muon: "),
    ({"name": "torch.SGD", "clip_norm": 0}, "clip_norm"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[str(given) for given, _ in REFUSED])
def test_refused(given, message):
    with pytest.raises(JobError, match=message):
        build_rule(given)


def test_rows_are_refused():
    rule = build_rule({"name": "torch.Adam"})
    with pytest.raises(UsageError, match="cannot step rows of a table"):
        rule.apply_rows(np.zeros((2, 2)), rule.allocate(4), np.array([0]), np.ones((1, 2)), Context())


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.optim", None)
    with pytest.raises(JobError, match=r"torch.Adam needs .* pip install 'hogshead\[torch\]'"):
        build_rule({"name": "torch.Adam"})


def test_described():
    assert one_line("torch.Adam") == "torch.optim.Adam of PyTorch, for [local_rule]"
    page = describe("torch.Adam")
    assert "lr = 0.001" in page and "betas = [0.9, 0.999]" in page and "clip_norm" in page
    assert "params" not in page.replace("parameters", "")


def test_tensors_share_memory_with_arrays_also_with_read_only_ones():
    array = np.arange(4.0)
    tensor = tensor_of(array)
    array.flags.writeable = False
    assert tensor_of(array).data_ptr() == tensor.data_ptr() == array.ctypes.data
